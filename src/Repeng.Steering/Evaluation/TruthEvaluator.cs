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
public readonly record struct ChoiceResult(string Key, double LogOdds, double Mass)
{
    /// <summary>Mean negative log-probability, in nats a token, of the prompt's own tokens from the second on; NaN where it was not measured.</summary>
    public double InputNll { get; init; } = double.NaN;

    /// <summary>Which of several draws of an answer this is, from 0.</summary>
    public int Draw { get; init; }

    /// <summary>What became of the thoughts before the answer; null where none were looked for.</summary>
    public Thought? Thought { get; init; }
}

/// <summary>Log-odds of true against false completions, each question at each coefficient.</summary>
public sealed class TruthEvaluator(DecoderModel model, int batchSize = 64)
{
    /// <summary>Also measure how well the steered model predicts the prompts themselves.</summary>
    public bool MeasureInput { get; init; }

    /// <summary>For searches over c: a coefficient that makes logits infinite gives NaN rather than an error.</summary>
    public bool AllowInfinite { get; init; }

    /// <summary>Where steering begins late: what does not change is run once a batch.</summary>
    public PlainPrefix? Prefix { get; init; }

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
        SharedPrefixes texts = SharedPrefixes.Of(TokenBatch.Pad([.. items.Select(i => i.Prompt)], 0));
        using var tape = new Tape(model.Device, record: false);
        ForwardContext context = steering.Context(tape, texts, c, Prefix);
        Tensor hidden = model.Forward(context);
        float[] logits = model.Logits(context, hidden, texts.RowsFromEnd(1)).ToArray();
        int v = model.Config.VocabSize;
        double[] input = InputNll(context, hidden, texts, [.. Enumerable.Range(0, items.Length)], [.. items.Select(i => i.Prompt.Length)]);
        return [.. items.Select((item, b) =>
        {
            ReadOnlySpan<float> row = logits.AsSpan(b * v, v);
            Require(steering, c, row, item.Prompt);
            double all = LogSumExp(row.ToArray().Select(x => (double)x));
            var copy = row.ToArray();
            return Result(item, item.True.Select(t => copy[t[0]] - all), item.False.Select(t => copy[t[0]] - all)) with { InputNll = input[b] };
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
        SharedPrefixes texts = SharedPrefixes.Of(tokens);
        using var tape = new Tape(model.Device, record: false);
        ForwardContext context = steering.Context(tape, texts, c, Prefix);
        Tensor hidden = model.Forward(context);
        var labels = new LabelSet();
        int[][] places = [.. Enumerable.Range(0, rows.Count).Select(r => labels.Add(texts, r, tokens.Starts[r] + spans[r].Start, tokens.Starts[r] + spans[r].Start + spans[r].Count - 1))];
        float[] logProb = labels.LogProb(model, context, hidden).ToArray();
        var sums = new double[rows.Count];
        for (int r = 0; r < rows.Count; r++)
        {
            float[] own = [.. places[r].Select(place => logProb[place])];
            Require(steering, c, own, rows[r]);
            foreach (float x in own)
                sums[r] += x;
        }
        // Completions of an item follow each other; the first of them stands for its prompt.
        int[] firstRows = new int[items.Length];
        for (int i = 1; i < items.Length; i++)
            firstRows[i] = firstRows[i - 1] + items[i - 1].True.Count + items[i - 1].False.Count;
        double[] input = InputNll(context, hidden, texts, firstRows, [.. items.Select(i => i.Prompt.Length)]);
        int next = 0;
        return [.. items.Select((item, i) =>
        {
            double[] own = sums[next..(next += item.True.Count + item.False.Count)];
            return Result(item, own.Take(item.True.Count), own.Skip(item.True.Count)) with { InputNll = input[i] };
        })];
    }

    // Of the first `lengths` tokens of each row; a prompt of one token predicts nothing.
    private double[] InputNll(ForwardContext context, Tensor hidden, SharedPrefixes texts, int[] rows, int[] lengths)
    {
        var result = new double[rows.Length];
        Array.Fill(result, double.NaN);
        if (!MeasureInput)
            return result;
        var labels = new LabelSet();
        int[][] places = [.. rows.Select((r, i) => labels.Add(texts, r, texts.Texts.Starts[r] + 1, texts.Texts.Starts[r] + lengths[i] - 1))];
        if (labels.Count == 0)
            return result;
        float[] logProb = labels.LogProb(model, context, hidden).ToArray();
        for (int i = 0; i < rows.Length; i++)
            if (places[i].Length > 0)
                result[i] = -places[i].Average(place => (double)logProb[place]);
        return result;
    }

    private void Require(Generation.Steering steering, float c, ReadOnlySpan<float> values, int[] ids)
    {
        if (!AllowInfinite || c == 0)
            FiniteLogits.Require(model, steering, c, values, ids);
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
