using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>Smallest singular triplets of a tall matrix a [m, n], m ≥ n, in double.</summary>
internal static unsafe class LastSingularEngine
{
    private const int Block = 8;
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
            using DoubleBuffer long_ = new((long)n * m), values = new(n), short_ = new((long)n * n);
            SvdEngine.All(workers, a, m, n, n, long_.At, values.At, short_.At);
            (largest, sigma, next, left) = (values.At[0], values.At[n - 1], n > 1 ? values.At[n - 2] : 0, 0);
            double* found = leftIsShort ? short_.At + (long)(n - 1) * n : long_.At + (long)(n - 1) * m;
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
    /// Locally optimal preconditioned iteration for a block of the smallest right vectors x: the preconditioned residuals
    /// t = (aᵀa)⁻¹(aᵀ(a·x) − σ²x) widen the space, and the decomposition of a on the span of x and t gives the next x.
    /// Returns (σ₁, σ_k, σ_{k−1}, last change of the vector).
    /// </summary>
    private static (double Largest, double Sigma, double Next, double Change) Iterate(CpuWorkers workers, MatrixOperand a, int m, int n, double* vector, bool leftIsShort)
    {
        using DoubleBuffer gram = new((long)n * n), span = new(3L * Block * n), leftSpan = new(3L * Block * m), values = new(3 * Block);
        using DoubleBuffer right = new(3L * Block * n), images = new((long)Block * n), previous = new((long)Block * n);
        SvdEngine.Gram(workers, a, m, n, gram.At);
        using Cholesky preconditioner = Precondition(workers, gram.At, n);
        double largest = LargestSingularValue(workers, gram.At, n);

        // Two solves turn random directions into the neighbourhood of the smallest singular vectors.
        for (int i = 0; i < Block; i++)
            VectorMath.Random(span.At + (long)i * n, n, 0x10000u + (ulong)i);
        for (int pass = 0; pass < 2; pass++)
        {
            preconditioner.Solve(span.At, Block);
            Basis.Orthonormalise(workers, span.At, 0, Block, n);
        }

        int have = Block, stalled = 0;
        double change = double.PositiveInfinity, best = double.PositiveInfinity;
        for (int step = 0; ; step++)
        {
            SvdEngine.Refine(workers, a, m, n, have, span.At, leftSpan.At, values.At, right.At);
            double* smallest = right.At + (long)(have - Block) * n;
            if (step > 0)
            {
                change = AngleFrom(previous.At + (long)(Block - 1) * n, right.At + (long)(have - 1) * n, n);
                stalled = change < best / 2 ? 0 : stalled + 1;
                best = Math.Min(best, change);
                if (change < 1e-12 || stalled >= 4 || step == MaxSteps)
                    break;
            }

            // σ²x with the residual computed through a, not through the Gram matrix: this is what removes its rounding.
            double* residual = span.At + (long)Block * n;
            ParallelGemm.Multiply(workers, images.At, n, new MatrixOperand(leftSpan.At + (long)(have - Block) * m, m), a, Block, n, m);
            for (int i = 0; i < Block; i++)
            {
                double sigma = values.At[have - Block + i];
                for (int j = 0; j < n; j++)
                    residual[(long)i * n + j] = sigma * (images.At[(long)i * n + j] - sigma * smallest[(long)i * n + j]);
            }
            preconditioner.Solve(residual, Block);
            Buffer.MemoryCopy(smallest, span.At, (long)Block * n * sizeof(double), (long)Block * n * sizeof(double));
            // The block before this one holds the conjugate direction, as in conjugate gradients.
            int wanted = 2 * Block;
            if (step > 0)
            {
                Buffer.MemoryCopy(previous.At, span.At + 2L * Block * n, (long)Block * n * sizeof(double), (long)Block * n * sizeof(double));
                wanted = 3 * Block;
            }
            Buffer.MemoryCopy(smallest, previous.At, (long)Block * n * sizeof(double), (long)Block * n * sizeof(double));
            Basis.Orthonormalise(workers, span.At, Block, wanted - Block, n);
            have = wanted;
        }

        double found = values.At[have - 1];
        Buffer.MemoryCopy(leftIsShort ? right.At + (long)(have - 1) * n : leftSpan.At + (long)(have - 1) * m, vector,
            (leftIsShort ? n : m) * (long)sizeof(double), (leftIsShort ? n : m) * (long)sizeof(double));
        if (!leftIsShort && found <= 1e-9 * largest)
            RemoveRange(workers, a, m, n, preconditioner, vector);
        return (largest, found, values.At[have - 2], change);
    }

    /// <summary>Cholesky factor of the Gram matrix, shifted by as little as makes it positive definite to rounding.</summary>
    private static Cholesky Precondition(CpuWorkers workers, double* gram, int n)
    {
        double largest = 0;
        for (int i = 0; i < n; i++)
            largest = Math.Max(largest, gram[(long)i * n + i]);
        if (largest == 0)
            largest = 1;
        for (double shift = 0; ; shift = shift == 0 ? n * Math.ScaleB(1, -52) * largest : 8 * shift)
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
    private static void RemoveRange(CpuWorkers workers, MatrixOperand a, int m, int n, Cholesky preconditioner, double* u)
    {
        using DoubleBuffer inner = new(n);
        for (int pass = 0; pass < 4; pass++)
        {
            ParallelGemm.Multiply(workers, inner.At, n, new MatrixOperand(u, m), a, 1, n, m);
            preconditioner.Solve(inner.At, 1);
            ParallelGemm.Multiply(workers, u, m, new MatrixOperand(inner.At, n), a.Transposed, 1, m, n, -1, true);
            VectorMath.Scale(u, 1 / VectorMath.Norm(u, m), m);
        }
    }

    private static double AngleFrom(double* a, double* b, int n)
    {
        double sign = VectorMath.Dot(a, b, n) < 0 ? 1 : -1, square = 0;
        for (int i = 0; i < n; i++)
        {
            double difference = a[i] + sign * b[i];
            square += difference * difference;
        }
        return Math.Sqrt(square);
    }
}
