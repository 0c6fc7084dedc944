using Repeng.Kernels;

namespace Repeng.Steering.Vectors;

/// <summary>
/// What the methods make a layer's direction from: rows of pairs, interleaved positive, negative. Everything is in double.
/// </summary>
/// <param name="Width">Width d of the layer's output.</param>
/// <param name="Rows">Number of rows, two a pair.</param>
public sealed record LayerRows(int Width, int Rows)
{
    private double[]? _meanDifference;

    /// <summary>Rows that are in memory: outputs H [rows, d], gradients G [rows, d], log-probabilities [rows] and w_in [rows].</summary>
    public LayerRows(int width, double[] hidden, double[]? gradients = null, double[]? logProb = null, double[]? tapGradient = null)
        : this(width, hidden.Length / Math.Max(1, width))
    {
        if (width < 1 || hidden.Length == 0 || hidden.Length % (2 * width) != 0)
            throw new UserErrorException($"{hidden.Length} values are no pairs of rows of width {width}; there must be as many positive as negative texts, and at least one pair");
        foreach ((string name, double[]? values, int length) in new[] { ("gradients", gradients, hidden.Length), ("log-probabilities", logProb, Rows), ("tap gradients", tapGradient, Rows) })
            if (values is not null && values.Length != length)
                throw new ArgumentException($"{values.Length} {name} for {Rows} rows of width {width}");
        (Hidden, Gradients, LogProb, TapGradient) = (RowSource.Of(hidden, width), gradients is null ? null : RowSource.Of(gradients, width), logProb, tapGradient);
    }

    /// <summary>Outputs H [rows, d] at the chosen token; null where a method needs no more than their mean difference.</summary>
    public RowSource? Hidden { get; init; }

    /// <summary>Gradients G [rows, d] of the sampled loss there; null where none were taken.</summary>
    public RowSource? Gradients { get; init; }

    /// <summary>Mean log-probability of each row's text, nats; null where it was not measured.</summary>
    public double[]? LogProb { get; init; }

    /// <summary>w_in [rows]: squared length of the loss's gradient on the row at the tap; null with no gradients.</summary>
    public double[]? TapGradient { get; init; }

    /// <summary>Mean over pairs of positive − negative output [d], with its length.</summary>
    public double[] MeanDifference
    {
        get => _meanDifference ??= Array.ConvertAll(NeedHidden("mean_diff").Sum(i => i % 2 == 0 ? 1 : -1), v => v / (Rows / 2));
        init => _meanDifference = value;
    }

    /// <summary>The outputs, or an error that says that a method needs them.</summary>
    public RowSource NeedHidden(string method) =>
        Hidden ?? throw new UserErrorException($"method {method} needs rows of activations, and none were kept");

    /// <summary>The gradients, or an error that says that a method needs them.</summary>
    public RowSource NeedGradients(string method) =>
        Gradients ?? throw new UserErrorException($"method {method} needs gradients, and none were taken");

    internal static double Dot(ReadOnlySpan<double> a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
            sum += a[i] * b[i];
        return sum;
    }
}
