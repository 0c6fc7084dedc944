using System.Text;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

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
/// leftmost. Short pieces look through all pairs for each merge; for long ones a heap of candidates makes it O(n log n).
/// </summary>
internal sealed class BpeModel : TokenizerModel
{
    /// <summary>Up to so many symbols looking through them is faster than the heap.</summary>
    private const int MostScanned = 32;

    private const char Mark = '\u2581';

    private readonly Vocabulary _vocabulary;
    private readonly MergeTable _merges;
    private readonly BpeOptions _options;
    private readonly int _unknown = -1;
    private readonly int[] _byteTokens = new int[256];
    private readonly int[] _charTokens = new int[char.MaxValue + 1];

    /// <summary>The tokens of the stand-ins of all bytes, for pieces that are spelled in bytes.</summary>
    private readonly int[] _standInTokens = new int[256];

    /// <summary>Whether a U+2581 behind this unit may merge with what stands before it; null where pieces are not cut.</summary>
    private readonly bool[]? _joinsMark;

    /// <exception cref="UserErrorException">The unknown token is not in the vocabulary.</exception>
    public BpeModel(Vocabulary vocabulary, MergeTable merges, BpeOptions options, string file)
    {
        _vocabulary = vocabulary;
        _merges = merges;
        _options = options;
        if (options.Unknown is not null && !vocabulary.TryGetId(options.Unknown, out _unknown))
            throw new UserErrorException($"{file}: the unknown token {JsonSection.Quote(options.Unknown)} is not in the vocabulary");
        Span<byte> token = [.. "<0x00>"u8];
        for (int b = 0; b < 256; b++)
        {
            token[3] = (byte)"0123456789ABCDEF"[b >> 4];
            token[4] = (byte)"0123456789ABCDEF"[b & 15];
            _byteTokens[b] = vocabulary.TryGetId(token, out int id) ? id : -1;
        }
        Array.Fill(_charTokens, -1);
        for (int id = 0; id < vocabulary.IdEnd; id++)
        {
            ReadOnlySpan<byte> utf8 = vocabulary.Utf8Of(id);
            if (utf8.Length is > 0 and <= 3 && Rune.DecodeFromUtf8(utf8, out Rune rune, out int taken) == System.Buffers.OperationStatus.Done && taken == utf8.Length && rune.IsBmp)
                _charTokens[rune.Value] = id;
        }
        for (int b = 0; b < 256; b++)
            _standInTokens[b] = _charTokens[ByteAlphabet.CharOf((byte)b)];
        HasAffixes = options.ContinuingPrefix.Length > 0 || options.EndSuffix.Length > 0;
        if (options.ByteFallback && !options.IgnoreMerges && !HasAffixes && _charTokens[Mark] >= 0)
            _joinsMark = FindJoins();
    }

    private bool HasAffixes { get; }

    /// <summary>Whether <see cref="EncodeBytes"/> gives what <see cref="Encode"/> gives for the stand-ins of a text's bytes.</summary>
    public bool SpellsBytes => !HasAffixes && !_options.ByteFallback;

    /// <summary>
    /// Where a piece may be cut so that its parts, encoded by themselves, give the same ids: before a U+2581 that no merge joins to
    /// the character before it. Without it a vocabulary of SentencePiece's kind would take whole texts for one word.
    /// </summary>
    /// <returns>The first such place behind the first character, or the length of the piece.</returns>
    public int NextCut(ReadOnlySpan<char> piece)
    {
        if (_joinsMark is not { } joins)
            return piece.Length;
        for (int at = 1; at < piece.Length; at++)
        {
            int offset = piece[at..].IndexOf(Mark);
            if (offset < 0)
                break;
            at += offset;
            if (!joins[piece[at - 1]])
                return at;
        }
        return piece.Length;
    }

    /// <summary>Per UTF-16 unit whether the left token of some merge ends with it whose right token begins with U+2581; null when merges take tokens that do not show their text.</summary>
    private bool[]? FindJoins()
    {
        Span<char> units = stackalloc char[2];
        var joins = new bool[char.MaxValue + 1];
        var hidden = new bool[_vocabulary.IdEnd];
        var marked = new bool[_vocabulary.IdEnd];
        foreach (int id in _byteTokens)
            if (id >= 0)
                hidden[id] = true;
        if (_unknown >= 0)
            hidden[_unknown] = true;
        for (int id = 0; id < marked.Length; id++)
            marked[id] = _vocabulary.Utf8Of(id).StartsWith("\u2581"u8);
        foreach ((int left, int right) in _merges.Pairs)
        {
            if (hidden[left] || hidden[right])
                return null;
            if (!marked[right] || Rune.DecodeLastFromUtf8(_vocabulary.Utf8Of(left), out Rune rune, out _) != System.Buffers.OperationStatus.Done)
                continue;
            joins[units[rune.EncodeToUtf16(units) - 1]] = true;
        }
        return joins;
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
        Finish(scratch, output);
    }

    /// <summary>The same for the stand-ins of the text's UTF-8 bytes, without writing them.</summary>
    public void EncodeBytes(ReadOnlySpan<char> text, ModelScratch scratch, List<int> output)
    {
        // UTF-8 has at most three bytes a unit, and a stand-in at most two a byte.
        if (scratch.Bytes.Length < text.Length * 9)
            scratch.Bytes = new byte[text.Length * 9];
        Span<byte> bytes = scratch.Bytes.AsSpan(0, Encoding.UTF8.GetBytes(text, scratch.Bytes));
        if (_options.IgnoreMerges)
        {
            Span<byte> standIns = scratch.Bytes.AsSpan(text.Length * 3);
            if (_vocabulary.TryGetId(standIns[..ByteAlphabet.MapUtf8(bytes, standIns)], out int whole))
            {
                output.Add(whole);
                return;
            }
        }
        scratch.SymbolCount = 0;
        bool pending = false;
        foreach (byte b in bytes)
        {
            int id = _standInTokens[b];
            if (id >= 0)
            {
                if (pending)
                    scratch.Add(_unknown);
                pending = false;
                scratch.Add(id);
            }
            else
            {
                if (pending && !_options.FuseUnknown)
                    scratch.Add(_unknown);
                pending = _unknown >= 0;
            }
        }
        if (pending)
            scratch.Add(_unknown);
        Finish(scratch, output);
    }

    private void Finish(ModelScratch scratch, List<int> output)
    {
        if (scratch.SymbolCount <= MostScanned)
        {
            MergeScanning(scratch, output);
            return;
        }
        Merge(scratch);
        foreach (ref ModelScratch.Symbol symbol in scratch.Symbols.AsSpan(0, scratch.SymbolCount))
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
        byte[] bytes = Encoding.UTF8.GetBytes(WithAffixes(piece, at, length));
        foreach (byte b in bytes)
            if (_byteTokens[b] < 0)
                return false;
        foreach (byte b in bytes)
            scratch.Add(_byteTokens[b]);
        return true;
    }

    /// <summary>The merges of a short piece: always the first pair of the lowest rank, until none is left.</summary>
    private void MergeScanning(ModelScratch scratch, List<int> output)
    {
        const int none = int.MaxValue;
        int count = scratch.SymbolCount;
        Span<int> ids = stackalloc int[MostScanned + 1], ranks = stackalloc int[MostScanned + 1], merged = stackalloc int[MostScanned + 1];
        for (int i = 0; i < count; i++)
            ids[i] = scratch.Symbols[i].Id;
        for (int i = 0; i + 1 < count; i++)
            ranks[i] = _merges.TryGet(ids[i], ids[i + 1], out int rank, out merged[i]) ? rank : none;
        while (count > 1)
        {
            int best = 0;
            for (int i = 1; i < count - 1; i++)
                if (ranks[i] < ranks[best])
                    best = i;
            if (ranks[best] == none)
                break;
            ids[best] = merged[best];
            ids[(best + 2)..count].CopyTo(ids[(best + 1)..]);
            if (best + 2 < count)
            {
                ranks[(best + 2)..count].CopyTo(ranks[(best + 1)..]);
                merged[(best + 2)..count].CopyTo(merged[(best + 1)..]);
            }
            count--;
            if (best + 1 < count)
                ranks[best] = _merges.TryGet(ids[best], ids[best + 1], out int rank, out merged[best]) ? rank : none;
            if (best > 0)
                ranks[best - 1] = _merges.TryGet(ids[best - 1], ids[best], out int rank, out merged[best - 1]) ? rank : none;
        }
        output.AddRange(ids[..count]);
    }

    private void Merge(ModelScratch scratch)
    {
        int count = scratch.SymbolCount;
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
