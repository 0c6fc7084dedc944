using System.Buffers;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Unicode;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// The tokens of a model with their ids: each token has one id, each id at most one token, ids may have gaps. Tokens lie as
/// UTF-8 one behind another, found by an open-addressing table; their strings are made when they are asked for.
/// Filled first, then read by several threads at once.
/// </summary>
internal sealed class Vocabulary
{
    /// <summary>
    /// Ids must lie below this number: the largest vocabularies have a quarter of a million tokens, and an id far
    /// above would make a damaged file reserve memory for ids that nothing uses.
    /// </summary>
    public const int IdLimit = (1 << IdBits) - 1;

    private const int IdBits = 22;
    private const int LongestOnStack = 256;

    private struct Place
    {
        public int Start;
        /// <summary>-1 where the id has no token.</summary>
        public int Length;
    }

    private readonly string _file;
    private byte[] _bytes;
    private int _used;
    private Place[] _places;
    private string?[]? _texts;

    /// <summary>An id plus one in the low bits, of the hash of its token in the others, so that few tokens are compared in vain; 0 is empty.</summary>
    private uint[] _slots;
    private const uint IdMask = (1u << IdBits) - 1;

    public Vocabulary(string file, int expected)
    {
        _file = file;
        expected = Math.Max(16, expected);
        _bytes = new byte[expected * 8];
        _places = new Place[expected];
        Array.Fill(_places, new Place { Length = -1 });
        int capacity = 64;
        while (capacity < expected * 3 / 2)
            capacity *= 2;
        _slots = new uint[capacity];
    }

    /// <summary>An error about the file that the vocabulary comes from.</summary>
    public UserErrorException Error(string message) => new($"{_file}: {message}");

    public int Count { get; private set; }

    /// <summary>The highest id plus one.</summary>
    public int IdEnd { get; private set; }

    /// <summary>Every token that text can have once.</summary>
    public IEnumerable<(string Token, int Id)> Entries
    {
        get
        {
            for (int id = 0; id < IdEnd; id++)
                if (TryGetToken(id, out string? token) && TryGetId(Utf8Of(id), out int found) && found == id)
                    yield return (token, id);
        }
    }

    /// <summary>The token of an id as UTF-8; empty when it has none.</summary>
    public ReadOnlySpan<byte> Utf8Of(int id) =>
        (uint)id < (uint)_places.Length && _places[id].Length >= 0 ? _bytes.AsSpan(_places[id].Start, _places[id].Length) : default;

    public bool Has(int id) => (uint)id < (uint)_places.Length && _places[id].Length >= 0;

    public void Add(string token, int id) => Add(Encoding.UTF8.GetBytes(token), id);

    /// <exception cref="UserErrorException">The id is out of range, or the token or the id is there already.</exception>
    public void Add(ReadOnlySpan<byte> token, int id) => Add(token, id, replaces: false);

    /// <summary>The same for vocabularies in which a token may stand again: text has its last id, every id its text.</summary>
    /// <exception cref="UserErrorException">The id is out of range, or is there already.</exception>
    public void AddOrReplace(ReadOnlySpan<byte> token, int id) => Add(token, id, replaces: true);

    private void Add(ReadOnlySpan<byte> token, int id, bool replaces)
    {
        if ((uint)id >= IdLimit)
            throw Error($"token {Quote(token)} has the id {id}; ids must lie between 0 and {IdLimit - 1}");
        if (Has(id))
            throw Error($"the tokens {Quote(Utf8Of(id))} and {Quote(token)} have the same id {id}");
        if (Count * 4L >= _slots.Length * 3L)
            Grow();
        uint hash = Utf8Hash.Of(token);
        int at = Slot(token, hash);
        if (_slots[at] != 0 && !replaces)
            throw Error($"token {Quote(token)} occurs twice, with the ids {(_slots[at] & IdMask) - 1} and {id}");
        if (_slots[at] == 0)
            Count++;
        if (id >= _places.Length)
        {
            int before = _places.Length;
            Array.Resize(ref _places, Math.Max(id + 1, Math.Min(IdLimit, before * 2)));
            Array.Fill(_places, new Place { Length = -1 }, before, _places.Length - before);
        }
        if (_bytes.Length - _used < token.Length)
            Array.Resize(ref _bytes, Math.Max(_used + token.Length, (int)Math.Min(Array.MaxLength, _bytes.Length * 2L)));
        token.CopyTo(_bytes.AsSpan(_used));
        _places[id] = new Place { Start = _used, Length = token.Length };
        _used += token.Length;
        _slots[at] = hash & ~IdMask | (uint)(id + 1);
        IdEnd = Math.Max(IdEnd, id + 1);
    }

    public bool TryGetId(ReadOnlySpan<byte> token, out int id)
    {
        id = (int)(_slots[Slot(token, Utf8Hash.Of(token))] & IdMask) - 1;
        return id >= 0;
    }

    /// <summary>The same for UTF-16; no token has half a surrogate pair.</summary>
    [SkipLocalsInit]
    public bool TryGetId(ReadOnlySpan<char> token, out int id)
    {
        Span<byte> utf8 = token.Length <= LongestOnStack ? stackalloc byte[LongestOnStack * 3] : new byte[token.Length * 3];
        if (Utf8.FromUtf16(token, utf8, out _, out int bytes, replaceInvalidSequences: false) == OperationStatus.Done)
            return TryGetId(utf8[..bytes], out id);
        id = -1;
        return false;
    }

    public bool TryGetToken(int id, [NotNullWhen(true)] out string? token)
    {
        token = null;
        if (!Has(id))
            return false;
        string?[] texts = _texts ??= new string?[IdEnd];
        token = texts[id] ??= Encoding.UTF8.GetString(Utf8Of(id));
        return true;
    }

    /// <summary>The slot of the token, or the empty one where it belongs.</summary>
    private int Slot(ReadOnlySpan<byte> token, uint hash)
    {
        int mask = _slots.Length - 1;
        uint tag = hash & ~IdMask;
        int at = (int)hash & mask;
        while (true)
        {
            uint slot = _slots[at];
            if (slot == 0 || ((slot ^ tag) & ~IdMask) == 0 && Utf8Of((int)(slot & IdMask) - 1).SequenceEqual(token))
                return at;
            at = at + 1 & mask;
        }
    }

    private void Grow()
    {
        uint[] old = _slots;
        _slots = new uint[old.Length * 2];
        int mask = _slots.Length - 1;
        foreach (uint slot in old)
        {
            if (slot == 0)
                continue;
            int at = (int)Utf8Hash.Of(Utf8Of((int)(slot & IdMask) - 1)) & mask;
            while (_slots[at] != 0)
                at = at + 1 & mask;
            _slots[at] = slot;
        }
    }

    private static string Quote(ReadOnlySpan<byte> token) => JsonSection.Quote(Encoding.UTF8.GetString(token));
}
