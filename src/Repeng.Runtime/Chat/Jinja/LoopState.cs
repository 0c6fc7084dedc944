namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// The variable <c>loop</c>. It reads one element ahead only when asked (<c>last</c>, <c>nextitem</c>), and the rest only for
/// the length of something that has none of its own.
/// </summary>
internal sealed class LoopState(
    IEnumerator<object?> items, int? knownLength, int depth0, Func<Renderer, object?, object?>? recurse) : ICallable
{
    private static readonly object s_end = new();
    private readonly Queue<object?> _ahead = new();
    private object? _previous;
    private object?[]? _lastChanged;
    private int? _length = knownLength;

    public string TypeName => "LoopContext";

    public object? Current { get; private set; }

    public int Index0 { get; private set; } = -1;

    public bool MoveNext(Renderer r)
    {
        r.Step();
        object? next = Peek();
        if (ReferenceEquals(next, s_end))
            return false;
        _ahead.Dequeue();
        Index0++;
        _previous = Current;
        Current = next;
        return true;
    }

    /// <summary>Rendered again for the elements of a nested value, in a loop marked <c>recursive</c>.</summary>
    public object? Call(Renderer r, CallArguments arguments)
    {
        if (recurse is null)
            throw Fault.Type("the loop must have the 'recursive' marker to be called recursively");
        return recurse(r, arguments.Bind("loop", 1, "iterable")[0]);
    }

    /// <summary>An attribute of <c>loop</c>; false for names that it does not have.</summary>
    public bool TryGet(string name, out object? value)
    {
        value = name switch
        {
            "index" => Index0 + 1L,
            "index0" => (long)Index0,
            "first" => Index0 == 0,
            "last" => ReferenceEquals(Peek(), s_end),
            "length" => (long)Length(),
            "revindex" => (long)Length() - Index0,
            "revindex0" => (long)Length() - Index0 - 1,
            "depth" => depth0 + 1L,
            "depth0" => (long)depth0,
            "previtem" => Index0 == 0 ? Undefined.Because("there is no previous item") : _previous,
            "nextitem" => ReferenceEquals(Peek(), s_end) ? Undefined.Because("there is no next item") : Peek(),
            "cycle" => new Builtin("cycle", Cycle),
            "changed" => new Builtin("changed", Changed),
            _ => s_end,
        };
        return !ReferenceEquals(value, s_end);
    }

    private object? Peek()
    {
        if (_ahead.Count == 0)
            _ahead.Enqueue(items.MoveNext() ? items.Current : s_end);
        return _ahead.Peek();
    }

    private int Length()
    {
        if (_length is not { } length)
        {
            // Elements are read through to the end; the end itself is queued for the loop to find.
            if (!_ahead.Contains(s_end))
            {
                while (items.MoveNext())
                    _ahead.Enqueue(items.Current);
                _ahead.Enqueue(s_end);
            }
            _length = length = Index0 + _ahead.Count;
        }
        return length;
    }

    private object? Cycle(Renderer r, CallArguments arguments)
    {
        if (arguments.Positional.Length == 0)
            throw Fault.Type("no items for cycling given");
        return arguments.Positional[Index0 % arguments.Positional.Length];
    }

    private object? Changed(Renderer r, CallArguments arguments)
    {
        if (_lastChanged is not null && Operators.Equal(r, new PyTuple(_lastChanged), new PyTuple(arguments.Positional)))
            return false;
        _lastChanged = arguments.Positional;
        return true;
    }
}
