using System.Text.RegularExpressions;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Tokenizers;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>
/// Scores answers that the steered model writes itself: the raw logits (before any processing for sampling) at the token
/// that completes the last "Final choice: Yes" or "Final choice: No" decide. An answer without one has no log-odds (NaN). Of a thinking model,
/// what counts stands behind the last closing tag; an answer whose block is still open at its end has no log-odds either, and says so.
/// </summary>
/// <param name="bundle">Model and tokenizer.</param>
/// <param name="settings">How tokens are chosen; draw k of a question uses the seed plus k.</param>
/// <param name="maxNewTokens">Longest answer, thoughts not counted.</param>
/// <param name="draws">Answers to each question.</param>
/// <param name="batchSize">Answers that are written at once.</param>
/// <param name="thinking">How thoughts are dealt with; null where the model writes none.</param>
public sealed partial class GeneratedAnswers(ModelBundle bundle, SamplingSettings settings, int maxNewTokens, int draws, int batchSize, ThinkingAnswers? thinking = null)
{
    /// <summary>What a question ends with.</summary>
    public const string Instruction = "Directly and immediately answer with, and only with, either \"Final choice: Yes\" or \"Final choice: No\".";

    /// <summary>What a question to a thinking model ends with.</summary>
    public const string ThinkingInstruction = "Think first, in a few words. Then answer with, and only with, either \"Final choice: Yes\" or \"Final choice: No\".";

    // What a forced answer begins with; the token after it decides.
    private const string Begun = "Final choice:";

    // Whether the prompt itself opens the block.
    private readonly bool _open = thinking is not null && bundle.Thinking?.OpensBlock(thinking.Tags, bundle.EnableThinking) == true;
    private readonly int[] _forced = thinking is { ForceClose: true } ? bundle.Tokenizer.Encode((bundle.Thinking?.Closing(thinking.Tags) ?? $"\n{thinking.Tags.Close}\n\n") + Begun, addSpecialTokens: false) : [];

    /// <summary>Every question, every draw, at one coefficient. The items' completions are the single tokens that stand for the two answers.</summary>
    public ChoiceResult[] Run(IReadOnlyList<ChoiceItem> items, Generation.Steering steering, float coefficient, CancellationToken stop = default)
    {
        var results = new List<ChoiceResult>();
        for (int draw = 0; draw < draws; draw++)
            foreach (ChoiceItem[] part in items.Chunk(batchSize))
            {
                stop.ThrowIfCancellationRequested();
                // A row draws from the stream of its place in the batch; the seed tells batches and draws apart.
                SamplingSettings own = settings with { Seed = unchecked(settings.Seed + (ulong)draw + ((ulong)results.Count << 20)) };
                int[][] answers = Write(part, steering, coefficient, own, stop);
                stop.ThrowIfCancellationRequested();
                ChoiceResult[] scored = Score(part, answers, steering, coefficient);
                results.AddRange(scored.Select(r => r with { Draw = draw }));
            }
        return [.. results];
    }

    /// <summary>The log-odds of one answer to each item.</summary>
    public ChoiceResult[] Score(IReadOnlyList<ChoiceItem> items, IReadOnlyList<int[]> answers, Generation.Steering steering, float coefficient)
    {
        ChoiceResult[] results = [.. items.Select(i => new ChoiceResult(i.Key, double.NaN, double.NaN))];
        // What stands before the token that decides, where one does.
        var contexts = new int[]?[items.Count];
        for (int i = 0; i < items.Count; i++)
        {
            (int[]? before, Thought? thought) = Decide(answers[i]);
            results[i] = results[i] with { Thought = thought };
            contexts[i] = before is null ? null : [.. items[i].Prompt, .. before];
        }
        int[] known = [.. Enumerable.Range(0, items.Count).Where(i => contexts[i] is not null)];
        if (known.Length == 0)
            return results;
        SharedPrefixes texts = SharedPrefixes.Of(TokenBatch.Pad([.. known.Select(i => contexts[i]!)], bundle.PadId));
        using var tape = new Tape(bundle.Model.Device, record: false);
        ForwardContext context = steering.Context(tape, texts, coefficient);
        Tensor hidden = bundle.Model.Forward(context);
        float[] logits = bundle.Model.Logits(context, hidden, texts.RowsFromEnd(1)).ToArray();
        int v = bundle.Model.Config.VocabSize;
        for (int b = 0; b < known.Length; b++)
        {
            ChoiceItem item = items[known[b]];
            FiniteLogits.Require(bundle.Model, steering, coefficient, logits.AsSpan(b * v, v), texts.Texts.Row(b));
            (double ratio, double mass) = BinaryLogRatio.Measure(logits.AsSpan(b * v, v), [.. item.True.Select(t => t[0])], [.. item.False.Select(t => t[0])]);
            results[known[b]] = results[known[b]] with { LogOdds = ratio, Mass = mass };
        }
        return results;
    }

    private int[][] Write(ChoiceItem[] items, Generation.Steering steering, float coefficient, SamplingSettings own, CancellationToken stop)
    {
        var generator = new Generator(bundle.Model);
        float[] cs = [.. Enumerable.Repeat(coefficient, items.Length)];
        int[][] prompts = [.. items.Select(i => i.Prompt)];
        if (thinking is null)
            return generator.Generate(prompts, cs, steering, own, maxNewTokens, bundle.StopIds, bundle.PadId, stop: stop);
        // Something may be said before the block, too. A forced answer needs room behind it.
        int longest = prompts.Max(p => p.Length), room = bundle.Model.Config.MaxPositions - longest - _forced.Length, most = Math.Min(thinking.MaxTokens + 2 * maxNewTokens, room);
        if (most < 1)
            throw new UserErrorException($"a question of {longest} tokens leaves no room for thoughts in the context of {bundle.Model.Config.MaxPositions} tokens; shorten it");
        ThoughtLimit[] limits = [.. items.Select(_ => new ThoughtLimit(thinking, maxNewTokens, _open, bundle.Tokenizer.CreateStream(skipSpecialTokens: false)))];
        return generator.Generate(prompts, cs, steering, own, most, bundle.StopIds, bundle.PadId, stop: stop, endRow: (row, id) => limits[row].Add(id));
    }

    // The tokens between the prompt and the token that decides, null where none does; and what became of the thoughts.
    private (int[]? Before, Thought? Thought) Decide(int[] answer)
    {
        int from = 0;
        Thought? thought = null;
        if (thinking is not null)
        {
            (bool open, bool closed, int start) = thinking.Tags.Scan(bundle.Tokenizer.Decode(answer, skipSpecialTokens: false), _open);
            if (open)
            {
                int[] thoughts = answer.Length > 0 && bundle.StopIds.Contains(answer[^1]) ? answer[..^1] : answer;
                return thinking.ForceClose ? ([.. thoughts, .. _forced], new Thought(answer.Length, true, true)) : (null, new Thought(answer.Length, true, false));
            }
            (from, thought) = (start, new Thought(closed ? TokensUpTo(answer, start) : 0, false, false));
        }
        return (BinaryLogRatio.DecisionToken(bundle.Tokenizer, answer, Decision(), from) is { } at ? answer[..at] : null, thought);
    }

    private int TokensUpTo(int[] answer, int characters)
    {
        DecodeStream stream = bundle.Tokenizer.CreateStream(skipSpecialTokens: false);
        int length = 0;
        for (int i = 0; i < answer.Length; i++)
            if ((length += stream.Add(answer[i]).Length) >= characters)
                return i + 1;
        return answer.Length;
    }

    [GeneratedRegex("Final choice: (Yes|No)")]
    private static partial Regex Decision();
}
