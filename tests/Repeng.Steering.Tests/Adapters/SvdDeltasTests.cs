using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Tests.Adapters.Peft;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>What all layers of an SVD adapter compute together: the bits of each layer alone, forward and backward, however they are stacked.</summary>
public sealed class SvdDeltasTests
{
    public static TheoryData<RotationMethod, ScaleMethod, bool, bool, double> Settings()
    {
        TheoryData<RotationMethod, ScaleMethod, bool, bool, double> cases = [];
        foreach (RotationMethod rotation in Enum.GetValues<RotationMethod>())
            foreach (ScaleMethod scale in Enum.GetValues<ScaleMethod>())
                cases.Add(rotation, scale, true, true, 4);
        cases.Add(RotationMethod.Cayley, ScaleMethod.Mult, true, false, 4);
        cases.Add(RotationMethod.Cayley, ScaleMethod.Add, false, true, 0.3);
        cases.Add(RotationMethod.Cayley, ScaleMethod.AddTanh, false, false, 4);
        return cases;
    }

    [Theory]
    [MemberData(nameof(Settings))]
    public void EveryLayerHasTheBitsOfItselfAlone(RotationMethod rotation, ScaleMethod scale, bool rotateU, bool rotateV, double angle)
    {
        const float C = 0.7f;
        using var tiny = new TinyBase();
        using SvdAdapter adapter = SvdAdapter.Create(tiny.Model, new SvdAdapterConfig { Rank = 6, RotateU = rotateU, RotateV = rotateV, Rotation = rotation, Scale = scale, BlockSize = 3, MaxRotationAngle = angle, InitRotation = 0.2, TargetModules = ".*(q|v|down)_proj" });
        SvdLayer[] layers = [.. adapter.Layers.Values];
        (float[][] Deltas, float[][] Gradients) alone = ([], []);
        foreach (SvdLayer layer in layers)
        {
            using var tape = new Tape(tiny.Device);
            Tensor m = layer.Delta(tape, C);
            tape.Backward(Weighted(tape, m));
            alone = ([.. alone.Deltas, m.ToArray()], [.. alone.Gradients, .. Gradients(adapter)]);
        }
        Assert.Contains(alone.Deltas[0], v => v != 0);
        Assert.All(alone.Gradients, g => Assert.Contains(g, v => v != 0));
        // One stack, stacks of two layers and of one.
        foreach (int most in new[] { SvdDeltas.MostElements, 2 * 36, 1 })
        {
            using var tape = new Tape(tiny.Device);
            Tensor[] all = SvdDeltas.Of(tape, adapter.Config, layers, C, most);
            Tensor sum = Weighted(tape, all[0]);
            foreach (Tensor m in all[1..])
                sum = tape.Add(sum, Weighted(tape, m));
            tape.Backward(sum);
            Assert.Equal(alone.Deltas, all.Select(m => m.ToArray()));
            Assert.Equal(alone.Gradients, Gradients(adapter));
        }
    }

    [Fact]
    public void ALayerThatNothingUsesGetsNoGradient()
    {
        using var tiny = new TinyBase();
        using SvdAdapter adapter = SvdAdapter.Create(tiny.Model, new SvdAdapterConfig { Rank = 4, RotateU = true, Scale = ScaleMethod.Mult, InitRotation = 0.2, TargetModules = ".*(q|v|down)_proj" });
        SvdLayer[] layers = [.. adapter.Layers.Values];
        using var tape = new Tape(tiny.Device);
        Tensor[] all = SvdDeltas.Of(tape, adapter.Config, layers, -1);
        tape.Backward(Weighted(tape, all[2]));
        for (int i = 0; i < layers.Length; i++)
            Assert.All(layers[i].Parameters, p => Assert.Equal(i == 2, !p.Value.Grad.IsEmpty));
        Gradients(adapter);
    }

    private static Tensor Weighted(Tape tape, Tensor m) => tape.Sum(tape.Multiply(m, tape.Constant([.. Enumerable.Range(0, (int)m.Length).Select(i => MathF.Sin(i + 1))], m.Shape)));

    // Those that are there, which are dropped.
    private static float[][] Gradients(SvdAdapter adapter)
    {
        Tensor[] there = [.. adapter.Parameters.Where(p => !p.Grad.IsEmpty)];
        float[][] gradients = [.. there.Select(p => p.GradToArray())];
        foreach (Tensor p in there)
            p.FreeGrad();
        return gradients;
    }
}
