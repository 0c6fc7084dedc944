using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

public sealed partial class Tape
{
    /// <summary>y = f(x) element by element.</summary>
    public Tensor Unary(Tensor x, UnaryOp op, float p = 0)
    {
        Tensor y = New(x.Shape);
        Backend.Unary(y.Data, x.Data, x.Length, op, p);
        if (!Tracks(x))
            return y;
        return Record(y, [x, y], () => Backend.UnaryBackward(x.GradToAdd(), y.Grad, x.Data, y.Data, x.Length, op, p));
    }

    /// <summary>y = a ∘ b, where b has a's shape or is repeated as told.</summary>
    public Tensor Binary(Tensor a, Tensor b, BinaryOp op, Broadcast broadcast = Broadcast.None)
    {
        int rows = a.Rows, cols = a.Cols;
        long needs = broadcast switch { Broadcast.None => a.Length, Broadcast.OverRows => cols, Broadcast.OverCols => rows, _ => 1 };
        if (b.Length != needs)
            throw new ArgumentException($"{op} of {a} and {b} ({broadcast}): the second operand needs {needs} elements");
        Tensor y = New(a.Shape);
        Backend.Binary(y.Data, a.Data, b.Data, rows, cols, op, broadcast);
        if (!Tracks(a, b))
            return y;
        if ((op is BinaryOp.Add || (op is BinaryOp.Subtract && !b.RequiresGrad)) && needs == a.Length)
            return Record(y, [], () =>
            {
                if (b.RequiresGrad)
                    PassOn(y, b, last: !a.RequiresGrad);
                if (a.RequiresGrad)
                    PassOn(y, a, last: true);
            });
        bool product = op is BinaryOp.Multiply or BinaryOp.Divide;
        return Record(y, product ? [a, b] : [], () => Backend.BinaryBackward(
            a.RequiresGrad ? a.GradToAdd() : default, b.RequiresGrad ? b.GradToAdd() : default,
            y.Grad, a.Data, b.Data, rows, cols, op, broadcast));
    }

    /// <summary>a + b.</summary>
    public Tensor Add(Tensor a, Tensor b, Broadcast broadcast = Broadcast.None) => Binary(a, b, BinaryOp.Add, broadcast);

    /// <summary>a − b.</summary>
    public Tensor Subtract(Tensor a, Tensor b, Broadcast broadcast = Broadcast.None) => Binary(a, b, BinaryOp.Subtract, broadcast);

    /// <summary>a·b.</summary>
    public Tensor Multiply(Tensor a, Tensor b, Broadcast broadcast = Broadcast.None) => Binary(a, b, BinaryOp.Multiply, broadcast);

    /// <summary>a / b.</summary>
    public Tensor Divide(Tensor a, Tensor b, Broadcast broadcast = Broadcast.None) => Binary(a, b, BinaryOp.Divide, broadcast);

    /// <summary>p·x.</summary>
    public Tensor Scale(Tensor x, float p) => Unary(x, UnaryOp.Scale, p);

    /// <summary>x [count, rows, cols] with the columns of each matrix times its own factors s [count, cols].</summary>
    public Tensor ScaleColumns(Tensor x, Tensor s)
    {
        int cols = x.Cols, count = s.Rows, rows = count == 0 ? 0 : x.Rows / count;
        if (s.Cols != cols || count * rows != x.Rows)
            throw new ArgumentException($"columns of {x} by factors {s}");
        Tensor y = New(x.Shape);
        Backend.ScaleColumns(y.Data, x.Data, s.Data, count, rows, cols, accumulate: false);
        if (!Tracks(x, s))
            return y;
        return Record(y, [x, s], () =>
        {
            if (x.RequiresGrad)
            {
                View dx = x.GradForWrite(out bool fresh);
                Backend.ScaleColumns(dx, y.Grad, s.Data, count, rows, cols, accumulate: !fresh);
            }
            if (s.RequiresGrad)
                Backend.ScaleColumnsBackward(s.GradToAdd(), y.Grad, x.Data, count, rows, cols);
        });
    }

    /// <summary>f(gate)·up: SwiGLU (Silu) or GeGLU (Gelu, GeluTanh). mayRound: the result and its gradient may be held as <see cref="IBackend.LayerType"/> says.</summary>
    public Tensor Gated(Tensor gate, Tensor up, UnaryOp op, bool mayRound = false)
    {
        Tensor y = NewOfLayer(mayRound, gate.Shape);
        y.GradType = y.Type;
        Backend.GatedForward(y.Data, gate.Data, up.Data, gate.Length, op);
        if (!Tracks(gate, up))
            return y;
        return Record(y, [gate, up], () =>
        {
            View[] d = Tensor.GradsForWrite(out bool fresh, gate.RequiresGrad ? gate : null, up.RequiresGrad ? up : null);
            Backend.GatedBackward(d[0], d[1], y.Grad, gate.Data, up.Data, gate.Length, op, accumulate: !fresh);
        });
    }

    /// <summary>x [batch·length, d] + coefficient[row]·direction[d]: a control vector added to hidden states. Gradients pass to x and to direction.</summary>
    public Tensor AddOuter(Tensor x, Tensor coefficients, Tensor direction)
    {
        int rows = x.Rows, cols = x.Cols;
        Tensor y = New(x.Shape);
        Backend.Copy(y.Data, x.Data);
        Backend.MatMul(y.Data, coefficients.Data, direction.Data, new MatMulArgs(rows, cols, 1, Accumulate: true));
        if (!Tracks(x, direction))
            return y;
        return Record(y, [coefficients], () =>
        {
            if (x.RequiresGrad)
                Backend.AddScaled(x.GradToAdd(), y.Grad, x.Length, 1);
            if (direction.RequiresGrad)
                Backend.MatMul(direction.GradToAdd(), coefficients.Data, y.Grad, new MatMulArgs(1, cols, rows, TransA: true, Accumulate: true) with { LdA = 1 });
        });
    }
}
