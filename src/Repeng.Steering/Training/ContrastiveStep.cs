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
}

/// <summary>Outcome of one training step.</summary>
public sealed record StepResult(double Total, IReadOnlyList<LossRow> Rows);

/// <summary>
/// Forward and backward of the contrastive loss for one batch of pairs: all coefficients stacked in one pass, each
/// row with its own c; gradients add up in the adapter's parameters.
/// </summary>
public sealed class ContrastiveStep(DecoderModel model, SvdAdapter adapter, IReadOnlyList<LossLayer> layers, ContrastiveLossConfig config)
{
    private readonly int _lastLossBlock = layers.Max(l => model.Blocks.First(b => b.Linears.Any(m => m.Path == l.Module)).Index);

    /// <summary>Run each block again in the backward pass instead of keeping its activations.</summary>
    public bool CheckpointBlocks { get; init; }

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
        var window = new PairWindow(batch, config.LastTokens, PairMask.Union);
        var context = new ForwardContext(tape, batch) { Capture = IsTap, LastBlock = NeedsLogProb ? null : _lastLossBlock };
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
    public StepResult Run(TokenBatch batch, Reference reference, ReadOnlySpan<float> coefficients, bool backward = true)
    {
        float[] cs = coefficients.ToArray();
        using var tape = new Tape(model.Device, record: backward);
        var window = new PairWindow(batch, config.LastTokens, PairMask.Union);
        TokenBatch stacked = batch.Repeat(cs.Length);
        IAdapterPass pass = adapter.Pass(tape, [.. cs.SelectMany(c => Enumerable.Repeat(c, batch.Batch))], batch.Length);
        var context = new ForwardContext(tape, stacked)
        {
            Adapter = pass,
            Capture = IsTap,
            CheckpointBlocks = CheckpointBlocks,
            LastBlock = NeedsLogProb ? null : _lastLossBlock,
            RecordThrough = config.Coherence == CoherenceLoss.None ? _lastLossBlock : null,
        };
        Tensor hidden = model.Forward(context);

        (Tensor? Term, Tensor Value, Tensor Degradation)[] coherence = NeedsLogProb ? Coherence(tape, hidden, window, reference, cs) : [];
        var rows = new List<(LossRow Row, Tensor Proj)>();
        Tensor? total = null;
        for (int k = 0; k < cs.Length; k++)
        {
            for (int l = 0; l < layers.Count; l++)
            {
                LossLayer layer = layers[l];
                Tensor tap = context.Outputs[layer.Module];
                Tensor s = ContrastiveLoss.Separation(tape, config, tap, window, k, layer.Direction);
                Tensor proj = ContrastiveLoss.SeparationTerm(tape, config, s, reference.Separation[l], cs[k], layer.Gap);
                total = total is null ? proj : tape.Add(total, proj);
                double lossProj = proj.Item(), lossCoherence = 0, degradation = double.NaN, sum = lossProj;
                if (coherence.Length > 0)
                {
                    (Tensor? term, Tensor value, Tensor lost) = coherence[k];
                    degradation = lost.Item();
                    // Upstream's log-sigmoid branch reports none where it is not part of the loss; its other branch measures it all the same.
                    if (term is not null || config.Separation != SeparationLoss.LogSigmoid)
                        lossCoherence = value.Item();
                    if (term is not null)
                    {
                        total = tape.Add(total, term);
                        sum += term.Item();
                    }
                }
                float norm = MeasureSeparationNorm ? ContrastiveLoss.SeparationNorm(tap, batch, k, layer) : float.NaN;
                rows.Add((new LossRow(cs[k], layer.Module, lossProj, lossCoherence, sum, degradation, Math.Exp(-degradation),
                    s.ToArray().Average(), reference.Separation[l].Average(), norm), proj));
            }
        }
        var result = new StepResult(total!.Item(), [.. rows.Select(r => r.Row)]);
        if (backward)
            tape.Backward(total);
        return result;
    }

    private bool IsTap(string module) => layers.Any(l => l.Module == module);

    private Tensor LogProb(Tape tape, Tensor hidden, int[] index, int[] labels)
    {
        Tensor rows = tape.GatherRows(hidden, tape.New(index, index.Length));
        return tape.LabelLogProb(rows, model.Head, tape.New(labels, labels.Length), model.Config.LogitSoftCap).LogProb;
    }

    // Positive rows are held together at c > 0, negative ones at c < 0: those that steering moves along.
    private (Tensor?, Tensor, Tensor)[] Coherence(Tape tape, Tensor hidden, PairWindow window, Reference reference, float[] cs)
    {
        var parts = cs.Select((c, k) => (Rows: window.Side(c > 0 ? 0 : 1), Labels: window.Labels(k, window.Side(c > 0 ? 0 : 1)))).ToArray();
        int each = parts[0].Labels.Index.Length, perRow = each / window.Pairs;
        Tensor all = LogProb(tape, hidden, [.. parts.SelectMany(p => p.Labels.Index)], [.. parts.SelectMany(p => p.Labels.Labels)]);
        Tensor matrix = tape.Reshape(all, cs.Length, each);
        return [.. parts.Select((p, k) =>
        {
            Tensor logProb = tape.Reshape(tape.SliceRows(matrix, k, 1), each);
            float[] of = [.. p.Rows.SelectMany(r => reference.LogProb.AsSpan(r * perRow, perRow).ToArray())];
            return ContrastiveLoss.CoherenceTerm(tape, config, logProb, of, p.Labels.Weights, window.Pairs);
        })];
    }
}
