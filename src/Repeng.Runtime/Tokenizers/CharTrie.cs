namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Texts by their UTF-16 units, so that all that begin at a place are found in one walk. All edges lie in one hash table.
/// Filled first, then read by several threads at once.
/// </summary>
internal sealed class CharTrie
{
    /// <summary>The node to begin at.</summary>
    public const int Root = 0;

    private struct Edge
    {
        public int Parent;
        /// <summary>0 for an empty slot: no edge leads to the root.</summary>
        public int Child;
        public char Unit;
    }

    private Edge[] _edges;
    private int _mask;
    private int[] _values;
    private int _nodes = 1;

    /// <param name="expected">About how many units all texts have together.</param>
    public CharTrie(int expected)
    {
        int capacity = 64;
        while (capacity < expected)
            capacity *= 2;
        _edges = new Edge[capacity];
        _mask = capacity - 1;
        _values = new int[Math.Max(16, expected / 2)];
        _values[Root] = -1;
    }

    public bool IsEmpty => _nodes == 1;

    /// <summary>The node behind a node; -1 when there is none.</summary>
    public int Next(int node, char unit)
    {
        int at = Slot(node, unit);
        return _edges[at].Child == 0 ? -1 : _edges[at].Child;
    }

    /// <summary>What was added for the text that ends at the node; -1 when none does.</summary>
    public int ValueAt(int node) => _values[node];

    /// <summary>Adds a text with a number from 0 on. Of equal texts the last one counts.</summary>
    public void Add(ReadOnlySpan<char> text, int value)
    {
        int node = NodeOf(text);
        _values[node] = value;
    }

    /// <summary>The same, but of equal texts the first one counts; false for the others.</summary>
    public bool TryAdd(ReadOnlySpan<char> text, int value)
    {
        int node = NodeOf(text);
        if (_values[node] >= 0)
            return false;
        _values[node] = value;
        return true;
    }

    private int NodeOf(ReadOnlySpan<char> text)
    {
        int node = Root;
        foreach (char unit in text)
        {
            int at = Slot(node, unit);
            if (_edges[at].Child == 0)
            {
                if (_nodes * 2 > _mask)
                {
                    Grow();
                    at = Slot(node, unit);
                }
                if (_nodes == _values.Length)
                    Array.Resize(ref _values, _nodes * 2);
                _values[_nodes] = -1;
                _edges[at] = new Edge { Parent = node, Unit = unit, Child = _nodes++ };
            }
            node = _edges[at].Child;
        }
        return node;
    }

    private void Grow()
    {
        Edge[] old = _edges;
        _edges = new Edge[old.Length * 2];
        _mask = _edges.Length - 1;
        foreach (Edge edge in old)
            if (edge.Child != 0)
                _edges[Slot(edge.Parent, edge.Unit)] = edge;
    }

    private int Slot(int parent, char unit)
    {
        ulong hash = ((ulong)(uint)parent << 16 | unit) * 0x9E3779B97F4A7C15;
        int at = (int)(hash >> 32) & _mask;
        while (_edges[at].Child != 0 && (_edges[at].Parent != parent || _edges[at].Unit != unit))
            at = at + 1 & _mask;
        return at;
    }
}
