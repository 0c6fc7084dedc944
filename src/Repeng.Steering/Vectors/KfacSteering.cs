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
/// kfac_steering2.py; Martens and Grosse 2015 for the factors). With X = H/√n the mean is Xᵀa, a = 1/√n: it lies in the span of
/// the rows, so that with fewer rows than their width the n × n matrix XXᵀ gives the same direction, exactly.
/// </summary>
public static class KfacSteering
{
    /// <summary>The direction [d], signed by the gradients where there are any.</summary>
    public static double[] Direction(CpuWorkers workers, LayerRows rows, KfacSettings settings)
    {
        if (settings.Lambda <= 0)
            throw new UserErrorException($"K-FAC needs lambda above 0, not {settings.Lambda}");
        RowSource x = settings.Mode == KfacMode.GradientPca ? rows.NeedGradients("kfac_steer_gradient_pca") : rows.NeedHidden("kfac_steer");
        if (settings.Sides is FisherSides.Positive or FisherSides.Negative)
            x = x.Side(settings.Sides == FisherSides.Positive ? 0 : 1);
        double root = 1 / Math.Sqrt(x.Rows);
        RowSource scaled = x.Shifted(null, _ => root);
        double[] direction = x.Narrow ? OfRows(workers, scaled.ToArray(), x.Rows, x.Width, settings) : OfFactor(workers, scaled.Gram(workers), x.Mean(), settings);
        double length = Math.Sqrt(LayerRows.Dot(direction, direction));
        direction = [.. direction.Select(v => v / (length + 1e-8))];
        if (rows.Gradients is not null)
            return FisherSteering.OrientByGradients(rows, direction);
        return LayerRows.Dot(rows.MeanDifference, direction) >= 0 ? direction : [.. direction.Select(v => -v)];
    }

    // Of the factor less λI, [d, d].
    private static double[] OfFactor(CpuWorkers workers, double[] a, double[] mean, KfacSettings settings)
    {
        int d = mean.Length;
        if (settings.Mode == KfacMode.NaturalGradient)
        {
            using Cholesky factor = Cholesky.Factor(workers, a, d, settings.Lambda);
            factor.Solve(mean, 1);
            return mean;
        }
        int k = settings.Rank == 0 ? d : Math.Min(settings.Rank, d);
        double[] values = new double[d], vectors = new double[k * d];
        SymmetricEigen.Decompose(workers, a, d, values, vectors, k);
        return Sum(vectors, d, q => Math.Sqrt(Math.Max(0, values[q] + settings.Lambda)) * LayerRows.Dot(vectors.AsSpan(q * d, d), mean));
    }

    // (XᵀX + λI)⁻¹Xᵀa = Xᵀ(XXᵀ + λI)⁻¹a; and the eigenvectors of XᵀX are Xᵀu/√μ of those u of XXᵀ, but for ones that have no part of the mean.
    private static double[] OfRows(CpuWorkers workers, double[] x, int n, int d, KfacSettings settings)
    {
        double[] gram = GramMatrix.OfRows(workers, x, n, d), y = new double[n];
        Array.Fill(y, 1 / Math.Sqrt(n));
        if (settings.Mode == KfacMode.NaturalGradient)
        {
            using Cholesky factor = Cholesky.Factor(workers, gram, n, settings.Lambda);
            factor.Solve(y, 1);
        }
        else
        {
            int k = settings.Rank == 0 ? n : Math.Min(settings.Rank, n);
            double[] values = new double[n], vectors = new double[k * n], a = y;
            SymmetricEigen.Decompose(workers, gram, n, values, vectors, k);
            y = Sum(vectors, n, q => Math.Sqrt(Math.Max(0, values[q]) + settings.Lambda) * LayerRows.Dot(vectors.AsSpan(q * n, n), a));
        }
        return Sum(x, d, i => y[i]);
    }

    private static double[] Sum(double[] rows, int width, Func<int, double> weight)
    {
        var sum = new double[width];
        for (int i = 0; i < rows.Length / width; i++)
        {
            double w = weight(i);
            for (int j = 0; j < width; j++)
                sum[j] += w * rows[i * width + j];
        }
        return sum;
    }
}
