using System.Collections.Frozen;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>The functions that every template can call, unless a variable of the same name hides them.</summary>
internal static class Functions
{
    /// <summary>Longest range that Jinja's sandbox allows.</summary>
    private const int MaxRange = 100_000;

    private static readonly FrozenDictionary<string, Builtin> s_globals = new Builtin[]
    {
        new("raise_exception", RaiseException, "function"),
        new("strftime_now", StrfTimeNow, "function"),
        new("namespace", (r, a) => new Namespace(MakeDict(r, a, "namespace")), "type"),
        new("dict", (r, a) => MakeDict(r, a, "dict"), "type"),
        new("range", Range, "function"),
        new("cycler", (_, a) => new Cycler(a.Positional), "type"),
        new("joiner", (_, a) => new Joiner(CallArguments.Or(a.Bind("joiner", 0, "sep")[0], ", ")), "type"),
    }.ToFrozenDictionary(function => function.Name);

    public static Builtin? Global(string name) => s_globals.GetValueOrDefault(name);

    private static object? RaiseException(Renderer r, CallArguments a)
        => throw new Fault(ChatTemplateErrorKind.RaisedByTemplate, PyText.Str(r, a.Bind("raise_exception", 1, "message")[0]));

    private static object? StrfTimeNow(Renderer r, CallArguments a)
    {
        string format = a.Bind("strftime_now", 1, "format")[0] as string ?? throw Fault.Type("strftime_now: the format must be a text");
        return r.Charged(StrfTime.Format(r, r.Now, format));
    }

    private static PyDict MakeDict(Renderer r, CallArguments a, string name)
    {
        var result = new PyDict();
        if (a.Positional.Length > 1)
            throw Fault.Type($"{name} expected at most 1 argument, got {a.Positional.Length}");
        if (a.Positional.Length == 1)
        {
            if (a.Positional[0] is PyDict source)
                foreach ((object? key, object? value) in source.Pairs)
                    Put(key, value);
            else
                foreach (object? pair in Iteration.Over(r, a.Positional[0]))
                {
                    List<object?> two = Iteration.ToList(r, pair);
                    if (two.Count != 2)
                        throw Fault.Type($"{name}: an element of length {two.Count} is no pair of key and value");
                    Put(two[0], two[1]);
                }
        }
        foreach (KeyValuePair<string, object?> pair in a.Keywords)
            Put(pair.Key, pair.Value);
        return result;

        void Put(object? key, object? value)
        {
            r.Step();
            result.Set(r, key, value);
        }
    }

    private static object? Range(Renderer r, CallArguments a)
    {
        object?[] b = a.Bind("range", 1, "/start", "/stop", "/step");
        bool one = CallArguments.IsMissing(b[1]);
        long start = one ? 0 : Integer(b[0]);
        long stop = Integer(one ? b[0] : b[1]);
        long step = CallArguments.IsMissing(b[2]) ? 1 : Integer(b[2]);
        if (step == 0)
            throw Fault.Type("range() arg 3 must not be zero");
        Int128 span = step > 0 ? (Int128)stop - start : (Int128)start - stop;
        Int128 count = span <= 0 ? 0 : (span - 1) / Int128.Abs(step) + 1;
        if (count > MaxRange)
            throw Fault.Limit($"a range of {count} elements is longer than {MaxRange}");
        return new PyRange(start, stop, step, (int)count);
    }

    private static long Integer(object? value) => value switch
    {
        long n => n,
        bool b => b ? 1 : 0,
        Undefined undefined => throw undefined.Error(),
        System.Numerics.BigInteger => throw Fault.Limit("a bound of the range is too large"),
        _ => throw Fault.Type($"'{TypeNames.Of(value)}' object cannot be interpreted as an integer"),
    };
}

/// <summary><c>cycler(…)</c>: gives its items in turn.</summary>
internal sealed class Cycler
{
    private readonly object?[] _items;
    private int _position;

    public Cycler(object?[] items)
    {
        if (items.Length == 0)
            throw Fault.Type("cycler: at least one item has to be provided");
        _items = items;
    }

    public object? Member(string name) => name switch
    {
        "next" => new Builtin(name, (_, _) =>
        {
            object? current = _items[_position];
            _position = (_position + 1) % _items.Length;
            return current;
        }),
        "current" => _items[_position],
        "reset" => new Builtin(name, (_, _) =>
        {
            _position = 0;
            return null;
        }),
        "items" => new PyTuple(_items),
        "pos" => (long)_position,
        _ => Access.NotFound,
    };
}

/// <summary><c>joiner(sep)</c>: gives nothing at its first call and the separator at all others.</summary>
internal sealed class Joiner(object? separator) : ICallable
{
    private bool _used;

    public string TypeName => "Joiner";

    public object? Call(Renderer r, CallArguments arguments)
    {
        arguments.Bind("joiner", 0);
        bool first = !_used;
        _used = true;
        return first ? "" : separator;
    }
}
