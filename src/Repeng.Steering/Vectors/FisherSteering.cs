using System.Globalization;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;

namespace Repeng.Steering.Vectors;

/// <summary>Which Fisher matrix is made of gradient rows g_i, i = 1 … m.</summary>
public enum FisherMatrix
{
    /// <summary>(1/m) Σ w_i g_i g_iᵀ with w_i = 1/(w_in_i + ε): improved empirical.</summary>
    ImprovedEmpirical,

    /// <summary>(1/m) Σ g_i g_iᵀ.</summary>
    Empirical,

    /// <summary>(1/(m−1)) Σ (g_i − ḡ)(g_i − ḡ)ᵀ.</summary>
    Covariance,
}

/// <summary>How positive and negative rows are brought together.</summary>
public enum FisherSides
{
    /// <summary>One system of all rows.</summary>
    Together,

    /// <summary>One system each; the mean of both solutions.</summary>
    Mean,

    /// <summary>The positive rows alone.</summary>
    Positive,

    /// <summary>The negative rows alone.</summary>
    Negative,

    /// <summary>Solution of the positive rows less that of the negative ones.</summary>
    Difference,
}

/// <summary>Settings of a Fisher direction.</summary>
public sealed record FisherSettings
{
    /// <summary>The matrix.</summary>
    public FisherMatrix Matrix { get; init; }

    /// <summary>λ; null: max(10⁻⁶, 0.01·tr(F)/d).</summary>
    public double? Lambda { get; init; } = 1e-2;

    /// <summary>Whether sides are solved apart.</summary>
    public FisherSides Sides { get; init; }

    /// <summary>λ of sides solved apart; null as for <see cref="Lambda"/>. The branch's _dual does not hand its λ on.</summary>
    public double? SideLambda { get; init; }

    /// <summary>ε of the improved empirical weights.</summary>
    public double Epsilon { get; init; } = 1e-6;

    /// <summary>With fewer rows than a tenth of the width, λ is at least 10⁻⁴·tr(F)/d.</summary>
    public bool GuardFewRows { get; init; } = true;

    /// <summary>Give the direction the length of the mean gradient (novel_steering), rather than the length of the solution, which depends on λ and the loss's scale.</summary>
    public bool Rescale { get; init; }
}

/// <summary>
/// Natural-gradient directions v = (F + λI)⁻¹ ḡ (Amari 1998; wassname/repeng, fisher_steering.py). With fewer rows than the
/// width by Woodbury's identity, so no width × width matrix is made; the equality is exact. With as many rows or more F is summed
/// as they are read, and they are not kept: never both.
/// </summary>
public static class FisherSteering
{
    // Beyond this a solution in double has no digit left that the rows determine.
    private const double WorstCondition = 1e12;

    /// <summary>The direction [d] of a layer, with the sign rule: adding it to the positive side lowers the loss, to the negative raises it.</summary>
    public static double[] Direction(CpuWorkers workers, LayerRows rows, FisherSettings settings)
    {
        RowSource g = rows.NeedGradients("fisher_steer");
        double[] v;
        if (settings.Sides == FisherSides.Together)
        {
            v = Solve(workers, g, rows.TapGradient, settings);
        }
        else
        {
            FisherSettings side = settings with { Lambda = settings.SideLambda };
            double[]? Of(int first) => settings.Sides == (first == 0 ? FisherSides.Negative : FisherSides.Positive)
                ? null
                : Solve(workers, g.Side(first), rows.TapGradient is null ? null : [.. rows.TapGradient.Where((_, i) => i % 2 == first)], side);
            double[]? p = Of(0), n = Of(1);
            v = settings.Sides switch
            {
                FisherSides.Positive => p!,
                FisherSides.Negative => n!,
                FisherSides.Difference => [.. p!.Zip(n!, (x, y) => x - y)],
                _ => [.. p!.Zip(n!, (x, y) => (x + y) / 2)],
            };
        }
        return OrientByGradients(rows, v);
    }

    /// <summary>(F + λI)⁻¹ ḡ of gradient rows g [m, d], w_in [m], without a sign rule.</summary>
    public static double[] Solve(CpuWorkers workers, RowSource g, double[]? tapGradient, FisherSettings settings)
    {
        (int m, int d) = (g.Rows, g.Width);
        double[] mean = g.Mean();
        if (settings.Matrix == FisherMatrix.Covariance && m < 2)
            throw new UserErrorException("the covariance of one gradient row is not defined; give at least two pairs");
        if (settings.Matrix == FisherMatrix.ImprovedEmpirical && tapGradient is null)
            throw new UserErrorException("the improved empirical Fisher needs the gradients at the tap; take fisher_steer_emp or _cov");
        // F = xᵀx, so x holds the weights and the divisor.
        double scale = 1.0 / (settings.Matrix == FisherMatrix.Covariance ? m - 1 : m);
        RowSource x = g.Shifted(settings.Matrix == FisherMatrix.Covariance ? mean : null,
            i => Math.Sqrt(settings.Matrix == FisherMatrix.ImprovedEmpirical ? scale / (tapGradient![i] + settings.Epsilon) : scale));
        double trace = x.SquareSum();
        // Deviations from a mean sum to zero: one row less than there are.
        int rank = Math.Min(d, settings.Matrix == FisherMatrix.Covariance ? m - 1 : m);
        double lambda = settings.Lambda ?? Math.Max(1e-6, 0.01 * trace / d);
        // The smallest eigenvalue of so few rows is zero, so upstream's look at the spectrum always decides this way.
        if (settings.GuardFewRows && m < d / 10)
            lambda = Math.Max(lambda, 1e-4 * trace / d);

        // No need to look for the eigenvalues of a width × width matrix, of which some are zero.
        if (lambda <= 0 && rank < d)
            throw Singular(m, d, double.PositiveInfinity);

        double[] v = lambda > 0 && x.Narrow ? Woodbury(workers, x.ToArray(), mean, m, d, lambda) : Dense(workers, x.Gram(workers), mean, m, d, lambda);
        if (settings.Rescale)
        {
            double length = Math.Sqrt(LayerRows.Dot(v, v)), wanted = Math.Sqrt(LayerRows.Dot(mean, mean));
            v = [.. v.Select(y => y * wanted / (length + 1e-8))];
        }
        return v;
    }

    /// <summary>Turns v so that the mean over pairs of (g_neg − g_pos)·v is not below zero.</summary>
    public static double[] OrientByGradients(LayerRows rows, double[] v)
    {
        double score = rows.NeedGradients("fisher_steer").Along(v).Select((along, i) => i % 2 == 0 ? -along : along).Sum();
        return score >= 0 ? v : [.. v.Select(x => -x)];
    }

    private static UserErrorException Singular(int rows, int width, double condition) =>
        new($"the Fisher matrix of {rows} rows and width {width} has the condition number {condition.ToString("g3", CultureInfo.InvariantCulture)} and cannot be solved with lambda 0; take a _reg1 … _reg5 method (lambda 0.1 … 1e-5), or give more than {width} rows that differ");

    // (λI + xᵀx)⁻¹ b = (b − xᵀ(λI + xxᵀ)⁻¹xb) / λ.
    private static double[] Woodbury(CpuWorkers workers, double[] x, double[] b, int m, int d, double lambda)
    {
        using Cholesky factor = Cholesky.Factor(workers, GramMatrix.OfRows(workers, x, m, d), m, lambda);
        var y = new double[m];
        for (int i = 0; i < m; i++)
            y[i] = LayerRows.Dot(x.AsSpan(i * d, d), b);
        factor.Solve(y, 1);
        double[] v = [.. b];
        for (int i = 0; i < m; i++)
            for (int j = 0; j < d; j++)
                v[j] -= y[i] * x[i * d + j];
        for (int j = 0; j < d; j++)
            v[j] /= lambda;
        return v;
    }

    private static double[] Dense(CpuWorkers workers, double[] f, double[] b, int m, int d, double lambda)
    {
        if (lambda <= 0)
        {
            double[] values = new double[d];
            SymmetricEigen.Decompose(workers, f, d, values, [], 0);
            double condition = values[^1] > 0 ? values[0] / values[^1] : double.PositiveInfinity;
            if (!(condition < WorstCondition))
                throw Singular(m, d, condition);
        }
        using Cholesky factor = Cholesky.Factor(workers, f, d, lambda);
        double[] v = [.. b];
        factor.Solve(v, 1);
        return v;
    }
}
