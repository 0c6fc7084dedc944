using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>Pairs of token ids that merge, with the rank of the merge and the id of the result.</summary>
internal sealed class MergeTable
{
    private const ulong Empty = ulong.MaxValue;

    private struct Slot
    {
        public ulong Pair;
        public int Rank;
        public int Merged;
    }

    private readonly Slot[] _slots;
    private readonly int _mask;

    /// <summary>Of merges with the same pair the last one counts.</summary>
    public MergeTable(IReadOnlyList<(int Left, int Right, int Rank, int Merged)> merges)
    {
        int capacity = 16;
        while (capacity < merges.Count * 2L)
            capacity *= 2;
        _slots = new Slot[capacity];
        _mask = capacity - 1;
        Array.Fill(_slots, new Slot { Pair = Empty });
        foreach ((int left, int right, int rank, int merged) in merges)
        {
            ulong pair = Pack(left, right);
            int at = Find(pair);
            _slots[at] = new Slot { Pair = pair, Rank = rank, Merged = merged };
        }
    }

    public bool TryGet(int left, int right, out int rank, out int merged)
    {
        ref Slot slot = ref _slots[Find(Pack(left, right))];
        rank = slot.Rank;
        merged = slot.Merged;
        return slot.Pair != Empty;
    }

    private static ulong Pack(int left, int right) => (ulong)(uint)left << 32 | (uint)right;

    /// <summary>The slot that holds the pair, or the empty one where it belongs.</summary>
    private int Find(ulong pair)
    {
        // The finalizer of MurmurHash3: ids are small and regular, their bits have to be spread.
        ulong hash = pair;
        hash = (hash ^ hash >> 33) * 0xFF51AFD7ED558CCD;
        hash = (hash ^ hash >> 33) * 0xC4CEB9FE1A85EC53;
        int at = (int)(hash ^ hash >> 33) & _mask;
        while (_slots[at].Pair != pair && _slots[at].Pair != Empty)
            at = at + 1 & _mask;
        return at;
    }
}

/// <summary>How a <see cref="BpeModel"/> treats what its vocabulary lacks, and which affixes it puts on characters.</summary>
internal sealed record BpeOptions
{
    /// <summary>The token for characters that are not in the vocabulary; without one they vanish.</summary>
    public string? Unknown { get; init; }

    /// <summary>Neighbouring unknown characters share one unknown token.</summary>
    public bool FuseUnknown { get; init; }

    /// <summary>Unknown characters become <c>&lt;0xXX&gt;</c> tokens of their UTF-8 bytes, where the vocabulary has all of them.</summary>
    public bool ByteFallback { get; init; }

    /// <summary>A piece that is a token is that token, whether merges lead to it or not.</summary>
    public bool IgnoreMerges { get; init; }

    /// <summary>Before every character of a piece but the first.</summary>
    public string ContinuingPrefix { get; init; } = "";

    /// <summary>After the last character of a piece.</summary>
    public string EndSuffix { get; init; } = "";
}

/// <summary>
/// Byte-pair encoding: the characters of a piece are merged pair by pair, the lowest rank first, of equal ranks the
/// leftmost. A heap of candidates makes it O(n log n) for a piece of n characters.
/// </summary>
internal sealed class BpeModel : TokenizerModel
{
    private readonly Vocabulary _vocabulary;
    private readonly MergeTable _merges;
    private readonly BpeOptions _options;
    private readonly int _unknown = -1;
    private readonly int[] _byteTokens = new int[256];
    private readonly int[] _charTokens = new int[char.MaxValue + 1];

    /// <exception cref="UserErrorException">The unknown token is not in the vocabulary.</exception>
    public BpeModel(Vocabulary vocabulary, MergeTable merges, BpeOptions options, string file)
    {
        _vocabulary = vocabulary;
        _merges = merges;
        _options = options;
        if (options.Unknown is not null && !vocabulary.TryGetId(options.Unknown, out _unknown))
            throw new UserErrorException($"{file}: the unknown token {JsonSection.Quote(options.Unknown)} is not in the vocabulary");
        for (int b = 0; b < 256; b++)
            _byteTokens[b] = vocabulary.TryGetId($"<0x{b:X2}>", out int id) ? id : -1;
        Array.Fill(_charTokens, -1);
        foreach ((string token, int id) in vocabulary.Entries)
            if (token.Length == 1)
                _charTokens[token[0]] = id;
    }

    public override void Encode(ReadOnlySpan<char> piece, ModelScratch scratch, List<int> output)
    {
        if (_options.IgnoreMerges && _vocabulary.TryGetId(piece, out int whole))
        {
            output.Add(whole);
            return;
        }
        scratch.SymbolCount = 0;
        AddSymbols(piece, scratch);
        Merge(scratch);
        Span<ModelScratch.Symbol> symbols = scratch.Symbols.AsSpan(0, scratch.SymbolCount);
        foreach (ref ModelScratch.Symbol symbol in symbols)
            if (symbol.Id >= 0)
                output.Add(symbol.Id);
    }

    private void AddSymbols(ReadOnlySpan<char> piece, ModelScratch scratch)
    {
        bool pending = false;
        for (int i = 0; i < piece.Length;)
        {
            CodePoints.At(piece, i, out int length);
            int id = TokenOf(piece, i, length);
            if (id >= 0)
            {
                if (pending)
                    scratch.Add(_unknown);
                pending = false;
                scratch.Add(id);
            }
            else if (!_options.ByteFallback || !TryAddBytes(piece, i, length, scratch))
            {
                if (pending && !_options.FuseUnknown)
                    scratch.Add(_unknown);
                // An unknown character waits for the next known one, past any byte tokens between: so does the original.
                pending = _unknown >= 0;
            }
            i += length;
        }
        if (pending)
            scratch.Add(_unknown);
    }

    /// <summary>The token of one character of the piece with its affixes, or -1.</summary>
    private int TokenOf(ReadOnlySpan<char> piece, int at, int length)
    {
        bool prefixed = at > 0 && _options.ContinuingPrefix.Length > 0;
        bool suffixed = at + length == piece.Length && _options.EndSuffix.Length > 0;
        if (prefixed || suffixed)
            return _vocabulary.TryGetId(WithAffixes(piece, at, length), out int affixed) ? affixed : -1;
        if (length == 1)
            return _charTokens[piece[at]];
        return _vocabulary.TryGetId(piece.Slice(at, length), out int id) ? id : -1;
    }

    private string WithAffixes(ReadOnlySpan<char> piece, int at, int length) => string.Concat(
        at > 0 ? _options.ContinuingPrefix : "",
        piece.Slice(at, length),
        at + length == piece.Length ? _options.EndSuffix : "");

    private bool TryAddBytes(ReadOnlySpan<char> piece, int at, int length, ModelScratch scratch)
    {
        byte[] bytes = System.Text.Encoding.UTF8.GetBytes(WithAffixes(piece, at, length));
        foreach (byte b in bytes)
            if (_byteTokens[b] < 0)
                return false;
        foreach (byte b in bytes)
            scratch.Add(_byteTokens[b]);
        return true;
    }

    private void Merge(ModelScratch scratch)
    {
        int count = scratch.SymbolCount;
        if (count < 2)
            return;
        Span<ModelScratch.Symbol> symbols = scratch.Symbols.AsSpan(0, count);
        for (int i = 0; i + 1 < count; i++)
            PushPair(scratch, symbols, i, i + 1);
        while (scratch.TryPop(out ModelScratch.Candidate candidate))
        {
            ref ModelScratch.Symbol left = ref symbols[candidate.Position];
            if (left.Id < 0 || left.Next >= count)
                continue;
            ref ModelScratch.Symbol right = ref symbols[left.Next];
            // The pair may have changed since the candidate was found; what counts is that it still gives the same token.
            if (!_merges.TryGet(left.Id, right.Id, out _, out int merged) || merged != candidate.Merged)
                continue;
            left.Id = merged;
            right.Id = -1;
            left.Next = right.Next;
            if (right.Next < count)
                symbols[right.Next].Previous = candidate.Position;
            if (left.Previous >= 0)
                PushPair(scratch, symbols, left.Previous, candidate.Position);
            if (left.Next < count)
                PushPair(scratch, symbols, candidate.Position, left.Next);
        }
    }

    private void PushPair(ModelScratch scratch, Span<ModelScratch.Symbol> symbols, int left, int right)
    {
        if (_merges.TryGet(symbols[left].Id, symbols[right].Id, out int rank, out int merged))
            scratch.Push(new ModelScratch.Candidate { Rank = rank, Position = left, Merged = merged });
    }
}
