using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// DeLoRA (Bini et al. 2025): y = W·x + b + B·diag(c·λ / (r·‖A_i‖·‖B_i‖))·A·(w∘x), norms of the rows of A and columns of B, at
/// least 10⁻⁴; w [in] are the norms of the columns of W when the adapter was made. A, B and λ [1] are trained.
/// </summary>
public sealed class DeloraLayer : LowRankLayer
{
    private const float SmallestSquare = 1e-8f;
    private readonly Tensor _a, _b, _lambda, _norm;

    /// <summary>Takes ownership of the tensors.</summary>
    public DeloraLayer(LinearModule module, Tensor a, Tensor b, Tensor lambda, Tensor norm) : base(module)
    {
        _a = Store("delora_A", a);
        _b = Store("delora_B", b);
        _lambda = Store("delora_lambda", lambda);
        _norm = Store("delora_w_norm", norm, trained: false);
    }

    internal override Tensor[] Prepare(Tape tape, float c)
    {
        using Tape.Scope scope = tape.BeginScope();
        Tensor InverseNorm(Tensor t, int dim) => tape.Unary(tape.Unary(tape.Unary(tape.Sum(tape.Unary(t, UnaryOp.Square), dim), UnaryOp.Max, SmallestSquare), UnaryOp.Sqrt), UnaryOp.Reciprocal);
        Tensor d = tape.Multiply(InverseNorm(_a, 1), InverseNorm(_b, 0));
        return [scope.Keep(tape.Multiply(d, tape.Scale(_lambda, c / _a.Rows), Broadcast.Scalar))];
    }

    internal override Tensor Forward(Tape tape, Tensor x, CoefficientRows rows, Func<float, Tensor[]> prepared)
    {
        Tensor y = tape.Linear(x, Module.Weight, Module.Bias);
        if (rows.AllZero)
            return y;
        Tensor z = tape.MatMul(tape.Multiply(x, _norm, Broadcast.OverRows), _a, transB: true, autocast: true);
        return tape.Add(y, tape.MatMul(rows.Multiply(tape, z, c => prepared(c)[0]), _b, transB: true, autocast: true));
    }

    /// <inheritdoc/>
    public override (double[] Left, double[] Right) Factors(float c)
    {
        double[] a = Wide(_a), b = Wide(_b), w = Wide(_norm);
        int r = _a.Rows, inputs = Module.Inputs, outputs = Module.Outputs;
        double k = (double)_lambda.Item() * c / r;
        for (int q = 0; q < r; q++)
        {
            double na = 0, nb = 0;
            for (int i = 0; i < inputs; i++)
                na += a[q * inputs + i] * a[q * inputs + i];
            for (int o = 0; o < outputs; o++)
                nb += b[o * r + q] * b[o * r + q];
            double f = k / Math.Sqrt(Math.Max(na, SmallestSquare) * Math.Max(nb, SmallestSquare));
            for (int i = 0; i < inputs; i++)
                a[q * inputs + i] *= f * w[i];
        }
        return (b, a);
    }

    internal override void Negate() => Scale(_lambda, -1);
}
