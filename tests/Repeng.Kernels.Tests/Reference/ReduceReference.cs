namespace Repeng.Kernels.Tests.Reference;

/// <summary>Sums over an axis and rows by index in plain double arithmetic. All are linear: each backward pass is the transpose.</summary>
internal static class ReduceReference
{
    /// <summary>y[outer, inner] = Σ_n x[outer, n, inner].</summary>
    public static double[] Sum(ReadOnlySpan<double> x, int outer, int n, int inner)
    {
        var y = new double[outer * inner];
        for (int o = 0; o < outer; o++)
            for (int k = 0; k < n; k++)
                for (int i = 0; i < inner; i++)
                    y[(o * inner) + i] += x[(((o * n) + k) * inner) + i];
        return y;
    }

    /// <summary>dx[outer, n, inner] = dy[outer, inner].</summary>
    public static double[] SumBackward(ReadOnlySpan<double> dy, int outer, int n, int inner)
    {
        var dx = new double[outer * n * inner];
        for (int o = 0; o < outer; o++)
            for (int k = 0; k < n; k++)
                for (int i = 0; i < inner; i++)
                    dx[(((o * n) + k) * inner) + i] = dy[(o * inner) + i];
        return dx;
    }

    /// <summary>y[i, :] = scale·x[index[i], :].</summary>
    public static double[] Gather(ReadOnlySpan<double> x, ReadOnlySpan<int> index, int cols, double scale = 1)
    {
        var y = new double[index.Length * cols];
        for (int i = 0; i < index.Length; i++)
            for (int j = 0; j < cols; j++)
                y[(i * cols) + j] = scale * x[(index[i] * cols) + j];
        return y;
    }

    /// <summary>dx[index[i], :] += scale·dy[i, :] from zero.</summary>
    public static double[] Scatter(ReadOnlySpan<double> dy, ReadOnlySpan<int> index, int tableRows, int cols, double scale = 1)
    {
        var dx = new double[tableRows * cols];
        for (int i = 0; i < index.Length; i++)
            for (int j = 0; j < cols; j++)
                dx[(index[i] * cols) + j] += scale * dy[(i * cols) + j];
        return dx;
    }

    /// <summary>Σ a·b.</summary>
    public static double Dot(ReadOnlySpan<double> a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
            sum += a[i] * b[i];
        return sum;
    }

    /// <summary>Numbers in [−1, 1) that fp32 holds exactly, fixed by the seed.</summary>
    public static double[] Random(int n, int seed)
    {
        var random = new Random(seed);
        var values = new double[n];
        for (int i = 0; i < n; i++)
            values[i] = (float)((2 * random.NextDouble()) - 1);
        return values;
    }

    /// <summary>Indices in [0, limit), with repetitions.</summary>
    public static int[] RandomIndices(int n, int limit, int seed)
    {
        var random = new Random(seed);
        var values = new int[n];
        for (int i = 0; i < n; i++)
            values[i] = random.Next(limit);
        return values;
    }
}
