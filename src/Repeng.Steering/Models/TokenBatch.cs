using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>Token sequences of one length, padded on the left. Row b is real from Starts[b] on.</summary>
public sealed record TokenBatch(int Batch, int Length, int[] Ids, int[] Starts)
{
    /// <summary>Pads sequences on the left to the longest.</summary>
    public static TokenBatch Pad(IReadOnlyList<int[]> rows, int padId)
    {
        int length = rows.Max(r => r.Length);
        var ids = new int[rows.Count * length];
        var starts = new int[rows.Count];
        Array.Fill(ids, padId);
        for (int b = 0; b < rows.Count; b++)
        {
            starts[b] = length - rows[b].Length;
            rows[b].CopyTo(ids, b * length + starts[b]);
        }
        return new TokenBatch(rows.Count, length, ids, starts);
    }

    /// <summary>A batch from an attention mask [batch, length] of zeros followed by ones in each row (all ones, or left padding).</summary>
    public static TokenBatch FromMask(int[] ids, int[] mask, int batch, int length)
    {
        var starts = new int[batch];
        for (int b = 0; b < batch; b++)
        {
            ReadOnlySpan<int> row = mask.AsSpan(b * length, length);
            int start = row.IndexOf(1);
            if (start < 0)
                throw new UserErrorException($"attention_mask: row {b} has no real token");
            if (row[start..].ContainsAnyExcept(1))
                throw new UserErrorException($"attention_mask: row {b} has padding after its first real token; pad on the left");
            starts[b] = start;
        }
        return new TokenBatch(batch, length, ids, starts);
    }

    /// <summary>Whether position t of row b holds a real token.</summary>
    public bool IsReal(int b, int t) => t >= Starts[b];

    /// <summary>The real tokens of row b.</summary>
    public int[] Row(int b) => Ids[(b * Length + Starts[b])..((b + 1) * Length)];

    /// <summary>Position of each token in its text: 0 on padding and on the first real token.</summary>
    public int[] Positions()
    {
        var positions = new int[Batch * Length];
        for (int b = 0; b < Batch; b++)
            for (int t = 0; t < Length; t++)
                positions[b * Length + t] = Math.Max(0, t - Starts[b]);
        return positions;
    }

    /// <summary>Some of the rows, with the padding that they have here.</summary>
    public TokenBatch Select(IReadOnlyList<int> rows) => new(rows.Count, Length, [.. rows.SelectMany(b => Ids[(b * Length)..((b + 1) * Length)])], [.. rows.Select(b => Starts[b])]);

    /// <summary>The same rows <paramref name="times"/> over: rows of the first copy, then of the second.</summary>
    public TokenBatch Repeat(int times) => new(Batch * times, Length,
        [.. Enumerable.Repeat(Ids, times).SelectMany(x => x)], [.. Enumerable.Repeat(Starts, times).SelectMany(x => x)]);
}
