using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;

namespace Repeng.Steering.Vectors;

/// <summary>
/// Directions from activations: principal components of pair differences (pca_diff) or of rows about their pair's
/// middle (pca_center), plain or weighted by the pairs' likelihood, and the mean difference (vgel/repeng, extract.py;
/// wassname/repeng, research).
/// </summary>
public static class PcaDirections
{
    /// <summary>
    /// Leading components of pos − neg, centred, [k, d], unit rows, each with the sign by which most pairs have the
    /// positive text further along. Weighted: pairs weigh by softmax of the mean log-probability of their texts.
    /// </summary>
    public static double[] Differences(CpuWorkers workers, LayerRows rows, int components = 1, bool weighted = false)
    {
        int d = rows.Width, pairs = rows.Rows / 2;
        var x = new double[pairs * d];
        for (int i = 0; i < x.Length; i++)
            x[i] = rows.Hidden[i / d * 2 * d + i % d] - rows.Hidden[(i / d * 2 + 1) * d + i % d];
        return Oriented(rows, Leading(workers, x, pairs, d, components, weighted ? PairWeights(rows) : null));
    }

    /// <summary>As <see cref="Differences"/>, of all rows less the middle of their pair.</summary>
    public static double[] Centred(CpuWorkers workers, LayerRows rows, int components = 1, bool weighted = false)
    {
        int d = rows.Width, n = rows.Rows;
        var x = new double[n * d];
        for (int i = 0; i < x.Length; i++)
        {
            int row = i / d, j = i % d, other = row ^ 1;
            x[i] = (rows.Hidden[row * d + j] - rows.Hidden[other * d + j]) / 2;
        }
        double[]? weights = weighted ? [.. PairWeights(rows).SelectMany(w => new[] { w / 2, w / 2 })] : null;
        return Oriented(rows, Leading(workers, x, n, d, components, weights));
    }

    /// <summary>Mean over pairs of pos − neg [d], with its length.</summary>
    public static double[] MeanDifference(LayerRows rows)
    {
        var mean = new double[rows.Width];
        for (int i = 0; i < rows.Hidden.Length; i++)
            mean[i % rows.Width] += (i / rows.Width % 2 == 0 ? 1 : -1) * rows.Hidden[i];
        return [.. mean.Select(x => x / (rows.Rows / 2))];
    }

    /// <summary>Softmax over pairs of the mean of the two texts' log-probability.</summary>
    public static double[] PairWeights(LayerRows rows)
    {
        double[] logp = rows.LogProb ?? throw new UserErrorException("weighted methods need the texts' log-probabilities, and none were measured");
        double[] mean = [.. Enumerable.Range(0, logp.Length / 2).Select(i => (logp[2 * i] + logp[2 * i + 1]) / 2)];
        double largest = mean.Max();
        double[] e = [.. mean.Select(m => Math.Exp(m - largest))];
        double sum = e.Sum();
        return [.. e.Select(x => x / sum)];
    }

    /// <summary>Turns each row of directions [k, d] so that at least as many pairs have the positive row further along as the negative.</summary>
    public static double[] Oriented(LayerRows rows, double[] directions)
    {
        int d = rows.Width;
        for (int q = 0; q < directions.Length / d; q++)
        {
            Span<double> direction = directions.AsSpan(q * d, d);
            int above = 0, below = 0;
            for (int i = 0; i < rows.Rows; i += 2)
            {
                double p = LayerRows.Dot(rows.Hidden.AsSpan(i * d, d), direction), n = LayerRows.Dot(rows.Hidden.AsSpan((i + 1) * d, d), direction);
                above += p > n ? 1 : 0;
                below += p < n ? 1 : 0;
            }
            if (below > above)
                for (int j = 0; j < d; j++)
                    direction[j] = -direction[j];
        }
        return directions;
    }

    private static double[] Leading(CpuWorkers workers, double[] x, int n, int d, int k, double[]? weights)
    {
        if (k < 1 || k > Math.Min(n, d))
            throw new UserErrorException($"{k} components asked of {n} rows of width {d}: it must be 1 … {Math.Min(n, d)}; give more pairs or ask for fewer");
        // Weighted: about the weighted mean, rows times √w; the sum of the weights is one.
        double[] mean = new double[d];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < d; j++)
                mean[j] += (weights?[i] ?? 1.0 / n) * x[i * d + j];
        bool any = false;
        var rows = new double[x.Length];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < d; j++)
            {
                rows[i * d + j] = (x[i * d + j] - mean[j]) * (weights is null ? 1 : Math.Sqrt(weights[i]));
                any |= rows[i * d + j] != 0;
            }
        // As scikit-learn: where nothing differs from the mean, the first unit vectors.
        if (!any)
        {
            var units = new double[k * d];
            for (int q = 0; q < k; q++)
                units[q * d + q] = 1;
            return units;
        }
        return PrincipalComponents.Compute(workers, rows, n, d, k, centred: false).Components;
    }
}
