namespace Repeng.Runtime.Tokenizers;

/// <summary>Memory that the models use again and again, one encoding at a time.</summary>
internal sealed class ModelScratch
{
    internal struct Symbol
    {
        /// <summary>The token id; -1 for a symbol that was merged into the one before it.</summary>
        public int Id;
        public int Previous;
        public int Next;
    }

    internal struct Candidate
    {
        public int Rank;
        public int Position;
        public int Merged;

        /// <summary>Lower ranks first, then further left.</summary>
        public readonly bool Precedes(in Candidate other) =>
            Rank != other.Rank ? Rank < other.Rank : Position < other.Position;
    }

    /// <summary>Where the best way to cut the text before a place has its last cut, with the token that follows it.</summary>
    internal struct Cut
    {
        /// <summary>-1 where no cut has been found yet.</summary>
        public int Start;
        public int Id;
        public double Score;
    }

    public Symbol[] Symbols = new Symbol[64];
    public int SymbolCount;
    private Candidate[] _heap = new Candidate[64];
    private int _heapCount;
    private Cut[] _cuts = [];

    public char[] Mapped = new char[256];
    public byte[] Bytes = new byte[256];

    public Span<Cut> CutsFor(int count)
    {
        if (_cuts.Length < count)
            _cuts = new Cut[Math.Max(count, 256)];
        return _cuts.AsSpan(0, count);
    }

    public void Add(int id)
    {
        if (SymbolCount == Symbols.Length)
            Array.Resize(ref Symbols, SymbolCount * 2);
        Symbols[SymbolCount] = new Symbol { Id = id, Previous = SymbolCount - 1, Next = SymbolCount + 1 };
        SymbolCount++;
    }

    public void Push(Candidate candidate)
    {
        if (_heapCount == _heap.Length)
            Array.Resize(ref _heap, _heapCount * 2);
        int at = _heapCount++;
        while (at > 0)
        {
            int parent = (at - 1) / 2;
            if (!candidate.Precedes(_heap[parent]))
                break;
            _heap[at] = _heap[parent];
            at = parent;
        }
        _heap[at] = candidate;
    }

    public bool TryPop(out Candidate top)
    {
        top = _heap[0];
        if (_heapCount == 0)
            return false;
        Candidate last = _heap[--_heapCount];
        int at = 0;
        while (true)
        {
            int child = 2 * at + 1;
            if (child >= _heapCount)
                break;
            if (child + 1 < _heapCount && _heap[child + 1].Precedes(_heap[child]))
                child++;
            if (!_heap[child].Precedes(last))
                break;
            _heap[at] = _heap[child];
            at = child;
        }
        _heap[at] = last;
        return true;
    }
}
