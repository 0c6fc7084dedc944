using System.Text;
using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Steering.Evaluation;

/// <summary>Where in the logits the two answers of a binary question are: token sets, and the place of the decision in a text.</summary>
public static class BinaryLogRatio
{
    /// <summary>
    /// Ids, ascending, of every vocabulary string (in the raw form of the file, so that a leading blank's mark counts)
    /// that, in lower case, starts or ends with the choice and has fewer than length(choice) + slack characters.
    /// </summary>
    public static int[] ChoiceTokens(Tokenizer tokenizer, string choice, int slack = 2)
    {
        string wanted = choice.ToLowerInvariant();
        int limit = CodePoints(wanted) + slack;
        var ids = new List<int>();
        for (int id = 0; id < tokenizer.VocabularySize; id++)
        {
            if (tokenizer.IdToToken(id) is not { } token || CodePoints(token) >= limit)
                continue;
            string lower = token.ToLowerInvariant();
            if (lower.StartsWith(wanted, StringComparison.Ordinal) || lower.EndsWith(wanted, StringComparison.Ordinal))
                ids.Add(id);
        }
        if (ids.Count == 0)
            throw new UserErrorException($"no token of the vocabulary stands for the choice '{choice}'; take other answers");
        return [.. ids];
    }

    /// <summary>
    /// Number of the new token whose logits decide: the one with which the decoded text first reaches the end of the
    /// last match; null where nothing matches. Matches count from the character <paramref name="from"/> of the decoded text on.
    /// </summary>
    public static int? DecisionToken(Tokenizer tokenizer, ReadOnlySpan<int> newTokens, Regex decision, int from = 0)
    {
        string text = tokenizer.Decode(newTokens, skipSpecialTokens: false);
        Match? last = null;
        foreach (Match match in decision.Matches(text, from))
            last = match;
        if (last is null)
            return null;
        int end = last.Index + last.Length;
        // Decoding a growing prefix is right where a character spans several tokens.
        for (int i = 0; i < newTokens.Length; i++)
            if (tokenizer.Decode(newTokens[..(i + 1)], skipSpecialTokens: false).Length >= end)
                return i;
        return newTokens.Length - 1;
    }

    /// <summary>log P(target set) − log P(other set) in nats and the probability of both sets together, from raw logits [vocabulary].</summary>
    public static (double LogRatio, double Mass) Measure(ReadOnlySpan<float> logits, ReadOnlySpan<int> target, ReadOnlySpan<int> other)
    {
        double max = double.NegativeInfinity, sum = 0;
        foreach (float l in logits)
            max = Math.Max(max, l);
        foreach (float l in logits)
            sum += Math.Exp(l - max);
        double all = max + Math.Log(sum), t = LogSumExp(logits, target) - all, o = LogSumExp(logits, other) - all;
        return (t - o, Math.Exp(t) + Math.Exp(o));
    }

    private static double LogSumExp(ReadOnlySpan<float> logits, ReadOnlySpan<int> ids)
    {
        double max = double.NegativeInfinity, sum = 0;
        foreach (int id in ids)
            max = Math.Max(max, logits[id]);
        foreach (int id in ids)
            sum += Math.Exp(logits[id] - max);
        return max + Math.Log(sum);
    }

    private static int CodePoints(string s)
    {
        int count = 0;
        foreach (Rune _ in s.EnumerateRunes())
            count++;
        return count;
    }
}
