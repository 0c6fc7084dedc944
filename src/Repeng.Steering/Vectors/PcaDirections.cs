using Repeng.Kernels;
using Repeng.Kernels.Cpu;

namespace Repeng.Steering.Vectors;

/// <summary>
/// Directions from activations: principal components of pair differences (pca_diff) or of rows about their pair's
/// middle (pca_center), plain or weighted by the pairs' likelihood (vgel/repeng, extract.py; wassname/repeng, research).
/// With fewer rows than their width from the rows, otherwise from their covariance, which is summed as they are read.
/// </summary>
public static class PcaDirections
{
    /// <summary>
    /// Leading components of pos − neg, centred, [k, d], unit rows, each with the sign by which most pairs have the
    /// positive text further along. Weighted: pairs weigh by softmax of the mean log-probability of their texts.
    /// </summary>
    public static double[] Differences(CpuWorkers workers, LayerRows rows, int components = 1, bool weighted = false) =>
        Oriented(rows, Leading(workers, rows.NeedHidden("pca_diff").PairDifferences(), components, weighted ? PairWeights(rows) : null));

    /// <summary>As <see cref="Differences"/>, of all rows less the middle of their pair.</summary>
    public static double[] Centred(CpuWorkers workers, LayerRows rows, int components = 1, bool weighted = false)
    {
        double[]? weights = weighted ? [.. PairWeights(rows).SelectMany(w => new[] { w / 2, w / 2 })] : null;
        return Oriented(rows, Leading(workers, rows.NeedHidden("pca_center").AboutPairs(), components, weights));
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
            double[] along = rows.NeedHidden("pca").Along(direction);
            int votes = 0;
            for (int i = 0; i < along.Length; i += 2)
                votes += along[i] > along[i + 1] ? 1 : along[i] < along[i + 1] ? -1 : 0;
            if (votes < 0)
                for (int j = 0; j < d; j++)
                    direction[j] = -direction[j];
        }
        return directions;
    }

    /// <summary>The k leading components [k, d] of rows about their mean; with weights, whose sum is one, about the weighted mean, rows times √w.</summary>
    internal static double[] Leading(CpuWorkers workers, RowSource x, int k, double[]? weights = null)
    {
        (int n, int d) = (x.Rows, x.Width);
        if (k < 1 || k > Math.Min(n, d))
            throw new ArgumentOutOfRangeException(nameof(k), $"{k} components asked of {n} rows of width {d}");
        double[] mean = x.Sum(i => weights?[i] ?? 1.0 / n);
        RowSource rows = x.Shifted(mean, weights is null ? null : i => Math.Sqrt(weights[i]));
        // As scikit-learn: where nothing differs from the mean, the first unit vectors.
        if (rows.SquareSum() == 0)
        {
            var units = new double[k * d];
            for (int q = 0; q < k; q++)
                units[q * d + q] = 1;
            return units;
        }
        return rows.LeadingDirections(workers, k);
    }
}
