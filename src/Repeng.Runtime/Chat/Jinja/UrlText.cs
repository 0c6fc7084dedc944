using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>The filter <c>urlencode</c>: percent encoding of the UTF-8 of texts (RFC 3986, section 2).</summary>
internal static class UrlText
{
    /// <summary>A mapping or pairs as <c>key=value&amp;…</c>, where blanks become <c>+</c>; the text of anything else for a path, where <c>/</c> stays.</summary>
    public static object? Filter(Renderer r, object? value, CallArguments a)
    {
        a.Bind("urlencode", 0);
        var result = new StringBuilder();
        // The state of a loop is iterable in Jinja and not here, so it goes where that is an error.
        if (value is string or Markup || !(Iteration.IsIterable(value) || value is LoopState))
        {
            Append(r, result, value, forQuery: false);
            return r.Charged(result.ToString());
        }
        string separator = "";
        foreach (object? pair in Iteration.Over(r, value is PyDict dict ? new PyDictView(dict, DictViewKind.Items) : value))
        {
            List<object?> parts = r.Unpacked(pair, 2);
            result.Append(separator);
            Append(r, result, parts[0], forQuery: true);
            result.Append('=');
            Append(r, result, parts[1], forQuery: true);
            separator = "&";
        }
        return r.Charged(result.ToString());
    }

    private static void Append(Renderer r, StringBuilder result, object? value, bool forQuery)
    {
        string text = PyText.Str(r, value);
        r.Step(text.Length);
        Span<byte> bytes = stackalloc byte[4];
        for (int i = 0; i < text.Length; i++)
        {
            r.CheckTextLength(result.Length);
            char c = text[i];
            if (char.IsAsciiLetterOrDigit(c) || c is '_' or '.' or '-' or '~' || (c == '/' && !forQuery))
                result.Append(c);
            else if (c == ' ' && forQuery)
                result.Append('+');
            else if (Rune.TryGetRuneAt(text, i, out Rune rune))
            {
                foreach (byte b in bytes[..rune.EncodeToUtf8(bytes)])
                    result.Append('%').Append("0123456789ABCDEF"[b >> 4]).Append("0123456789ABCDEF"[b & 15]);
                i += rune.Utf16SequenceLength - 1;
            }
            else
                throw Fault.Type($"urlencode: the lone surrogate U+{(int)c:X4} at position {i} of a text has no UTF-8");
        }
        r.CheckTextLength(result.Length);
    }
}
