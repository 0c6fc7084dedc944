using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// PSOFT: y = W·x + b + c·s·B·(R − I)·A·x with A [r, in] and B [out, r] from the singular value decomposition of W and a stored
/// rotation R between two diagonal factors. A and B are no part of the file. Not trained here; c on the whole
/// difference is this project's rule, PEFT has none.
/// </summary>
public sealed class PsoftLayer : LowRankLayer
{
    private readonly Tensor _a, _left;

    /// <summary>Takes ownership of the stored tensors; A and B are given.</summary>
    public PsoftLayer(LinearModule module, PeftConfig config, IReadOnlyList<(string Key, Tensor Value)> stored, float[] a, float[] b) : base(module)
    {
        foreach ((string key, Tensor value) in stored)
            Store(key, value, trained: false);
        int r = config.Rank;
        double[] rotation = PsoftRotation.Compute(config, Wide(Stored.First(s => s.Key == PsoftRotation.WeightKey).Value),
            Find(PsoftRotation.VectorA), Find(PsoftRotation.VectorB));
        double s = config.Alpha / r;
        var left = new float[b.Length];
        for (int o = 0; o < module.Outputs; o++)
            for (int j = 0; j < r; j++)
            {
                double sum = 0;
                for (int k = 0; k < r; k++)
                    sum += b[o * r + k] * (rotation[k * r + j] - (k == j ? 1 : 0));
                left[o * r + j] = (float)(s * sum);
            }
        _a = Own(Tensor.From(module.Weight.Device, a, r, module.Inputs));
        B = b;
        _left = Own(Tensor.From(module.Weight.Device, left, module.Outputs, r));

        double[]? Find(string key) => Stored.FirstOrDefault(x => x.Key == key).Value is { } t ? Wide(t) : null;
    }

    /// <summary>A [r, in].</summary>
    public float[] A => _a.ToArray();

    /// <summary>B [out, r].</summary>
    public float[] B { get; }

    internal override Tensor Forward(Tape tape, Tensor x, CoefficientRows rows, Func<float, Tensor[]> prepared)
    {
        Tensor y = tape.Linear(x, Module.Weight, Module.Bias);
        return rows.AllZero ? y : tape.Add(y, tape.MatMul(rows.Scale(tape, tape.MatMul(x, _a, transB: true, autocast: true), 1), _left, transB: true, autocast: true));
    }

    /// <inheritdoc/>
    public override (double[] Left, double[] Right) Factors(float c) => ([.. Wide(_left).Select(v => v * c)], Wide(_a));

    // The file's form has no mirror: R is a rotation by positive powers of what is stored.
    internal override void Negate() => throw new UserErrorException($"{Path}: a PSOFT adapter cannot be turned round in its own files; steer with the other sign of the coefficient");
}
