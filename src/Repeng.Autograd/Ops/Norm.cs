using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

public sealed partial class Tape
{
    /// <summary>RMSNorm over the last <paramref name="weight"/>.Length elements of each row; x [..., cols] may hold several heads a row. mayRound: the result may be held as <see cref="IBackend.LayerType"/> says.</summary>
    public Tensor RmsNorm(Tensor x, Tensor weight, float eps, float weightOffset = 0, bool mayRound = false)
    {
        int cols = checked((int)weight.Length);
        int rows = checked((int)(x.Length / cols));
        Tensor y = NewOfLayer(mayRound, x.Shape);
        Tensor rstd = New(rows);
        Backend.RmsNormForward(y.Data, rstd.Data, x.Data, weight.Data, rows, cols, eps, weightOffset);
        if (!Tracks(x, weight))
            return y;
        return Record(y, [x, weight, rstd], () =>
        {
            bool fresh = false;
            Backend.RmsNormBackward(
                x.RequiresGrad ? x.GradForWrite(out fresh) : default, weight.RequiresGrad ? weight.GradToAdd() : default,
                y.Grad, x.Data, weight.Data, rstd.Data, rows, cols, weightOffset, accumulate: !fresh);
        });
    }

    /// <summary>LayerNorm over the last dimension.</summary>
    public Tensor LayerNorm(Tensor x, Tensor weight, Tensor bias, float eps)
    {
        int rows = x.Rows, cols = x.Cols;
        Tensor y = New(x.Shape);
        Tensor mean = New(rows), rstd = New(rows);
        Backend.LayerNormForward(y.Data, mean.Data, rstd.Data, x.Data, weight.Data, bias.Data, rows, cols, eps);
        if (!Tracks(x, weight, bias))
            return y;
        return Record(y, [x, weight, mean, rstd], () =>
        {
            bool fresh = false;
            Backend.LayerNormBackward(
                x.RequiresGrad ? x.GradForWrite(out fresh) : default, weight.RequiresGrad ? weight.GradToAdd() : default, bias.RequiresGrad ? bias.GradToAdd() : default,
                y.Grad, x.Data, weight.Data, mean.Data, rstd.Data, rows, cols, accumulate: !fresh);
        });
    }

    /// <summary>
    /// Rotary embedding of x [rows, heads·headDim] by tables cos, sin [positions, rotaryDim / 2] at positions I32 [rows].
    /// </summary>
    public Tensor Rope(Tensor x, Tensor cos, Tensor sin, Tensor positions, int heads, int rotaryDim, bool interleaved)
    {
        int rows = x.Rows, headDim = x.Cols / heads;
        Tensor y = New(x.Shape);
        Backend.Rope(y.Data, x.Data, cos.Data, sin.Data, positions.Data, rows, heads, headDim, rotaryDim, interleaved, inverse: false, accumulate: false);
        if (!Tracks(x))
            return y;
        return Record(y, [cos, sin, positions], () =>
        {
            View dx = x.GradForWrite(out bool fresh);
            Backend.Rope(dx, y.Grad, cos.Data, sin.Data, positions.Data, rows, heads, headDim, rotaryDim, interleaved, inverse: true, accumulate: !fresh);
        });
    }

    /// <summary>
    /// <see cref="RmsNorm"/> of each head of x [rows, heads·headDim], weight [headDim], and <see cref="Rope"/> of the result, as one op.
    /// </summary>
    public Tensor NormRope(Tensor x, Tensor weight, float eps, float weightOffset, Tensor cos, Tensor sin, Tensor positions, int rotaryDim, bool interleaved)
    {
        int dim = checked((int)weight.Length);
        var args = new NormRopeArgs(x.Rows, x.Cols / dim, dim, rotaryDim, interleaved, eps, weightOffset);
        Tensor y = New(x.Shape), rstd = New(args.Lines);
        Backend.NormRopeForward(y.Data, rstd.Data, x.Data, weight.Data, cos.Data, sin.Data, positions.Data, args);
        if (!Tracks(x, weight))
            return y;
        return Record(y, [x, weight, rstd, cos, sin, positions], () =>
        {
            using Scope scope = BeginScope();
            bool fresh = false;
            Backend.NormRopeBackward(
                x.RequiresGrad ? x.GradForWrite(out fresh) : default, weight.RequiresGrad ? weight.GradToAdd() : default,
                y.Grad, x.Data, weight.Data, rstd.Data, cos.Data, sin.Data, positions.Data, New(x.Shape).Data, args, accumulate: !fresh);
        });
    }
}
