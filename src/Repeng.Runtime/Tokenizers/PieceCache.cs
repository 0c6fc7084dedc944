using System.Runtime.InteropServices;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Ids of pieces of text that came before: words come again and again, so most of a text is looked up here. It belongs to one
/// encoding at a time; full, it begins anew.
/// </summary>
internal sealed class PieceCache
{
    /// <summary>Longer pieces hardly come again.</summary>
    public const int LongestPiece = 48;

    private const int FewestSlots = 1 << 10;
    private const int MostSlots = 1 << 16;
    private const int MostUnits = 1 << 20;

    private struct Entry
    {
        public uint Hash;
        public int Key;
        /// <summary>The id itself where there is one only, else where the ids begin.</summary>
        public int Ids;
        public byte KeyLength;
        public byte Count;
    }

    private Entry[] _entries = new Entry[FewestSlots];
    private int _count;
    private char[] _keys = new char[FewestSlots * 4];
    private int _usedKeys;
    private readonly List<int> _ids = [];

    /// <summary>Appends the ids of a piece, if it is known; else remembers its hash for <see cref="Add"/>.</summary>
    public bool TryAppend(ReadOnlySpan<char> piece, List<int> output, out uint hash)
    {
        hash = Utf8Hash.Of(piece);
        Entry[] entries = _entries;
        int mask = entries.Length - 1;
        for (int at = (int)hash & mask; ; at = at + 1 & mask)
        {
            ref Entry entry = ref entries[at];
            if (entry.KeyLength == 0)
                return false;
            if (entry.Hash != hash || entry.KeyLength != piece.Length || !_keys.AsSpan(entry.Key, piece.Length).SequenceEqual(piece))
                continue;
            if (entry.Count == 1)
                output.Add(entry.Ids);
            else
                output.AddRange(CollectionsMarshal.AsSpan(_ids).Slice(entry.Ids, entry.Count));
            return true;
        }
    }

    /// <summary>Remembers the ids of a piece of 1 to <see cref="LongestPiece"/> units that is not known yet.</summary>
    public void Add(ReadOnlySpan<char> piece, uint hash, ReadOnlySpan<int> ids)
    {
        if (ids.Length > byte.MaxValue)
            return;
        if (_usedKeys + piece.Length > MostUnits || _count * 2 >= MostSlots)
            Clear();
        if (_count * 2 >= _entries.Length)
            Grow();
        if (_usedKeys + piece.Length > _keys.Length)
            Array.Resize(ref _keys, _keys.Length * 2);
        piece.CopyTo(_keys.AsSpan(_usedKeys));
        Insert(new Entry { Hash = hash, Key = _usedKeys, KeyLength = (byte)piece.Length, Count = (byte)ids.Length, Ids = ids.Length == 1 ? ids[0] : _ids.Count });
        if (ids.Length != 1)
            _ids.AddRange(ids);
        _usedKeys += piece.Length;
        _count++;
    }

    private void Insert(Entry entry)
    {
        int mask = _entries.Length - 1;
        int at = (int)entry.Hash & mask;
        while (_entries[at].KeyLength != 0)
            at = at + 1 & mask;
        _entries[at] = entry;
    }

    private void Grow()
    {
        Entry[] old = _entries;
        _entries = new Entry[Math.Min(MostSlots, old.Length * 4)];
        foreach (Entry entry in old)
            if (entry.KeyLength != 0)
                Insert(entry);
    }

    private void Clear()
    {
        Array.Clear(_entries);
        _ids.Clear();
        _count = _usedKeys = 0;
    }
}
