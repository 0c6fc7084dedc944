using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>A prompt with the completions that are true and those that are not, as token ids.</summary>
/// <param name="Key">Same for the same question under other prompts, for pairing.</param>
public sealed record ChoiceItem(string Key, int[] Prompt, IReadOnlyList<int[]> True, IReadOnlyList<int[]> False);

/// <summary>Outcome of one question: log P(true) − log P(false) in nats, and the probability of all its completions together.</summary>
public readonly record struct ChoiceResult(string Key, double LogOdds, double Mass);

/// <summary>Log-odds of true against false completions, each question at each coefficient.</summary>
public sealed class TruthEvaluator(DecoderModel model, int batchSize = 64)
{
    /// <summary>Scores every item at one coefficient; all rows are steered.</summary>
    public ChoiceResult[] Run(IReadOnlyList<ChoiceItem> items, Generation.Steering steering, float coefficient, Action<int>? progress = null)
    {
        var results = new ChoiceResult[items.Count];
        bool single = items.All(i => i.True.Concat(i.False).All(c => c.Length == 1));
        int step = single ? batchSize : Math.Max(1, batchSize / 8);
        for (int first = 0; first < items.Count; first += step)
        {
            ChoiceItem[] part = [.. items.Skip(first).Take(step)];
            ChoiceResult[] scored = single ? Single(part, steering, coefficient) : Several(part, steering, coefficient);
            scored.CopyTo(results, first);
            progress?.Invoke(first + part.Length);
        }
        return results;
    }

    private ChoiceResult[] Single(ChoiceItem[] items, Generation.Steering steering, float c)
    {
        TokenBatch tokens = TokenBatch.Pad([.. items.Select(i => i.Prompt)], 0);
        using var tape = new Tape(model.Device, record: false);
        Tensor hidden = model.Forward(steering.Context(tape, tokens, [.. Enumerable.Repeat(c, tokens.Batch)]));
        int[] last = [.. Enumerable.Range(0, tokens.Batch).Select(b => (b + 1) * tokens.Length - 1)];
        float[] logits = model.Logits(tape, tape.GatherRows(hidden, tape.New(last, last.Length))).ToArray();
        int v = model.Config.VocabSize;
        return [.. items.Select((item, b) =>
        {
            ReadOnlySpan<float> row = logits.AsSpan(b * v, v);
            double all = LogSumExp(row.ToArray().Select(x => (double)x));
            var copy = row.ToArray();
            return Result(item, item.True.Select(t => copy[t[0]] - all), item.False.Select(t => copy[t[0]] - all));
        })];
    }

    private ChoiceResult[] Several(ChoiceItem[] items, Generation.Steering steering, float c)
    {
        var rows = new List<int[]>();
        var spans = new List<(int Start, int Count)>();
        foreach (ChoiceItem item in items)
            foreach (int[] completion in item.True.Concat(item.False))
            {
                rows.Add([.. item.Prompt, .. completion]);
                spans.Add((item.Prompt.Length, completion.Length));
            }
        TokenBatch tokens = TokenBatch.Pad(rows, 0);
        using var tape = new Tape(model.Device, record: false);
        Tensor hidden = model.Forward(steering.Context(tape, tokens, [.. Enumerable.Repeat(c, tokens.Batch)]));
        var index = new List<int>();
        var labels = new List<int>();
        for (int r = 0; r < rows.Count; r++)
            for (int k = 0; k < spans[r].Count; k++)
            {
                index.Add(r * tokens.Length + tokens.Starts[r] + spans[r].Start + k - 1);
                labels.Add(rows[r][spans[r].Start + k]);
            }
        float[] logProb = tape.LabelLogProb(tape.GatherRows(hidden, tape.New(index.ToArray(), index.Count)), model.Head, tape.New(labels.ToArray(), labels.Count), model.Config.LogitSoftCap).LogProb.ToArray();
        var sums = new double[rows.Count];
        for (int r = 0, at = 0; r < rows.Count; r++)
            for (int k = 0; k < spans[r].Count; k++)
                sums[r] += logProb[at++];
        int next = 0;
        return [.. items.Select(item =>
        {
            double[] own = sums[next..(next += item.True.Count + item.False.Count)];
            return Result(item, own.Take(item.True.Count), own.Skip(item.True.Count));
        })];
    }

    private static ChoiceResult Result(ChoiceItem item, IEnumerable<double> right, IEnumerable<double> wrong)
    {
        double t = LogSumExp(right), f = LogSumExp(wrong);
        return new ChoiceResult(item.Key, t - f, Math.Exp(t) + Math.Exp(f));
    }

    private static double LogSumExp(IEnumerable<double> values)
    {
        double[] v = [.. values];
        double max = v.Max();
        return double.IsNegativeInfinity(max) ? max : max + Math.Log(v.Sum(x => Math.Exp(x - max)));
    }
}
