using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>KL(base ‖ steered) of next-token distributions over positions, in nats.</summary>
/// <param name="Positions">Number of positions.</param>
/// <param name="Mean">Mean.</param>
/// <param name="P95">95th percentile.</param>
/// <param name="Max">Largest.</param>
public readonly record struct KlStatistics(int Positions, double Mean, double P95, double Max)
{
    /// <summary>Of single positions.</summary>
    public static KlStatistics Of(IReadOnlyList<double> values) => new(values.Count, values.Average(), Percentile(values, 0.95), values.Max());

    /// <summary>Linear between order statistics at rank q·(n − 1), as NumPy's default; infinite values are the largest.</summary>
    public static double Percentile(IReadOnlyList<double> values, double q)
    {
        if (values.Count == 0 || q is < 0 or > 1 || values.Any(double.IsNaN))
            throw new ArgumentException($"the {q} quantile of {values.Count} values cannot be taken");
        double[] sorted = [.. values.Order()];
        double rank = q * (sorted.Length - 1);
        int low = (int)rank, high = Math.Min(low + 1, sorted.Length - 1);
        // Infinity less infinity is no number, and neither is 0 · ∞.
        return rank == low || sorted[low] == sorted[high] ? sorted[low] : sorted[low] + (rank - low) * (sorted[high] - sorted[low]);
    }
}

/// <summary>How far steering moves a model on neutral texts: at every token, KL of the next-token distribution of the plain model from that of the steered one.</summary>
public sealed class NeutralKl
{
    // Both logits of one piece stay below this many values.
    private const int ChunkValues = 1 << 22;

    // The plain model's logits are kept where all of them are not more than this many values: 64 MiB.
    private const int KeptValues = 1 << 24;

    private readonly DecoderModel _model;
    private readonly PlainPrefix? _prefix;
    private readonly int[][][] _batches;
    private readonly float[][] _base;
    private readonly Dictionary<(int Batch, int First), float[]>? _logits;

    /// <summary>Runs the plain model once. Throws <see cref="UserErrorException"/> for an empty list, or where the model's own logits are not finite.</summary>
    /// <param name="model">The model.</param>
    /// <param name="texts">The texts.</param>
    /// <param name="batchSize">Texts a batch.</param>
    /// <param name="prefix">Where steering begins late: what does not change is run once.</param>
    public NeutralKl(DecoderModel model, NeutralTexts texts, int batchSize = 8, PlainPrefix? prefix = null)
    {
        if (texts.Rows.Count == 0 || texts.Positions == 0)
            throw new UserErrorException("no neutral text: KL needs at least one token; give --neutral FILE with a text a line");
        (_model, Texts, _prefix) = (model, texts, prefix);
        _logits = (long)texts.Positions * model.Config.VocabSize <= KeptValues ? [] : null;
        // Texts of like length stand together, so that little is padded.
        _batches = [.. texts.Rows.OrderBy(r => r.Length).Chunk(batchSize)];
        _base = [.. _batches.Select(Plain)];
        if (_base.Any(h => h.Any(x => !float.IsFinite(x))))
            throw new UserErrorException($"{model.Source}: without any steering its hidden states on the neutral texts are not finite");
    }

    /// <summary>The texts.</summary>
    public NeutralTexts Texts { get; }

    /// <summary>Statistics at one coefficient.</summary>
    public KlStatistics Measure(Generation.Steering steering, float coefficient) => KlStatistics.Of(Positions(steering, coefficient));

    /// <summary>KL(base ‖ steered) at every token in nats, texts by rising length; infinite where the steered logits are not finite numbers.</summary>
    public double[] Positions(Generation.Steering steering, float coefficient)
    {
        var values = new List<double>(Texts.Positions);
        int v = _model.Config.VocabSize, step = Math.Max(1, ChunkValues / v);
        for (int b = 0; b < _batches.Length; b++)
        {
            using var tape = new Tape(_model.Device, record: false);
            (ForwardContext context, Tensor hidden, int[] real) = Forward(tape, _batches[b], steering, coefficient);
            for (int first = 0; first < real.Length; first += step)
            {
                int count = Math.Min(step, real.Length - first);
                using Tape.Scope scope = tape.BeginScope();
                float[] p = PlainLogits(tape, b, first, count);
                float[] q = _model.Logits(context, hidden, real[first..(first + count)]).ToArray();
                var part = new double[count];
                // A position's sum does not depend on which thread takes it.
                Parallel.For(0, count, new ParallelOptions { MaxDegreeOfParallelism = Math.Max(1, _model.Device.HostWorkers.Count) }, i => part[i] = Divergence(p.AsSpan(i * v, v), q.AsSpan(i * v, v)));
                values.AddRange(part);
            }
        }
        return [.. values];
    }

    /// <summary>Σ p·(ln p − ln q) of the softmax of two rows of logits, in double; infinite where q's are not finite.</summary>
    public static double Divergence(ReadOnlySpan<float> p, ReadOnlySpan<float> q)
    {
        double pMax = double.NegativeInfinity, qMax = double.NegativeInfinity;
        for (int i = 0; i < p.Length; i++)
        {
            if (!float.IsFinite(q[i]))
                return double.PositiveInfinity;
            (pMax, qMax) = (Math.Max(pMax, p[i]), Math.Max(qMax, q[i]));
        }
        double pSum = 0, qSum = 0, cross = 0;
        for (int i = 0; i < p.Length; i++)
        {
            double e = Math.Exp(p[i] - pMax);
            pSum += e;
            qSum += Math.Exp(q[i] - qMax);
            cross += e * (p[i] - pMax - (q[i] - qMax));
        }
        // Rounding may leave a little less than nothing where both are the same.
        return Math.Max(0, cross / pSum - Math.Log(pSum) + Math.Log(qSum));
    }

    // Many texts' logits are made again of the hidden states, which take a hundredth of the room.
    private float[] PlainLogits(Tape tape, int batch, int first, int count)
    {
        if (_logits is not null && _logits.TryGetValue((batch, first), out float[]? known))
            return known;
        int d = _model.Config.HiddenSize;
        float[] logits = _model.Logits(tape, tape.Constant(_base[batch].AsSpan(first * d, count * d), count, d)).ToArray();
        _logits?.Add((batch, first), logits);
        return logits;
    }

    // The pass, its hidden states after the final norm, and the rows of them that are real tokens.
    private (ForwardContext Context, Tensor Hidden, int[] Real) Forward(Tape tape, int[][] rows, Generation.Steering steering, float coefficient)
    {
        TokenBatch tokens = TokenBatch.Pad(rows, 0);
        // Texts without a common beginning.
        ForwardContext context = steering.Context(tape, SharedPrefixes.Plain(tokens), coefficient, _prefix);
        return (context, _model.Forward(context), [.. Enumerable.Range(0, tokens.Ids.Length).Where(i => tokens.IsReal(i / tokens.Length, i % tokens.Length))]);
    }

    private float[] Plain(int[][] rows)
    {
        using var tape = new Tape(_model.Device, record: false);
        (_, Tensor hidden, int[] real) = Forward(tape, rows, Generation.Steering.None, 0);
        return tape.GatherRows(hidden, tape.New(real, real.Length)).ToArray();
    }
}
