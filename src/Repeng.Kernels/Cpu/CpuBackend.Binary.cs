namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void Binary(View y, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast)
    {
        Check.Size(rows, nameof(Binary), nameof(rows));
        Check.Size(cols, nameof(Binary), nameof(cols));
        long n = (long)rows * cols;
        if (n == 0)
            return;
        y.Require(n, DType.F32, nameof(Binary), nameof(y));
        a.Require(n, DType.F32, nameof(Binary), nameof(a));
        b.Require(BroadcastKernel.LengthOfB(rows, cols, broadcast, nameof(Binary)), DType.F32, nameof(Binary), nameof(b));
        float* py = (float*)y.Address, pa = (float*)a.Address, pb = (float*)b.Address;
        switch (op)
        {
            case BinaryOp.Add: BroadcastKernel.Run<AddFunction, Overwrite>(_workers, py, pa, pb, rows, cols, broadcast); break;
            case BinaryOp.Subtract: BroadcastKernel.Run<SubtractFunction, Overwrite>(_workers, py, pa, pb, rows, cols, broadcast); break;
            case BinaryOp.Multiply: BroadcastKernel.Run<MultiplyFunction, Overwrite>(_workers, py, pa, pb, rows, cols, broadcast); break;
            case BinaryOp.Divide: BroadcastKernel.Run<DivideFunction, Overwrite>(_workers, py, pa, pb, rows, cols, broadcast); break;
            default: throw Check.Unknown(op, nameof(Binary));
        }
    }

    /// <inheritdoc/>
    public void BinaryBackward(View da, View db, View dy, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast)
    {
        Check.Size(rows, nameof(BinaryBackward), nameof(rows));
        Check.Size(cols, nameof(BinaryBackward), nameof(cols));
        if (op is < BinaryOp.Add or > BinaryOp.Divide)
            throw Check.Unknown(op, nameof(BinaryBackward));
        long n = (long)rows * cols, lengthOfB = BroadcastKernel.LengthOfB(rows, cols, broadcast, nameof(BinaryBackward));
        if (n == 0 || (da.IsEmpty && db.IsEmpty))
            return;
        dy.Require(n, DType.F32, nameof(BinaryBackward), nameof(dy));
        // Sums need neither operand, products only the other one: what is not read may be absent.
        bool readsA = !db.IsEmpty && op is (BinaryOp.Multiply or BinaryOp.Divide);
        bool readsB = op is BinaryOp.Divide || (!da.IsEmpty && op is BinaryOp.Multiply);
        if (readsA)
            a.Require(n, DType.F32, nameof(BinaryBackward), nameof(a));
        if (readsB)
            b.Require(lengthOfB, DType.F32, nameof(BinaryBackward), nameof(b));
        float* g = (float*)dy.Address;
        float* pa = readsA ? (float*)a.Address : g, pb = readsB ? (float*)b.Address : g;
        if (!da.IsEmpty)
        {
            da.Require(n, DType.F32, nameof(BinaryBackward), nameof(da));
            float* target = (float*)da.Address;
            switch (op)
            {
                case BinaryOp.Multiply: BroadcastKernel.Run<MultiplyFunction, Accumulate>(_workers, target, g, pb, rows, cols, broadcast); break;
                case BinaryOp.Divide: BroadcastKernel.Run<DivideFunction, Accumulate>(_workers, target, g, pb, rows, cols, broadcast); break;
                default: BroadcastKernel.Run<FirstFunction, Accumulate>(_workers, target, g, g, rows, cols, Broadcast.None); break;
            }
        }
        if (!db.IsEmpty)
        {
            db.Require(lengthOfB, DType.F32, nameof(BinaryBackward), nameof(db));
            float* target = (float*)db.Address;
            switch (op)
            {
                case BinaryOp.Add: SecondGradient<AddTerm>(target, g, pa, pb, rows, cols, broadcast); break;
                case BinaryOp.Subtract: SecondGradient<SubtractTerm>(target, g, pa, pb, rows, cols, broadcast); break;
                case BinaryOp.Multiply: SecondGradient<MultiplyTerm>(target, g, pa, pb, rows, cols, broadcast); break;
                default: SecondGradient<DivideTerm>(target, g, pa, pb, rows, cols, broadcast); break;
            }
        }
    }

    private void SecondGradient<TTerm>(float* db, float* dy, float* a, float* b, int rows, int cols, Broadcast broadcast) where TTerm : struct, IGradientTerm
    {
        switch (BroadcastKernel.Simplify(rows, cols, broadcast))
        {
            case Broadcast.None: TermKernel.Run<TTerm>(_workers, db, dy, a, b, (long)rows * cols); break;
            case Broadcast.Scalar: SumKernel.All<TTerm>(_workers, db, dy, a, b, (long)rows * cols); break;
            case Broadcast.OverCols: SumKernel.OverCols<TTerm>(_workers, db, dy, a, b, rows, cols, accumulate: true); break;
            default: SumKernel.OverRows<TTerm>(_workers, db, dy, a, b, 1, rows, cols, accumulate: true); break;
        }
    }
}
