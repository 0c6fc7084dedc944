using Repeng.Autograd;
using Repeng.Kernels.Dry;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Tests.Training;

/// <summary>The closed form of docs/performance.md, "Scaling", against the ops that a step really asks for.</summary>
public sealed class StepFormulaTests
{
    // The products of the loss itself are left out of the formula.
    private const double Within = 0.002;

    [Theory]
    [InlineData(4, 32, 16, 12, 96, 3, 1)]
    [InlineData(4, 32, 64, 12, 96, 3, 1)]
    [InlineData(14, 64, 16, 12, 96, 3, 1)]
    [InlineData(14, 64, 16, 20, 128, 4, 4)]
    [InlineData(2, 200, 8, 16, 64, 2, 1)]
    public void A_step_costs_what_the_formula_says(int rows, int tokens, int rank, int layers, int hidden, int heads, int kvHeads)
    {
        ModelConfig config = Config(layers, hidden, heads, kvHeads);
        var dry = new DryBackend();
        using var device = new Device(dry);
        using DecoderModel model = ModelLoader.Load(device, config, new ModelInitialiser(config, 1));
        using SvdAdapter adapter = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = rank, RotateU = true, TargetModules = TrainDefaults.For(config, isDemo: false, quick: false).TargetModules });
        LossLayer[] loss = [.. LossLayers.Select(model, adapter.Modules).Select(m => new LossLayer(m, new Tensor(device, Kernels.DType.F32, model.Linears[m].Outputs, 1), new Tensor(device, Kernels.DType.F32, model.Linears[m].Outputs, 1), null))];
        ContrastiveLossConfig lossConfig = TrainConfig.FromProfile("recommended").Loss;
        var step = new ContrastiveStep(model, adapter, loss, lossConfig) { SharePrefixes = false };
        var batch = new TokenBatch(rows, tokens, new int[rows * tokens], new int[rows]);
        dry.TakeTally();
        step.Run(batch, step.ComputeReference(batch), [-1, 1]);
        OpTally work = dry.TakeTally();

        int first = adapter.FirstBlock, last = loss.Max(l => LayerSelection.BlockOf(model, l.Module)!.Value);
        Assert.InRange(last, first + 1, layers - 2);
        double t = (double)rows * tokens, labels = rows * (lossConfig.LastTokens!.Value - 1.0);
        double block = model.Blocks[0].Linears.Sum(l => (double)l.Inputs * l.Outputs), down = (double)config.IntermediateSize * hidden;
        double weights = (2 * t * block * ((3 * layers) + (2 * last) - (3 * first))) + (4 * t * down);
        double head = 8 * labels * hidden * config.VocabSize;
        double terms = adapter.Layers.Values.Sum(l =>
        {
            int at = LayerSelection.BlockOf(model, l.Path)!.Value;
            double each = at <= last ? t : t / 2, side = (double)(l.U.Rows + l.V.Rows) * rank, square = (double)rank * rank;
            bool noInput = at == first && !l.Path.EndsWith("down_proj", StringComparison.Ordinal);
            double outer = 2 * each * ((4 * side) + (6 * square) - (noInput ? 2 * (square + (l.V.Rows * (double)rank)) : 0));
            // M(c) itself, from two rotations.
            return outer + (2 * 6 * square * rank);
        });
        double pairs = rows * tokens * (tokens + 1.0) / 2 * heads * config.HeadDim;
        double attention = pairs * ((4 * ((2 * layers) + last - first + 1)) + (10 * (layers - 1 + last - (2 * first))));

        double expected = weights + head + terms, counted = work.Ops.Where(o => o.Key.Family == OpFamily.MatMul).Sum(o => o.Key.Flops * o.Value);
        Assert.InRange(counted, (1 - Within) * expected, (1 + Within) * expected);
        double looked = work.Ops.Where(o => o.Key.Family == OpFamily.Attention).Sum(o => o.Key.Flops * o.Value);
        Assert.InRange(looked, (1 - Within) * attention, (1 + Within) * attention);
        foreach (LossLayer l in loss)
            l.Dispose();
    }

    [Theory]
    [InlineData(16)]
    [InlineData(300)]
    public void A_token_reads_every_weight_and_every_key_and_value_once(int context)
    {
        ModelConfig config = Config(4, 64, 4, 2);
        var dry = new DryBackend();
        using var device = new Device(dry);
        using DecoderModel model = ModelLoader.Load(device, config, new ModelInitialiser(config, 1));
        using var cache = new KvCache(device, config, 1, context, [0]);
        cache.Advance(context - 1);
        dry.TakeTally();
        using (var tape = new Tape(device, record: false))
            model.Logits(tape, model.Forward(new ForwardContext(tape, new TokenBatch(1, 1, [1], [0]), cache)));

        double weights = 4.0 * (model.Linears.Values.Sum(l => (long)l.Inputs * l.Outputs) + ((long)config.VocabSize * config.HiddenSize));
        double cached = 4.0 * 2 * config.NumLayers * context * config.NumKvHeads * config.HeadDim;
        OpTally token = dry.TakeTally();
        // Beside them vectors of one token.
        double vectors = 4.0 * ((config.NumLayers * 8 * (config.HiddenSize + config.IntermediateSize)) + config.VocabSize + config.HiddenSize);
        Assert.InRange(token.BytesOf(OpFamily.MatMul), weights, weights + vectors);
        Assert.InRange(token.BytesOf(OpFamily.Attention), cached, cached + vectors);
    }

    private static ModelConfig Config(int layers, int hidden, int heads, int kvHeads) => new()
    {
        ModelType = "llama",
        VocabSize = 5000,
        HiddenSize = hidden,
        IntermediateSize = 3 * hidden,
        NumLayers = layers,
        NumHeads = heads,
        NumKvHeads = kvHeads,
        HeadDim = 32,
        MaxPositions = 512,
        NormEps = 1e-5f,
        Rope = new RopeSpec(10000, null),
        RotaryDim = 32,
        Windows = new int[layers],
        AttentionScale = 0.17f,
        TiedHead = true,
    };
}
