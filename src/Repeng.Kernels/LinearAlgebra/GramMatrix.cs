using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>Products of a matrix with itself, in double, both triangles filled; the bits do not depend on the number of threads.</summary>
public static unsafe class GramMatrix
{
    /// <summary>x·xᵀ [m, m] of x [m, n].</summary>
    public static double[] OfRows(CpuWorkers workers, ReadOnlySpan<double> x, int m, int n)
    {
        SvdInput.CheckShape(x.Length, m, n);
        var gram = new double[checked(m * m)];
        fixed (double* p = x, g = gram)
        {
            ParallelGemm.MultiplySymmetric(workers, g, m, new MatrixOperand(p, n), m, n);
            ParallelGemm.Mirror(g, m);
        }
        return gram;
    }

    /// <summary>gram += xᵀ·x [n, n] of x [m, n]: for rows that come in parts. Without mirror, for all parts but the last, the upper triangle is left as it is.</summary>
    public static void AddColumns(CpuWorkers workers, Span<double> gram, ReadOnlySpan<double> x, int m, int n, bool mirror = true)
    {
        SvdInput.CheckShape(x.Length, m, n);
        if (gram.Length != (long)n * n)
            throw new ArgumentException($"a Gram matrix of {n} columns has {(long)n * n} elements, not {gram.Length}");
        fixed (double* p = x, g = gram)
        {
            ParallelGemm.MultiplySymmetric(workers, g, n, new MatrixOperand(p, n).Transposed, n, m, accumulate: true);
            if (mirror)
                ParallelGemm.Mirror(g, n);
        }
    }
}
