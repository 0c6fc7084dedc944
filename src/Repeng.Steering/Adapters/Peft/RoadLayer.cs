using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// RoAd (Liao and Monz 2024): outputs in groups; element j of the first half of a group is paired with element j of the second.
/// z = y∘c₁ + rot(y)∘c₂ with rot = (−second half, first half), c₁ = α′·cos θ, c₂ = α′·sin θ, α′ = (α − 1)·c + 1; θ stays.
/// Variant 1 has one (θ, α) a pair, 2 one an output, 4 two an output (the first for c₁, the second for c₂).
/// </summary>
public sealed class RoadLayer : PeftLayer
{
    private readonly int _variant, _half;
    private readonly Tensor _theta, _alpha, _turn, _cosine, _sine, _signs, _swap;
    private readonly Tensor? _first, _second;

    /// <summary>Takes ownership of θ and α: [out / 2], [out] or [2·out] values by variant.</summary>
    public RoadLayer(LinearModule module, int variant, int groupSize, Tensor theta, Tensor alpha) : base(module)
    {
        (_variant, _half) = (variant, groupSize / 2);
        _theta = Store("road_theta", theta);
        _alpha = Store("road_alpha", alpha);
        Device device = theta.Device;
        // exp of θ·[0 −1; 1 0] is the rotation by θ, from which cosine and sine are picked.
        _turn = Own(Tensor.From(device, [0f, -1, 1, 0], 1, 4));
        _cosine = Own(Tensor.From(device, [1f, 0, 0, 0], 4, 1));
        _sine = Own(Tensor.From(device, [0f, 0, 1, 0], 4, 1));
        int halves = module.Outputs / _half, groups = halves / 2;
        _signs = Own(Tensor.From(device, [.. Enumerable.Range(0, module.Outputs).Select(o => o / _half % 2 == 0 ? -1f : 1f)], module.Outputs));
        _swap = Own(Tensor.From(device, [.. Enumerable.Range(0, halves).Select(h => h ^ 1)], halves));
        if (variant == 1)
            _first = Own(Tensor.From(device, [.. Enumerable.Range(0, halves).Select(h => h / 2)], halves));
        if (variant != 4)
            return;
        _first = Own(Tensor.From(device, [.. Enumerable.Range(0, groups).Select(g => 2 * g)], groups));
        _second = Own(Tensor.From(device, [.. Enumerable.Range(0, groups).Select(g => 2 * g + 1)], groups));
    }

    /// <summary>Values of θ, and of α, for a layer.</summary>
    public static int Values(int variant, int outputs) => variant switch { 1 => outputs / 2, 2 => outputs, _ => 2 * outputs };

    internal override bool IsBaseAtZero => false;

    internal override Tensor[] Prepare(Tape tape, float c)
    {
        using Tape.Scope scope = tape.BeginScope();
        int n = (int)_theta.Length;
        Tensor rotations = tape.Reshape(tape.MatrixExp(tape.Reshape(tape.MatMul(tape.Reshape(_theta, n, 1), _turn), n, 2, 2)), n, 4);
        Tensor alpha = Ia3Layer.SignedFactor(tape, tape.Reshape(_alpha, n), c);
        Tensor cosine = tape.Multiply(alpha, tape.Reshape(tape.MatMul(rotations, _cosine), n));
        Tensor sine = tape.Multiply(alpha, tape.Reshape(tape.MatMul(rotations, _sine), n));
        return [scope.Keep(Spread(tape, cosine, _first)), scope.Keep(tape.Multiply(Spread(tape, sine, _second ?? _first), _signs))];
    }

    internal override Tensor Forward(Tape tape, Tensor x, CoefficientRows rows, Func<float, Tensor[]> prepared)
    {
        Tensor y = tape.Linear(x, Module.Weight, Module.Bias);
        int halves = Module.Outputs / _half;
        var index = new int[y.Rows * halves];
        for (int i = 0; i < index.Length; i++)
            index[i] = i ^ 1;
        Tensor swapped = tape.Reshape(tape.GatherRows(tape.Reshape(y, index.Length, _half), tape.New(index, index.Length)), y.Rows, y.Cols);
        return tape.Add(rows.Multiply(tape, y, c => prepared(c)[0]), rows.Multiply(tape, swapped, c => prepared(c)[1]));
    }

    /// <inheritdoc/>
    public override (float[] Weight, float[]? Bias) Merge(float c)
    {
        using var tape = new Tape(_theta.Device, record: false);
        Tensor[] made = Prepare(tape, c);
        double[] straight = Wide(made[0]), crossed = Wide(made[1]);
        float[] w = Weight();
        return (Turn(w, Module.Inputs), Bias() is { } bias ? Turn(bias, 1) : null);

        float[] Turn(float[] rows, int width)
        {
            var turned = new float[rows.Length];
            for (int o = 0; o < Module.Outputs; o++)
            {
                int partner = o / _half % 2 == 0 ? o + _half : o - _half;
                for (int i = 0; i < width; i++)
                    turned[(long)o * width + i] = (float)(rows[(long)o * width + i] * straight[o] + rows[(long)partner * width + i] * crossed[o]);
            }
            return turned;
        }
    }

    internal override void Negate() => Mirror(_alpha);

    // One value an output.
    private Tensor Spread(Tape tape, Tensor values, Tensor? index) => _variant == 2
        ? values
        : tape.Reshape(tape.GatherRows(tape.Reshape(values, (int)values.Length / Width, Width), index!), Module.Outputs);

    private int Width => _variant == 1 ? _half : 2 * _half;
}
