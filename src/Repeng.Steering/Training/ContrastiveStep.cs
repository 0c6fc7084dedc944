using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>What the base model gives for a batch; computed once per text and kept.</summary>
/// <param name="Separation">Per loss layer, s_ref of each pair.</param>
/// <param name="LogProb">Label log-probabilities [rows, labels] of the window, in the order of the rows.</param>
public sealed record Reference(float[][] Separation, float[] LogProb);

/// <summary>Metrics of one coefficient and one loss layer, named as upstream's.</summary>
public readonly record struct LossRow(
    float C, string Layer, double LossProj, double LossCoherence, double LossTotal, double LogpDegradation, double ProbRatio,
    double ProjPi, double ProjRef, double SeparationNorm)
{
    /// <summary>Further metrics of an objective that has its own (<see cref="ITrainingObjective.Metrics"/>), by name.</summary>
    public IReadOnlyDictionary<string, double>? Metrics { get; init; }

    /// <summary>Weighted means of batches whose rows have the same coefficients and layers in the same order.</summary>
    public static LossRow[] Mean(IReadOnlyList<(IReadOnlyList<LossRow> Rows, double Weight)> batches)
    {
        double sum = batches.Sum(b => b.Weight);
        return [.. batches[0].Rows.Select((row, i) =>
        {
            double Of(Func<LossRow, double> value) => batches.Sum(b => value(b.Rows[i]) * b.Weight) / sum;
            return new LossRow(row.C, row.Layer, Of(r => r.LossProj), Of(r => r.LossCoherence), Of(r => r.LossTotal), Of(r => r.LogpDegradation), Of(r => r.ProbRatio), Of(r => r.ProjPi), Of(r => r.ProjRef), Of(r => r.SeparationNorm))
            {
                Metrics = row.Metrics?.Keys.ToDictionary(m => m, m => Of(r => r.Metrics![m])),
            };
        })];
    }
}

/// <summary>Outcome of one training step.</summary>
public sealed record StepResult(double Total, IReadOnlyList<LossRow> Rows);

/// <summary>
/// Forward and backward of the contrastive loss for one batch of pairs, one coefficient after the other; gradients add up in the adapter's
/// parameters. What texts of the batch begin with alike runs once (<see cref="SharedPrefixes"/>).
/// </summary>
public sealed class ContrastiveStep(DecoderModel model, IAdapter adapter, IReadOnlyList<LossLayer> layers, ContrastiveLossConfig config)
{
    private readonly int _lastLossBlock = layers.Max(l => model.Blocks.First(b => b.Linears.Any(m => m.Path == l.Module)).Index);

    /// <summary>Run each block again in the backward pass instead of keeping its activations.</summary>
    public bool CheckpointBlocks { get; init; }

    /// <summary>
    /// Rows of a batch, two a pair, that run together, backward pass included; null for all. Every loss and metric is a mean over pairs, so
    /// that gradients stay those of the whole batch, but for the order of sums, while activations are those of fewer rows.
    /// </summary>
    public int? MicroBatchRows { get; init; }

    /// <summary>Run beginnings that texts of a batch share once; without it each text by itself, for comparisons.</summary>
    public bool SharePrefixes { get; init; } = true;

    /// <summary>Compute the mean norm of the separations, a metric that costs a copy of the tapped rows.</summary>
    public bool MeasureSeparationNorm { get; init; } = true;

    /// <summary>Measure degradation even when no coherence term needs it; without it the blocks after the last loss layer are not run.</summary>
    public bool MeasureCoherence { get; init; } = true;

    private bool NeedsLogProb => MeasureCoherence || config.Coherence != CoherenceLoss.None;

    /// <summary>Labels scored in each row of a batch.</summary>
    public int LabelsPerRow(TokenBatch batch) => NeedsLogProb ? Math.Min(config.LastTokens ?? batch.Length, batch.Length) - 1 : 0;

    /// <summary>The base model's separations and label log-probabilities for a batch of pairs.</summary>
    public Reference ComputeReference(TokenBatch batch)
    {
        using var tape = new Tape(model.Device, record: false);
        SharedPrefixes texts = Merged(batch);
        var window = new PairWindow(texts, config.LastTokens, PairMask.Union);
        var context = new ForwardContext(tape, texts) { Capture = IsTap, LastBlock = NeedsLogProb ? null : _lastLossBlock };
        Tensor hidden = model.Forward(context);
        float[][] separation = [.. layers.Select(l => ContrastiveLoss.Separation(tape, config, context.Outputs[l.Module], window, 0, l.Direction).ToArray())];
        float[] logProb = [];
        if (NeedsLogProb)
        {
            (int[] index, int[] labels, _) = window.Labels(0, [.. Enumerable.Range(0, batch.Batch)]);
            logProb = LogProb(tape, hidden, index, labels).ToArray();
        }
        return new Reference(separation, logProb);
    }

    /// <summary>Losses and metrics for the coefficients; with backward, gradients are added to the adapter's parameters.</summary>
    /// <remarks>
    /// The coefficients' losses do not depend on each other, so that one is done, backward pass included, before the next
    /// begins: activations of one coefficient exist at a time. What enters the first adapted block is computed once for all.
    /// </remarks>
    public StepResult Run(TokenBatch batch, Reference reference, ReadOnlySpan<float> coefficients, bool backward = true)
    {
        int first = Math.Min(adapter.FirstBlock, layers.Min(l => BlockOf(l.Module))), pairs = batch.Batch / 2, most = (MicroBatchRows ?? batch.Batch) / 2;
        double total = 0;
        var parts = new List<(IReadOnlyList<LossRow>, double)>();
        for (int at = 0; at < pairs; at += most)
        {
            int count = Math.Min(most, pairs - at);
            TokenBatch part = count == pairs ? batch : batch.Select([.. Enumerable.Range(2 * at, 2 * count)]);
            SharedPrefixes texts = Merged(part);
            var window = new PairWindow(texts, config.LastTokens, PairMask.Union);
            Reference of = count == pairs ? reference : Slice(reference, at, count, pairs);
            double weight = (double)count / pairs;
            using var shared = new Tape(model.Device, record: false);
            Tensor? entry = first == 0 ? null : model.Forward(new ForwardContext(shared, texts) { LastBlock = first - 1 });
            var rows = new List<LossRow>();
            foreach (float c in coefficients)
                total += weight * Run(texts, window, entry, first, of, c, rows, weight, backward);
            parts.Add((rows, weight));
        }
        return new StepResult(total, parts.Count == 1 ? parts[0].Item1 : [.. LossRow.Mean(parts).Select(r => r with { ProbRatio = Math.Exp(-r.LogpDegradation) })]);
    }

    private SharedPrefixes Merged(TokenBatch batch) => SharePrefixes ? SharedPrefixes.Of(batch) : SharedPrefixes.Plain(batch);

    private static Reference Slice(Reference whole, int first, int count, int pairs)
    {
        int perPair = whole.LogProb.Length / pairs;
        return new Reference([.. whole.Separation.Select(s => s[first..(first + count)])], whole.LogProb[(first * perPair)..((first + count) * perPair)]);
    }

    private double Run(SharedPrefixes texts, PairWindow window, Tensor? entry, int first, Reference reference, float c, List<LossRow> rows, double weight, bool backward)
    {
        using var tape = new Tape(model.Device, record: backward);
        IAdapterPass pass = Pass(tape, texts, c);
        var context = new ForwardContext(tape, texts)
        {
            Adapter = pass,
            Capture = IsTap,
            CheckpointBlocks = CheckpointBlocks,
            Hidden = entry,
            FirstBlock = first,
            LastBlock = _lastLossBlock,
        };
        Tensor hidden = model.Forward(context);
        (Tensor? term, Tensor value, Tensor lost)? coherence = NeedsLogProb ? Coherence(tape, hidden, pass, texts, window, reference, c) : null;
        double degradation = coherence?.lost.Item() ?? double.NaN;
        Tensor? total = null;
        for (int l = 0; l < layers.Count; l++)
        {
            LossLayer layer = layers[l];
            Tensor tap = context.Outputs[layer.Module];
            Tensor s = ContrastiveLoss.Separation(tape, config, tap, window, 0, layer.Direction);
            Tensor proj = ContrastiveLoss.SeparationTerm(tape, config, s, reference.Separation[l], c, layer.Gap);
            total = total is null ? proj : tape.Add(total, proj);
            double lossProj = proj.Item(), lossCoherence = 0, sum = lossProj;
            if (coherence is { } held)
            {
                // Upstream's log-sigmoid branch reports none where it is not part of the loss; its other branch measures it all the same.
                if (held.term is not null || config.Separation != SeparationLoss.LogSigmoid)
                    lossCoherence = held.value.Item();
                if (held.term is not null)
                {
                    total = tape.Add(total, held.term);
                    sum += held.term.Item();
                }
            }
            float norm = MeasureSeparationNorm ? ContrastiveLoss.SeparationNorm(tap, texts, 0, layer) : float.NaN;
            rows.Add(new LossRow(c, layer.Module, lossProj, lossCoherence, sum, degradation, Math.Exp(-degradation),
                s.ToArray().Average(), reference.Separation[l].Average(), norm));
        }
        double value = total!.Item();
        if (backward)
            tape.Backward(weight == 1 ? total : tape.Scale(total, (float)weight));
        return value;
    }

    private bool IsTap(string module) => layers.Any(l => l.Module == module);

    private Tensor LogProb(Tape tape, Tensor hidden, int[] index, int[] labels)
    {
        Tensor rows = model.HeadInput(tape, tape.GatherRows(hidden, tape.New(index, index.Length)));
        return tape.LabelLogProb(rows, model.Head, tape.New(labels, labels.Length), model.Config.LogitSoftCap).LogProb;
    }

    // Positive rows are held together at c > 0, negative ones at c < 0: those that steering moves along. Nothing reads the
    // other rows after the last loss layer, so that these blocks run without them.
    private (Tensor?, Tensor, Tensor) Coherence(Tape tape, Tensor hidden, IAdapterPass pass, SharedPrefixes texts, PairWindow window, Reference reference, float c)
    {
        int[] rows = window.Side(c > 0 ? 0 : 1);
        (SharedPrefixes alone, int[] kept) = texts.Select(rows);
        (int[] index, int[] labels, float[] weights) = window.Labels(0, rows, alone);
        int perRow = labels.Length / rows.Length;
        using Tape.Recorder recorder = tape.SaveRecording();
        if (config.Coherence == CoherenceLoss.None)
            recorder.Pause();
        hidden = tape.GatherRows(hidden, tape.New(kept, kept.Length));
        hidden = model.Forward(new ForwardContext(tape, alone)
        {
            Adapter = Pass(tape, alone, c, pass),
            CheckpointBlocks = CheckpointBlocks,
            Hidden = hidden,
            FirstBlock = _lastLossBlock + 1,
        });
        float[] of = [.. rows.SelectMany(r => reference.LogProb.AsSpan(r * perRow, perRow).ToArray())];
        return ContrastiveLoss.CoherenceTerm(tape, config, LogProb(tape, hidden, index, labels), of, weights, window.Pairs);
    }

    private IAdapterPass Pass(Tape tape, SharedPrefixes texts, float c, IAdapterPass? like = null) =>
        adapter.Pass(tape, [.. Enumerable.Repeat(c, texts.Tokens.Batch)], texts.Tokens.Length, like);

    private int BlockOf(string module) => model.Blocks.First(b => b.Linears.Any(m => m.Path == module)).Index;
}
