using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// The left singular vector of the smallest of the k = min(rows, cols) singular values of a matrix: the last column of U
/// in the thin decomposition.
/// </summary>
/// <param name="U">Unit vector [rows]; its largest-magnitude element is positive (of elements within 10⁻⁶ of it the first decides).</param>
/// <param name="Sigma">The smallest singular value σ_k.</param>
/// <param name="Gap">(σ_{k−1} − σ_k)/σ₁: how well the vector is separated from its neighbour; 1 where k = 1.</param>
/// <param name="Uncertainty">
/// An estimate of the angle in radians by which rounding in double may turn U: √k·2⁻⁵²/gap, where rows &gt; cols plus the
/// same over σ_k/σ₁, plus the bound at which the iteration ended.
/// </param>
public sealed record LastSingularVector(float[] U, double Sigma, double Gap, double Uncertainty)
{
    /// <summary>
    /// True where U is not determined to fp32: the two smallest singular values (nearly) coincide, or rows &gt; cols and
    /// σ_k is (nearly) zero, so that any vector of a larger space would serve. U is then one valid choice of them.
    /// </summary>
    public bool IllDefined => !(Uncertainty <= 1e-4);

    /// <summary>
    /// Computes it for w [rows, cols], row-major, in double. Small matrices: the whole decomposition. Larger: Lanczos
    /// with the inverse of the Gram matrix of the smaller side, corrected by residuals and Ritz values of W itself, so that
    /// the squared condition number does not enter the result. Throws
    /// <see cref="UserErrorException"/> when an element is not finite.
    /// </summary>
    public static unsafe LastSingularVector Compute(CpuWorkers workers, ReadOnlySpan<float> w, int rows, int cols)
    {
        SvdInput.CheckShape(w.Length, rows, cols);
        SvdInput.CheckFinite(w, cols);
        fixed (float* p = w)
        {
            MatrixOperand matrix = new(p, cols);
            return rows > cols ? LastSingularEngine.Tall(workers, matrix, rows, cols) : LastSingularEngine.Wide(workers, matrix.Transposed, cols, rows);
        }
    }
}
