using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>A symmetric positive semidefinite matrix that is known by its products with vectors.</summary>
internal abstract unsafe class SymmetricOperator
{
    /// <summary>Rows of to [count, n] = the operator times the rows of from [count, n]; count is at most <see cref="KrylovSubspace.Block"/>.</summary>
    public abstract void Apply(double* to, double* from, int count);
}

/// <summary>A matrix [n, n] in memory that the caller owns.</summary>
internal sealed unsafe class DenseOperator(CpuWorkers workers, double* matrix, int n) : SymmetricOperator
{
    private readonly double* _matrix = matrix;

    public override void Apply(double* to, double* from, int count) => ParallelGemm.Multiply(workers, to, n, new MatrixOperand(from, n), new MatrixOperand(_matrix, n), count, n, n);
}

/// <summary>aᵀ·a of a [m, n], applied in two steps.</summary>
internal sealed unsafe class ProductOperator(CpuWorkers workers, MatrixOperand a, int m, int n) : SymmetricOperator, IDisposable
{
    private readonly DoubleBuffer _images = new((long)KrylovSubspace.Block * m);

    public override void Apply(double* to, double* from, int count)
    {
        ParallelGemm.Multiply(workers, _images.At, m, new MatrixOperand(from, n), a.Transposed, count, m, n);
        ParallelGemm.Multiply(workers, to, n, new MatrixOperand(_images.At, m), a, count, n, m);
    }

    public void Dispose() => _images.Dispose();
}

/// <summary>The inverse of a factored matrix: its leading eigenvectors are the last ones of the matrix.</summary>
internal sealed unsafe class InverseOperator(Cholesky factor, int n) : SymmetricOperator
{
    public override void Apply(double* to, double* from, int count)
    {
        Buffer.MemoryCopy(from, to, (long)count * n * sizeof(double), (long)count * n * sizeof(double));
        factor.Solve(to, count);
    }
}
