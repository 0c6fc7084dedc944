using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// VeRA (Kopiczko et al. 2023): y = W·x + b + c·λ_b∘(B·(λ_d∘(A·x))) with λ_d [r], λ_b [out] trained and A, B random, shared by
/// all layers of a model, of which a layer uses the top left part: A [r, in], B [out, r].
/// </summary>
public sealed class VeraLayer : LowRankLayer
{
    private readonly Tensor _lambdaB, _lambdaD, _a, _b;

    /// <summary>Takes ownership of λ_b and λ_d; the projections belong to the caller.</summary>
    public VeraLayer(LinearModule module, Tensor lambdaB, Tensor lambdaD, Tensor a, Tensor b) : base(module)
    {
        _lambdaB = Store("vera_lambda_b", lambdaB);
        _lambdaD = Store("vera_lambda_d", lambdaD);
        (_a, _b) = (a, b);
    }

    internal override Tensor Forward(Tape tape, Tensor x, CoefficientRows rows, Func<float, Tensor[]> prepared)
    {
        Tensor y = tape.Linear(x, Module.Weight, Module.Bias);
        if (rows.AllZero)
            return y;
        Tensor z = rows.Scale(tape, tape.Multiply(tape.MatMul(x, _a, transB: true, autocast: true), _lambdaD, Broadcast.OverRows), 1);
        return tape.Add(y, tape.Multiply(tape.MatMul(z, _b, transB: true, autocast: true), _lambdaB, Broadcast.OverRows));
    }

    /// <inheritdoc/>
    public override (double[] Left, double[] Right) Factors(float c)
    {
        double[] left = Wide(_b), right = Wide(_a), lb = Wide(_lambdaB), ld = Wide(_lambdaD);
        int r = ld.Length;
        for (int i = 0; i < left.Length; i++)
            left[i] *= c * lb[i / r];
        for (int i = 0; i < right.Length; i++)
            right[i] *= ld[i / Module.Inputs];
        return (left, right);
    }

    internal override void Negate() => Scale(_lambdaB, -1);
}
