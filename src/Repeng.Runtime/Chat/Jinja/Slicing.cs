using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Python's slices, with negative bounds and steps. Texts are cut by code points.</summary>
internal static class Slicing
{
    public static object? Slice(Renderer r, object? value, object? start, object? stop, object? step)
    {
        switch (value)
        {
            case Undefined undefined:
                throw undefined.Error();
            case string text:
                return Text(r, text, start, stop, step);
            case Markup markup:
                return new Markup(Text(r, markup.Text, start, stop, step));
            case PySequence sequence:
                (long first, long by, int count) = Resolve(sequence.Count, start, stop, step);
                if (sequence is PyRange range)
                    return new PyRange(range.Start + first * range.Step, range.Start + (first + by * count) * range.Step, range.Step * by, count);
                r.ChargeElements(count);
                r.Step(count);
                var items = new object?[count];
                for (int i = 0; i < count; i++)
                    items[i] = sequence[(int)(first + i * by)];
                return sequence is PyTuple ? new PyTuple(items) : new PyList([.. items]);
            case PyDict:
                throw Fault.Type("unhashable type: 'slice' (a dict cannot be sliced)");
            default:
                throw Fault.Type($"'{TypeNames.Of(value)}' object is not subscriptable");
        }
    }

    private static string Text(Renderer r, string text, object? start, object? stop, object? step)
    {
        int length = PyText.Length(text);
        (long first, long by, int count) = Resolve(length, start, stop, step);
        r.Charge(count);
        r.Scan(text.Length);
        if (count == 0)
            return "";
        if (length == text.Length)
        {
            if (by == 1)
                return text.Substring((int)first, count);
            return string.Create(count, (text, first, by), static (span, s) =>
            {
                for (int i = 0; i < span.Length; i++)
                    span[i] = s.text[(int)(s.first + i * s.by)];
            });
        }
        Rune[] runes = [.. text.EnumerateRunes()];
        var result = new StringBuilder(count);
        for (int i = 0; i < count; i++)
            result.Append(runes[first + i * by].ToString());
        return result.ToString();
    }

    /// <summary>First index, step, and number of elements of a slice of something that long.</summary>
    private static (long First, long Step, int Count) Resolve(int length, object? start, object? stop, object? step)
    {
        long by = step is null ? 1 : Index(step);
        if (by == 0)
            throw Fault.Type("slice step cannot be zero");
        by = Math.Clamp(by, -int.MaxValue, int.MaxValue);
        long low = by > 0 ? 0 : -1;
        long high = by > 0 ? length : length - 1;
        long from = start is null ? (by > 0 ? low : high) : Bound(start, length, low, high);
        long to = stop is null ? (by > 0 ? high : low) : Bound(stop, length, low, high);
        long span = by > 0 ? to - from : from - to;
        long count = span <= 0 ? 0 : (span - 1) / Math.Abs(by) + 1;
        return (from, by, (int)count);
    }

    private static long Bound(object? value, int length, long low, long high)
    {
        long n = Index(value);
        return Math.Clamp(n < 0 ? n + length : n, low, high);
    }

    private static long Index(object? value) => value switch
    {
        long n => Math.Clamp(n, -int.MaxValue, int.MaxValue),
        bool b => b ? 1 : 0,
        BigInteger n => n.Sign * (long)int.MaxValue,
        Undefined undefined => throw undefined.Error(),
        _ => throw Fault.Type("slice indices must be integers or None"),
    };
}
