namespace Repeng.Kernels;

/// <summary>Functions of one variable; p is the op's parameter.</summary>
public enum UnaryOp
{
    /// <summary>p·x.</summary>
    Scale,

    /// <summary>x + p.</summary>
    Offset,

    /// <summary>eˣ.</summary>
    Exp,

    /// <summary>ln x.</summary>
    Log,

    /// <summary>ln(1 + x).</summary>
    Log1p,

    /// <summary>√x.</summary>
    Sqrt,

    /// <summary>x².</summary>
    Square,

    /// <summary>xᵖ for x ≥ 0.</summary>
    Power,

    /// <summary>1 / x.</summary>
    Reciprocal,

    /// <summary>|x|; the derivative at 0 is 0.</summary>
    Abs,

    /// <summary>max(x, 0); the derivative at 0 is 0.</summary>
    Relu,

    /// <summary>min(x, p); the derivative is 1 where x &lt;= p (as torch.clamp).</summary>
    Min,

    /// <summary>max(x, p); the derivative is 1 where x &gt;= p (as torch.clamp).</summary>
    Max,

    /// <summary>tanh x.</summary>
    Tanh,

    /// <summary>p·tanh(x / p): a soft cap at ±p.</summary>
    SoftCap,

    /// <summary>1 / (1 + e⁻ˣ).</summary>
    Sigmoid,

    /// <summary>ln σ(x), stable for any x.</summary>
    LogSigmoid,

    /// <summary>x·σ(x).</summary>
    Silu,

    /// <summary>x·Φ(x), exact (erf).</summary>
    Gelu,

    /// <summary>½x(1 + tanh(√(2/π)(x + 0.044715x³))).</summary>
    GeluTanh,
}

/// <summary>What callers need to know about a <see cref="UnaryOp"/>.</summary>
public static class UnaryOps
{
    /// <summary>True where the backward pass reads only the result y (x may be gone or empty), false where it reads only x (y may be).</summary>
    public static bool BackwardReadsOutput(this UnaryOp op) =>
        op is UnaryOp.Exp or UnaryOp.Sqrt or UnaryOp.Reciprocal or UnaryOp.Tanh or UnaryOp.SoftCap or UnaryOp.Sigmoid;
}

/// <summary>Functions of two variables.</summary>
public enum BinaryOp
{
    /// <summary>a + b.</summary>
    Add,

    /// <summary>a − b.</summary>
    Subtract,

    /// <summary>a·b.</summary>
    Multiply,

    /// <summary>a / b.</summary>
    Divide,
}

/// <summary>How the second operand of a binary op is repeated over the [rows, cols] of the first.</summary>
public enum Broadcast
{
    /// <summary>b is [rows, cols].</summary>
    None,

    /// <summary>b is [cols], the same for every row.</summary>
    OverRows,

    /// <summary>b is [rows], the same for every column.</summary>
    OverCols,

    /// <summary>b is one number.</summary>
    Scalar,
}

/// <summary>AdamW's numbers for one step (Loshchilov and Hutter; torch.optim.AdamW): decoupled decay, bias correction by step (from 1).</summary>
public readonly record struct AdamWArgs(double LearningRate, double Beta1, double Beta2, double Eps, double WeightDecay, int Step);

/// <summary>A tensor of <see cref="IBackend.AdamWSeveral"/>: parameter, gradient and moments of one length.</summary>
public readonly record struct AdamWTensor(View Param, View Grad, View M, View V);

public partial interface IBackend
{
    /// <summary>y[n] = f(x[n]); y may be x (in place).</summary>
    void Unary(View y, View x, long n, UnaryOp op, float p = 0);

    /// <summary>dx[n] += dy[n]·f'(x[n]); y is the forward result. Only one of x and y is read (<see cref="UnaryOps.BackwardReadsOutput"/>), the other may be empty.</summary>
    void UnaryBackward(View dx, View dy, View x, View y, long n, UnaryOp op, float p = 0);

    /// <summary>y[rows, cols] = a ∘ b with b repeated as told; y may be a (in place).</summary>
    void Binary(View y, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast);

    /// <summary>da += and db += (either may be empty); db sums over what b was repeated over, in a fixed order. Operands that a derivative does not read may be empty: both for sums, the operand's own for products and for da of quotients.</summary>
    void BinaryBackward(View da, View db, View dy, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast);

    /// <summary>y[n] += p·x[n].</summary>
    void AddScaled(View y, View x, long n, float p);

    /// <summary>
    /// y[i] (=|+=) p·x[i] for each pair of views of one length: many small tensors in one call, which a backend may run at once. y[i] may be x[i]; no view stands in y twice.
    /// </summary>
    void CopySeveral(ReadOnlySpan<View> y, ReadOnlySpan<View> x, bool accumulate, float p = 1)
    {
        if (y.Length != x.Length)
            throw new ArgumentException($"CopySeveral: {x.Length} views into {y.Length}");
        for (int i = 0; i < y.Length; i++)
        {
            if (accumulate)
                AddScaled(y[i], x[i], y[i].Length, p);
            else if (p == 1)
                Copy(y[i], x[i]);
            else
                Unary(y[i], x[i], y[i].Length, UnaryOp.Scale, p);
        }
    }

    /// <summary>y[batch, rows, cols] (=|+=) x·s[batch, cols]: the columns of each matrix by factors of its own; with accumulate the gradient of x by that of y.</summary>
    void ScaleColumns(View y, View x, View s, int batch, int rows, int cols, bool accumulate)
    {
        long area = (long)rows * cols;
        for (int i = 0; i < batch; i++)
        {
            (View to, View from, View factors) = (y.Slice(i * area, area), x.Slice(i * area, area), s.Slice((long)i * cols, cols));
            if (accumulate)
                BinaryBackward(to, default, from, default, factors, rows, cols, BinaryOp.Multiply, Broadcast.OverRows);
            else
                Binary(to, from, factors, rows, cols, BinaryOp.Multiply, Broadcast.OverRows);
        }
    }

    /// <summary>ds[batch, cols] += Σ_rows dy·x, the factors' gradient of <see cref="ScaleColumns"/>, in a fixed order.</summary>
    void ScaleColumnsBackward(View ds, View dy, View x, int batch, int rows, int cols)
    {
        long area = (long)rows * cols;
        for (int i = 0; i < batch; i++)
            BinaryBackward(default, ds.Slice((long)i * cols, cols), dy.Slice(i * area, area), x.Slice(i * area, area), default, rows, cols, BinaryOp.Multiply, Broadcast.OverRows);
    }

    /// <summary>y[n] = f(gate[n])·up[n] with f = Silu (SwiGLU), GeluTanh or Gelu (GeGLU).</summary>
    void GatedForward(View y, View gate, View up, long n, UnaryOp op);

    /// <summary>dGate += dy·up·f'(gate); dUp += dy·f(gate) (either may be empty). Without accumulate they are overwritten, with the bits of adding to zeros.</summary>
    void GatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, UnaryOp op, bool accumulate = true);

    /// <summary>y[outer, inner] = Σ_n x[outer, n, inner] (added to y when accumulate). Sums in a fixed order with fp32 partial sums that keep the error of long sums small.</summary>
    void ReduceSum(View y, View x, int outer, int n, int inner, bool accumulate);

    /// <summary>dx[outer, n, inner] += dy[outer, inner]: backward of <see cref="ReduceSum"/>.</summary>
    void ReduceSumBackward(View dx, View dy, int outer, int n, int inner);

    /// <summary>y[i, :] = x[index[i], :] for i &lt; rows; cols elements a row. index: I32.</summary>
    void GatherRows(View y, View x, View index, int rows, int cols);

    /// <summary>dx[index[i], :] += dy[i, :] in the order of i; repeated indices are allowed.</summary>
    void GatherRowsBackward(View dx, View dy, View index, int rows, int cols);

    /// <summary>dst[r, dstOffset + j] (=|+=) src[r, srcOffset + j] for j &lt; cols; strides are the row lengths of the two matrices.</summary>
    void CopyColumns(View dst, int dstStride, int dstOffset, View src, int srcStride, int srcOffset, int rows, int cols, bool accumulate);

    /// <summary>One AdamW step on param[n] with gradient grad[n] and moments m[n], v[n], all in place.</summary>
    void AdamW(View param, View grad, View m, View v, long n, in AdamWArgs args);

    /// <summary>The same step on several tensors, which a backend may run at once; the bits are those of one after the other.</summary>
    void AdamWSeveral(ReadOnlySpan<AdamWTensor> tensors, in AdamWArgs args)
    {
        foreach (AdamWTensor t in tensors)
            AdamW(t.Param, t.Grad, t.M, t.V, t.Param.Length, args);
    }
}
