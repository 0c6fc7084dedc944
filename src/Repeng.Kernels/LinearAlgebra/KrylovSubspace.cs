using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// Leading eigenvectors of a symmetric positive semidefinite operator by block Lanczos with full reorthogonalisation and
/// thick restarts (Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, 2000). Vectors are rows.
/// </summary>
internal static unsafe class KrylovSubspace
{
    /// <summary>Vectors that are multiplied at a time.</summary>
    public const int Block = 8;

    private const int MaxCycles = 200;

    /// <summary>
    /// The eigenvectors of the r largest eigenvalues θ, as the rows of wanted [r, n], to residuals of tolerance·θ₁; r is at most n/6.
    /// Before the result is believed, one cycle starts from fresh random directions: an eigenvalue of multiplicity
    /// above the block size shows only partly in one Krylov space. Returns the number of products with a vector.
    /// </summary>
    public static int Leading(CpuWorkers workers, SymmetricOperator matrix, int n, int r, double tolerance, double* wanted)
    {
        int keep = Math.Min(n / 3, 2 * r + 4 * Block), most = Math.Min(n - Block, keep + Math.Max(16 * Block, 2 * r));
        using DoubleBuffer basis = new((long)(most + Block) * n), ritz = new((long)(keep + Block) * n), projected = new((long)(most + Block) * (most + Block));
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
                Expand(workers, matrix, n, basis.At, have, projected.At, most + Block);
                have += Block;
                products += Block;
            }

            for (int i = 0; i < have; i++)
                Copy(projected.At + (long)i * (most + Block), small.At + (long)i * have, have);
            int kept = Math.Min(keep, have);
            SymmetricEigen.Decompose(workers, small.At, have, smallValues.At, smallVectors.At, kept);
            bool converged = Converged(projected.At, most + Block, smallVectors.At, smallValues.At, have, r, tolerance);
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
        throw new ArithmeticException($"the {r} leading eigenvectors of a {n}×{n} matrix did not converge in {products} products");
    }

    /// <summary>Multiplies the block of rows from have on, notes its projections on all rows so far, and appends the next block.</summary>
    private static void Expand(CpuWorkers workers, SymmetricOperator matrix, int n, double* basis, int have, double* projected, int stride)
    {
        double* block = basis + (long)have * n, next = block + (long)Block * n;
        int count = have + Block;
        matrix.Apply(next, block, Block);
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
    /// Whether the first r Ritz pairs (θ, x) have a residual ‖A·x − θx‖ below tolerance·θ₁, and below 10⁻⁸√(θθ₁) so that for A = aᵀa
    /// the left vectors of small singular values are right too, as far as rounding (10⁻¹⁴θ₁) allows. The residual lies along the next block.
    /// </summary>
    private static bool Converged(double* projected, int stride, double* vectors, double* values, int have, int r, double tolerance)
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
            double allowed = Math.Max(Math.Min(tolerance * largest, 1e-8 * Math.Sqrt(Math.Max(0, values[i]) * largest)), 1e-14 * largest);
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
