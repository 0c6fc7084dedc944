using System.Text;
using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>A contrast pair: the same text under the positive and under the negative persona, and under none.</summary>
public sealed record TextPair(string Positive, string Negative, string? Neutral = null);

/// <summary>A contrast pair as token ids.</summary>
public sealed record TokenPair(int[] Positive, int[] Negative, int[]? Neutral = null);

/// <summary>Contrast pairs and the batches that they are read in.</summary>
public sealed class PairData
{
    private readonly TokenPair[] _pairs;
    private readonly int _padId;

    /// <summary>Pairs in their order.</summary>
    public PairData(IReadOnlyList<TokenPair> pairs, int padId)
    {
        if (pairs.Count == 0)
            throw new UserErrorException("no training pair is left; give at least one suffix and one persona pair");
        (_pairs, _padId) = ([.. pairs], padId);
    }

    /// <summary>The pairs.</summary>
    public IReadOnlyList<TokenPair> Pairs => _pairs;

    /// <summary>Tokens of the longest text.</summary>
    public int LongestText => _pairs.Max(p => Math.Max(p.Positive.Length, p.Negative.Length));

    /// <summary>Order of the pairs in an epoch: as given, or drawn from the seed.</summary>
    public int[] Order(int epoch, bool shuffle, ulong seed)
    {
        int[] order = [.. Enumerable.Range(0, _pairs.Length)];
        if (shuffle)
            new PhiloxSequence(seed, (3ul << 32) + (ulong)epoch).Shuffle(order.AsSpan());
        return order;
    }

    /// <summary>
    /// The first count pairs in groups of pairs of like length, for passes in which the order is free: batches in the
    /// order given are padded by a third in the demo's texts.
    /// </summary>
    public IEnumerable<int[]> ByLength(int count, int perGroup) =>
        Enumerable.Range(0, Math.Min(count, _pairs.Length)).OrderBy(i => Math.Max(_pairs[i].Positive.Length, _pairs[i].Negative.Length)).Chunk(perGroup);

    /// <summary>A left-padded batch of these pairs, rows interleaved positive, negative.</summary>
    public TokenBatch Batch(ReadOnlySpan<int> pairs)
    {
        var rows = new int[2 * pairs.Length][];
        for (int i = 0; i < pairs.Length; i++)
            (rows[2 * i], rows[2 * i + 1]) = (_pairs[pairs[i]].Positive, _pairs[pairs[i]].Negative);
        return TokenBatch.Pad(rows, _padId);
    }

    /// <summary>The texts of these pairs without a persona, left-padded; null where a pair has none.</summary>
    public TokenBatch? NeutralBatch(ReadOnlySpan<int> pairs)
    {
        var rows = new int[pairs.Length][];
        for (int i = 0; i < rows.Length; i++)
        {
            if (_pairs[pairs[i]].Neutral is not { } neutral)
                return null;
            rows[i] = neutral;
        }
        return TokenBatch.Pad(rows, _padId);
    }

    /// <summary>Splits off the last part of a seeded shuffle for validation.</summary>
    public (PairData Train, PairData? Validation) Split(double validation, ulong seed)
    {
        int held = (int)(validation * _pairs.Length);
        if (held == 0)
            return (this, null);
        int[] order = [.. Enumerable.Range(0, _pairs.Length)];
        new PhiloxSequence(seed, 2ul << 32).Shuffle(order.AsSpan());
        int[] train = [.. order[..^held].Order()], rest = [.. order[^held..].Order()];
        return (new PairData([.. train.Select(i => _pairs[i])], _padId), new PairData([.. rest.Select(i => _pairs[i])], _padId));
    }
}
