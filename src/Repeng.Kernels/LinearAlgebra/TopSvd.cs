using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// The leading singular triplets of a matrix W [rows, cols], row-major: W·v = σ·u, Wᵀ·u = σ·v, largest σ first.
/// The largest-magnitude element of every column of U is positive; of elements within 10⁻⁶ of it the first decides.
/// </summary>
/// <param name="Rows">Rows of W.</param>
/// <param name="Columns">Columns of W.</param>
/// <param name="Rank">Number of triplets r.</param>
/// <param name="U">Left singular vectors [rows, r], row-major, orthonormal columns.</param>
/// <param name="S">Singular values [r], descending.</param>
/// <param name="V">Right singular vectors [cols, r], row-major, orthonormal columns.</param>
/// <param name="Residual">The largest ‖Wᵀu − σv‖/σ₁ of the triplets, measured in double before rounding to fp32; W·v − σ·u is zero to rounding.</param>
/// <param name="Products">Number of vectors that W and Wᵀ were multiplied by, a measure of the work.</param>
public sealed record TruncatedSvd(int Rows, int Columns, int Rank, float[] U, float[] S, float[] V, double Residual, int Products);

/// <summary>
/// Truncated singular value decomposition with inner arithmetic in double; never all of U. min(rows, cols) up to 160:
/// QR and one-sided Jacobi of the whole matrix. Larger: block Lanczos for WᵀW (or WWᵀ, the smaller side),
/// formed only where that saves time, then orthogonal factorisation of W·V and Jacobi of the small factor. Above r = min(rows, cols)/6: the full
/// eigen-decomposition of the Gram matrix in the place of Lanczos (min(rows, cols)² doubles of memory, much slower).
/// The bits depend on the input alone, not on the number of threads. See docs/svd.md.
/// </summary>
public static unsafe class TopSvd
{
    // Of ‖W‖: a hundredth of fp32's rounding. A decomposition in fp64 that went well stays far below.
    private const double LargestResidual = 1e-9;

    /// <summary>
    /// Whether a matrix is small enough for Jacobi, which runs on one thread: several such matrices are better
    /// decomposed at a time, each with workers of its own.
    /// </summary>
    public static bool IsSmall(int rows, int cols) => Math.Min(rows, cols) <= SvdEngine.DenseSize;

    /// <summary>Up to this many rows or columns, whichever are fewer, a matrix is small (<see cref="IsSmall"/>).</summary>
    public const int LargestSmall = SvdEngine.DenseSize;

    /// <summary>
    /// The r leading triplets of w [rows, cols], row-major. Throws <see cref="UserErrorException"/> when r is not in
    /// 1 … min(rows, cols) or an element is not finite.
    /// </summary>
    /// <param name="workers">Threads of the host.</param>
    /// <param name="w">The matrix.</param>
    /// <param name="rows">Its rows.</param>
    /// <param name="cols">Its columns.</param>
    /// <param name="r">Triplets.</param>
    /// <param name="device">
    /// Finds the subspace of a large matrix where it can; null leaves all to the host. The triplets within the subspace are computed here in either case, and where their
    /// residual shows that the device found another subspace, the host finds it.
    /// </param>
    public static TruncatedSvd Compute(CpuWorkers workers, ReadOnlySpan<float> w, int rows, int cols, int r, ISingularVectors? device = null)
    {
        SvdInput.CheckShape(w.Length, rows, cols);
        if (r < 1 || r > Math.Min(rows, cols))
            throw new UserErrorException($"rank r = {r} asked of a weight of {rows}×{cols}: it must be 1 … {Math.Min(rows, cols)}; choose a smaller r");
        SvdInput.CheckFinite(w, cols);
        fixed (float* p = w)
        {
            if (device is not null && !IsSmall(rows, cols))
            {
                using DoubleBuffer basis = new((long)r * Math.Min(rows, cols));
                Span<double> vectors = new(basis.At, checked(r * Math.Min(rows, cols)));
                if (device.LeadingRight(vectors, w, rows, cols, r) && AllFinite(vectors))
                {
                    TruncatedSvd found = Compute(workers, new MatrixOperand(p, cols), rows, cols, r, basis.At);
                    if (found.Residual <= LargestResidual)
                        return found;
                }
            }
            return Compute(workers, new MatrixOperand(p, cols), rows, cols, r);
        }
    }

    /// <summary>As the other one, for a matrix in double; U, S and V are rounded to fp32.</summary>
    public static TruncatedSvd Compute(CpuWorkers workers, ReadOnlySpan<double> w, int rows, int cols, int r)
    {
        SvdInput.CheckShape(w.Length, rows, cols);
        if (r < 1 || r > Math.Min(rows, cols))
            throw new UserErrorException($"rank r = {r} asked of a matrix of {rows}×{cols}: it must be 1 … {Math.Min(rows, cols)}; choose a smaller r");
        SvdInput.CheckFinite(w, cols);
        fixed (double* p = w)
            return Compute(workers, new MatrixOperand(p, cols), rows, cols, r);
    }

    // basis: orthonormal rows that span the right subspace of the tall one of w and wᵀ; null finds it.
    private static TruncatedSvd Compute(CpuWorkers workers, MatrixOperand w, int rows, int cols, int r, double* basis = null)
    {
        using DoubleBuffer left = new((long)r * rows), right = new((long)r * cols), values = new(r);
        int products = rows >= cols
            ? SvdEngine.Top(workers, w, rows, cols, r, left.At, values.At, right.At, basis)
            : SvdEngine.Top(workers, w.Transposed, cols, rows, r, right.At, values.At, left.At, basis);
        for (int i = 0; i < r; i++)
            if (VectorMath.Sign(left.At + (long)i * rows, rows) < 0)
            {
                VectorMath.Scale(left.At + (long)i * rows, -1, rows);
                VectorMath.Scale(right.At + (long)i * cols, -1, cols);
            }

        double residual = Residual(workers, w, rows, cols, r, left.At, values.At, right.At);
        float[] s = new float[r];
        for (int i = 0; i < r; i++)
            s[i] = (float)values.At[i];
        return new TruncatedSvd(rows, cols, r, Columns(left.At, rows, r), s, Columns(right.At, cols, r), residual, products);
    }

    private static bool AllFinite(ReadOnlySpan<double> values)
    {
        foreach (double v in values)
            if (!double.IsFinite(v))
                return false;
        return true;
    }

    private static double Residual(CpuWorkers workers, MatrixOperand w, int rows, int cols, int r, double* left, double* values, double* right)
    {
        using DoubleBuffer images = new((long)r * cols);
        ParallelGemm.Multiply(workers, images.At, cols, new MatrixOperand(left, rows), w, r, cols, rows);
        double worst = 0;
        for (int i = 0; i < r; i++)
        {
            double* row = images.At + (long)i * cols;
            VectorMath.Add(row, -values[i], right + (long)i * cols, cols);
            worst = Math.Max(worst, VectorMath.Norm(row, cols));
        }
        return values[0] > 0 ? worst / values[0] : 0;
    }

    private static float[] Columns(double* vectors, int length, int count)
    {
        float[] matrix = new float[checked(length * count)];
        for (int i = 0; i < length; i++)
            for (int j = 0; j < count; j++)
                matrix[i * count + j] = (float)vectors[(long)j * length + i];
        return matrix;
    }
}

/// <summary>Checks of matrices that come from files.</summary>
internal static class SvdInput
{
    public static void CheckShape(long length, int rows, int cols)
    {
        if (rows < 1 || cols < 1)
            throw new UserErrorException($"a matrix of {rows}×{cols} has no singular values; it needs at least one row and one column");
        if (length != (long)rows * cols)
            throw new ArgumentException($"a matrix of {rows}×{cols} needs {(long)rows * cols} elements, not {length}");
    }

    public static void CheckFinite(ReadOnlySpan<float> w, int cols)
    {
        for (int i = 0; i < w.Length; i++)
            if (!float.IsFinite(w[i]))
                throw NotFinite(w[i], i, cols);
    }

    public static void CheckFinite(ReadOnlySpan<double> w, int cols)
    {
        for (int i = 0; i < w.Length; i++)
            if (!double.IsFinite(w[i]))
                throw NotFinite(w[i], i, cols);
    }

    private static UserErrorException NotFinite(double value, int at, int cols)
        => new($"element ({at / cols}, {at % cols}) of the matrix is {value}: singular values need finite numbers; the weight is damaged or was computed with an overflow");
}
