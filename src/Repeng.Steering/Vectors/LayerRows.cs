using Repeng.Kernels;

namespace Repeng.Steering.Vectors;

/// <summary>
/// What the methods make a layer's direction from: rows of pairs, interleaved positive, negative. Everything is in double.
/// </summary>
/// <param name="Width">Width d of the layer's output.</param>
/// <param name="Hidden">Outputs H [rows, d] at the chosen token.</param>
/// <param name="Gradients">Gradients G [rows, d] of the sampled loss there; null where none were taken.</param>
/// <param name="LogProb">Mean log-probability of each row's text, nats; null where it was not measured.</param>
/// <param name="TapGradient">w_in [rows]: squared length of the loss's gradient on the row at the tap; null with no gradients.</param>
public sealed record LayerRows(int Width, double[] Hidden, double[]? Gradients = null, double[]? LogProb = null, double[]? TapGradient = null)
{
    /// <summary>Number of rows, two a pair.</summary>
    public int Rows => Hidden.Length / Width;

    /// <summary>The gradients, or an error that says that a method needs them.</summary>
    public double[] NeedGradients(string method) =>
        Gradients ?? throw new UserErrorException($"method {method} needs gradients, and none were taken");

    /// <summary>Checks the sizes.</summary>
    public LayerRows Checked()
    {
        if (Width < 1 || Hidden.Length == 0 || Hidden.Length % (2 * Width) != 0)
            throw new UserErrorException($"{Hidden.Length} values are no pairs of rows of width {Width}; there must be as many positive as negative texts, and at least one pair");
        foreach ((string name, double[]? values, int length) in new[] { ("gradients", Gradients, Hidden.Length), ("log-probabilities", LogProb, Rows), ("tap gradients", TapGradient, Rows) })
            if (values is not null && values.Length != length)
                throw new ArgumentException($"{values.Length} {name} for {Rows} rows of width {Width}");
        return this;
    }

    /// <summary>Every second row from the first (0: positive, 1: negative), as rows of its own.</summary>
    internal static double[] Side(double[] rows, int width, int first)
    {
        var side = new double[rows.Length / 2];
        for (int i = 0; i < side.Length / width; i++)
            Array.Copy(rows, (2 * i + first) * width, side, i * width, width);
        return side;
    }

    /// <summary>Mean of rows [n, width].</summary>
    internal static double[] Mean(double[] rows, int width)
    {
        var mean = new double[width];
        for (int i = 0; i < rows.Length; i++)
            mean[i % width] += rows[i];
        int n = rows.Length / width;
        for (int j = 0; j < width; j++)
            mean[j] /= n;
        return mean;
    }

    internal static double Dot(ReadOnlySpan<double> a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
            sum += a[i] * b[i];
        return sum;
    }
}
