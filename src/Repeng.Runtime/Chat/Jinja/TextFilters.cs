using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Filters that make texts of texts.</summary>
internal static class TextFilters
{
    public static object? Trim(Renderer r, object? value, CallArguments a)
    {
        object? characters = CallArguments.Or(a.Bind("trim", 0, "chars")[0], null);
        if (characters is not (null or string))
            throw Fault.Type("strip arg must be None or str");
        string text = PyText.Str(r, value);
        r.Scan(text.Length);
        return Like(value, r.Charged(PyText.Strip(text, (string?)characters)));
    }

    public static object? Mapped(Renderer r, object? value, CallArguments a, string name, Func<string, string> map)
    {
        a.Bind(name, 0);
        string text = PyText.Str(r, value);
        r.Step(text.Length);
        return Like(value, r.Charged(map(text)));
    }

    /// <summary>Every word in upper and then lower case; words end at blanks and at <c>- ( { [ &lt;</c>.</summary>
    public static object? Title(Renderer r, object? value, CallArguments a)
    {
        a.Bind("title", 0);
        string text = PyText.Str(r, value);
        r.Step(text.Length);
        var result = new StringBuilder(text.Length);
        int i = 0;
        while (i < text.Length)
        {
            bool separator = IsSeparator(text[i]);
            int end = i;
            while (end < text.Length && IsSeparator(text[end]) == separator)
                end++;
            string word = text[i..end];
            int first = PyText.Offset(word, 1);
            result.Append(PyCase.Upper(word[..first])).Append(PyCase.Lower(word[first..]));
            i = end;
        }
        return r.Charged(result.ToString());

        static bool IsSeparator(char c) => c is '-' or '(' or '{' or '[' or '<' || PyText.IsSpace(c);
    }

    public static object? Replace(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("replace", 2, "old", "new", "count");
        object? count = CallArguments.Or(b[2], null) ?? -1L;
        if (!PyNumber.IsInteger(count))
            throw Fault.Type($"replace: '{TypeNames.Of(count)}' object cannot be interpreted as an integer");
        return PyText.Replace(r, PyText.Str(r, value), PyText.Str(r, b[0]), PyText.Str(r, b[1]), PyNumber.Clamp(count));
    }

    public static object? Indent(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("indent", 0, "width", "first", "blank");
        object? width = CallArguments.Or(b[0], 4L);
        bool first = Operators.Truth(CallArguments.Or(b[1], false));
        bool blank = Operators.Truth(CallArguments.Or(b[2], false));
        if (value is Undefined undefined)
            throw undefined.Error();
        string text = value as string ?? (value as Markup)?.Text ?? throw Fault.Type($"indent: a text is needed, not {TypeNames.Of(value)}");
        string indention = width as string
            ?? (PyNumber.IsInteger(width) ? StringMethods.Pad(r, "", PyNumber.Clamp(width!), "ljust", " ") : throw Fault.Type("indent: the width must be an integer or a text"));
        r.Scan(text.Length);
        var result = new StringBuilder();
        int line = 0;
        foreach (string content in PyText.Lines(text + "\n", keepEnds: false))
        {
            r.Step();
            if (line++ > 0)
                result.Append('\n');
            if (line == 1 ? first : blank || content.Length > 0)
                result.Append(indention);
            result.Append(content);
            r.CheckTextLength(result.Length);
        }
        return Like(value, r.Charged(result.ToString()));
    }

    public static object? Center(Renderer r, object? value, CallArguments a)
    {
        object? width = CallArguments.Or(a.Bind("center", 0, "width")[0], 80L);
        if (!PyNumber.IsInteger(width))
            throw Fault.Type("center: the width must be an integer");
        return Like(value, StringMethods.Pad(r, PyText.Str(r, value), PyNumber.Clamp(width!), "center", " "));
    }

    public static object? Truncate(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("truncate", 0, "length", "killwords", "end", "leeway");
        string? given = value as string ?? (value as Markup)?.Text;
        if (CallArguments.Or(b[2], "...") is not string end || CallArguments.Or(b[0], 255L) is not long length || (CallArguments.Or(b[3], null) ?? 5L) is not long leeway)
            throw Fault.Type("truncate: an integer length, a text for the end and an integer leeway are needed");
        // Whatever is short enough stays as it is, a list or nothing at all, too.
        if (given is null && length >= PyText.Length(end) && leeway >= 0 && Iteration.KnownLength(r, value) <= length + leeway)
            return value;
        if (given is not { } text)
            throw Fault.Type($"truncate: a text is needed, not {TypeNames.Of(value)}");
        r.Scan((long)text.Length + end.Length);
        int endLength = PyText.Length(end);
        if (length < endLength || leeway < 0)
            throw Fault.Type($"truncate: the length must be at least {endLength} and the leeway not negative, got {length} and {leeway}");
        if (PyText.Length(text) <= length + leeway)
            return value;
        string cut = text[..PyText.Offset(text, (int)(length - endLength))];
        int space = Operators.Truth(CallArguments.Or(b[1], false)) ? -1 : cut.LastIndexOf(' ');
        return r.Charged((space < 0 ? cut : cut[..space]) + end);
    }

    public static object? WordCount(Renderer r, object? value, CallArguments a)
    {
        a.Bind("wordcount", 0);
        string text = PyText.Str(r, value);
        r.Step(text.Length);
        long words = 0;
        bool inWord = false;
        foreach (Rune rune in text.EnumerateRunes())
        {
            bool letter = PyText.IsWord(rune.Value);
            if (letter && !inWord)
                words++;
            inWord = letter;
        }
        return words;
    }

    public static object? Escape(Renderer r, object? value, CallArguments a)
    {
        a.Bind("escape", 0);
        return new Markup(MarkupText.Escape(r, value));
    }

    public static object? Format(Renderer r, object? value, CallArguments a)
    {
        if (a.Positional.Length > 0 && a.Keywords.Count > 0)
            throw Fault.Type("format: can't handle positional and keyword arguments at the same time");
        object arguments = new PyTuple(a.Positional);
        if (a.Keywords.Count > 0)
        {
            var named = new PyDict();
            foreach (KeyValuePair<string, object?> pair in a.Keywords)
                named.SetText(pair.Key, pair.Value);
            arguments = named;
        }
        return Operators.Modulo(r, value is Markup ? value : PyText.Str(r, value), arguments);
    }

    // Safe text stays safe.
    private static object Like(object? value, string result) => value is Markup ? new Markup(result) : result;
}
