using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

public sealed partial class Tape
{
    /// <summary>y = op(a)·op(b) for matrices; a [M, K] (or [K, M]), b [K, N] (or [N, K]). autocast: whether it is one of a layer (<see cref="MatMulArgs"/>).</summary>
    public Tensor MatMul(Tensor a, Tensor b, bool transA = false, bool transB = false, bool autocast = false)
    {
        int m = transA ? a.Cols : a.Rows, k = transA ? a.Rows : a.Cols, n = transB ? b.Rows : b.Cols;
        if (k != (transB ? b.Cols : b.Rows))
            throw new ArgumentException($"matmul of {a}{(transA ? "ᵀ" : "")} and {b}{(transB ? "ᵀ" : "")}: inner sizes differ");
        Tensor y = New(m, n);
        Backend.MatMul(y.Data, a.Data, b.Data, new MatMulArgs(m, n, k, transA, transB, Autocast: autocast));
        if (!Tracks(a, b))
            return y;
        return Record(y, [a, b], () =>
        {
            if (a.RequiresGrad)
            {
                View da = a.GradForWrite(out bool fresh);
                // op(a) = y·op(b)ᵀ; where a is stored transposed its gradient is op(b)·dyᵀ.
                Backend.MatMul(da, transA ? b.Data : y.Grad, transA ? y.Grad : b.Data, transA
                    ? new MatMulArgs(k, m, n, transB, true, !fresh, Autocast: autocast)
                    : new MatMulArgs(m, k, n, false, !transB, !fresh, Autocast: autocast));
            }
            if (b.RequiresGrad)
            {
                View db = b.GradForWrite(out bool fresh);
                Backend.MatMul(db, transB ? y.Grad : a.Data, transB ? a.Data : y.Grad, transB
                    ? new MatMulArgs(n, k, m, true, transA, !fresh, Autocast: autocast)
                    : new MatMulArgs(k, n, m, !transA, false, !fresh, Autocast: autocast));
            }
        });
    }

    /// <summary>y[i] = a[i]·b[i] for the matrices of two stacks, a [count, M, K], b [count, K, N] (transB: [count, N, K]); as one call.</summary>
    public Tensor MatMulEach(Tensor a, Tensor b, bool transB = false)
    {
        if (a.Shape is not [int count, int m, int k] || b.Shape is not [int countB, int rowsB, int colsB] || count != countB || k != (transB ? colsB : rowsB))
            throw new ArgumentException($"products of the matrices of {a} and {b}{(transB ? "ᵀ" : "")}: sizes differ");
        int n = transB ? rowsB : colsB;
        long sizeA = (long)m * k, sizeB = (long)k * n, sizeY = (long)m * n;
        Tensor y = New(count, m, n);
        Backend.MatMul(y.Data, a.Data, b.Data, new MatMulArgs(m, n, k, TransB: transB, Batch: count, StrideA: sizeA, StrideB: sizeB, StrideC: sizeY));
        if (!Tracks(a, b))
            return y;
        return Record(y, [a, b], () =>
        {
            if (a.RequiresGrad)
            {
                View da = a.GradForWrite(out bool fresh);
                Backend.MatMul(da, y.Grad, b.Data, new MatMulArgs(m, k, n, false, !transB, !fresh, Batch: count, StrideA: sizeY, StrideB: sizeB, StrideC: sizeA));
            }
            if (b.RequiresGrad)
            {
                View db = b.GradForWrite(out bool fresh);
                Backend.MatMul(db, transB ? y.Grad : a.Data, transB ? a.Data : y.Grad, transB
                    ? new MatMulArgs(n, k, m, true, false, !fresh, Batch: count, StrideA: sizeY, StrideB: sizeA, StrideC: sizeB)
                    : new MatMulArgs(k, n, m, true, false, !fresh, Batch: count, StrideA: sizeA, StrideB: sizeY, StrideC: sizeB));
            }
        });
    }
}
