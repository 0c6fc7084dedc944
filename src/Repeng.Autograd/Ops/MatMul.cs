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
}
