using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>Smallest singular triplets of a tall matrix a [m, n], m ≥ n, in double.</summary>
internal static unsafe class LastSingularEngine
{
    private const int Block = 4;
    private const int MaxSteps = 60;

    /// <summary>For w = a, rows above columns: the last left vector is a·v/σ.</summary>
    public static LastSingularVector Tall(CpuWorkers workers, MatrixOperand a, int m, int n) => Compute(workers, a, m, n, leftIsShort: false);

    /// <summary>For w = aᵀ, columns not below rows: the last left vector of w is the last right vector of a, found without dividing by σ.</summary>
    public static LastSingularVector Wide(CpuWorkers workers, MatrixOperand a, int m, int n) => Compute(workers, a, m, n, leftIsShort: true);

    private static LastSingularVector Compute(CpuWorkers workers, MatrixOperand a, int m, int n, bool leftIsShort)
    {
        int length = leftIsShort ? n : m;
        using DoubleBuffer vector = new(length);
        double largest, sigma, next, left;
        if (n <= SvdEngine.DenseSize)
        {
            using DoubleBuffer tall = new((long)n * m), values = new(n), square = new((long)n * n);
            SvdEngine.All(workers, a, m, n, n, tall.At, values.At, square.At);
            (largest, sigma, next, left) = (values.At[0], values.At[n - 1], n > 1 ? values.At[n - 2] : 0, 0);
            double* found = leftIsShort ? square.At + (long)(n - 1) * n : tall.At + (long)(n - 1) * m;
            Buffer.MemoryCopy(found, vector.At, (long)length * sizeof(double), (long)length * sizeof(double));
        }
        else
        {
            (largest, sigma, next, left) = Iterate(workers, a, m, n, vector.At, leftIsShort);
        }

        double rounding = Math.Sqrt(n) * Math.ScaleB(1, -52);
        double gap = n == 1 ? 1 : largest > 0 ? (next - sigma) / largest : 0;
        double uncertainty = (n == 1 ? 0 : rounding / gap) + left;
        if (!leftIsShort)
            uncertainty += rounding * largest / sigma; // infinite, or NaN for a zero matrix, where any vector serves
        double sign = VectorMath.Sign(vector.At, length);
        float[] u = new float[length];
        for (int i = 0; i < length; i++)
            u[i] = (float)(sign * vector.At[i]);
        return new LastSingularVector(u, sigma, gap, uncertainty);
    }

    /// <summary>
    /// Lanczos with the inverse of the Gram matrix finds the smallest right vectors x, also where many lie close together, but its
    /// squaring leaves an error of 2⁻⁵²(σ₁/σ)². A locally optimal preconditioned iteration on a itself takes that away:
    /// the preconditioned residuals t = (aᵀa)⁻¹(aᵀ(a·x) − σ²x) and the block before widen the space, and the decomposition
    /// of a on it gives the next x. Returns (σ₁, σ_k, σ_{k−1}, bound of the angle that is left).
    /// </summary>
    private static (double Largest, double Sigma, double Next, double Angle) Iterate(CpuWorkers workers, MatrixOperand a, int m, int n, double* vector, bool leftIsShort)
    {
        using DoubleBuffer gram = new((long)n * n), span = new(3L * Block * n), leftSpan = new(3L * Block * m), values = new(3 * Block);
        using DoubleBuffer right = new(3L * Block * n), previous = new((long)Block * n);
        SvdEngine.Gram(workers, a, m, n, gram.At);
        using Cholesky factor = Precondition(workers, gram.At, n);
        double largest = LargestSingularValue(workers, gram.At, n);
        KrylovSubspace.Leading(workers, new InverseOperator(factor, n), n, Block, 1e-13, span.At);

        int have = Block, stalled = 0;
        double angle, best = double.PositiveInfinity;
        for (int step = 0; ; step++)
        {
            SvdEngine.Refine(workers, a, m, n, have, span.At, leftSpan.At, values.At, right.At);
            double* smallest = right.At + (long)(have - Block) * n, residual = span.At + (long)Block * n;
            Residuals(workers, a, m, n, leftSpan.At + (long)(have - Block) * m, values.At + have - Block, smallest, residual);
            double sigma = values.At[have - 1], next = values.At[have - 2];
            // The gap theorem: the sine of the angle to the true vector is at most the residual over the distance of the eigenvalues.
            angle = VectorMath.Norm(residual + (Block - 1L) * n, n) / ((next - sigma) * (next + sigma));
            stalled = angle < best / 2 ? 0 : stalled + 1;
            best = Math.Min(best, angle);
            // Two steps at least, which also settle the neighbour that the bound rests on.
            if ((step >= 2 && !(angle > 1e-12)) || stalled >= 5 || step == MaxSteps)
                break;

            factor.Solve(residual, Block);
            Copy(smallest, span.At, (long)Block * n);
            int wanted = 2 * Block;
            if (step > 0)
            {
                // The block before this one holds the conjugate directions, as in conjugate gradients.
                Copy(previous.At, span.At + 2L * Block * n, (long)Block * n);
                wanted = 3 * Block;
            }
            Copy(smallest, previous.At, (long)Block * n);
            Basis.Orthonormalise(workers, span.At, Block, wanted - Block, n);
            have = wanted;
        }

        double found = values.At[have - 1];
        if (leftIsShort)
            Copy(right.At + (long)(have - 1) * n, vector, n);
        else
            Copy(leftSpan.At + (long)(have - 1) * m, vector, m);
        if (!leftIsShort && found <= 1e-9 * largest)
            RemoveRange(workers, a, m, n, factor, vector);
        return (largest, found, values.At[have - 2], angle);
    }

    /// <summary>residual = σ(aᵀu − σx) for each of the block's triplets: aᵀa·x − σ²x through a, not through the Gram matrix with its rounding.</summary>
    private static void Residuals(CpuWorkers workers, MatrixOperand a, int m, int n, double* left, double* values, double* right, double* residual)
    {
        ParallelGemm.Multiply(workers, residual, n, new MatrixOperand(left, m), a, Block, n, m);
        for (int i = 0; i < Block; i++)
        {
            VectorMath.Add(residual + (long)i * n, -values[i], right + (long)i * n, n);
            VectorMath.Scale(residual + (long)i * n, values[i], n);
        }
    }

    /// <summary>
    /// Cholesky factor of the Gram matrix, shifted by as little as makes it positive definite to rounding. The shift also bounds
    /// the largest eigenvalue of the inverse, so that a vanishing σ_k leaves its neighbours visible beside it.
    /// </summary>
    private static Cholesky Precondition(CpuWorkers workers, double* gram, int n)
    {
        double largest = 0;
        for (int i = 0; i < n; i++)
            largest = Math.Max(largest, gram[(long)i * n + i]);
        if (largest == 0)
            largest = 1;
        for (double shift = n * Math.ScaleB(1, -52) * largest; ; shift *= 8)
            if (Cholesky.TryFactor(workers, gram, n, shift, out _) is { } factor)
                return factor;
    }

    private static double LargestSingularValue(CpuWorkers workers, double* gram, int n)
    {
        // A few steps of block power iteration: the value only scales tolerances and reported gaps, 1 % will do.
        using DoubleBuffer x = new((long)Block * n), y = new((long)Block * n);
        for (int i = 0; i < Block; i++)
            VectorMath.Random(x.At + (long)i * n, n, 0x20000u + (ulong)i);
        double found = 0;
        for (int step = 0; step < 8; step++)
        {
            Basis.Orthonormalise(workers, x.At, 0, Block, n);
            ParallelGemm.Multiply(workers, y.At, n, new MatrixOperand(x.At, n), new MatrixOperand(gram, n), Block, n, n);
            Buffer.MemoryCopy(y.At, x.At, (long)Block * n * sizeof(double), (long)Block * n * sizeof(double));
            for (int i = 0; i < Block; i++)
                found = Math.Max(found, VectorMath.Norm(y.At + (long)i * n, n));
        }
        return Math.Sqrt(found);
    }

    /// <summary>
    /// A left vector of a (nearly) zero singular value is rounding noise after division by it; what is right about it is
    /// only that it is orthogonal to the range of a. Projects on that complement: u −= a·(aᵀa)⁻¹·aᵀu, repeated.
    /// </summary>
    private static void RemoveRange(CpuWorkers workers, MatrixOperand a, int m, int n, Cholesky factor, double* u)
    {
        using DoubleBuffer inner = new(n);
        for (int pass = 0; pass < 4; pass++)
        {
            ParallelGemm.Multiply(workers, inner.At, n, new MatrixOperand(u, m), a, 1, n, m);
            factor.Solve(inner.At, 1);
            ParallelGemm.Multiply(workers, u, m, new MatrixOperand(inner.At, n), a.Transposed, 1, m, n, -1, true);
            VectorMath.Scale(u, 1 / VectorMath.Norm(u, m), m);
        }
    }

    private static void Copy(double* from, double* to, long count) => Buffer.MemoryCopy(from, to, count * sizeof(double), count * sizeof(double));
}
