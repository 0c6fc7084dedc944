using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Kernels.Dry;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>
/// What a run will need, found by running its own code over a backend that counts and computes nothing: the model's
/// and adapter's sizes, the tokenised texts and one step of every shape of batch are real.
/// </summary>
public sealed record RunPlan
{
    // Of 64-bit sums in the decomposition of a weight, per element and singular direction; see docs/svd.md.
    private const double SvdFlopsPerElement = 60;

    // Batches whose texts are looked at for what they share; a run of more is judged by its first epochs.
    private const int MostBatches = 1000;

    /// <summary>Bytes of the model's weights.</summary>
    public required long WeightBytes { get; init; }

    /// <summary>Bytes of the adapter: bases, parameters, moments, loss directions.</summary>
    public required long AdapterBytes { get; init; }

    /// <summary>The largest number of bytes that the run takes from the device: weights, adapter, activations and gradients.</summary>
    public required long PeakBytes { get; init; }

    /// <summary>Training pairs.</summary>
    public required int TrainPairs { get; init; }

    /// <summary>Validation pairs.</summary>
    public required int ValidationPairs { get; init; }

    /// <summary>Tokens of the longest text.</summary>
    public required int LongestText { get; init; }

    /// <summary>Batches of the whole run.</summary>
    public required int Batches { get; init; }

    /// <summary>Adapted layers.</summary>
    public required int Layers { get; init; }

    /// <summary>Trained values.</summary>
    public required long Parameters { get; init; }

    /// <summary>The ops of the training.</summary>
    public required OpTally Work { get; init; }

    /// <summary>Floating-point operations, in double, of the singular vectors; an estimate.</summary>
    public required double SvdFlops { get; init; }

    /// <summary>Predicts a run; what is wrong with the settings is found here as the run would find it.</summary>
    public static RunPlan Predict(RunSettings settings)
    {
        TrainConfig config = settings.Train;
        config.Validate();
        var dry = new DryBackend();
        using var device = new Device(dry);
        using ModelBundle bundle = ModelBundle.Load(device, settings.Model, settings.Storage);
        DecoderModel model = bundle.Model;
        long weights = device.Pool.InUse;
        (PairData train, PairData? validation) = new PairData(TrainRun.Pairs(bundle, settings), bundle.PadId).Split(config.ValidationSplit, config.Seed);
        using IAdapter adapter = TrainRun.MakeAdapter(model, config);
        using ITrainingObjective objective = Objective(model, adapter, config);
        using var optimiser = new AdamW(adapter.Parameters, weightDecay: config.WeightDecay);
        long resident = device.Pool.InUse - weights;

        int perBatch = config.BatchSize / 2;
        int[][] epoch = [.. train.Order(0, config.Shuffle, config.Seed).Chunk(perBatch)];
        int epochs = Math.Min(config.Epochs, Math.Max(1, MostBatches / epoch.Length));
        int[][] seen = [.. epoch, .. Enumerable.Range(1, epochs - 1).SelectMany(e => train.Order(e, config.Shuffle, config.Seed).Chunk(perBatch))];
        int[][] held = validation is null ? [] : [.. Enumerable.Range(0, validation.Pairs.Count).Chunk(perBatch)];
        int batches = checked(epoch.Length * config.Epochs);
        var work = new OpTally();
        foreach (IGrouping<(int, int), int[]> shape in seen.GroupBy(p => Shape(train, p)).OrderByDescending(g => g.Key.Item2).ThenByDescending(g => g.Key.Item1))
        {
            (int[] middle, int[] largest) = BySize(train, shape);
            Step(train, largest, backward: true);
            Add(Cost(train, middle, backward: true), Cost(train, middle, backward: false), (double)shape.Count() / epochs);
        }
        foreach (IGrouping<(int, int), int[]> shape in held.GroupBy(p => Shape(validation!, p)))
        {
            OpTally forward = Cost(validation!, BySize(validation!, shape).Middle, backward: false);
            Add(forward, forward, shape.Count());
        }
        return new RunPlan
        {
            WeightBytes = weights,
            AdapterBytes = resident,
            PeakBytes = device.Pool.PeakReserved,
            TrainPairs = train.Pairs.Count,
            ValidationPairs = validation?.Pairs.Count ?? 0,
            LongestText = train.LongestText,
            Batches = batches,
            Layers = adapter.Modules.Count,
            Parameters = adapter.ParameterCount,
            Work = work,
            SvdFlops = adapter is SvdAdapter svd ? svd.Layers.Values.Sum(l => SvdFlopsPerElement * l.U.Rows * l.V.Rows * config.Adapter.Rank) : 0,
        };

        // The base model's values are computed once per batch: a pass with one copy of each row where a step has two.
        // AntiPaSTO's step computes them each time, which its cost includes.
        void Add(OpTally step, OpTally forward, double count)
        {
            work.Add(step, count * config.Epochs);
            work.Add(forward, config.AntiPasto is null ? 0.5 * count : 0);
        }

        // The first run fills the cache of base values, the second is what an epoch costs.
        OpTally Cost(PairData data, int[] pairs, bool backward)
        {
            Step(data, pairs, backward);
            dry.TakeTally();
            Step(data, pairs, backward);
            return dry.TakeTally();
        }

        void Step(PairData data, int[] pairs, bool backward)
        {
            objective.Run(data, data.Batch(pairs), pairs, 0, batches, backward);
            if (!backward)
                return;
            if (config.ClipNorm > 0)
                optimiser.ClipGradNorm(config.ClipNorm);
            optimiser.Step(config.LearningRate);
            optimiser.ZeroGrad();
        }
    }

    /// <summary>Seconds of the training at these rates.</summary>
    public double TrainingSeconds(DeviceRate rate) => Work.Seconds(rate.FlopsPerSecond, rate.BytesPerSecond);

    /// <summary>Seconds of the singular vectors; double arithmetic runs at half the rate.</summary>
    public double SvdSeconds(DeviceRate rate) => SvdFlops / (rate.FlopsPerSecond / 2);

    private static (int Length, int Rows) Shape(PairData data, int[] pairs) =>
        (pairs.Max(i => Math.Max(data.Pairs[i].Positive.Length, data.Pairs[i].Negative.Length)), pairs.Length);

    // Batches of one shape differ in what their texts share: the one in the middle says what such a batch costs, the largest what memory it takes.
    private static (int[] Middle, int[] Largest) BySize(PairData data, IEnumerable<int[]> batches)
    {
        int[][] sorted = [.. batches.OrderBy(pairs => SharedPrefixes.Of(data.Batch(pairs)).Computed)];
        return (sorted[sorted.Length / 2], sorted[^1]);
    }

    // The run's own objective with zeros for what it would read off the weights and texts.
    private static ITrainingObjective Objective(DecoderModel model, IAdapter adapter, TrainConfig config)
    {
        Device device = model.Device;
        if (config.AntiPasto is { } anti)
        {
            int block = Math.Clamp((int)(config.LossBlockFraction * model.Config.NumLayers), 0, model.Config.NumLayers - 1);
            Tensor subspace = new(device, DType.F32, model.Config.HiddenSize, config.SubspaceRank > 0 ? config.SubspaceRank : Math.Min(256, model.Config.HiddenSize / 2));
            return new AntiPastoObjective(new AntiPastoStep(model, adapter, block, subspace, anti) { CheckpointBlocks = config.CheckpointActivations }, subspace, model.Blocks[block].Path);
        }
        LossLayer[] layers = [.. LossLayers.Select(model, adapter.Modules).Select(name =>
        {
            int outputs = model.Linears[name].Outputs;
            var direction = new Tensor(device, DType.F32, outputs, 1);
            return !config.FullLossU && adapter is SvdAdapter svd && svd.Layers.TryGetValue(name, out SvdLayer? layer)
                ? new LossLayer(name, direction, null, new Tensor(device, DType.F32, outputs, layer.U.Cols))
                : new LossLayer(name, direction, new Tensor(device, DType.F32, outputs, 1), null);
        })];
        return new ContrastiveObjective(new ContrastiveStep(model, adapter, layers, config.Loss) { CheckpointBlocks = config.CheckpointActivations, MicroBatchRows = config.MicroBatchSize, MeasureCoherence = config.MeasureCoherence }, layers);
    }
}
