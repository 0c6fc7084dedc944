using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Models;
using Repeng.Steering.Training;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Training;

/// <summary>Training steps in which texts share the tokens of their beginnings, beside steps over each text by itself.</summary>
public sealed class SharedStepTests
{
    // Two personas that begin alike, ends of several lengths, a pair twice, and one whose texts are shorter than the window of the loss.
    private static readonly TokenPair[] s_pairs =
    [
        new([5, 6, 7, 8, 9, 20, 21, 22], [5, 6, 7, 12, 13, 14, 20, 21, 22]), new([5, 6, 7, 8, 9, 20, 23], [5, 6, 7, 12, 13, 14, 20, 23]),
        new([5, 6, 7, 8, 9, 30, 31, 4, 4, 2], [5, 6, 7, 12, 13, 14, 30, 31, 4, 4, 2]), new([5, 6, 7, 8, 9, 20, 23], [5, 6, 7, 12, 13, 14, 20, 23]), new([5, 6, 20], [5, 7, 20, 3]),
    ];

    [Theory]
    [InlineData("recommended", SeparationLoss.LogSigmoid, false, false, null)]
    [InlineData("recommended", SeparationLoss.Shift, false, true, null)]
    [InlineData("recommended", SeparationLoss.TanhRatio, false, false, 4)]
    [InlineData("recommended", SeparationLoss.LogSigmoid, true, false, null)]
    [InlineData("upstream", SeparationLoss.LogSigmoid, false, false, null)]
    public void Loss_metrics_and_gradients_are_those_of_texts_by_themselves(string profile, SeparationLoss separation, bool experts, bool checkpoint, int? microBatch)
    {
        using Device device = Device.Cpu(2);
        using DecoderModel model = TinyDecoder.Load(device, layers: 6, experts: experts);
        using SvdAdapter adapter = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 4, RotateU = true, TargetModules = ".*\\.(2|3|4)\\..*down_proj" });
        Move(adapter);
        TrainConfig config = TrainConfig.FromProfile(profile);
        TokenBatch batch = new PairData([.. s_pairs], 0).Batch([0, 1, 2, 3, 4]);
        LossLayer[] layers = TrainRun.MakeLossLayers(model, adapter, config, new PairData([.. s_pairs], 0), new TrainRunListener());
        // A hinge that is passed already, so that the coherence term has a gradient too.
        ContrastiveLossConfig loss = config.Loss with { Separation = separation, Coherence = CoherenceLoss.Hinge, CoherenceThreshold = -1 };
        (StepResult, float[][], long) Run(bool share, int? lastTokens)
        {
            var step = new ContrastiveStep(model, adapter, layers, loss with { LastTokens = lastTokens }) { SharePrefixes = share, CheckpointBlocks = checkpoint, MicroBatchRows = microBatch };
            long before = model.TokensRun;
            Reference reference = step.ComputeReference(batch);
            StepResult result = step.Run(batch, reference, [-1, 0.5f, 1]);
            return (result, Gradients(adapter), model.TokensRun - before);
        }
        foreach (int? lastTokens in (int?[])[6, 2, null])
        {
            (StepResult shared, float[][] ours, long few) = Run(share: true, lastTokens);
            (StepResult plain, float[][] theirs, long many) = Run(share: false, lastTokens);
            Assert.True(few < 0.8 * many, $"{few} of {many} tokens");
            Assert.InRange(shared.Total, plain.Total - (2e-5 * Math.Abs(plain.Total)), plain.Total + (2e-5 * Math.Abs(plain.Total)));
            Assert.Equal(plain.Rows.Count, shared.Rows.Count);
            foreach ((LossRow a, LossRow b) in shared.Rows.Zip(plain.Rows))
            {
                Assert.Equal((b.C, b.Layer), (a.C, a.Layer));
                Close.To(1e-4, Values(a), Values(b), $"metrics at {a.C}");
            }
            Assert.Contains(theirs, g => g.Any(x => x != 0));
            for (int p = 0; p < ours.Length; p++)
                Close.To(1e-4, ours[p], theirs[p], $"gradient {p}, last {lastTokens}");
        }
        foreach (LossLayer layer in layers)
            layer.Dispose();

        static float[] Values(LossRow r) => [(float)r.LossProj, (float)r.LossCoherence, (float)r.LossTotal, (float)r.LogpDegradation, (float)r.ProbRatio, (float)r.ProjPi, (float)r.ProjRef, (float)r.SeparationNorm];
    }

    [Theory]
    [InlineData(3)]
    [InlineData(null)]
    public void AntiPasto_is_the_same_too(int? lastTokens)
    {
        using Device device = Device.Cpu(2);
        using DecoderModel model = TinyDecoder.Load(device, layers: 6);
        using SvdAdapter adapter = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 4, RotateU = true, TargetModules = ".*\\.(2|3|4)\\..*down_proj" });
        Move(adapter);
        // Its masks ask for tokens that both texts of a pair have.
        TokenBatch batch = new PairData([.. s_pairs[..4]], 0).Batch([0, 1, 2, 3]);
        using Tensor subspace = Tensor.From(device, [.. Enumerable.Range(0, 16 * 5).Select(i => i % 5 == i / 5 ? 1f : 0)], 16, 5);
        (AntiPastoResult, float[][], long) Run(bool share)
        {
            var step = new AntiPastoStep(model, adapter, 4, subspace, new AntiPastoLossConfig { LastTokens = lastTokens }) { SharePrefixes = share };
            long before = model.TokensRun;
            AntiPastoResult result = step.Run(batch, 5, 10);
            return (result, Gradients(adapter), model.TokensRun - before);
        }
        (AntiPastoResult shared, float[][] ours, long few) = Run(share: true);
        (AntiPastoResult plain, float[][] theirs, long many) = Run(share: false);
        Assert.True(few < 0.7 * many, $"{few} of {many} tokens");
        Close.To(1e-4, Values(shared), Values(plain), "parts of the loss");
        for (int c = 0; c < 2; c++)
            Close.To(1e-3, [.. plain.Metrics[c].Keys.Select(m => (float)shared.Metrics[c][m])], [.. plain.Metrics[c].Values.Select(v => (float)v)], "metrics");
        Assert.Contains(theirs, g => g.Any(x => x != 0));
        for (int p = 0; p < ours.Length; p++)
            Close.To(1e-4, ours[p], theirs[p], $"gradient {p}");

        static float[] Values(AntiPastoResult r) => [(float)r.Total, (float)r.Projection, (float)r.CoherencePlus, (float)r.CoherenceMinus, (float)r.Monotone, (float)r.DeltaPlus, (float)r.DeltaMinus];
    }

    // Away from its start, where gradients of a rotation are zero.
    private static void Move(SvdAdapter adapter)
    {
        var draw = new Random(2);
        foreach (Tensor p in adapter.Parameters)
            p.Upload([.. p.ToArray().Select(x => x + (0.3f * (float)(draw.NextDouble() - 0.5)))]);
    }

    private static float[][] Gradients(SvdAdapter adapter)
    {
        float[][] gradients = [.. adapter.Parameters.Select(p => p.GradToArray())];
        using var optimiser = new AdamW(adapter.Parameters);
        optimiser.ZeroGrad();
        return gradients;
    }
}
