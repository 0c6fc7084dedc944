namespace Repeng.Runtime.Chat.Jinja;

/// <summary>The methods of <c>str</c> that cut a text into pieces.</summary>
internal static class Splitting
{
    public static object? Split(Renderer r, string s, CallArguments a, string name, bool fromEnd)
    {
        object?[] b = a.Bind(name, 0, "sep", "maxsplit");
        object? separator = CallArguments.Or(b[0], null);
        object? limit = CallArguments.Or(b[1], -1L);
        if (separator is not (null or string))
            throw Fault.Type($"{name}: the separator must be a text or None, not {TypeNames.Of(separator)}");
        if (!PyNumber.IsInteger(limit))
            throw Fault.Type($"{name}: '{TypeNames.Of(limit)}' object cannot be interpreted as an integer");
        long max = PyNumber.Clamp(limit!);
        if (max < 0)
            max = long.MaxValue;
        r.Charge(s.Length);
        List<string> parts = separator is null
            ? (fromEnd ? BlanksFromEnd(s, max) : Blanks(s, max))
            : fromEnd ? BySeparatorFromEnd(r, s, (string)separator, max) : BySeparator(r, s, (string)separator, max);
        r.ChargeElements(parts.Count);
        r.Step(parts.Count);
        return new PyList([.. parts]);
    }

    public static object? SplitLines(Renderer r, string s, CallArguments a)
    {
        bool keepEnds = Operators.Truth(CallArguments.Or(a.Bind("splitlines", 0, "keepends")[0], false));
        var lines = new List<object?>();
        r.Charge(s.Length);
        foreach (string line in PyText.Lines(s, keepEnds))
        {
            r.Step();
            r.ChargeElements(1);
            lines.Add(line);
        }
        return new PyList(lines);
    }

    public static object? Partition(Renderer r, string s, string separator, bool last)
    {
        if (separator.Length == 0)
            throw Fault.Type("empty separator");
        r.Charge(s.Length);
        int at = last ? PyText.LastIndexOf(r, s, separator) : PyText.IndexOf(r, s, separator, 0);
        if (at >= 0)
            return new PyTuple([s[..at], separator, s[(at + separator.Length)..]]);
        return last ? new PyTuple(["", "", s]) : new PyTuple([s, "", ""]);
    }

    private static List<string> BySeparator(Renderer r, string s, string separator, long max)
    {
        if (separator.Length == 0)
            throw Fault.Type("empty separator");
        var parts = new List<string>();
        int from = 0;
        for (int at; parts.Count < max && (at = PyText.IndexOf(r, s, separator, from)) >= 0; from = at + separator.Length)
            parts.Add(s[from..at]);
        parts.Add(s[from..]);
        return parts;
    }

    // Cutting the mirrored text finds the same places as a search from the end.
    private static List<string> BySeparatorFromEnd(Renderer r, string s, string separator, long max)
    {
        r.Charge(s.Length);
        List<string> parts = BySeparator(r, PyText.Mirror(s), PyText.Mirror(separator), max);
        parts.Reverse();
        return [.. parts.Select(PyText.Mirror)];
    }

    private static List<string> Blanks(string s, long max)
    {
        var parts = new List<string>();
        int i = 0;
        while (true)
        {
            while (i < s.Length && PyText.IsSpace(s[i]))
                i++;
            if (i >= s.Length)
                return parts;
            if (parts.Count >= max)
            {
                parts.Add(s[i..]);
                return parts;
            }
            int start = i;
            while (i < s.Length && !PyText.IsSpace(s[i]))
                i++;
            parts.Add(s[start..i]);
        }
    }

    private static List<string> BlanksFromEnd(string s, long max)
    {
        var parts = new List<string>();
        int i = s.Length;
        while (true)
        {
            while (i > 0 && PyText.IsSpace(s[i - 1]))
                i--;
            if (i <= 0)
                break;
            if (parts.Count >= max)
            {
                parts.Add(s[..i]);
                break;
            }
            int end = i;
            while (i > 0 && !PyText.IsSpace(s[i - 1]))
                i--;
            parts.Add(s[i..end]);
        }
        parts.Reverse();
        return parts;
    }
}
