namespace Repeng.Kernels;

/// <summary>Rotations from skew-symmetric matrices, in batches of small n×n matrices (n ≤ 512). Inner arithmetic is double.</summary>
public partial interface IBackend
{
    /// <summary>a = p − pᵀ for each of batch matrices; with accumulate a += (its own backward pass: dP += dA − dAᵀ).</summary>
    void Skew(View a, View p, int n, int batch, bool accumulate);

    /// <summary>r = (I − x)⁻¹(I + x) by LU with partial pivoting: the Cayley transform, orthogonal for skew x.</summary>
    void CayleyForward(View r, View x, int n, int batch);

    /// <summary>
    /// dx += ½(r + I)ᵀ·dr·(r + I)ᵀ. Since (I − x)⁻¹ = (r + I)/2, dR = (I − X)⁻¹ dX (R + I) gives this adjoint without a solve.
    /// </summary>
    void CayleyBackward(View dx, View dr, View r, int n, int batch);

    /// <summary>r = e^x by scaling and squaring.</summary>
    void MatrixExpForward(View r, View x, int n, int batch);

    /// <summary>dx += L(xᵀ, dr), the Fréchet derivative of the exponential at xᵀ in direction dr (Higham, Functions of Matrices, 3.2 and 10.6).</summary>
    void MatrixExpBackward(View dx, View dr, View x, int n, int batch);
}
