namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Pairs of token ids that merge, with the rank of the merge and the id of the result. Filled first, then read by several
/// threads at once.
/// </summary>
internal sealed class MergeTable
{
    private struct Merge
    {
        public int Left;
        public int Right;
        public int Rank;
        public int Merged;
    }

    private const int IndexBits = 24;
    private const uint IndexMask = (1u << IndexBits) - 1;

    /// <summary>More than 16 million merges are no real file's.</summary>
    public const int Most = (1 << IndexBits) - 2;

    private Merge[] _merges;
    private int _count;

    /// <summary>The place of a merge plus one in the low bits, of the hash of its pair in the others; 0 is empty.</summary>
    private uint[] _slots;

    public MergeTable(int expected)
    {
        expected = Math.Clamp(expected, 16, Most);
        _merges = new Merge[expected];
        int capacity = 64;
        while (capacity < expected * 3L / 2)
            capacity *= 2;
        _slots = new uint[capacity];
    }

    public int Count => _count;

    /// <summary>The left and right token of every merge.</summary>
    public IEnumerable<(int Left, int Right)> Pairs => _merges.Take(_count).Select(m => (m.Left, m.Right));

    /// <summary>Of merges with the same pair the last one counts.</summary>
    public void Add(int left, int right, int rank, int merged)
    {
        if (_count * 4L >= _slots.Length * 3L)
            Grow();
        if (_count == _merges.Length)
            Array.Resize(ref _merges, (int)Math.Min(Most, _count * 2L));
        uint hash = Utf8Hash.Of(Pack(left, right));
        int at = Find(left, right, hash);
        int place = _slots[at] == 0 ? _count++ : (int)(_slots[at] & IndexMask) - 1;
        _merges[place] = new Merge { Left = left, Right = right, Rank = rank, Merged = merged };
        _slots[at] = hash & ~IndexMask | (uint)(place + 1);
    }

    public bool TryGet(int left, int right, out int rank, out int merged)
    {
        uint slot = _slots[Find(left, right, Utf8Hash.Of(Pack(left, right)))];
        if (slot == 0)
        {
            rank = merged = 0;
            return false;
        }
        ref Merge merge = ref _merges[(slot & IndexMask) - 1];
        (rank, merged) = (merge.Rank, merge.Merged);
        return true;
    }

    private static ulong Pack(int left, int right) => (ulong)(uint)left << 32 | (uint)right;

    /// <summary>The slot that holds the pair, or the empty one where it belongs.</summary>
    private int Find(int left, int right, uint hash)
    {
        int mask = _slots.Length - 1;
        int at = (int)hash & mask;
        while (true)
        {
            uint slot = _slots[at];
            if (slot == 0)
                return at;
            if (((slot ^ hash) & ~IndexMask) == 0)
            {
                ref Merge merge = ref _merges[(slot & IndexMask) - 1];
                if (merge.Left == left && merge.Right == right)
                    return at;
            }
            at = at + 1 & mask;
        }
    }

    private void Grow()
    {
        _slots = new uint[_slots.Length * 2];
        int mask = _slots.Length - 1;
        for (int place = 0; place < _count; place++)
        {
            uint hash = Utf8Hash.Of(Pack(_merges[place].Left, _merges[place].Right));
            int at = (int)hash & mask;
            while (_slots[at] != 0)
                at = at + 1 & mask;
            _slots[at] = hash & ~IndexMask | (uint)(place + 1);
        }
    }
}
