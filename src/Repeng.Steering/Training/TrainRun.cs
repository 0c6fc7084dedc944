using System.Text;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Training;

/// <summary>A run at the moment before its first batch.</summary>
/// <param name="Folder">Where it writes now; the folder is there.</param>
/// <param name="Name">Name of the folder that it will have in the end.</param>
/// <param name="Resumed">Whether it goes on with an earlier one.</param>
/// <param name="Step">Number of the first batch, from 0.</param>
/// <param name="Settings">What it is made from.</param>
/// <param name="Adapter">The adapter.</param>
/// <param name="LossLayers">Modules that the loss reads.</param>
public sealed record TrainRunStart(string Folder, string Name, bool Resumed, int Step, RunSettings Settings, IAdapter Adapter, IReadOnlyList<string> LossLayers);

/// <summary>Hears what a run is doing; every method may be left as it is. What it throws ends the run.</summary>
public class TrainRunListener
{
    /// <summary>A part of the preparation: its name, how much is done, of how much.</summary>
    public virtual void Preparing(string what, int done, int of)
    {
    }

    /// <summary>Everything is there, no batch is done: the moment to open what the run is written to. When it throws, a new run leaves no folder.</summary>
    public virtual void Open(TrainRunStart start)
    {
    }

    /// <summary>The adapter is made; training begins.</summary>
    public virtual void Begin(IAdapter adapter, IReadOnlyList<string> lossLayers, int trainPairs, int validationPairs, int batches)
    {
    }

    /// <summary>A batch is done.</summary>
    public virtual void Batch(TrainingProgress progress)
    {
    }
}

/// <summary>Several listeners, asked in their order.</summary>
public sealed class TrainRunListeners(params IReadOnlyList<TrainRunListener> listeners) : TrainRunListener
{
    /// <inheritdoc/>
    public override void Preparing(string what, int done, int of)
    {
        foreach (TrainRunListener l in listeners)
            l.Preparing(what, done, of);
    }

    /// <inheritdoc/>
    public override void Open(TrainRunStart start)
    {
        foreach (TrainRunListener l in listeners)
            l.Open(start);
    }

    /// <inheritdoc/>
    public override void Begin(IAdapter adapter, IReadOnlyList<string> lossLayers, int trainPairs, int validationPairs, int batches)
    {
        foreach (TrainRunListener l in listeners)
            l.Begin(adapter, lossLayers, trainPairs, validationPairs, batches);
    }

    /// <inheritdoc/>
    public override void Batch(TrainingProgress progress)
    {
        foreach (TrainRunListener l in listeners)
            l.Batch(progress);
    }
}

/// <summary>A finished or stopped run. Owns the adapter.</summary>
public sealed record TrainOutcome(IAdapter Adapter, TrainingEnd End, SignReport? Sign, string Folder, IReadOnlyList<string> LossLayers, LoopState State) : IDisposable
{
    /// <inheritdoc/>
    public void Dispose() => Adapter.Dispose();
}

/// <summary>The whole training of an adapter: texts, bases, direction, loop, sign, files.</summary>
public static class TrainRun
{
    /// <summary>File of the settings in a run's folder.</summary>
    public const string SettingsName = "training_config.json";

    /// <summary>Texts of the settings as token pairs, at most MaxPairs of them.</summary>
    public static List<TokenPair> Pairs(ModelBundle bundle, RunSettings settings)
    {
        List<TextPair> texts = PairTexts.Make(bundle, settings.Template, [.. settings.Personas.Select(p => (p.Positive, p.Negative))], settings.Suffixes, settings.Thinking);
        if (settings.MaxPairs > 0 && settings.MaxPairs < texts.Count)
            texts = PairTexts.Sample(texts, settings.MaxPairs, settings.Train.Seed, 0);
        return PairTexts.Encode(bundle, texts, Math.Min(settings.MaxTokens, bundle.Model.Config.MaxPositions));
    }

    /// <summary>
    /// Runs to the end, or until asked to stop. The folder is the final one of a new run, or with resume the
    /// unfinished one. On a stop the folder stays unfinished and can be resumed; on an error it keeps the last checkpoint.
    /// </summary>
    public static TrainOutcome Execute(ModelBundle bundle, RunSettings settings, string folder, bool resume, TrainRunListener listener, CancellationToken stop)
    {
        TrainConfig config = settings.Train;
        config.Validate();
        DecoderModel model = bundle.Model;
        (PairData train, PairData? validation) = new PairData(Pairs(bundle, settings), bundle.PadId).Split(config.ValidationSplit, config.Seed);
        // Everything that the settings can be wrong about is found before the folder exists.
        SvdAdapter.Match(model, config.TargetModules);
        IAdapter adapter = MakeAdapter(model, config, (done, of) => listener.Preparing("singular vectors", done, of));
        ITrainingObjective? objective = null;
        RunFolder? run = null;
        try
        {
            objective = MakeObjective(model, adapter, config, train, listener);
            using var loop = new TrainingLoop(adapter, objective, config, train, validation);
            if (resume)
                Checkpoint.Load(folder, loop, adapter);
            run = resume ? RunFolder.Reopen(folder, loop.State.Step, objective.Metrics) : RunFolder.Create(folder, objective.Metrics);
            string json = settings.ToJson();
            if (!resume)
                AtomicFile.Write(Path.Combine(run.Path, SettingsName), s => s.Write(Encoding.UTF8.GetBytes(json)));
            IReadOnlyList<string> names = objective.LossLayers;
            Open(new TrainRunStart(run.Path, Path.GetFileName(run.FinalPath), resume, loop.State.Step, settings, adapter, names), run, listener);
            listener.Begin(adapter, names, train.Pairs.Count, validation?.Pairs.Count ?? 0, loop.TotalBatches);
            RunFolder open = run;
            TrainingEnd end = loop.Run(
                p =>
                {
                    open.Log(p);
                    listener.Batch(p);
                }, new Files(open, loop, adapter, json), stop);
            if (end == TrainingEnd.Stopped)
                return new TrainOutcome(adapter, end, null, run.Path, names, loop.State);
            SignReport? sign = config.CalibrateSign ? SignCalibration.Run(model, adapter, validation ?? train) : null;
            adapter.Save(run.Path, settings.Model);
            run.Finish();
            return new TrainOutcome(adapter, end, sign, run.Path, names, loop.State);
        }
        catch
        {
            adapter.Dispose();
            throw;
        }
        finally
        {
            run?.Dispose();
            objective?.Dispose();
        }
    }

    private static void Open(TrainRunStart start, RunFolder run, TrainRunListener listener)
    {
        try
        {
            listener.Open(start);
        }
        catch when (!start.Resumed)
        {
            run.Abandon();
            throw;
        }
    }

    private sealed class Files(RunFolder folder, TrainingLoop loop, IAdapter adapter, string settings) : ILoopCheckpoints
    {
        public void Save()
        {
            folder.Flush();
            Checkpoint.KeepProven(folder.Path);
            Checkpoint.Save(folder.Path, loop, adapter, settings);
        }

        public void Prove() => Checkpoint.Prove(folder.Path);

        public void Discard() => Checkpoint.Discard(folder.Path);
    }

    /// <summary>A new adapter of the settings.</summary>
    public static IAdapter MakeAdapter(DecoderModel model, TrainConfig config, Action<int, int>? progress = null) =>
        config.Peft is { } peft ? PeftFactory.Create(model, peft) : SvdAdapter.Create(model, config.Adapter, progress);

    /// <summary>The loss of the settings, with directions or subspace from the training pairs (adapter off).</summary>
    public static ITrainingObjective MakeObjective(DecoderModel model, IAdapter adapter, TrainConfig config, PairData train, TrainRunListener listener)
    {
        if (config.AntiPasto is { } anti)
        {
            int block = Math.Clamp((int)(config.LossBlockFraction * model.Config.NumLayers), 0, model.Config.NumLayers - 1);
            Tensor subspace = new LossSubspaces(model, block, train, config.SubspaceRows, Math.Max(1, config.BatchSize / 2), listener.Preparing).Basis(config.LossSubspace, config.SubspaceRank, config.SubspaceEnergy);
            var step = new AntiPastoStep(model, adapter, block, subspace, anti) { CheckpointBlocks = config.CheckpointActivations };
            return new AntiPastoObjective(step, subspace, model.Blocks[block].Path);
        }
        LossLayer[] layers = MakeLossLayers(model, adapter, config, train, listener);
        return new ContrastiveObjective(new ContrastiveStep(model, adapter, layers, config.Loss)
        {
            CheckpointBlocks = config.CheckpointActivations,
            MicroBatchRows = config.MicroBatchSize,
            MeasureCoherence = config.MeasureCoherence,
        }, layers);
    }

    /// <summary>Loss layers by upstream's rule, with directions from the training pairs (adapter off).</summary>
    public static LossLayer[] MakeLossLayers(DecoderModel model, IAdapter adapter, TrainConfig config, PairData train, TrainRunListener listener)
    {
        string[] names = LossLayers.Select(model, adapter.Modules);
        int perBatch = Math.Max(1, config.BatchSize / 2), count = train.Pairs.Count;
        IEnumerable<TokenBatch> batches = train.ByLength(count, perBatch).Select(pairs => train.Batch(pairs));
        Dictionary<string, float[]> mean = MeanDifferences.Collect(model, names, batches, config.TokenFromEnd, done => listener.Preparing("steering direction", done, count));
        return [.. names.Select(n => !config.FullLossU && adapter is SvdAdapter svd && svd.Layers.TryGetValue(n, out SvdLayer? layer)
            ? LossLayers.OnAdapterBasis(model, layer, mean[n])
            : LossLayers.OnFullBasis(model, n, mean[n]))];
    }
}
