using System.Numerics;
using System.Runtime.CompilerServices;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>The operators of expressions, with Python's rules for each type.</summary>
internal static class Operators
{
    public static bool Truth(object? value) => value switch
    {
        null => false,
        bool b => b,
        long n => n != 0,
        BigInteger n => !n.IsZero,
        double d => d != 0,
        string s => s.Length > 0,
        Markup m => m.Text.Length > 0,
        PySequence sequence => sequence.Count > 0,
        PyDict dict => dict.Count > 0,
        PyDictView view => view.Dict.Count > 0,
        Undefined => false,
        _ => true,
    };

    public static object? Add(Renderer r, object? a, object? b)
    {
        if (a is string s && b is string t)
            return Join(r, s, t);
        RefuseUndefined(a, b);
        if (PyNumber.Is(a) && PyNumber.Is(b))
            return PyNumber.Add(a!, b!);
        switch (a, b)
        {
            case (Markup m, string or Markup):
                return new Markup(Join(r, m.Text, MarkupText.Escape(r, b)));
            case (string, Markup m):
                return new Markup(Join(r, MarkupText.Escape(r, a), m.Text));
            case (PyList x, PyList y):
                r.ChargeElements(x.Count + y.Count);
                r.Step(x.Count + y.Count);
                return new PyList([.. x.Items, .. y.Items]);
            case (PyTuple x, PyTuple y):
                r.ChargeElements(x.Count + y.Count);
                r.Step(x.Count + y.Count);
                return new PyTuple([.. x.Items, .. y.Items]);
            case (string or Markup or PyList or PyTuple, _):
                string kind = a is Markup ? "str" : TypeNames.Of(a);
                throw Fault.Type($"can only concatenate {kind} (not \"{TypeNames.Of(b)}\") to {kind}");
            default:
                throw Unsupported("+", a, b);
        }
    }

    public static object? Subtract(object? a, object? b) => Arithmetic("-", a, b, PyNumber.Subtract);

    public static object? Divide(object? a, object? b) => Arithmetic("/", a, b, PyNumber.Divide);

    public static object? FloorDivide(object? a, object? b) => Arithmetic("//", a, b, PyNumber.FloorDivide);

    public static object? Power(object? a, object? b) => Arithmetic("** or pow()", a, b, PyNumber.Power);

    public static object? Multiply(Renderer r, object? a, object? b)
    {
        RefuseUndefined(a, b);
        if (PyNumber.Is(a) && PyNumber.Is(b))
            return PyNumber.Multiply(a!, b!);
        (object? value, object? times) = PyNumber.IsInteger(a) ? (b, a) : (a, b);
        if (value is not (string or Markup or PyList or PyTuple))
            throw Unsupported("*", a, b);
        if (!PyNumber.IsInteger(times))
            throw Fault.Type($"can't multiply sequence by non-int of type '{TypeNames.Of(times)}'");
        long count = Math.Max(0, PyNumber.Clamp(times!));
        if (value is string or Markup)
        {
            string text = value as string ?? ((Markup)value).Text;
            // Both factors fit 32 bits, so the product fits 64.
            r.CheckTextLength(text.Length * count);
            string repeated = r.Charged(text.Length == 0 ? "" : string.Concat(Enumerable.Repeat(text, (int)count)));
            return value is string ? repeated : new Markup(repeated);
        }
        PySequence sequence = (PySequence)value;
        if (sequence.Count == 0)
            count = 0;
        r.ChargeElements(sequence.Count * count);
        r.Step(sequence.Count * count);
        var items = new List<object?>();
        for (long n = 0; n < count; n++)
            for (int i = 0; i < sequence.Count; i++)
                items.Add(sequence[i]);
        return sequence is PyList ? new PyList(items) : new PyTuple([.. items]);
    }

    public static object? Modulo(Renderer r, object? a, object? b)
    {
        if (a is string format)
            return PercentFormat.Apply(r, format, b);
        if (a is Markup markup)
            return new Markup(PercentFormat.Apply(r, markup.Text, MarkupText.EscapeAll(r, b)));
        return Arithmetic("%", a, b, PyNumber.Modulo);
    }

    public static object? Sign(object? value, bool negate)
    {
        if (value is Undefined undefined)
            throw undefined.Error();
        if (!PyNumber.Is(value))
            throw Fault.Type($"bad operand type for unary {(negate ? '-' : '+')}: '{TypeNames.Of(value)}'");
        if (value is double d)
            return negate ? -d : d;
        return negate ? PyNumber.Subtract(0L, value!) : PyNumber.Add(0L, value!);
    }

    /// <summary>Equality as in Python: by value, numbers across types, never an error.</summary>
    /// <param name="r">Counts what the comparison costs; null where that was counted before (dict keys).</param>
    /// <param name="a">One value.</param>
    /// <param name="b">The other.</param>
    public static bool Equal(Renderer? r, object? a, object? b)
    {
        RuntimeHelpers.EnsureSufficientExecutionStack();
        if (ReferenceEquals(a, b))
            return a is not double d || !double.IsNaN(d);
        if (a is Markup ma)
            a = ma.Text;
        if (b is Markup mb)
            b = mb.Text;
        if (a is string s && b is string t)
        {
            if (s.Length == t.Length)
                r?.Scan(s.Length);
            return s == t;
        }
        if (PyNumber.Is(a) && PyNumber.Is(b))
            return PyNumber.Compare(a!, b!) == 0;
        switch (a, b)
        {
            case (PyList or PyRange or PyTuple, PySequence) when a.GetType() == b.GetType():
                return SameItems(r, (PySequence)a, (PySequence)b);
            case (PyDict x, PyDict y):
                // Without a renderer two keys are compared, and a dict is no key.
                return r is not null && SamePairs(r, x, y);
            case (PyDictView { Kind: DictViewKind.Keys } x, PyDictView { Kind: DictViewKind.Keys } y):
                return r is not null && x.Dict.Count == y.Dict.Count && x.Dict.Keys.All(key => y.Dict.TryGet(r, key, out _));
            case (Undefined, Undefined):
                return true;
            default:
                return false;
        }
    }

    private static bool SameItems(Renderer? r, PySequence a, PySequence b)
    {
        if (a.Count != b.Count)
            return false;
        r?.Enter();
        bool same = true;
        for (int i = 0; i < a.Count && same; i++)
        {
            r?.Step();
            same = Equal(r, a[i], b[i]);
        }
        r?.Leave();
        return same;
    }

    private static bool SamePairs(Renderer r, PyDict a, PyDict b)
    {
        if (a.Count != b.Count)
            return false;
        r.Enter();
        bool same = true;
        foreach ((object? key, object? value) in a.Pairs)
        {
            r.Step();
            same = b.TryGet(r, key, out object? other) && Equal(r, value, other);
            if (!same)
                break;
        }
        r.Leave();
        return same;
    }

    /// <summary><c>&lt; &lt;= &gt; &gt;=</c>; only between numbers, texts, lists or tuples.</summary>
    public static bool Ordered(Renderer r, Comparison op, object? a, object? b)
    {
        if (PyNumber.Is(a) && PyNumber.Is(b) && (PyNumber.IsNan(a) || PyNumber.IsNan(b)))
            return false;
        int order = Order(r, a, b, op switch { Comparison.Less => "<", Comparison.LessEqual => "<=", Comparison.Greater => ">", _ => ">=" });
        return op switch
        {
            Comparison.Less => order < 0,
            Comparison.LessEqual => order <= 0,
            Comparison.Greater => order > 0,
            _ => order >= 0,
        };
    }

    /// <summary>Negative, zero or positive; an error for values that have no order.</summary>
    public static int Order(Renderer r, object? a, object? b, string sign)
    {
        RefuseUndefined(a, b);
        if (PyNumber.Is(a) && PyNumber.Is(b))
            return PyNumber.Compare(a!, b!);
        string? s = a as string ?? (a as Markup)?.Text;
        string? t = b as string ?? (b as Markup)?.Text;
        if (s is not null && t is not null)
        {
            r.Scan(Math.Min(s.Length, t.Length));
            return PyText.CompareCodePoints(s, t);
        }
        if ((a, b) is (PyList, PyList) or (PyTuple, PyTuple))
        {
            r.Enter();
            PySequence x = (PySequence)a!, y = (PySequence)b!;
            int order = x.Count.CompareTo(y.Count);
            for (int i = 0; i < Math.Min(x.Count, y.Count); i++)
            {
                if (Equal(r, x[i], y[i]))
                    continue;
                order = Order(r, x[i], y[i], sign);
                break;
            }
            r.Leave();
            return order;
        }
        throw Fault.Type($"'{sign}' not supported between instances of '{TypeNames.Of(a)}' and '{TypeNames.Of(b)}'");
    }

    /// <summary><c>item in container</c>.</summary>
    public static bool Contains(Renderer r, object? container, object? item)
    {
        switch (container)
        {
            case string or Markup:
                string text = container as string ?? ((Markup)container).Text;
                string? part = item as string ?? (item as Markup)?.Text;
                if (part is null)
                    throw Fault.Type($"'in <string>' requires string as left operand, not {TypeNames.Of(item)}");
                return PyText.IndexOf(r, text, part, 0) >= 0;
            case PyDict dict:
                return dict.TryGet(r, item is Markup markup ? markup.Text : item, out _);
            case PyDictView { Kind: DictViewKind.Keys } view:
                return view.Dict.TryGet(r, item, out _);
            default:
                if (!Iteration.IsIterable(container))
                    throw Fault.Type($"argument of type '{TypeNames.Of(container)}' is not iterable");
                foreach (object? element in Iteration.Over(r, container))
                    if (Equal(r, element, item))
                        return true;
                return false;
        }
    }

    private static object Arithmetic(string sign, object? a, object? b, Func<object, object, object> operation)
    {
        RefuseUndefined(a, b);
        return PyNumber.Is(a) && PyNumber.Is(b) ? operation(a!, b!) : throw Unsupported(sign, a, b);
    }

    private static Fault Unsupported(string sign, object? a, object? b)
        => Fault.Type($"unsupported operand type(s) for {sign}: '{TypeNames.Of(a)}' and '{TypeNames.Of(b)}'");

    private static void RefuseUndefined(object? a, object? b)
    {
        if (a is Undefined left)
            throw left.Error();
        if (b is Undefined right)
            throw right.Error();
    }

    private static string Join(Renderer r, string a, string b)
    {
        r.CheckTextLength((long)a.Length + b.Length);
        return r.Charged(a + b);
    }
}
