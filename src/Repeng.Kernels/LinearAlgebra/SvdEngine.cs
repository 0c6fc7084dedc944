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

    private const int Block = 8;
    private const int MaxCycles = 200;

    /// <summary>The r leading triplets: left [r, m], values [r] descending, right [r, n]. Elements must be finite. Returns the number of products with a vector and its transpose.</summary>
    public static int Top(CpuWorkers workers, MatrixOperand a, int m, int n, int r, double* left, double* values, double* right)
    {
        if (n <= DenseSize)
        {
            All(workers, a, m, n, r, left, values, right);
            return n;
        }
        using DoubleBuffer basis = new((long)r * n);
        int products = n;
        if (r > n / 6)
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

    /// <summary>
    /// Block Lanczos for aᵀa with full reorthogonalisation and thick restarts (Wu and Simon 2000). Before the result is
    /// believed, one cycle starts from fresh random directions: a singular value of multiplicity above the block size
    /// shows only partly in one Krylov space.
    /// </summary>
    private static int KrylovBasis(CpuWorkers workers, MatrixOperand a, int m, int n, int r, double* wanted)
    {
        int keep = Math.Min(n / 3, 2 * r + 4 * Block), most = Math.Min(n - Block, keep + Math.Max(16 * Block, 2 * r));
        // A guess of the products needed decides whether forming aᵀa, m·n² operations, is repaid by products of 2n² in the place of 4·m·n.
        long guess = 10L * r + 160;
        bool gramPays = (long)m * n + 2 * guess * n < 4 * guess * m;
        using DoubleBuffer gram = new(gramPays ? (long)n * n : 1);
        if (gramPays)
            Gram(workers, a, m, n, gram.At);
        using DoubleBuffer basis = new((long)(most + Block) * n), ritz = new((long)(keep + Block) * n), images = new((long)Block * m), projected = new((long)(most + Block) * (most + Block));
        using DoubleBuffer small = new((long)most * most), smallValues = new(most), smallVectors = new((long)most * most);
        double[] last = new double[r];
        int products = 0, have = 0;
        bool checking = false;
        for (int i = 0; i < Block; i++)
            VectorMath.Random(basis.At + (long)i * n, n, (ulong)i);
        Basis.Orthonormalise(workers, basis.At, 0, Block, n);
        for (int cycle = 0; cycle < MaxCycles; cycle++)
        {
            int until = checking ? Math.Min(most, have + 6 * Block) : most;
            while (have + Block <= until)
            {
                Expand(workers, a, m, n, gramPays ? gram.At : null, basis.At, have, images.At, projected.At, most + Block);
                have += Block;
                products += Block;
            }

            for (int i = 0; i < have; i++)
                Copy(projected.At + (long)i * (most + Block), small.At + (long)i * have, have);
            int kept = Math.Min(keep, have);
            SymmetricEigen.Decompose(workers, small.At, have, smallValues.At, smallVectors.At, kept);
            bool converged = Converged(projected.At, most + Block, smallVectors.At, smallValues.At, have, r);
            bool same = checking && Same(smallValues.At, last);
            int carried = converged ? r : kept;
            ParallelGemm.Multiply(workers, ritz.At, n, new MatrixOperand(smallVectors.At, have), new MatrixOperand(basis.At, n), carried, n, have);
            if (converged && same)
            {
                Basis.Orthonormalise(workers, ritz.At, 0, r, n);
                Copy(ritz.At, wanted, (long)r * n);
                return products;
            }

            // Thick restart: the best vectors, then either the block that would have come next or a fresh one.
            double* next = ritz.At + (long)carried * n;
            if (converged)
                for (int i = 0; i < Block; i++)
                    VectorMath.Random(next + (long)i * n, n, (ulong)(products + i));
            else
                Copy(basis.At + (long)have * n, next, (long)Block * n);
            Copy(ritz.At, basis.At, (long)(carried + Block) * n);
            Basis.Orthonormalise(workers, basis.At, carried, Block, n);
            new Span<double>(projected.At, (most + Block) * (most + Block)).Clear();
            for (int i = 0; i < carried; i++)
                projected.At[(long)i * (most + Block) + i] = smallValues.At[i];
            new ReadOnlySpan<double>(smallValues.At, r).CopyTo(last);
            have = carried;
            checking = converged;
        }
        throw new ArithmeticException($"the {r} leading singular vectors of a {m}×{n} matrix did not converge in {products} products");
    }

    /// <summary>Multiplies the block of rows from have on by aᵀa, notes its projections on all rows so far, and appends the next block.</summary>
    private static void Expand(CpuWorkers workers, MatrixOperand a, int m, int n, double* gram, double* basis, int have, double* images, double* projected, int stride)
    {
        double* block = basis + (long)have * n, next = block + (long)Block * n;
        int count = have + Block;
        if (gram != null)
        {
            ParallelGemm.Multiply(workers, next, n, new MatrixOperand(block, n), new MatrixOperand(gram, n), Block, n, n);
        }
        else
        {
            ParallelGemm.Multiply(workers, images, m, new MatrixOperand(block, n), a.Transposed, Block, m, n);
            ParallelGemm.Multiply(workers, next, n, new MatrixOperand(images, m), a, Block, n, m);
        }
        using DoubleBuffer overlap = new((long)Block * (count + Block)), copy = new((long)Block * n);
        Copy(next, copy.At, (long)Block * n);
        Basis.Orthonormalise(workers, basis, count, Block, n);
        ParallelGemm.Multiply(workers, overlap.At, count + Block, new MatrixOperand(copy.At, n), new MatrixOperand(basis, n, transposed: true), Block, count + Block, n);
        for (int i = 0; i < Block; i++)
            for (int j = 0; j < count + Block; j++)
            {
                double value = overlap.At[(long)i * (count + Block) + j];
                // Within the block both halves are computed; one serves for both.
                if (j < have + i && j >= have)
                    continue;
                projected[(long)(have + i) * stride + j] = value;
                projected[(long)j * stride + have + i] = value;
            }
    }

    /// <summary>
    /// Whether the first r Ritz pairs (θ, x) have a residual ‖aᵀa·x − θx‖ below 10⁻¹⁰θ₁, and below 10⁻⁸√(θθ₁) so that left vectors of
    /// small singular values are right too, as far as rounding (10⁻¹⁴θ₁) allows. The residual lies along the next block.
    /// </summary>
    private static bool Converged(double* projected, int stride, double* vectors, double* values, int have, int r)
    {
        double largest = values[0];
        for (int i = 0; i < r; i++)
        {
            double square = 0;
            for (int k = 0; k < Block; k++)
            {
                double along = VectorMath.Dot(projected + (long)(have + k) * stride, vectors + (long)i * have, have);
                square += along * along;
            }
            double allowed = Math.Max(Math.Min(1e-10 * largest, 1e-8 * Math.Sqrt(Math.Max(0, values[i]) * largest)), 1e-14 * largest);
            if (Math.Sqrt(square) > allowed)
                return false;
        }
        return true;
    }

    private static bool Same(double* values, double[] before)
    {
        for (int i = 0; i < before.Length; i++)
            if (Math.Abs(values[i] - before[i]) > 1e-9 * values[0])
                return false;
        return true;
    }

    private static void Copy(double* from, double* to, long count) => Buffer.MemoryCopy(from, to, count * sizeof(double), count * sizeof(double));
}
