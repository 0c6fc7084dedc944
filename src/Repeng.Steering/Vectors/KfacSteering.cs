using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;

namespace Repeng.Steering.Vectors;

/// <summary>What is made of the Kronecker factor.</summary>
public enum KfacMode
{
    /// <summary>A⁻¹ h̄.</summary>
    NaturalGradient,

    /// <summary>Σ √e_q v_q (v_q·h̄) over the leading eigenpairs of A.</summary>
    Pca,

    /// <summary>As Pca with the factor B of the gradients and ḡ (unreachable upstream, where "_pca" is found first).</summary>
    GradientPca,
}

/// <summary>Settings of a K-FAC direction: mode, number of eigenpairs (0 all), λ, and rows (all, positive, negative).</summary>
public sealed record KfacSettings(KfacMode Mode, int Rank = 0, double Lambda = 1e-2, FisherSides Sides = FisherSides.Together);

/// <summary>
/// Directions of unit length from one Kronecker factor, A = HᵀH/n + λI or B = GᵀG/n + λI, uncentred (novel_steering,
/// kfac_steering2.py; Martens and Grosse 2015 for the factors).
/// </summary>
public static class KfacSteering
{
    /// <summary>The direction [d], signed by the gradients where there are any.</summary>
    public static double[] Direction(CpuWorkers workers, LayerRows rows, KfacSettings settings)
    {
        int d = rows.Width;
        double[] x = settings.Mode == KfacMode.GradientPca ? rows.NeedGradients("kfac_steer_gradient_pca") : rows.Hidden;
        if (settings.Sides is FisherSides.Positive or FisherSides.Negative)
            x = LayerRows.Side(x, d, settings.Sides == FisherSides.Positive ? 0 : 1);
        int n = x.Length / d;
        double[] mean = LayerRows.Mean(x, d);
        double[] scaled = [.. x.Select(v => v / Math.Sqrt(n))];
        double[] direction = settings.Mode == KfacMode.NaturalGradient ? Natural(workers, scaled, mean, n, d, settings.Lambda) : Projected(workers, scaled, mean, n, d, settings);
        double length = Math.Sqrt(LayerRows.Dot(direction, direction));
        direction = [.. direction.Select(v => v / (length + 1e-8))];
        if (rows.Gradients is not null)
            return FisherSteering.OrientByGradients(rows, direction);
        return LayerRows.Dot(PcaDirections.MeanDifference(rows), direction) >= 0 ? direction : [.. direction.Select(v => -v)];
    }

    private static double[] Natural(CpuWorkers workers, double[] x, double[] mean, int n, int d, double lambda)
    {
        if (lambda <= 0)
            throw new UserErrorException($"K-FAC needs lambda above 0, not {lambda}");
        var a = new double[checked(d * d)];
        GramMatrix.AddColumns(workers, a, x, n, d);
        using Cholesky factor = Cholesky.Factor(workers, a, d, lambda);
        double[] v = [.. mean];
        factor.Solve(v, 1);
        return v;
    }

    private static double[] Projected(CpuWorkers workers, double[] x, double[] mean, int n, int d, KfacSettings settings)
    {
        int k = settings.Rank == 0 ? d : Math.Min(settings.Rank, d);
        var a = new double[checked(d * d)];
        GramMatrix.AddColumns(workers, a, x, n, d);
        for (int j = 0; j < d; j++)
            a[j * d + j] += settings.Lambda;
        double[] values = new double[d], vectors = new double[k * d];
        SymmetricEigen.Decompose(workers, a, d, values, vectors, k);
        var v = new double[d];
        for (int q = 0; q < k; q++)
        {
            ReadOnlySpan<double> e = vectors.AsSpan(q * d, d);
            double weight = Math.Sqrt(Math.Max(0, values[q])) * LayerRows.Dot(e, mean);
            for (int j = 0; j < d; j++)
                v[j] += weight * e[j];
        }
        return v;
    }
}
