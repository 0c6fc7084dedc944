using System.Collections.Frozen;
using System.Globalization;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>The methods of Python's <c>str</c>.</summary>
internal static class StringMethods
{
    private delegate object? Method(Renderer r, string self, CallArguments arguments);

    // Methods that Python has and this engine has not: using one must not look like a missing key.
    private static readonly FrozenSet<string> s_unsupported = new[]
    {
        "encode", "expandtabs", "format_map", "isprintable", "istitle", "maketrans", "translate",
    }.ToFrozenSet();

    private static readonly FrozenDictionary<string, Method> s_methods = new Dictionary<string, Method>
    {
        ["strip"] = (r, s, a) => Strip(r, s, a, "strip", true, true),
        ["lstrip"] = (r, s, a) => Strip(r, s, a, "lstrip", true, false),
        ["rstrip"] = (r, s, a) => Strip(r, s, a, "rstrip", false, true),
        ["upper"] = (r, s, a) => NoArguments(r, a, "upper", PyCase.Upper(s)),
        ["lower"] = (r, s, a) => NoArguments(r, a, "lower", PyCase.Lower(s)),
        ["casefold"] = (r, s, a) => NoArguments(r, a, "casefold", PyCase.Fold(s)),
        ["title"] = (r, s, a) => NoArguments(r, a, "title", PyCase.TitleWords(s)),
        ["capitalize"] = (r, s, a) => NoArguments(r, a, "capitalize", PyCase.Capitalize(s)),
        ["swapcase"] = (r, s, a) => NoArguments(r, a, "swapcase", PyCase.SwapCase(s)),
        ["startswith"] = (r, s, a) => Affix(r, s, a, "startswith", atStart: true),
        ["endswith"] = (r, s, a) => Affix(r, s, a, "endswith", atStart: false),
        ["removeprefix"] = (r, s, a) => OneText(a, "removeprefix") is var p && s.StartsWith(p, StringComparison.Ordinal) ? r.Charged(s[p.Length..]) : s,
        ["removesuffix"] = (r, s, a) => OneText(a, "removesuffix") is { Length: > 0 } p && s.EndsWith(p, StringComparison.Ordinal) ? r.Charged(s[..^p.Length]) : s,
        ["replace"] = Replace,
        ["split"] = (r, s, a) => Splitting.Split(r, s, a, "split", fromEnd: false),
        ["rsplit"] = (r, s, a) => Splitting.Split(r, s, a, "rsplit", fromEnd: true),
        ["splitlines"] = Splitting.SplitLines,
        ["partition"] = (r, s, a) => Splitting.Partition(r, s, OneText(a, "partition"), last: false),
        ["rpartition"] = (r, s, a) => Splitting.Partition(r, s, OneText(a, "rpartition"), last: true),
        ["join"] = Join,
        ["find"] = (r, s, a) => Find(r, s, a, "find", last: false, mustExist: false),
        ["rfind"] = (r, s, a) => Find(r, s, a, "rfind", last: true, mustExist: false),
        ["index"] = (r, s, a) => Find(r, s, a, "index", last: false, mustExist: true),
        ["rindex"] = (r, s, a) => Find(r, s, a, "rindex", last: true, mustExist: true),
        ["count"] = Count,
        ["center"] = (r, s, a) => Pad(r, s, a, "center"),
        ["ljust"] = (r, s, a) => Pad(r, s, a, "ljust"),
        ["rjust"] = (r, s, a) => Pad(r, s, a, "rjust"),
        ["zfill"] = ZeroFill,
        ["format"] = (r, s, a) => FormatMethod.Apply(r, s, a),
        ["isdigit"] = (r, s, a) => NoMore(a, "isdigit", All(r, s, rune => CharUnicodeInfo.GetDigitValue(rune.ToString(), 0) >= 0)),
        ["isdecimal"] = (r, s, a) => NoMore(a, "isdecimal", All(r, s, rune => CharUnicodeInfo.GetDecimalDigitValue(rune.ToString(), 0) >= 0)),
        ["isnumeric"] = (r, s, a) => NoMore(a, "isnumeric", All(r, s, IsNumeric)),
        ["isalpha"] = (r, s, a) => NoMore(a, "isalpha", All(r, s, Rune.IsLetter)),
        ["isalnum"] = (r, s, a) => NoMore(a, "isalnum", All(r, s, rune => Rune.IsLetter(rune) || IsNumeric(rune))),
        ["isspace"] = (r, s, a) => NoMore(a, "isspace", s.Length > 0 && PyText.IsBlank(s)),
        ["isascii"] = (r, s, a) => NoMore(a, "isascii", Ascii.IsValid(s)),
        ["isidentifier"] = (r, s, a) => NoMore(a, "isidentifier", s.Length > 0 && (s[0] == '_' || char.IsLetter(s[0])) && All(r, s, rune => rune.Value == '_' || Rune.IsLetterOrDigit(rune))),
        ["islower"] = (r, s, a) => NoMore(a, "islower", IsCase(r, s, upper: false)),
        ["isupper"] = (r, s, a) => NoMore(a, "isupper", IsCase(r, s, upper: true)),
    }.ToFrozenDictionary();

    /// <summary>The method bound to a text, or <see cref="Access.NotFound"/>. Methods of safe text give safe text.</summary>
    public static object? Find(object value, string name)
    {
        if (s_methods.TryGetValue(name, out Method? method))
        {
            return value is Markup markup
                ? new Builtin(name, (r, a) => MarkupResult(Call(r, method, markup.Text, EscapeArguments(r, name, a))))
                : new Builtin(name, (r, a) => Call(r, method, (string)value, Plain(a)));
        }
        return s_unsupported.Contains(name) ? Undefined.Because($"the text method '{name}' is not supported") : Access.NotFound;
    }

    private static object? Call(Renderer r, Method method, string self, CallArguments arguments)
    {
        r.Scan(self.Length);
        return method(r, self, arguments);
    }

    /// <summary>Texts that consist of letters of one case and things without case (<c>islower</c>, <c>isupper</c>).</summary>
    public static bool IsCase(Renderer r, string text, bool upper)
    {
        r.Step(text.Length);
        bool any = false;
        foreach (Rune rune in text.EnumerateRunes())
        {
            UnicodeCategory category = Rune.GetUnicodeCategory(rune);
            bool isUpper = category == UnicodeCategory.UppercaseLetter;
            bool isLower = category == UnicodeCategory.LowercaseLetter;
            if (category == UnicodeCategory.TitlecaseLetter || (upper ? isLower : isUpper))
                return false;
            any |= upper ? isUpper : isLower;
        }
        return any;
    }

    private static bool All(Renderer r, string text, Func<Rune, bool> test)
    {
        r.Step(text.Length);
        return text.Length > 0 && text.EnumerateRunes().All(test);
    }

    private static bool IsNumeric(Rune rune) => CharUnicodeInfo.GetNumericValue(rune.ToString(), 0) >= 0
        || Rune.GetUnicodeCategory(rune) is UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber;

    private static object? MarkupResult(object? result) => result switch
    {
        string text => new Markup(text),
        PyList list => new PyList([.. list.Items.Select(MarkupResult)]),
        PyTuple tuple => new PyTuple([.. tuple.Items.Select(MarkupResult)]),
        _ => result,
    };

    private static CallArguments EscapeArguments(Renderer r, string name, CallArguments a)
    {
        // Only the text that goes into the result is escaped: the second argument of replace, the elements of join, the values of format.
        return name switch
        {
            "replace" when a.Positional.Length > 1 => new([PlainValue(a.Positional[0]), MarkupText.Escape(r, a.Positional[1]), .. a.Positional[2..]], [.. a.Keywords]),
            "join" when a.Positional.Length == 1 => new([new PyList([.. Iteration.Over(r, a.Positional[0]).Select(item => (object?)MarkupText.Escape(r, item))])], []),
            "format" => new([.. a.Positional.Select(item => MarkupText.EscapeAll(r, item))], [.. a.Keywords.Select(pair => new KeyValuePair<string, object?>(pair.Key, MarkupText.EscapeAll(r, pair.Value)))]),
            _ => Plain(a),
        };
    }

    private static CallArguments Plain(CallArguments a)
        => Array.Exists(a.Positional, value => value is Markup) ? new([.. a.Positional.Select(PlainValue)], [.. a.Keywords]) : a;

    private static object? PlainValue(object? value) => value is Markup markup ? markup.Text : value;

    private static object? NoMore(CallArguments a, string name, bool result)
    {
        a.Bind(name, 0);
        return result;
    }

    private static string NoArguments(Renderer r, CallArguments a, string name, string result)
    {
        a.Bind(name, 0);
        r.Step(result.Length);
        return r.Charged(result);
    }

    private static string OneText(CallArguments a, string name)
        => a.Bind(name, 1, "/text")[0] as string ?? throw Fault.Type($"{name}: the argument must be a text, not {TypeNames.Of(a.Positional[0])}");

    private static string Strip(Renderer r, string s, CallArguments a, string name, bool start, bool end)
    {
        object? characters = CallArguments.Or(a.Bind(name, 0, "/chars")[0], null);
        if (characters is not (null or string))
            throw Fault.Type($"{name} arg must be None or str");
        r.Scan(s.Length);
        return r.Charged(PyText.Strip(s, (string?)characters, start, end));
    }

    private static object? Affix(Renderer r, string s, CallArguments a, string name, bool atStart)
    {
        object?[] b = a.Bind(name, 1, "/affix", "/start", "/end");
        (int from, int to) = Range(s, CallArguments.Or(b[1], null), CallArguments.Or(b[2], null));
        bool Test(object? affix)
        {
            string text = affix as string
                ?? throw Fault.Type($"{name} first arg must be str or a tuple of str, not {TypeNames.Of(affix)}");
            r.Scan(text.Length);
            if (from > to)
                return false;
            ReadOnlySpan<char> part = s.AsSpan(from, to - from);
            return atStart ? part.StartsWith(text, StringComparison.Ordinal) : part.EndsWith(text, StringComparison.Ordinal);
        }
        return b[0] is PyTuple tuple ? Array.Exists(tuple.Items, Test) : Test(b[0]);
    }

    private static object? Replace(Renderer r, string s, CallArguments a)
    {
        object?[] b = a.Bind("replace", 2, "/old", "/new", "/count");
        if (b[0] is not string old || b[1] is not string by)
            throw Fault.Type($"replace() arguments must be texts, not {TypeNames.Of(b[0])} and {TypeNames.Of(b[1])}");
        return PyText.Replace(r, s, old, by, Integer(CallArguments.Or(b[2], -1L), "replace"));
    }

    private static object? Join(Renderer r, string s, CallArguments a)
    {
        var result = new StringBuilder();
        int i = 0;
        foreach (object? item in Iteration.Over(r, a.Bind("join", 1, "/iterable")[0]))
        {
            string text = item as string ?? (item as Markup)?.Text
                ?? throw Fault.Type($"sequence item {i}: expected str instance, {TypeNames.Of(item)} found");
            if (i++ > 0)
                result.Append(s);
            result.Append(text);
            r.CheckTextLength(result.Length);
        }
        return r.Charged(result.ToString());
    }

    private static object? Find(Renderer r, string s, CallArguments a, string name, bool last, bool mustExist)
    {
        object?[] b = a.Bind(name, 1, "/sub", "/start", "/end");
        string part = b[0] as string ?? throw Fault.Type($"{name}: must be str, not {TypeNames.Of(b[0])}");
        (int from, int to) = Range(s, CallArguments.Or(b[1], null), CallArguments.Or(b[2], null));
        int at = -1;
        if (from <= to)
        {
            string window = s[from..to];
            at = last ? PyText.LastIndexOf(r, window, part) : PyText.IndexOf(r, window, part, 0);
        }
        if (at < 0)
            return mustExist ? throw Fault.Type("substring not found") : -1L;
        return (long)PyText.Length(s[..(from + at)]);
    }

    private static object? Count(Renderer r, string s, CallArguments a)
    {
        object?[] b = a.Bind("count", 1, "/sub", "/start", "/end");
        string part = b[0] as string ?? throw Fault.Type($"count: must be str, not {TypeNames.Of(b[0])}");
        (int from, int to) = Range(s, CallArguments.Or(b[1], null), CallArguments.Or(b[2], null));
        if (from > to)
            return 0L;
        string window = s[from..to];
        if (part.Length == 0)
            return PyText.Length(window) + 1L;
        long count = 0;
        for (int next = PyText.IndexOf(r, window, part, 0); next >= 0; next = PyText.IndexOf(r, window, part, next + part.Length))
            count++;
        return count;
    }

    // Start and end in code points, as in a slice, to UTF-16 offsets; from > to when the range is empty beyond the text.
    private static (int From, int To) Range(string s, object? start, object? end)
    {
        if (start is null && end is null)
            return (0, s.Length);
        int length = PyText.Length(s);
        long from = start is null ? 0 : Integer(start, "start");
        long to = end is null ? length : Integer(end, "end");
        from = from < 0 ? Math.Max(0, from + length) : from;
        to = to < 0 ? Math.Max(0, to + length) : Math.Min(to, length);
        return from > length || from > to ? (1, 0) : (PyText.Offset(s, (int)from), PyText.Offset(s, (int)to));
    }

    private static object? Pad(Renderer r, string s, CallArguments a, string name)
    {
        object?[] b = a.Bind(name, 1, "/width", "/fillchar");
        string fill = CallArguments.Or(b[1], " ") as string ?? "";
        if (PyText.Length(fill) != 1)
            throw Fault.Type($"{name}: the fill character must be exactly one character long");
        return Pad(r, s, Integer(b[0], name), name, fill);
    }

    /// <summary>Filled up to a width: <c>center</c>, <c>ljust</c>, <c>rjust</c>, or <c>^</c>, the centre of format specs.</summary>
    public static string Pad(Renderer r, string s, long width, string how, string fill)
    {
        r.Scan(s.Length);
        long missing = width - PyText.Length(s);
        if (missing <= 0)
            return s;
        r.CheckTextLength(s.Length + missing * fill.Length);
        // Python's centre leans left for odd widths and right for even ones.
        long left = how switch { "rjust" => missing, "ljust" => 0, "^" => missing / 2, _ => missing / 2 + (missing & width & 1) };
        return r.Charged(string.Concat(Enumerable.Repeat(fill, (int)left)) + s + string.Concat(Enumerable.Repeat(fill, (int)(missing - left))));
    }

    private static object? ZeroFill(Renderer r, string s, CallArguments a)
    {
        long missing = Integer(a.Bind("zfill", 1, "/width")[0], "zfill") - PyText.Length(s);
        if (missing <= 0)
            return s;
        r.CheckTextLength(s.Length + missing);
        int sign = s.Length > 0 && s[0] is '+' or '-' ? 1 : 0;
        return r.Charged(s[..sign] + new string('0', (int)missing) + s[sign..]);
    }

    private static long Integer(object? value, string name)
        => PyNumber.IsInteger(value) ? PyNumber.Clamp(value!) : throw Fault.Type($"{name}: '{TypeNames.Of(value)}' object cannot be interpreted as an integer");
}
