using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>
/// A batch whose texts begin alike, each token of a common beginning once. A token's values depend on the tokens before it and on nothing
/// else, so the texts are merged into the trie of their beginnings: every op of a pass runs over the trie's tokens, one row each, and only
/// attention sees texts again. It takes for each text the tokens that no earlier text has as queries, and all of the text's as keys, which lie
/// in a row as they do without sharing: positions, padding, windows and sinks are those of the plain pass. Exact for gradients too, since a
/// token's gradient is the sum over the texts that it stands in; where a text's own is read, <c>apart</c> keeps tokens to each text.
/// </summary>
public sealed class SharedPrefixes
{
    // Below a tenth less rows, gathering queries, keys and values for attention is not paid back.
    private const double WorthSharing = 0.9;

    private readonly int[]? _nodeOf;

    private SharedPrefixes(TokenBatch texts, TokenBatch tokens, int[]? nodeOf, int[] positions, AttentionPart[] parts, int[] outputs) =>
        (Texts, Tokens, _nodeOf, PositionOf, Parts, Outputs) = (texts, tokens, nodeOf, positions, parts, outputs);

    /// <summary>The texts, left-padded.</summary>
    public TokenBatch Texts { get; }

    /// <summary>What a pass runs over: one row of all tokens of the trie, parents first, or the texts themselves where sharing does not pay.</summary>
    public TokenBatch Tokens { get; }

    /// <summary>Whether tokens are shared at all.</summary>
    public bool Shared => _nodeOf is not null;

    /// <summary>Tokens that a pass computes; padding counts where the texts run as they are.</summary>
    public int Computed => Tokens.Ids.Length;

    /// <summary>Place of each token of the trie in its text, from 0; empty where nothing is shared.</summary>
    public IReadOnlyList<int> Positions => PositionOf;

    internal int[] PositionOf { get; }

    /// <summary>Groups of texts that attention takes together.</summary>
    internal AttentionPart[] Parts { get; }

    /// <summary>Of each token of the trie, its row in the outputs of the parts, one part after the other.</summary>
    internal int[] Outputs { get; }

    /// <summary>Texts of one call of attention: queries are the last tokens of each text, so many that the text's own are among them.</summary>
    /// <param name="Batch">Texts.</param>
    /// <param name="QueryLength">Queries a text.</param>
    /// <param name="KeyLength">Keys a text, left-padded.</param>
    /// <param name="Queries">The trie's token of each query [batch · query length].</param>
    /// <param name="Keys">The trie's token of each key [batch · key length]; padding has one that is masked.</param>
    /// <param name="FirstKey">First real key of each text.</param>
    internal sealed record AttentionPart(int Batch, int QueryLength, int KeyLength, int[] Queries, int[] Keys, int[] FirstKey);

    /// <summary>Merges the texts of a batch.</summary>
    /// <param name="texts">Texts, left-padded.</param>
    /// <param name="apart">So many tokens at the end of each text are its own, also where another text has the same: needed where gradients of single texts are read there.</param>
    public static SharedPrefixes Of(TokenBatch texts, int apart = 0)
    {
        int length = texts.Length;
        var nodeOf = new int[texts.Batch * length];
        var first = new int[texts.Batch];
        var known = new Dictionary<(int Parent, int Id), int>(nodeOf.Length);
        List<int> ids = new(nodeOf.Length), positions = new(nodeOf.Length);
        for (int b = 0; b < texts.Batch; b++)
        {
            int parent = -1, start = texts.Starts[b];
            first[b] = length;
            for (int t = start; t < length; t++)
            {
                int id = texts.Ids[b * length + t], node;
                if (t >= length - apart || !known.TryGetValue((parent, id), out node))
                {
                    node = ids.Count;
                    if (t < length - apart)
                        known[(parent, id)] = node;
                    ids.Add(id);
                    positions.Add(t - start);
                    first[b] = Math.Min(first[b], t);
                }
                nodeOf[b * length + t] = parent = node;
            }
        }
        if (ids.Count > WorthSharing * texts.Ids.Length)
            return Plain(texts);
        List<int[]> groups = Groups(texts, first);
        AttentionPart[] parts = [.. groups.Select(rows => Part(texts, nodeOf, first, rows))];
        var outputs = new int[ids.Count];
        int offset = 0;
        foreach ((AttentionPart part, int[] rows) in parts.Zip(groups))
        {
            for (int i = 0; i < rows.Length; i++)
                for (int t = first[rows[i]]; t < length; t++)
                    outputs[nodeOf[rows[i] * length + t]] = offset + (i + 1) * part.QueryLength - (length - t);
            offset += part.Queries.Length;
        }
        return new SharedPrefixes(texts, new TokenBatch(1, ids.Count, [.. ids], [0]), nodeOf, [.. positions], parts, outputs);
    }

    /// <summary>The texts as they are, each token of each text by itself.</summary>
    public static SharedPrefixes Plain(TokenBatch texts) => new(texts, texts, null, [], [], []);

    /// <summary>Row of a pass's outputs that token t of text b (counted with its padding) has. Padding has none where tokens are shared.</summary>
    public int Row(int b, int t) =>
        _nodeOf is null ? b * Texts.Length + t
        : Texts.IsReal(b, t) ? _nodeOf[b * Texts.Length + t]
        : throw new ArgumentException($"token {t} of text {b} is padding, which has no row where prefixes are shared");

    /// <summary>As <see cref="Row"/>; where tokens are shared padding has the row of its text's first token, for values that weigh nothing.</summary>
    internal int RowOrFirst(int b, int t) => Row(b, Shared ? Math.Max(t, Texts.Starts[b]) : t);

    /// <summary>
    /// Some of the texts, merged among themselves, and the row in a pass's outputs over all of them that each of <see cref="Tokens"/> of theirs
    /// has: a pass can go on with these texts alone.
    /// </summary>
    public (SharedPrefixes Texts, int[] Rows) Select(IReadOnlyList<int> texts)
    {
        TokenBatch chosen = Texts.Select(texts);
        SharedPrefixes some = Shared ? Of(chosen) : Plain(chosen);
        var rows = new int[some.Computed];
        for (int i = 0; i < texts.Count; i++)
            for (int t = some.Shared ? chosen.Starts[i] : 0; t < chosen.Length; t++)
                rows[some.Row(i, t)] = RowOrFirst(texts[i], t);
        return (some, rows);
    }

    /// <summary>The texts so many times over, nothing shared between the times, so that each can have another coefficient: rows of the first, then of the second.</summary>
    public SharedPrefixes Repeat(int times)
    {
        if (_nodeOf is null)
            return Plain(Texts.Repeat(times));
        int count = Computed;
        var outputs = new int[times * count];
        int from = 0;
        foreach (AttentionPart part in Parts)
        {
            int queries = part.Queries.Length;
            for (int node = 0; node < count; node++)
                if (Outputs[node] >= from && Outputs[node] < from + queries)
                    for (int copy = 0; copy < times; copy++)
                        outputs[copy * count + node] = times * from + copy * queries + Outputs[node] - from;
            from += queries;
        }
        return new SharedPrefixes(Texts.Repeat(times), new TokenBatch(1, times * count, Copies(Tokens.Ids, 0), [0]), Copies(_nodeOf, count), Copies(PositionOf, 0),
            [.. Parts.Select(p => new AttentionPart(times * p.Batch, p.QueryLength, p.KeyLength, Copies(p.Queries, count), Copies(p.Keys, count), Copies(p.FirstKey, 0)))], outputs);

        int[] Copies(int[] values, int step) => [.. Enumerable.Range(0, times).SelectMany(copy => values.Select(v => v + copy * step))];
    }

    /// <summary>Rows of the token so many from the end of each text; 1 is the last. Throws <see cref="UserErrorException"/> where a text is shorter.</summary>
    public int[] RowsFromEnd(int fromEnd)
    {
        int shortest = Texts.Length - Texts.Starts.Max();
        if (fromEnd < 1 || fromEnd > shortest)
            throw new UserErrorException($"token {fromEnd} from the end is asked for, and a text has {shortest}; give longer texts, or read a token nearer to the end");
        return [.. Enumerable.Range(0, Texts.Batch).Select(b => Row(b, Texts.Length - fromEnd))];
    }

    // Texts by how many tokens they bring, in one call of attention or in the two with the fewest padded scores.
    private static List<int[]> Groups(TokenBatch texts, int[] first)
    {
        int length = texts.Length;
        int[] rows = [.. Enumerable.Range(0, texts.Batch).Where(b => first[b] < length).OrderBy(b => first[b])];
        int[] longest = new int[rows.Length + 1];
        for (int i = rows.Length - 1; i >= 0; i--)
            longest[i] = Math.Max(longest[i + 1], length - texts.Starts[rows[i]]);
        int best = 0, upTo = 0;
        long least = Scores(rows.Length, first[rows[0]], longest[0]);
        for (int cut = 1; cut < rows.Length; cut++)
        {
            upTo = Math.Max(upTo, length - texts.Starts[rows[cut - 1]]);
            long scores = Scores(cut, first[rows[0]], upTo) + Scores(rows.Length - cut, first[rows[cut]], longest[cut]);
            if (scores < least)
                (best, least) = (cut, scores);
        }
        return best == 0 ? [rows] : [rows[..best], rows[best..]];

        long Scores(int count, int from, int keys) => (long)count * (length - from) * keys;
    }

    private static AttentionPart Part(TokenBatch texts, int[] nodeOf, int[] first, int[] rows)
    {
        int length = texts.Length, queries = rows.Max(b => length - first[b]), keys = rows.Max(b => length - texts.Starts[b]);
        var query = new int[rows.Length * queries];
        var key = new int[rows.Length * keys];
        var firstKey = new int[rows.Length];
        for (int i = 0; i < rows.Length; i++)
        {
            ReadOnlySpan<int> text = nodeOf.AsSpan((rows[i] + 1) * length - keys, keys);
            firstKey[i] = keys - (length - texts.Starts[rows[i]]);
            Span<int> own = key.AsSpan(i * keys, keys);
            text.CopyTo(own);
            own[..firstKey[i]].Fill(text[firstKey[i]]);
            own[(keys - queries)..].CopyTo(query.AsSpan(i * queries));
        }
        return new AttentionPart(rows.Length, queries, keys, query, key, firstKey);
    }
}
