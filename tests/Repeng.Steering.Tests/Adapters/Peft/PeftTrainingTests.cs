using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters.Peft;

/// <summary>New adapters begin as the base model, their gradients are those of differences, and they train.</summary>
public sealed class PeftTrainingTests : IDisposable
{
    private const string Targets = @".*\.(1|2)\..*(q_proj|v_proj|up_proj|down_proj)";
    private readonly TinyBase _base = new();

    public static IEnumerable<TheoryDataRow<string>> Kinds => PeftSettings.Kinds.Select(k => new TheoryDataRow<string>(k));

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A_new_adapter_is_the_base_model_at_every_coefficient(string kind)
    {
        using PeftAdapter adapter = Create(kind);
        float[] wanted = Hidden(null, 0);
        foreach (float c in new[] { -1, 0, 1, 2.5f })
            Close.To(1e-5, Hidden(adapter, c), wanted, $"{kind} at {c}");
        Assert.NotEmpty(adapter.Parameters);
        Assert.All(adapter.Parameters, p => Assert.NotNull(p.Name));
        Assert.Equal(adapter.Parameters.Count, adapter.Parameters.Select(p => p.Name).Distinct().Count());
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Gradients_are_those_of_central_differences(string kind)
    {
        using PeftAdapter adapter = Create(kind);
        Disturb(adapter);
        float[] weights = new float[_base.Tokens.Ids.Length * _base.Model.Config.HiddenSize];
        Philox.FillNormal(weights, 3, 0);
        float[] mixed = [1, -0.5f];
        foreach ((bool checkpoint, float[] cs) in new[] { (false, mixed), (true, mixed), (false, [-1f, -1f]) })
        {
            // DoRA's norms are constants of the backward pass, so that the differences keep those of the point.
            using var tape = new Tape(_base.Device);
            using var still = new Tape(_base.Device, record: false);
            IAdapterPass? fixedNorms = kind == "dora" ? adapter.Pass(still, cs, _base.Tokens.Length) : null;
            Tensor h = _base.Model.Forward(new ForwardContext(tape, _base.Tokens) { Adapter = adapter.Pass(tape, cs, _base.Tokens.Length), CheckpointBlocks = checkpoint });
            tape.Backward(tape.Sum(tape.Multiply(tape.Reshape(h, weights.Length), tape.Constant(weights, weights.Length))));
            foreach (Tensor p in adapter.Parameters)
            {
                float[] gradient = p.GradToArray(), values = p.ToArray();
                p.FreeGrad();
                bool magnitude = p.Name!.EndsWith("lora_magnitude_vector", StringComparison.Ordinal);
                double scale = gradient.Max(Math.Abs);
                Assert.True(scale > 0, $"{p.Name}: no gradient arrived");
                // The steepest element and some others.
                int[] some = [Array.FindIndex(gradient, g => Math.Abs(g) == scale), 0, values.Length / 2];
                foreach (int k in some.Distinct())
                {
                    const float step = 4e-3f;
                    double difference = (Loss(k, values[k] + step) - Loss(k, values[k] - step)) / (2 * step);
                    Assert.True(Math.Abs(difference - gradient[k]) <= 2e-2 * scale + 2e-3, $"{kind}, c {cs[0]} {cs[1]}, {p.Name}[{k}]: gradient {gradient[k]:g6}, difference {difference:g6}");
                }

                double Loss(int k, float value)
                {
                    float[] moved = [.. values];
                    moved[k] = value;
                    p.Upload(moved);
                    using var t = new Tape(_base.Device, record: false);
                    // A pass that keeps the norms also keeps the magnitudes that it was made with.
                    IAdapterPass pass = fixedNorms is null || magnitude ? adapter.Pass(t, cs, _base.Tokens.Length) : adapter.Pass(t, cs, _base.Tokens.Length, fixedNorms);
                    float[] y = _base.Model.Forward(new ForwardContext(t, _base.Tokens) { Adapter = pass }).ToArray();
                    p.Upload(values);
                    return y.Zip(weights, (a, w) => (double)a * w).Sum();
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A_trained_adapter_lowers_its_loss_and_reads_back_the_same(string kind)
    {
        using PeftAdapter adapter = Create(kind);
        var pairs = Enumerable.Range(0, 6).Select(i => new TokenPair([3, 7, 5 + i, 11, 20 + i], [3, 7, 5 + i, 25, 20 + i])).ToList();
        var data = new PairData(pairs, 0);
        var config = new TrainConfig { BatchSize = 4, Epochs = 8, GradAccumSteps = 1, LearningRate = 1e-2, ClipNorm = 1, Peft = Settings(kind), Loss = new ContrastiveLossConfig { LastTokens = 3 } };
        LossLayer[] layers = TrainRun.MakeLossLayers(_base.Model, adapter, config, data, new TrainRunListener());
        using var objective = new ContrastiveObjective(new ContrastiveStep(_base.Model, adapter, layers, config.Loss), layers);
        using var loop = new TrainingLoop(adapter, objective, config, data, null);
        var losses = new List<double>();
        loop.Run(p => losses.Add(p.Loss), null, CancellationToken.None);
        int each = loop.BatchesPerEpoch;
        Assert.True(losses.TakeLast(each).Average() < losses.Take(each).Average() - 1e-3, $"{kind}: {string.Join(' ', losses.Select(l => l.ToString("g4")))}");

        string folder = Directory.CreateTempSubdirectory("repeng-peft-").FullName;
        try
        {
            adapter.Save(folder, "tiny");
            using IAdapter again = AdapterFile.LoadAny(_base.Model, folder);
            Assert.Equal(adapter.Kind, again.Kind);
            Assert.Equal(Hidden(adapter, 0.75f), Hidden(again, 0.75f));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void Sizes_that_do_not_fit_are_said_with_the_numbers()
    {
        Assert.Contains("rank 40", Assert.Throws<UserErrorException>(() => PeftFactory.Create(_base.Model, Settings("lora") with { Rank = 40 })).Message);
        Assert.Contains("group_size 10", Assert.Throws<UserErrorException>(() => PeftFactory.Create(_base.Model, Settings("road_1") with { GroupSize = 10 })).Message);
        Assert.Contains("adapter_type", Assert.Throws<UserErrorException>(() => PeftFactory.Create(_base.Model, Settings("lokr"))).Message);
    }

    public void Dispose() => _base.Dispose();

    private static PeftSettings Settings(string kind) => new() { Kind = kind, Rank = 3, Alpha = 6, GroupSize = 8, TargetModules = Targets };

    private PeftAdapter Create(string kind) => PeftFactory.Create(_base.Model, Settings(kind));

    // Off the starting point, where half of the gradients are zero.
    private static void Disturb(PeftAdapter adapter)
    {
        ulong stream = 0;
        foreach (Tensor p in adapter.Parameters)
        {
            float[] values = p.ToArray(), noise = new float[values.Length];
            Philox.FillNormal(noise, 17, stream++);
            p.Upload([.. values.Zip(noise, (v, n) => v + 0.2f * n)]);
        }
    }

    private float[] Hidden(IAdapter? adapter, float c)
    {
        using var tape = new Tape(_base.Device, record: false);
        return _base.Model.Forward(new ForwardContext(tape, _base.Tokens) { Adapter = adapter?.Pass(tape, [c, c], _base.Tokens.Length) }).ToArray();
    }
}
