using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>Outcome of one AntiPaSTO step: the total and its parts (projection, coherence at +1 and −1, order), averaged over pairs.</summary>
public sealed record AntiPastoResult(double Total, double Projection, double CoherencePlus, double CoherenceMinus, double Monotone, double DeltaPlus, double DeltaMinus, bool Forward)
{
    /// <summary>Upstream's metrics (<see cref="AntiPastoMetrics.Names"/>) at c = −1 (0) and c = +1 (1).</summary>
    public required IReadOnlyDictionary<string, double>[] Metrics { get; init; }
}

/// <summary>
/// Forward and backward of AntiPaSTO's loss for one batch of pairs: c = −1 and +1 stacked in one pass, the base model
/// in another; what texts of the batch begin with alike runs once a coefficient (<see cref="SharedPrefixes"/>). The loss reads the residual stream after a block, projected on a frozen orthonormal basis.
/// </summary>
/// <param name="model">The base model.</param>
/// <param name="adapter">Trained in place: gradients add up in its parameters.</param>
/// <param name="lossBlock">Block whose output is read.</param>
/// <param name="subspace">Basis [d, k].</param>
/// <param name="config">Weights and thresholds.</param>
public sealed class AntiPastoStep(DecoderModel model, IAdapter adapter, int lossBlock, Tensor subspace, AntiPastoLossConfig config)
{
    private const int Minus = 0, Plus = 1;
    private readonly string _tap = model.Blocks[lossBlock].Path;

    /// <summary>Run each block again in the backward pass instead of keeping its activations.</summary>
    public bool CheckpointBlocks { get; init; }

    /// <summary>Run beginnings that texts of a batch share once; without it each text by itself, for comparisons.</summary>
    public bool SharePrefixes { get; init; } = true;

    /// <summary>Warm-up of the three ramps as AntiPaSTO counts it: see <see cref="AntiPastoLoss.Ramp"/>.</summary>
    public double WarmupFraction { get; init; } = -2;

    /// <summary>Part of the schedule that warms up.</summary>
    public double WarmupPct { get; init; } = 0.1;

    /// <summary>The loss at a step of the schedule; with backward, gradients are added to the adapter's parameters.</summary>
    public AntiPastoResult Run(TokenBatch batch, int step, int totalSteps, bool backward = true)
    {
        float ramp = AntiPastoLoss.Ramp(step, totalSteps, WarmupFraction, WarmupPct);
        using var tape = new Tape(model.Device, record: backward);
        SharedPrefixes texts = SharePrefixes ? SharedPrefixes.Of(batch) : SharedPrefixes.Plain(batch);
        var window = new PairWindow(texts, config.LastTokens, PairMask.Intersection);
        var whole = new PairWindow(texts, null, PairMask.Intersection);
        int pairs = window.Pairs;
        int[] chosen = whole.Side(0), rejected = whole.Side(1);

        // The frozen model.
        Base reference;
        using (Tape.Recorder recorder = tape.SaveRecording())
        {
            recorder.Pause();
            var off = new ForwardContext(tape, texts) { Capture = m => m == _tap };
            Tensor hidden = model.Forward(off);
            reference = new Base(tape, this, off.Outputs[_tap], hidden, window, whole);
        }

        int rows = texts.Tokens.Batch;
        float[] cs = [.. Enumerable.Repeat(-1f, rows), .. Enumerable.Repeat(1f, rows)];
        var context = new ForwardContext(tape, texts.Repeat(2))
        {
            Adapter = adapter.Pass(tape, cs, texts.Tokens.Length),
            Capture = m => m == _tap,
            CheckpointBlocks = CheckpointBlocks,
        };
        Tensor final = model.Forward(context);
        Tensor tap = context.Outputs[_tap];

        // Projection.
        Tensor full(int copy) => MeanDifference(tape, tap, window, copy);
        Tensor fullMinus = full(Minus), fullPlus = full(Plus);
        Tensor Change(Tensor x) => AntiPastoLoss.Norm(tape, tape.Subtract(x, reference.Full));
        float softness = 1 - ramp * (1 - config.FocusSoftness);
        Tensor projectedPlus = tape.MatMul(fullPlus, subspace), projectedMinus = tape.MatMul(fullMinus, subspace);
        Tensor changePlus = Change(fullPlus), changeMinus = Change(fullMinus);
        Tensor projection = AntiPastoLoss.Projection(tape, config, reference.Projected, projectedPlus, projectedMinus, changePlus, changeMinus, softness);

        // Label log-probabilities of every row; total variation where steering moves along: rejected at −1, chosen at +1.
        (int[] I, int[] L, float[] W) a = whole.Labels(Minus, rejected), b = whole.Labels(Plus, chosen), c = whole.Labels(Minus, chosen), d = whole.Labels(Plus, rejected);
        int labels = a.I.Length / pairs;
        HeadOutput along = Head(tape, final, [.. a.I, .. b.I], [.. a.L, .. b.L], reference.Along);
        HeadOutput across = Head(tape, final, [.. c.I, .. d.I], [.. c.L, .. d.L], null);
        Tensor total = tape.Mean(projection);
        double coherencePlus = 0, coherenceMinus = 0, order = 0;
        float[] weights = [.. a.W, .. b.W];
        if (config.Coherence)
        {
            float[] threshold = [.. reference.AlongEntropy.Select(h => AntiPastoLoss.Threshold(h, config.CoherenceThreshold, config.EntropyFloor))];
            Tensor barrier = AntiPastoLoss.Barrier(tape, along.TotalVariation!, threshold, config.CoherenceWeight * ramp);
            float[] counted = [.. weights.Select(w => w > 0 ? 1f : 0f)];
            Tensor perRow = AntiPastoLoss.Together(tape, tape.Reshape(barrier, 2 * pairs, labels), counted, BarrierMode.Mean, 1);
            float[] values = perRow.ToArray();
            (coherenceMinus, coherencePlus) = (values[..pairs].Average(), values[pairs..].Average());
            total = tape.Add(total, tape.Scale(tape.Sum(perRow), 1f / pairs));
        }

        // Change of the gap between chosen and rejected texts.
        Tensor alongMean = RowMeans(tape, along.LogProb, weights, labels), acrossMean = RowMeans(tape, across.LogProb, [.. c.W, .. d.W], labels);
        Tensor Half(Tensor x, int copy) => tape.Reshape(tape.SliceRows(tape.Reshape(x, 2, pairs), copy, 1), pairs);
        Tensor gapRef = tape.Constant(reference.Gap, pairs);
        Tensor deltaMinus = tape.Subtract(tape.Subtract(Half(acrossMean, Minus), Half(alongMean, Minus)), gapRef);
        Tensor deltaPlus = tape.Subtract(tape.Subtract(Half(alongMean, Plus), Half(acrossMean, Plus)), gapRef);
        bool forward = true;
        if (config.Monotone)
        {
            (Tensor ordered, forward, _, _) = AntiPastoLoss.Monotone(tape, config, deltaPlus, deltaMinus, reference.ChosenEntropy, config.MonotoneWeight * ramp);
            order = ordered.Item();
            total = tape.Add(total, ordered);
        }

        double loss = total.Item(), projected = projection.ToArray().Average();
        float[][] gap = [deltaMinus.ToArray(), deltaPlus.ToArray()];
        var result = new AntiPastoResult(loss, projected, coherencePlus, coherenceMinus, order, gap[Plus].Average(), gap[Minus].Average(), forward)
        {
            Metrics = AntiPastoMetrics.Compute(config, new AntiPastoBatch
            {
                Reference = reference.Projected.ToArray(),
                Projected = [projectedMinus.ToArray(), projectedPlus.ToArray()],
                FullChange = [changeMinus.ToArray(), changePlus.ToArray()],
                Softness = softness,
                LogProb = along.LogProb.ToArray(),
                ReferenceLogProb = reference.AlongLogProb,
                TotalVariation = config.Coherence ? along.TotalVariation!.ToArray() : [],
                Entropy = reference.AlongEntropy,
                Weights = weights,
                Gap = gap,
                ChosenEntropy = reference.ChosenEntropy,
                Coherence = [coherenceMinus, coherencePlus],
                Forward = forward,
                Losses = (projected, order, loss),
            }),
        };
        if (backward)
            tape.Backward(total);
        return result;
    }

    private HeadOutput Head(Tape tape, Tensor hidden, int[] index, int[] labels, ReferenceDistribution? reference) =>
        tape.LabelLogProb(model.HeadInput(tape, tape.GatherRows(hidden, tape.New(index, index.Length))), model.Head, tape.New(labels, labels.Length), model.Config.LogitSoftCap, reference);

    // Masked mean over the window of h⁺ − h⁻, [pairs, d].
    private static Tensor MeanDifference(Tape tape, Tensor tap, PairWindow window, int copy)
    {
        int rows = window.Tokens.Batch * window.Width, d = tap.Cols;
        Tensor h = tape.GatherRows(tap, tape.New(window.RowIndices(copy), rows));
        Tensor weighted = tape.Multiply(h, tape.Constant(window.DifferenceWeights(), rows), Kernels.Broadcast.OverCols);
        return tape.Sum(tape.Reshape(weighted, window.Pairs, 2 * window.Width, d), 1);
    }

    private static Tensor RowMeans(Tape tape, Tensor values, float[] weights, int labels)
    {
        Tensor weighted = tape.Multiply(values, tape.Constant(weights, weights.Length));
        return tape.Sum(tape.Reshape(weighted, weights.Length / labels, labels), 1);
    }

    /// <summary>What the frozen model gives for the batch.</summary>
    private sealed class Base
    {
        public Base(Tape tape, AntiPastoStep step, Tensor tap, Tensor hidden, PairWindow window, PairWindow whole)
        {
            Full = MeanDifference(tape, tap, window, 0);
            Projected = tape.MatMul(Full, step.Subspace);
            (int[] I, int[] L, float[] W) chosen = whole.Labels(0, whole.Side(0)), rejected = whole.Labels(0, whole.Side(1));
            int labels = chosen.I.Length / whole.Pairs;
            // Rejected rows first: the order of the copies −1, +1.
            int[] index = [.. rejected.I, .. chosen.I];
            Tensor rows = step.HeadInput(tape, tape.GatherRows(hidden, tape.New(index, index.Length)));
            int[] ids = [.. rejected.L, .. chosen.L];
            HeadOutput head = tape.LabelLogProb(rows, step.HeadWeight, tape.New(ids, ids.Length), step.SoftCap);
            Along = new ReferenceDistribution(rows, head.LogSumExp);
            AlongEntropy = tape.Entropy(rows, step.HeadWeight, head.LogSumExp, step.SoftCap).ToArray();
            AlongLogProb = head.LogProb.ToArray();
            float[] means = RowMeans(tape, head.LogProb, [.. rejected.W, .. chosen.W], labels).ToArray();
            Gap = [.. Enumerable.Range(0, whole.Pairs).Select(i => means[whole.Pairs + i] - means[i])];
            float[] entropy = AlongEntropy;
            ChosenEntropy = [.. Enumerable.Range(0, whole.Pairs).Select(i => Enumerable.Range(0, labels).Sum(j => chosen.W[i * labels + j] * entropy[(whole.Pairs + i) * labels + j]))];
        }

        public Tensor Full { get; }

        public Tensor Projected { get; }

        public ReferenceDistribution Along { get; }

        public float[] AlongEntropy { get; }

        public float[] AlongLogProb { get; }

        public float[] ChosenEntropy { get; }

        public float[] Gap { get; }
    }

    private Tensor Subspace => subspace;

    private Tensor HeadWeight => model.Head;

    private Tensor HeadInput(Tape tape, Tensor hidden) => model.HeadInput(tape, hidden);

    private float SoftCap => model.Config.LogitSoftCap;
}
