using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// The leading principal components of a set of row vectors, from the singular value decomposition of the (centred) rows:
/// the covariance matrix is never formed, so the cost follows the smaller of the number of rows and their length.
/// <see cref="OfGram"/> takes rows that were summed to their covariance because they are too many to be kept.
/// </summary>
/// <param name="Components">Unit vectors, the rows of [k, d], in descending order of variance; the largest-magnitude element of each is positive (of elements within 10⁻⁶ of it the first decides).</param>
/// <param name="Variances">Variance along each component [k]: σ²/(n − 1) when centred, σ²/n otherwise.</param>
/// <param name="Mean">Column means [d] that were subtracted; zero when not centred.</param>
/// <param name="TotalVariance">Sum of the variances along all min(n, d) components.</param>
public sealed record PrincipalComponents(double[] Components, double[] Variances, double[] Mean, double TotalVariance)
{
    /// <summary>The k leading components of x [n, d], row-major fp32. Throws as the overload in double.</summary>
    public static PrincipalComponents Compute(CpuWorkers workers, ReadOnlySpan<float> x, int n, int d, int k, bool centred = true)
    {
        SvdInput.CheckShape(x.Length, n, d);
        SvdInput.CheckFinite(x, d);
        using DoubleBuffer rows = new((long)n * d);
        Span<double> wide = rows.Span(checked(n * d));
        for (int i = 0; i < wide.Length; i++)
            wide[i] = x[i];
        return Compute(workers, rows, n, d, k, centred);
    }

    /// <summary>
    /// The k leading components of x [n, d], row-major. Throws <see cref="UserErrorException"/> when k is not in
    /// 1 … min(n, d), when fewer than two rows are to be centred, or when an element is not finite.
    /// </summary>
    public static PrincipalComponents Compute(CpuWorkers workers, ReadOnlySpan<double> x, int n, int d, int k, bool centred = true)
    {
        SvdInput.CheckShape(x.Length, n, d);
        SvdInput.CheckFinite(x, d);
        using DoubleBuffer rows = new((long)n * d);
        x.CopyTo(rows.Span(checked(n * d)));
        return Compute(workers, rows, n, d, k, centred);
    }

    /// <summary>
    /// The k leading eigenvectors of a Gram matrix xᵀx [d, d] of rows that are not kept, both triangles filled, as the unit rows of
    /// [k, d], signed as <see cref="Components"/>. Their angle to the singular vectors of x is some 2⁻⁵²·σ₁² over the gap of the squares.
    /// </summary>
    public static unsafe double[] OfGram(CpuWorkers workers, ReadOnlySpan<double> gram, int d, int k)
    {
        SvdInput.CheckShape(gram.Length, d, d);
        if (k < 1 || k > d)
            throw new UserErrorException($"{k} principal components asked of rows of length {d}: it must be 1 … {d}");
        var components = new double[checked(k * d)];
        if (d <= SvdEngine.DenseSize || k > d / 6)
            SymmetricEigen.Decompose(workers, gram, d, new double[d], components, k);
        else
            fixed (double* g = gram, to = components)
                KrylovSubspace.Leading(workers, new DenseOperator(workers, g, d), d, k, KrylovTolerance, to);
        fixed (double* c = components)
            for (int i = 0; i < k; i++)
                VectorMath.Scale(c + (long)i * d, VectorMath.Sign(c + (long)i * d, d), d);
        return components;
    }

    private const double KrylovTolerance = 1e-10;

    private static unsafe PrincipalComponents Compute(CpuWorkers workers, DoubleBuffer rows, int n, int d, int k, bool centred)
    {
        if (k < 1 || k > Math.Min(n, d))
            throw new UserErrorException($"{k} principal components asked of {n} rows of length {d}: it must be 1 … {Math.Min(n, d)}; give more rows or ask for fewer");
        if (centred && n < 2)
            throw new UserErrorException("principal components of one centred row are not defined; give at least two rows");
        double[] mean = new double[d];
        fixed (double* m = mean)
        {
            for (int i = 0; i < n && centred; i++)
                VectorMath.Add(m, 1.0 / n, rows.At + (long)i * d, d);
            for (int i = 0; i < n && centred; i++)
                VectorMath.Add(rows.At + (long)i * d, -1, m, d);
        }
        double divisor = centred ? n - 1 : n, total = 0;
        for (int i = 0; i < n; i++)
            total += VectorMath.Dot(rows.At + (long)i * d, rows.At + (long)i * d, d);

        using DoubleBuffer left = new((long)k * n), right = new((long)k * d), values = new(k);
        MatrixOperand x = new(rows.At, d);
        if (n >= d)
            SvdEngine.Top(workers, x, n, d, k, left.At, values.At, right.At);
        else
            SvdEngine.Top(workers, x.Transposed, d, n, k, right.At, values.At, left.At);
        double[] variances = new double[k];
        for (int i = 0; i < k; i++)
        {
            variances[i] = values.At[i] * values.At[i] / divisor;
            VectorMath.Scale(right.At + (long)i * d, VectorMath.Sign(right.At + (long)i * d, d), d);
        }
        return new PrincipalComponents(right.Span(checked(k * d)).ToArray(), variances, mean, total / divisor);
    }
}
