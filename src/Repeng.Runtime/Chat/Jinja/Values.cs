using System.Numerics;

namespace Repeng.Runtime.Chat.Jinja;

// Values are null (None), bool, long, BigInteger (only beyond long), double, string, and the classes below.

/// <summary>Something that can be called.</summary>
internal interface ICallable
{
    string TypeName { get; }

    object? Call(Renderer r, CallArguments arguments);
}

/// <summary>
/// Jinja's default undefined value: prints as nothing, is false, empty and equal to any other undefined value;
/// everything else done to it is an error.
/// </summary>
internal sealed class Undefined
{
    private readonly Func<string> _message;

    private Undefined(Func<string> message) => _message = message;

    public static Undefined Variable(string name) => new(() => $"'{name}' is undefined");

    public static Undefined Because(string reason) => new(() => reason);

    /// <summary>What a missing key, element or attribute of a value gives.</summary>
    public static Undefined Member(object? owner, object? name) => new(() =>
    {
        string title = owner is null ? "None" : $"{TypeNames.Of(owner)} object";
        return name is string text
            ? $"'{title}' has no attribute {PyText.Repr(text)}"
            : $"{title} has no element {(name is long or bool or double or BigInteger or null ? PyText.Str(null, name) : TypeNames.Of(name))}";
    });

    public static Undefined Unsafe(object? owner, string name)
        => Because($"access to attribute '{name}' of '{TypeNames.Of(owner)}' object is unsafe");

    public Fault Error() => new(ChatTemplateErrorKind.Undefined, _message());
}

/// <summary>Values that have a length and elements by index.</summary>
internal abstract class PySequence
{
    public abstract int Count { get; }

    public abstract object? this[int index] { get; }
}

internal sealed class PyList(List<object?> items) : PySequence
{
    public List<object?> Items { get; } = items;

    public override int Count => Items.Count;

    public override object? this[int index] => Items[index];
}

/// <summary>A tuple; one that <c>groupby</c> gives has the names <c>grouper</c> and <c>list</c> for its two elements.</summary>
internal sealed class PyTuple(object?[] items, bool isGroup = false) : PySequence
{
    public object?[] Items { get; } = items;

    public bool IsGroup => isGroup;

    public override int Count => Items.Length;

    public override object? this[int index] => Items[index];
}

/// <summary>What <c>range</c> gives; at most 100,000 long, as in Jinja's sandbox.</summary>
internal sealed class PyRange(long start, long stop, long step, int count) : PySequence
{
    public long Start => start;

    public long Stop => stop;

    public long Step => step;

    public override int Count => count;

    public override object? this[int index] => start + index * step;
}

/// <summary>A dict: keeps the order of insertion; equal numbers are one key.</summary>
internal sealed class PyDict
{
    private static readonly object s_none = new();
    private readonly OrderedDictionary<object, object?> _items = new(KeyComparer.Instance);

    public int Count => _items.Count;

    public IEnumerable<KeyValuePair<object?, object?>> Pairs
    {
        get
        {
            foreach (KeyValuePair<object, object?> pair in _items)
                yield return new(ReferenceEquals(pair.Key, s_none) ? null : pair.Key, pair.Value);
        }
    }

    public IEnumerable<object?> Keys => Pairs.Select(pair => pair.Key);

    public void Set(Renderer r, object? key, object? value)
    {
        Hashing.Check(r, key);
        // Key, value and their place in the table take as much as a few list elements.
        r.ChargeElements(4);
        _items[key ?? s_none] = value;
    }

    /// <summary>Sets a plain text key.</summary>
    public void SetText(string key, object? value) => _items[key] = value;

    public bool TryGet(Renderer r, object? key, out object? value)
    {
        Hashing.Check(r, key);
        return _items.TryGetValue(key ?? s_none, out value);
    }

    public bool TryGetText(string key, out object? value) => _items.TryGetValue(key, out value);

    public PyDict Copy()
    {
        var copy = new PyDict();
        foreach (KeyValuePair<object, object?> pair in _items)
            copy._items.Add(pair.Key, pair.Value);
        return copy;
    }

    private sealed class KeyComparer : IEqualityComparer<object>
    {
        public static KeyComparer Instance { get; } = new();

        public new bool Equals(object? a, object? b)
            => ReferenceEquals(a, b) || (!ReferenceEquals(a, s_none) && !ReferenceEquals(b, s_none) && Operators.Equal(null, a, b));

        public int GetHashCode(object key) => ReferenceEquals(key, s_none) ? 0 : Hashing.Of(key);
    }
}

internal enum DictViewKind { Keys, Values, Items }

/// <summary>What <c>keys()</c>, <c>values()</c> and <c>items()</c> of a dict give: iterable, with a length, without index.</summary>
internal sealed class PyDictView(PyDict dict, DictViewKind kind)
{
    public PyDict Dict => dict;

    public DictViewKind Kind => kind;

    public IEnumerable<object?> Items => kind switch
    {
        DictViewKind.Keys => dict.Keys,
        DictViewKind.Values => dict.Pairs.Select(pair => pair.Value),
        _ => dict.Pairs.Select(pair => (object?)new PyTuple([pair.Key, pair.Value])),
    };
}

/// <summary>A generator, as <c>map</c>, <c>select</c> and their kin give: lazy, without length, and used up by one pass.</summary>
internal sealed class PyIterator(IEnumerator<object?> items, string typeName = "generator")
{
    public IEnumerator<object?> Items => items;

    public string TypeName => typeName;
}

/// <summary>Text marked as safe for HTML: whatever is joined to it with <c>+</c> gets escaped.</summary>
internal sealed record Markup(string Text);

/// <summary>What <c>namespace(…)</c> gives: the only value that a template can change.</summary>
internal sealed class Namespace(PyDict attributes)
{
    public PyDict Attributes => attributes;
}

internal static class TypeNames
{
    /// <summary>Python's name for the type of a value.</summary>
    public static string Of(object? value) => value switch
    {
        null => "NoneType",
        bool => "bool",
        long or BigInteger => "int",
        double => "float",
        string => "str",
        PyList => "list",
        PyTuple tuple => tuple.IsGroup ? "_GroupTuple" : "tuple",
        PyDict => "dict",
        PyRange => "range",
        PyDictView view => "dict_" + view.Kind.ToString().ToLowerInvariant(),
        PyIterator iterator => iterator.TypeName,
        Markup => "Markup",
        ICallable callable => callable.TypeName,
        _ => value.GetType().Name,
    };
}
