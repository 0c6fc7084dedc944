using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// Factor a = l·lᵀ of a symmetric positive definite matrix and the solution of a·x = b with it, in double, blocked and
/// in parallel; the bits do not depend on the number of threads.
/// </summary>
public sealed unsafe class Cholesky : IDisposable
{
    private const int Block = 64;

    // Solving few right sides is light work: wider steps mean fewer hand-overs between threads.
    private const int SolveBlock = 128;

    private const int RowsPerItem = 32;

    private readonly CpuWorkers _workers;
    private readonly DoubleBuffer _factor;
    private readonly int _n;

    private Cholesky(CpuWorkers workers, DoubleBuffer factor, int n)
    {
        _workers = workers;
        _factor = factor;
        _n = n;
    }

    /// <summary>
    /// Factors a [n, n], of which the lower triangle is read, after adding shift to the diagonal. Throws
    /// <see cref="ArithmeticException"/> with the index of the pivot when a + shift·I is not positive definite to rounding.
    /// </summary>
    public static Cholesky Factor(CpuWorkers workers, ReadOnlySpan<double> a, int n, double shift = 0)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(n, 1);
        if (a.Length != (long)n * n)
            throw new ArgumentException($"Cholesky: {a.Length} elements for a matrix of {n}×{n}");
        fixed (double* p = a)
            return TryFactor(workers, p, n, shift, out int pivot)
                ?? throw new ArithmeticException($"Cholesky: the {n}×{n} matrix with {shift:g3} added to its diagonal is not positive definite (pivot {pivot}); add more to the diagonal");
    }

    /// <summary>Solves a·x = b in place for count right sides, the rows of b [count, n].</summary>
    public void Solve(Span<double> b, int count)
    {
        if (b.Length != (long)count * _n)
            throw new ArgumentException($"Cholesky: {b.Length} elements for {count} right sides of {_n}");
        fixed (double* p = b)
            Solve(p, count);
    }

    /// <inheritdoc/>
    public void Dispose() => _factor.Dispose();

    internal static Cholesky? TryFactor(CpuWorkers workers, double* a, int n, double shift, out int pivot)
    {
        DoubleBuffer factor = new((long)n * n);
        double* l = factor.At;
        for (int i = 0; i < n; i++)
        {
            Buffer.MemoryCopy(a + (long)i * n, l + (long)i * n, (long)n * sizeof(double), (i + 1L) * sizeof(double));
            l[(long)i * n + i] += shift;
        }
        for (int first = 0; first < n; first += Block)
        {
            int last = Math.Min(first + Block, n), rest = n - last;
            for (int i = first; i < last; i++)
            {
                SolveRow(l + (long)i * n + first, l + (long)first * n + first, n, i - first);
                double square = l[(long)i * n + i] - VectorMath.Dot(l + (long)i * n + first, l + (long)i * n + first, i - first);
                // Written so that a NaN fails too.
                if (!(square > 0))
                {
                    factor.Dispose();
                    pivot = i;
                    return null;
                }
                l[(long)i * n + i] = Math.Sqrt(square);
            }
            PanelCall call = new() { Factor = l, N = n, First = first, Last = last };
            workers.Run((rest + RowsPerItem - 1) / RowsPerItem, &PanelItem, &call);
            ParallelGemm.MultiplySymmetric(workers, l + (long)last * n + last, n, new MatrixOperand(l + (long)last * n + first, n), rest, last - first, -1, true);
        }
        pivot = -1;
        return new Cholesky(workers, factor, n);
    }

    internal void Solve(double* b, int count)
    {
        double* l = _factor.At;
        int n = _n;
        for (int first = 0; first < n; first += SolveBlock)
        {
            int last = Math.Min(first + SolveBlock, n);
            for (int r = 0; r < count; r++)
                SolveRow(b + (long)r * n + first, l + (long)first * n + first, n, last - first);
            if (last < n)
                ParallelGemm.Multiply(_workers, b + last, n, new MatrixOperand(b + first, n), new MatrixOperand(l + (long)last * n + first, n, transposed: true),
                    count, n - last, last - first, -1, true);
        }
        for (int first = (n - 1) / SolveBlock * SolveBlock; first >= 0; first -= SolveBlock)
        {
            int last = Math.Min(first + SolveBlock, n);
            for (int r = 0; r < count; r++)
                for (int i = last - 1; i >= first; i--)
                {
                    double* row = b + (long)r * n;
                    row[i] /= l[(long)i * n + i];
                    VectorMath.Add(row + first, -row[i], l + (long)i * n + first, i - first);
                }
            if (first > 0)
                ParallelGemm.Multiply(_workers, b, n, new MatrixOperand(b + first, n), new MatrixOperand(l + (long)first * n, n), count, first, last - first, -1, true);
        }
    }

    /// <summary>row·l⁻ᵀ in place, for the lower triangle l of the given size: forward substitution.</summary>
    private static void SolveRow(double* row, double* l, int stride, int size)
    {
        for (int j = 0; j < size; j++)
            row[j] = (row[j] - VectorMath.Dot(row, l + (long)j * stride, j)) / l[(long)j * stride + j];
    }

    private static void PanelItem(void* context, int item, int worker)
    {
        PanelCall* call = (PanelCall*)context;
        int n = call->N, begin = call->Last + item * RowsPerItem, end = Math.Min(n, begin + RowsPerItem);
        for (int i = begin; i < end; i++)
            SolveRow(call->Factor + (long)i * n + call->First, call->Factor + (long)call->First * n + call->First, n, call->Last - call->First);
    }

    private struct PanelCall
    {
        public double* Factor;
        public int N;
        public int First;
        public int Last;
    }
}
