using System.Globalization;
using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// The filter <c>tojson</c> as Hugging Face overrides it: Python's <c>json.dumps</c> with <c>ensure_ascii=False</c>, no HTML
/// escaping, insertion order kept.
/// </summary>
internal sealed class JsonText
{
    private readonly Renderer _r;
    private readonly StringBuilder _text = new();
    private readonly bool _ensureAscii;
    private readonly bool _sortKeys;
    private readonly string? _indent;
    private readonly string _itemSeparator;
    private readonly string _keySeparator;

    private JsonText(Renderer r, bool ensureAscii, string? indent, string itemSeparator, string keySeparator, bool sortKeys)
    {
        _r = r;
        _ensureAscii = ensureAscii;
        _indent = indent;
        _itemSeparator = itemSeparator;
        _keySeparator = keySeparator;
        _sortKeys = sortKeys;
    }

    /// <summary><c>value|tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)</c></summary>
    public static string Filter(Renderer r, object? value, CallArguments arguments)
    {
        object?[] a = arguments.Bind("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys");
        bool ensureAscii = Operators.Truth(CallArguments.Or(a[0], false));
        object? indentArgument = CallArguments.Or(a[1], null);
        string? indent = indentArgument switch
        {
            null => null,
            string text => text,
            _ when PyNumber.IsInteger(indentArgument) => Spaces(r, PyNumber.Clamp(indentArgument)),
            _ => throw Fault.Type($"tojson: indent must be an integer or a text, not {TypeNames.Of(indentArgument)}"),
        };
        string itemSeparator = indent is null ? ", " : ",";
        string keySeparator = ": ";
        if (CallArguments.Or(a[2], null) is { } separators)
        {
            if (separators is not PySequence { Count: 2 } pair || pair[0] is not string item || pair[1] is not string key)
                throw Fault.Type("tojson: separators must be two texts, such as (',', ':')");
            itemSeparator = item;
            keySeparator = key;
        }
        var writer = new JsonText(r, ensureAscii, indent, itemSeparator, keySeparator, Operators.Truth(CallArguments.Or(a[3], false)));
        writer.Write(value, 0);
        return r.Charged(writer._text.ToString());
    }

    private static string Spaces(Renderer r, long count)
    {
        r.CheckTextLength(count);
        return new string(' ', (int)Math.Max(0, count));
    }

    private void Write(object? value, int level)
    {
        _r.Enter();
        switch (value)
        {
            case null:
                _text.Append("null");
                break;
            case bool b:
                _text.Append(b ? "true" : "false");
                break;
            case string s:
                WriteText(s);
                break;
            case Markup markup:
                WriteText(markup.Text);
                break;
            case long n:
                _text.Append(n.ToString(CultureInfo.InvariantCulture));
                break;
            case BigInteger n:
                _text.Append(PyText.IntegerText(n));
                break;
            case double d:
                _text.Append(FloatJson(d));
                break;
            case PyList or PyTuple:
                WriteArray((PySequence)value, level);
                break;
            case PyDict dict:
                WriteObject(dict, level);
                break;
            default:
                throw Fault.Type($"Object of type {TypeNames.Of(value)} is not JSON serializable");
        }
        _r.CheckTextLength(_text.Length);
        _r.Leave();
    }

    private void WriteArray(PySequence items, int level)
    {
        _text.Append('[');
        for (int i = 0; i < items.Count; i++)
        {
            Separate(i, level + 1);
            Write(items[i], level + 1);
        }
        Close(items.Count, level, ']');
    }

    private void WriteObject(PyDict dict, int level)
    {
        IEnumerable<KeyValuePair<object?, object?>> pairs = dict.Pairs;
        if (_sortKeys)
            pairs = Sorting.Sort(_r, [.. pairs], pair => pair.Key, reverse: false);
        _text.Append('{');
        int i = 0;
        foreach ((object? key, object? value) in pairs)
        {
            Separate(i++, level + 1);
            WriteText(key switch
            {
                string text => text,
                bool b => b ? "true" : "false",
                null => "null",
                double d => FloatJson(d),
                long or BigInteger => PyText.Str(null, key),
                _ => throw Fault.Type($"keys must be str, int, float, bool or None, not {TypeNames.Of(key)}"),
            });
            _text.Append(_keySeparator);
            Write(value, level + 1);
        }
        Close(dict.Count, level, '}');
    }

    private void Separate(int index, int level)
    {
        if (index > 0)
            _text.Append(_itemSeparator);
        Break(level);
    }

    private void Close(int count, int level, char bracket)
    {
        if (count > 0)
            Break(level);
        _text.Append(bracket);
    }

    private void Break(int level)
    {
        if (_indent is null)
            return;
        _r.CheckTextLength(_text.Length + (long)_indent.Length * level);
        _text.Append('\n');
        for (int i = 0; i < level; i++)
            _text.Append(_indent);
    }

    private static string FloatJson(double value)
        => double.IsNaN(value) ? "NaN" : double.IsInfinity(value) ? (value > 0 ? "Infinity" : "-Infinity") : FloatText.Repr(value);

    private void WriteText(string text)
    {
        _r.CheckTextLength((long)_text.Length + text.Length);
        _text.Append('"');
        foreach (char c in text)
        {
            _ = c switch
            {
                '"' => _text.Append("\\\""),
                '\\' => _text.Append(@"\\"),
                '\n' => _text.Append(@"\n"),
                '\r' => _text.Append(@"\r"),
                '\t' => _text.Append(@"\t"),
                '\f' => _text.Append(@"\f"),
                '\b' => _text.Append(@"\b"),
                < ' ' => _text.Append(CultureInfo.InvariantCulture, $@"\u{(int)c:x4}"),
                > '~' when _ensureAscii => c == '\u007f' ? _text.Append(c) : _text.Append(CultureInfo.InvariantCulture, $@"\u{(int)c:x4}"),
                _ => _text.Append(c),
            };
        }
        _text.Append('"');
    }
}
