using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// (IA)³ (Liu et al. 2022): y = l′∘(W·x + b), or W·(l′∘x) + b for feed-forward modules, with l′ = (l − 1)·c + 1.
/// l is [out, 1], for feed-forward modules [1, in].
/// </summary>
public sealed class Ia3Layer : PeftLayer
{
    private readonly Tensor _l;

    /// <summary>Takes ownership of l.</summary>
    public Ia3Layer(LinearModule module, bool feedForward, Tensor l) : base(module)
    {
        FeedForward = feedForward;
        _l = Store("ia3_l", l);
    }

    /// <summary>The input is scaled, not the output.</summary>
    public bool FeedForward { get; }

    internal override Tensor[] Prepare(Tape tape, float c)
    {
        using Tape.Scope scope = tape.BeginScope();
        return [scope.Keep(SignedFactor(tape, tape.Reshape(_l, (int)_l.Length), c))];
    }

    internal override Tensor Forward(Tape tape, Tensor x, CoefficientRows rows, Func<float, Tensor[]> prepared)
    {
        Tensor Scaled(Tensor t) => rows.Multiply(tape, t, c => prepared(c)[0]);
        return FeedForward ? tape.Linear(Scaled(x), Module.Weight, Module.Bias) : Scaled(tape.Linear(x, Module.Weight, Module.Bias));
    }

    /// <inheritdoc/>
    public override (float[] Weight, float[]? Bias) Merge(float c)
    {
        double[] l = [.. Wide(_l).Select(v => (v - 1) * c + 1)];
        float[] w = Weight();
        float[]? bias = Bias();
        for (int i = 0; i < w.Length; i++)
            w[i] = (float)(w[i] * l[FeedForward ? i % Module.Inputs : i / Module.Inputs]);
        if (!FeedForward && bias is not null)
            for (int o = 0; o < bias.Length; o++)
                bias[o] = (float)(bias[o] * l[o]);
        return (w, bias);
    }

    internal override void Negate() => Mirror(_l);

    /// <summary>(f − 1)·c + 1.</summary>
    internal static Tensor SignedFactor(Tape tape, Tensor f, float c) =>
        tape.Unary(tape.Scale(tape.Unary(f, UnaryOp.Offset, -1), c), UnaryOp.Offset, 1);
}
