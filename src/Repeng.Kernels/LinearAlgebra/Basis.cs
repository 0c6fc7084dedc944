using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>Orthonormal sets of vectors, stored as the rows of a matrix.</summary>
internal static unsafe class Basis
{
    private const int Block = 32;

    // A vector that keeps less than this part of its length is projected again one by one until it keeps it.
    private const double DelicatePart = 1e-3;

    /// <summary>
    /// Makes the rows have … have + add − 1 of rows [have + add, length] orthonormal to the first have rows, which are
    /// orthonormal already, and to each other, in order: row i of the result is row i less its projections, normalised.
    /// A row that depends on the ones before it (to rounding) is replaced by a fixed pseudo-random direction.
    /// have + add must not exceed length.
    /// </summary>
    public static void Orthonormalise(CpuWorkers workers, double* rows, int have, int add, int length)
    {
        for (int done = 0; done < add; done += Block)
        {
            int count = Math.Min(Block, add - done);
            OrthonormaliseBlock(workers, rows, have + done, count, length);
        }
    }

    private static void OrthonormaliseBlock(CpuWorkers workers, double* rows, int have, int count, int length)
    {
        double* block = rows + (long)have * length;
        double* before = stackalloc double[count];
        for (int i = 0; i < count; i++)
            before[i] = VectorMath.Norm(block + (long)i * length, length);
        if (have > 0)
        {
            using DoubleBuffer overlap = new((long)count * have);
            MatrixOperand basis = new(rows, length);
            for (int pass = 0; pass < 2; pass++)
            {
                ParallelGemm.Multiply(workers, overlap.At, have, new MatrixOperand(block, length), basis.Transposed, count, have, length);
                ParallelGemm.Multiply(workers, block, length, new MatrixOperand(overlap.At, have), basis, count, length, have, -1, true);
            }
        }
        for (int i = 0; i < count; i++)
        {
            double* row = block + (long)i * length;
            double norm = before[i];
            for (int pass = 0; pass < 2; pass++)
                norm = Project(row, block, i, length);
            if (norm < DelicatePart * before[i] || norm == 0)
                norm = ProjectUntilStable(row, rows, have + i, length, before[i]);
            VectorMath.Scale(row, 1 / norm, length);
        }
    }

    private static double ProjectUntilStable(double* row, double* rows, int count, int length, double original)
    {
        double norm = VectorMath.Norm(row, length);
        for (ulong attempt = 0; ; attempt++)
        {
            for (int pass = 0; pass < 6 && norm > 4e-15 * original; pass++)
            {
                // A short row loses digits when its square underflows; full length costs nothing.
                VectorMath.Scale(row, 1 / norm, length);
                original /= norm;
                norm = Project(row, rows, count, length);
                if (norm > 0.5)
                    return norm;
            }
            if (attempt == 20)
                throw new ArithmeticException($"no direction orthogonal to {count} vectors of length {length} was found");
            VectorMath.Random(row, length, ((ulong)count << 8) + attempt);
            original = norm = VectorMath.Norm(row, length);
        }
    }

    private static double Project(double* row, double* rows, int count, int length)
    {
        for (int j = 0; j < count; j++)
        {
            double* other = rows + (long)j * length;
            VectorMath.Add(row, -VectorMath.Dot(row, other, length), other, length);
        }
        return VectorMath.Norm(row, length);
    }
}
