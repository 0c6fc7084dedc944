using System.Text.RegularExpressions;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>
/// Scores answers that the steered model writes itself: the raw logits (before any processing for sampling) at the token
/// that completes the last "Final choice: Yes" or "Final choice: No" decide. An answer without one has no log-odds (NaN).
/// </summary>
/// <param name="bundle">Model and tokenizer.</param>
/// <param name="settings">How tokens are chosen; draw k of a question uses the seed plus k.</param>
/// <param name="maxNewTokens">Longest answer.</param>
/// <param name="draws">Answers to each question.</param>
/// <param name="batchSize">Answers that are written at once.</param>
public sealed partial class GeneratedAnswers(ModelBundle bundle, SamplingSettings settings, int maxNewTokens, int draws, int batchSize)
{
    /// <summary>What a question ends with.</summary>
    public const string Instruction = "Directly and immediately answer with, and only with, either \"Final choice: Yes\" or \"Final choice: No\".";

    /// <summary>Every question, every draw, at one coefficient. The items' completions are the single tokens that stand for the two answers.</summary>
    public ChoiceResult[] Run(IReadOnlyList<ChoiceItem> items, Generation.Steering steering, float coefficient, CancellationToken stop = default)
    {
        var results = new List<ChoiceResult>();
        var generator = new Generator(bundle.Model);
        for (int draw = 0; draw < draws; draw++)
            foreach (ChoiceItem[] part in items.Chunk(batchSize))
            {
                stop.ThrowIfCancellationRequested();
                // A row draws from the stream of its place in the batch; the seed tells batches and draws apart.
                SamplingSettings own = settings with { Seed = unchecked(settings.Seed + (ulong)draw + ((ulong)results.Count << 20)) };
                float[] cs = [.. Enumerable.Repeat(coefficient, part.Length)];
                int[][] answers = generator.Generate([.. part.Select(i => i.Prompt)], cs, steering, own, maxNewTokens, bundle.StopIds, bundle.PadId, stop: stop);
                stop.ThrowIfCancellationRequested();
                ChoiceResult[] scored = Score(part, answers, steering, coefficient);
                results.AddRange(scored.Select(r => r with { Draw = draw }));
            }
        return [.. results];
    }

    /// <summary>The log-odds of one answer to each item.</summary>
    public ChoiceResult[] Score(IReadOnlyList<ChoiceItem> items, IReadOnlyList<int[]> answers, Generation.Steering steering, float coefficient)
    {
        int?[] decisions = [.. answers.Select(a => BinaryLogRatio.DecisionToken(bundle.Tokenizer, a, Decision()))];
        int[] known = [.. Enumerable.Range(0, items.Count).Where(i => decisions[i] is not null)];
        ChoiceResult[] results = [.. items.Select(i => new ChoiceResult(i.Key, double.NaN, double.NaN))];
        if (known.Length == 0)
            return results;
        TokenBatch tokens = TokenBatch.Pad([.. known.Select(i => (int[])[.. items[i].Prompt, .. answers[i].AsSpan(0, decisions[i]!.Value)])], bundle.PadId);
        using var tape = new Tape(bundle.Model.Device, record: false);
        ForwardContext context = steering.Context(tape, tokens, [.. Enumerable.Repeat(coefficient, tokens.Batch)]);
        Tensor hidden = bundle.Model.Forward(context);
        int[] last = [.. Enumerable.Range(0, tokens.Batch).Select(b => (b + 1) * tokens.Length - 1)];
        float[] logits = bundle.Model.Logits(context, hidden, last).ToArray();
        int v = bundle.Model.Config.VocabSize;
        for (int b = 0; b < known.Length; b++)
        {
            ChoiceItem item = items[known[b]];
            FiniteLogits.Require(bundle.Model, steering, coefficient, logits.AsSpan(b * v, v), tokens.Row(b));
            (double ratio, double mass) = BinaryLogRatio.Measure(logits.AsSpan(b * v, v), [.. item.True.Select(t => t[0])], [.. item.False.Select(t => t[0])]);
            results[known[b]] = new ChoiceResult(item.Key, ratio, mass);
        }
        return results;
    }

    [GeneratedRegex("Final choice: (Yes|No)")]
    private static partial Regex Decision();
}
