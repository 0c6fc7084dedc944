using System.Numerics;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>The methods of dicts, lists, tuples, ranges and numbers. Those that would change a value are refused, as in Jinja's immutable sandbox.</summary>
internal static class CollectionMethods
{
    public static object? OfDict(PyDict dict, string name) => name switch
    {
        "items" => View(name, dict, DictViewKind.Items),
        "keys" => View(name, dict, DictViewKind.Keys),
        "values" => View(name, dict, DictViewKind.Values),
        "get" => new Builtin(name, (r, a) =>
        {
            object?[] b = a.Bind("get", 1, "/key", "/default");
            return dict.TryGet(r, b[0], out object? value) ? value : CallArguments.Or(b[1], null);
        }),
        "copy" => new Builtin(name, (r, a) =>
        {
            a.Bind("copy", 0);
            r.ChargeElements(dict.Count * 4L);
            r.Step(dict.Count);
            return dict.Copy();
        }),
        "clear" or "pop" or "popitem" or "setdefault" or "update" => Undefined.Unsafe(dict, name),
        "fromkeys" => Undefined.Because("the dict method 'fromkeys' is not supported"),
        _ => Access.NotFound,
    };

    public static object? OfSequence(PySequence sequence, string name) => name switch
    {
        "count" => new Builtin(name, (r, a) =>
        {
            object? wanted = a.Bind("count", 1, "/value")[0];
            return (long)Iteration.Over(r, sequence).Count(item => Operators.Equal(r, item, wanted));
        }),
        "index" => new Builtin(name, (r, a) => Index(r, sequence, a)),
        "copy" when sequence is PyList list => new Builtin(name, (r, a) =>
        {
            a.Bind("copy", 0);
            r.ChargeElements(list.Count);
            r.Step(list.Count);
            return new PyList([.. list.Items]);
        }),
        "start" when sequence is PyRange range => range.Start,
        "stop" when sequence is PyRange range => range.Stop,
        "step" when sequence is PyRange range => range.Step,
        "grouper" when sequence is PyTuple { IsGroup: true } group => group.Items[0],
        "list" when sequence is PyTuple { IsGroup: true } group => group.Items[1],
        "append" or "clear" or "pop" or "reverse" or "insert" or "sort" or "extend" or "remove" when sequence is PyList
            => Undefined.Unsafe(sequence, name),
        _ => Access.NotFound,
    };

    public static object? OfNumber(object number, string name) => name switch
    {
        "real" => number is bool ? PyNumber.Add(0L, number) : number,
        "imag" => number is double ? 0.0 : (object)0L,
        "numerator" when number is not double => PyNumber.Add(0L, number),
        "denominator" when number is not double => 1L,
        "is_integer" when number is double d => new Builtin(name, (_, _) => double.IsFinite(d) && Math.Floor(d) == d),
        "bit_length" when number is not double => new Builtin(name, (_, _) => (long)BigInteger.Abs(PyNumber.ToBig(number)).GetBitLength()),
        "as_integer_ratio" or "bit_count" or "conjugate" or "from_bytes" or "to_bytes" or "fromhex" or "hex"
            => Undefined.Because($"the number method '{name}' is not supported"),
        _ => Access.NotFound,
    };

    private static Builtin View(string name, PyDict dict, DictViewKind kind) => new(name, (_, a) =>
    {
        a.Bind(name, 0);
        return new PyDictView(dict, kind);
    });

    private static object? Index(Renderer r, PySequence sequence, CallArguments a)
    {
        object?[] b = a.Bind("index", 1, "/value", "/start", "/stop");
        long from = Bound(b[1], sequence.Count, 0), to = Bound(b[2], sequence.Count, sequence.Count);
        for (long i = from; i < Math.Min(to, sequence.Count); i++)
        {
            r.Step();
            if (Operators.Equal(r, sequence[(int)i], b[0]))
                return i;
        }
        throw Fault.Type($"{ValueText.Repr(r, b[0])} is not in {TypeNames.Of(sequence)}");
    }

    private static long Bound(object? value, int count, long fallback)
    {
        if (CallArguments.IsMissing(value))
            return fallback;
        if (!PyNumber.IsInteger(value))
            throw Fault.Type("slice indices must be integers or have an __index__ method");
        long n = PyNumber.Clamp(value!);
        return n < 0 ? Math.Max(0, n + count) : n;
    }
}
