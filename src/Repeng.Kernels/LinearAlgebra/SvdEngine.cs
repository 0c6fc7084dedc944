using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// The leading singular triplets of a tall matrix a [m, n], m ≥ n, in double. Finds an orthonormal basis of the leading
/// right singular subspace, then refines it through an orthogonal factorisation of a·basis, which does not square.
/// Vectors are the rows of matrices.
/// </summary>
internal static unsafe class SvdEngine
{
    /// <summary>Up to this size the Jacobi iteration takes the whole matrix: every singular value to the digits of its own size.</summary>
    public const int DenseSize = 160;

    /// <summary>The r leading triplets: left [r, m], values [r] descending, right [r, n]. Elements must be finite. Returns the number of products with a vector and its transpose. known: the leading right subspace [r, n] where somebody found it, which is made orthonormal here, or null.</summary>
    public static int Top(CpuWorkers workers, MatrixOperand a, int m, int n, int r, double* left, double* values, double* right, double* known = null)
    {
        if (n <= DenseSize)
        {
            All(workers, a, m, n, r, left, values, right);
            return n;
        }
        using DoubleBuffer basis = new((long)r * n);
        int products = n;
        if (known is not null)
        {
            Copy(known, basis.At, (long)r * n);
            // Orthonormal to the device's rounding already; NaN stays, and shows in the residual.
            Basis.Orthonormalise(workers, basis.At, 0, r, n);
            products = r;
        }
        else if (r > n / 6)
            GramBasis(workers, a, m, n, r, basis.At);
        else
            products = KrylovBasis(workers, a, m, n, r, basis.At);
        using DoubleBuffer leftAll = new((long)r * m);
        Refine(workers, a, m, n, r, basis.At, leftAll.At, values, right);
        Copy(leftAll.At, left, (long)r * m);
        return products;
    }

    /// <summary>The full decomposition by Jacobi, of which the first r triplets are handed back; for small n.</summary>
    public static void All(CpuWorkers workers, MatrixOperand a, int m, int n, int r, double* left, double* values, double* right)
    {
        using DoubleBuffer unit = new((long)n * n), leftAll = new((long)n * m), rightAll = new((long)n * n), valuesAll = new(n);
        for (int i = 0; i < n; i++)
            unit.At[(long)i * n + i] = 1;
        Refine(workers, a, m, n, n, unit.At, leftAll.At, valuesAll.At, rightAll.At);
        Copy(leftAll.At, left, (long)r * m);
        Copy(valuesAll.At, values, r);
        Copy(rightAll.At, right, (long)r * n);
    }

    /// <summary>
    /// The singular value decomposition of a restricted to the span of basis [r, n] (orthonormal rows): y = basis·aᵀ = l·q
    /// with orthonormal q [r, m], and the small l [r, r] by Jacobi.
    /// </summary>
    public static void Refine(CpuWorkers workers, MatrixOperand a, int m, int n, int r, double* basis, double* left, double* values, double* right)
    {
        using DoubleBuffer images = new((long)r * m), q = new((long)r * m), small = new((long)r * r), combine = new((long)r * r);
        ParallelGemm.Multiply(workers, images.At, m, new MatrixOperand(basis, n), a.Transposed, r, m, n);
        Copy(images.At, q.At, (long)r * m);
        Basis.Orthonormalise(workers, q.At, 0, r, m);
        ParallelGemm.Multiply(workers, small.At, r, new MatrixOperand(images.At, m), new MatrixOperand(q.At, m, transposed: true), r, r, m);
        JacobiSvd.Orthogonalise(small.At, combine.At, values, r, r);
        // Normalises the rows, and gives a direction to those whose singular value is zero.
        Basis.Orthonormalise(workers, small.At, 0, r, r);
        ParallelGemm.Multiply(workers, left, m, new MatrixOperand(small.At, r), new MatrixOperand(q.At, m), r, m, r);
        ParallelGemm.Multiply(workers, right, n, new MatrixOperand(combine.At, r), new MatrixOperand(basis, n), r, n, r);
    }

    /// <summary>The leading eigenvectors of aᵀa from its full decomposition: for many triplets. Squares: directions of singular values below 10⁻⁷ of the largest mix.</summary>
    private static void GramBasis(CpuWorkers workers, MatrixOperand a, int m, int n, int r, double* basis)
    {
        using DoubleBuffer gram = new((long)n * n), values = new(n);
        Gram(workers, a, m, n, gram.At);
        SymmetricEigen.Decompose(workers, gram.At, n, values.At, basis, r);
        // The eigenvectors are orthonormal to n·2⁻⁵² already; this makes it rounding.
        Basis.Orthonormalise(workers, basis, 0, r, n);
    }

    /// <summary>gram = aᵀa [n, n], both triangles.</summary>
    public static void Gram(CpuWorkers workers, MatrixOperand a, int m, int n, double* gram)
    {
        ParallelGemm.MultiplySymmetric(workers, gram, n, a.Transposed, n, m);
        ParallelGemm.Mirror(gram, n);
    }

    private static int KrylovBasis(CpuWorkers workers, MatrixOperand a, int m, int n, int r, double* basis)
    {
        // A guess of the products needed decides whether forming aᵀa, m·n² operations, is repaid by products of 2n² in the place of 4·m·n.
        long guess = 10L * r + 160;
        if ((long)m * n + 2 * guess * n >= 4 * guess * m)
        {
            using ProductOperator product = new(workers, a, m, n);
            return KrylovSubspace.Leading(workers, product, n, r, 1e-10, basis);
        }
        using DoubleBuffer gram = new((long)n * n);
        Gram(workers, a, m, n, gram.At);
        return KrylovSubspace.Leading(workers, new DenseOperator(workers, gram.At, n), n, r, 1e-10, basis);
    }

    private static void Copy(double* from, double* to, long count) => Buffer.MemoryCopy(from, to, count * sizeof(double), count * sizeof(double));
}
