using Repeng.Kernels.LinearAlgebra;

namespace Repeng.Kernels.Cpu;

// One matrix is one item of the parallel loop; within it everything is double and runs on one thread.
public sealed unsafe partial class CpuBackend
{
    private const int MaxRotationSize = 512;

    /// <inheritdoc/>
    public void Skew(View a, View p, int n, int batch, bool accumulate)
    {
        RotationCall call = StartRotation(nameof(Skew), n, batch);
        call.Out = RotationOperand(a, n, batch, nameof(Skew), "a");
        call.In = RotationOperand(p, n, batch, nameof(Skew), "p");
        call.Accumulate = accumulate;
        _workers.Run(batch, &SkewItem, &call);
    }

    /// <inheritdoc/>
    public void CayleyForward(View r, View x, int n, int batch)
    {
        RotationCall call = StartRotation(nameof(CayleyForward), n, batch);
        nint* scratch = stackalloc nint[_workers.Count];
        call.WorkerScratch = ReserveScratch(scratch, 2L * n * n + DoubleGemm.ScratchLength);
        call.Out = RotationOperand(r, n, batch, nameof(CayleyForward), "r");
        call.In = RotationOperand(x, n, batch, nameof(CayleyForward), "x");
        _workers.Run(batch, &CayleyForwardItem, &call);
        if (call.Failed < batch)
            throw new ArithmeticException($"CayleyForward: I - x of matrix {call.Failed} of {batch} (n = {n}) is singular or not finite; "
                + "x must be skew-symmetric (x = a - aᵀ), then no eigenvalue of it is 1");
    }

    /// <inheritdoc/>
    public void CayleyBackward(View dx, View dr, View r, int n, int batch)
    {
        if (dx.IsEmpty)
            return;
        RotationCall call = StartRotation(nameof(CayleyBackward), n, batch);
        nint* scratch = stackalloc nint[_workers.Count];
        call.WorkerScratch = ReserveScratch(scratch, 3 * MatrixExponential.Padded(n) + DoubleGemm.ScratchLength);
        call.Out = RotationOperand(dx, n, batch, nameof(CayleyBackward), "dx");
        call.Gradient = RotationOperand(dr, n, batch, nameof(CayleyBackward), "dr");
        call.In = RotationOperand(r, n, batch, nameof(CayleyBackward), "r");
        _workers.Run(batch, &CayleyBackwardItem, &call);
    }

    /// <inheritdoc/>
    public void MatrixExpForward(View r, View x, int n, int batch)
    {
        RotationCall call = StartRotation(nameof(MatrixExpForward), n, batch);
        nint* scratch = stackalloc nint[_workers.Count];
        call.WorkerScratch = ReserveScratch(scratch, 2 * MatrixExponential.Padded(n) + MatrixExponential.ExpScratch(n));
        call.Out = RotationOperand(r, n, batch, nameof(MatrixExpForward), "r");
        call.In = RotationOperand(x, n, batch, nameof(MatrixExpForward), "x");
        _workers.Run(batch, &MatrixExpForwardItem, &call);
        ThrowIfNotFinite(nameof(MatrixExpForward), n, batch, call.Failed);
    }

    /// <inheritdoc/>
    public void MatrixExpBackward(View dx, View dr, View x, int n, int batch)
    {
        if (dx.IsEmpty)
            return;
        RotationCall call = StartRotation(nameof(MatrixExpBackward), n, batch);
        nint* scratch = stackalloc nint[_workers.Count];
        call.WorkerScratch = ReserveScratch(scratch, 3 * MatrixExponential.Padded(n) + MatrixExponential.FrechetScratch(n));
        call.Out = RotationOperand(dx, n, batch, nameof(MatrixExpBackward), "dx");
        call.Gradient = RotationOperand(dr, n, batch, nameof(MatrixExpBackward), "dr");
        call.In = RotationOperand(x, n, batch, nameof(MatrixExpBackward), "x");
        _workers.Run(batch, &MatrixExpBackwardItem, &call);
        ThrowIfNotFinite(nameof(MatrixExpBackward), n, batch, call.Failed);
    }

    private static void ThrowIfNotFinite(string op, int n, int batch, int failed)
    {
        if (failed < batch)
            throw new ArithmeticException($"{op}: matrix {failed} of {batch} (n = {n}) has an element that is infinite or not a number");
    }

    private static float* RotationOperand(View v, int n, int batch, string op, string operand)
    {
        v.Require((long)n * n * batch, DType.F32, op, operand);
        return v.Floats;
    }

    private static RotationCall StartRotation(string op, int n, int batch)
    {
        if (n < 1 || n > MaxRotationSize)
            throw new ArgumentOutOfRangeException(nameof(n), n, $"{op}: matrices of n = {n}; 1 … {MaxRotationSize} are supported");
        ArgumentOutOfRangeException.ThrowIfNegative(batch);
        return new RotationCall { N = n, Failed = batch };
    }

    /// <summary>Fills a table with the scratch of every worker, which the items then reach without a managed reference.</summary>
    private nint* ReserveScratch(nint* table, long doubles)
    {
        for (int worker = 0; worker < _workers.Count; worker++)
            table[worker] = (nint)_workers.Scratch(worker, doubles * sizeof(double));
        return table;
    }

    private static void SkewItem(void* context, int item, int worker)
    {
        RotationCall* call = (RotationCall*)context;
        int n = call->N;
        float* a = call->Out + (long)item * n * n, p = call->In + (long)item * n * n;
        for (int i = 0; i < n; i++)
        {
            float* row = a + (long)i * n;
            for (int j = 0; j < n; j++)
            {
                float difference = p[(long)i * n + j] - p[(long)j * n + i];
                row[j] = call->Accumulate ? row[j] + difference : difference;
            }
        }
    }

    private static void CayleyForwardItem(void* context, int item, int worker)
    {
        RotationCall* call = (RotationCall*)context;
        int n = call->N;
        float* x = call->In + (long)item * n * n, r = call->Out + (long)item * n * n;
        double* system = call->Scratch(worker);
        for (int i = 0; i < n; i++)
        {
            double* row = system + 2L * i * n;
            for (int j = 0; j < n; j++)
            {
                double value = x[(long)i * n + j], unit = i == j ? 1 : 0;
                row[j] = unit - value;
                row[n + j] = unit + value;
            }
        }
        if (!DenseLu.Solve(system, n, n, system + 2L * n * n))
        {
            call->Fail(item);
            return;
        }
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                r[(long)i * n + j] = (float)system[2L * i * n + n + j];
    }

    private static void CayleyBackwardItem(void* context, int item, int worker)
    {
        RotationCall* call = (RotationCall*)context;
        int n = call->N;
        long size = (long)n * n, at = item * size;
        float* r = call->In + at, dx = call->Out + at;
        long padded = MatrixExponential.Padded(n);
        double* plusOne = call->Scratch(worker), product = plusOne + padded, result = product + padded, gemm = result + padded;
        for (long i = 0; i < size; i++)
            plusOne[i] = r[i];
        for (int i = 0; i < n; i++)
            plusOne[(long)i * n + i] += 1;
        MatrixOperand transposed = new(plusOne, n, transposed: true);
        DoubleGemm.Multiply(product, n, transposed, new MatrixOperand(call->Gradient + at, n), n, n, n, 0.5, false, gemm);
        DoubleGemm.Multiply(result, n, new MatrixOperand(product, n), transposed, n, n, n, 1, false, gemm);
        for (long i = 0; i < size; i++)
            dx[i] += (float)result[i];
    }

    private static void MatrixExpForwardItem(void* context, int item, int worker)
    {
        RotationCall* call = (RotationCall*)context;
        int n = call->N;
        long size = (long)n * n, at = item * size;
        double* x = call->Scratch(worker), r = x + MatrixExponential.Padded(n);
        for (long i = 0; i < size; i++)
            x[i] = call->In[at + i];
        if (!MatrixExponential.Exp(r, x, n, r + MatrixExponential.Padded(n)))
        {
            call->Fail(item);
            return;
        }
        for (long i = 0; i < size; i++)
            call->Out[at + i] = (float)r[i];
    }

    private static void MatrixExpBackwardItem(void* context, int item, int worker)
    {
        RotationCall* call = (RotationCall*)context;
        int n = call->N;
        long size = (long)n * n, at = item * size;
        double* x = call->Scratch(worker), direction = x + MatrixExponential.Padded(n), l = direction + MatrixExponential.Padded(n);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
            {
                x[(long)i * n + j] = call->In[at + (long)j * n + i];
                direction[(long)i * n + j] = call->Gradient[at + (long)i * n + j];
            }
        if (!MatrixExponential.Frechet(l, x, direction, n, l + MatrixExponential.Padded(n)))
        {
            call->Fail(item);
            return;
        }
        for (long i = 0; i < size; i++)
            call->Out[at + i] += (float)l[i];
    }

    /// <summary>Operands of one batched call, reached from the items through a pointer.</summary>
    private struct RotationCall
    {
        public float* In;
        public float* Gradient;
        public float* Out;
        public int N;
        public bool Accumulate;

        /// <summary>Index of the first matrix that could not be done; the batch size where all were.</summary>
        public int Failed;

        public nint* WorkerScratch;

        public readonly double* Scratch(int worker) => (double*)WorkerScratch[worker];

        /// <summary>Keeps the lowest index, so that the message does not depend on the threads.</summary>
        public void Fail(int item)
        {
            int seen = Volatile.Read(ref Failed);
            while (item < seen)
            {
                int before = Interlocked.CompareExchange(ref Failed, item, seen);
                if (before == seen)
                    return;
                seen = before;
            }
        }
    }
}
