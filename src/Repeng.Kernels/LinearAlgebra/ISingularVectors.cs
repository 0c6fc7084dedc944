namespace Repeng.Kernels.LinearAlgebra;

/// <summary>A device that decomposes large matrices itself. What it finds is refined and measured by <see cref="TopSvd"/> in double on the host.</summary>
public interface ISingularVectors
{
    /// <summary>
    /// The r leading right singular vectors, largest singular value first, of A, which is w or wᵀ, whichever is tall: basis [r, min(rows, cols)], row-major, orthonormal rows, in double.
    /// False, with nothing done, where the host is to find them.
    /// </summary>
    /// <param name="basis">Receives the vectors.</param>
    /// <param name="w">The matrix [rows, cols], row-major, finite.</param>
    /// <param name="rows">Its rows.</param>
    /// <param name="cols">Its columns.</param>
    /// <param name="r">Vectors that are wanted, 1 … min(rows, cols).</param>
    bool LeadingRight(Span<double> basis, ReadOnlySpan<float> w, int rows, int cols, int r);
}
