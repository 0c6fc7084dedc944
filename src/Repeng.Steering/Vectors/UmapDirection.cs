using Repeng.Kernels;
using Repeng.Kernels.Cpu;

namespace Repeng.Steering.Vectors;

/// <summary>
/// Experimental: a direction from a one-dimensional UMAP embedding of the rows (vgel/repeng, method umap). Every row is a neighbour of
/// others, so a layer's rows and their n × n graph are in memory: the one method whose memory grows with the pairs.
/// </summary>
public static class UmapDirection
{
    private const int Neighbours = 15, Epochs = 500, NegativeSamples = 5;

    // The curve 1/(1 + a·x^2b) for min_dist 0.1 and spread 1, as umap-learn fits it.
    private const double A = 1.5769434602, B = 0.8950608779;

    private const ulong Seed = 42;

    /// <summary>The direction [d], Σ e_i h_i / Σ e_i for the embedding e, signed as the principal components are. Not of unit length.</summary>
    public static double[] Direction(CpuWorkers workers, LayerRows rows) => FromEmbedding(rows, Embed(workers, rows.NeedHidden("umap").ToArray(), rows.Rows, rows.Width));

    /// <summary>The direction of a given embedding e [rows].</summary>
    public static double[] FromEmbedding(LayerRows rows, double[] e)
    {
        double sum = e.Sum();
        if (Math.Abs(sum) < 1e-12 * e.Sum(Math.Abs))
            throw new UserErrorException("umap: the embedding's values sum to zero, so its weighted mean is not defined; take another method");
        return PcaDirections.Oriented(rows, rows.NeedHidden("umap").Sum(i => e[i] / sum));
    }

    /// <summary>
    /// One-dimensional embedding of x [n, d]: fuzzy graph of nearest neighbours and stochastic descent with negative samples
    /// (McInnes, Healy, Melville 2018), started from the first principal component, with a fixed seed.
    /// </summary>
    public static double[] Embed(CpuWorkers workers, double[] x, int n, int d)
    {
        int k = Math.Min(Neighbours, n - 1);
        if (k < 2)
            throw new UserErrorException($"umap needs at least three rows, not {n}; give more pairs");
        double[,] graph = FuzzyGraph(x, n, d, k);
        double[] e = PcaStart(workers, x, n, d);
        double most = 0;
        foreach (double w in graph)
            most = Math.Max(most, w);
        ulong draw = 0;
        for (int epoch = 0; epoch < Epochs; epoch++)
        {
            double rate = 1 - (double)epoch / Epochs;
            for (int i = 0; i < n; i++)
                for (int j = 0; j < n; j++)
                {
                    // An edge is drawn in proportion to its weight.
                    if (graph[i, j] <= 0 || Philox.Uniform(Seed, 1, draw++) > graph[i, j] / most)
                        continue;
                    double gap = e[i] - e[j], square = gap * gap;
                    double pull = square > 0 ? -2 * A * B * Math.Pow(square, B - 1) / (1 + A * Math.Pow(square, B)) : 0;
                    double step = Clip(pull * gap) * rate;
                    e[i] += step;
                    e[j] -= step;
                    for (int s = 0; s < NegativeSamples; s++)
                    {
                        int other = (int)(Philox.Uniform(Seed, 2, draw++) * n);
                        if (other == i)
                            continue;
                        gap = e[i] - e[other];
                        square = gap * gap;
                        double push = square > 0 ? 2 * B / ((0.001 + square) * (1 + A * Math.Pow(square, B))) : 0;
                        e[i] += (square > 0 ? Clip(push * gap) : 4) * rate;
                    }
                }
        }
        return e;
    }

    private static double Clip(double v) => Math.Clamp(v, -4, 4);

    private static double[,] FuzzyGraph(double[] x, int n, int d, int k)
    {
        var membership = new double[n, n];
        for (int i = 0; i < n; i++)
        {
            var near = new (double Distance, int Row)[n];
            for (int j = 0; j < n; j++)
            {
                double square = 0;
                for (int q = 0; q < d; q++)
                    square += (x[i * d + q] - x[j * d + q]) * (x[i * d + q] - x[j * d + q]);
                near[j] = (Math.Sqrt(square), j);
            }
            (double Distance, int Row)[] closest = [.. near.Where(p => p.Row != i).OrderBy(p => p.Distance).ThenBy(p => p.Row).Take(k)];
            double nearest = closest.Select(p => p.Distance).FirstOrDefault(v => v > 0), low = 0, high = double.PositiveInfinity, width = 1;
            // The width by which the memberships sum to log2 of the number of neighbours.
            for (int step = 0; step < 64; step++)
            {
                double sum = closest.Sum(p => Math.Exp(-Math.Max(0, p.Distance - nearest) / width));
                if (sum > Math.Log2(k + 1))
                    (high, width) = (width, (low + width) / 2);
                else
                    (low, width) = (width, double.IsPositiveInfinity(high) ? width * 2 : (width + high) / 2);
            }
            foreach ((double distance, int row) in closest)
                membership[i, row] = Math.Exp(-Math.Max(0, distance - nearest) / width);
        }
        var graph = new double[n, n];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                graph[i, j] = membership[i, j] + membership[j, i] - membership[i, j] * membership[j, i];
        return graph;
    }

    private static double[] PcaStart(CpuWorkers workers, double[] x, int n, int d)
    {
        double[] axis = Kernels.LinearAlgebra.PrincipalComponents.Compute(workers, x, n, d, 1).Components;
        double[] e = [.. Enumerable.Range(0, n).Select(i => LayerRows.Dot(x.AsSpan(i * d, d), axis))];
        double mean = e.Average(), largest = e.Max(v => Math.Abs(v - mean));
        return [.. e.Select(v => largest > 0 ? 10 * (v - mean) / largest : 0)];
    }
}
