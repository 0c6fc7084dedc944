using System.Buffers;
using System.Globalization;
using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Texts as Python sees them: sequences of code points, with Python's idea of whitespace and line ends.</summary>
internal static class PyText
{
    private static readonly SearchValues<char> s_surrogates = SearchValues.Create(
        [.. Enumerable.Range(0xD800, 0x800).Select(code => (char)code)]);

    /// <summary>Python's <c>str.isspace</c>: also U+001C–1F and U+0085, but not U+200B, U+180E, U+FEFF.</summary>
    public static bool IsSpace(char c) => c switch
    {
        ' ' or (>= '\t' and <= '\r') or (>= '\u001c' and <= '\u001f') => true,
        < '\u0085' => false,
        '\u0085' or '\u00a0' or '\u1680' or (>= '\u2000' and <= '\u200a') or '\u2028' or '\u2029' or '\u202f' or '\u205f' or '\u3000' => true,
        _ => false,
    };

    /// <summary>What <c>\w</c> of Python's patterns stands for: letters, digits and numbers of any script, and the underscore.</summary>
    public static bool IsWord(int codePoint)
        => codePoint == '_' || CharUnicodeInfo.GetUnicodeCategory(codePoint) is <= UnicodeCategory.OtherLetter
            or UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber;

    public static bool IsBlank(ReadOnlySpan<char> text)
    {
        foreach (char c in text)
            if (!IsSpace(c))
                return false;
        return true;
    }

    public static int Length(string text)
    {
        if (!text.AsSpan().ContainsAny(s_surrogates))
            return text.Length;
        int count = 0;
        for (int i = 0; i < text.Length; i++, count++)
            if (i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]))
                i++;
        return count;
    }

    public static IEnumerable<object?> Characters(string text)
    {
        for (int i = 0; i < text.Length; i++)
        {
            if (i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]))
                yield return text.Substring(i++, 2);
            else
                yield return text[i].ToString();
        }
    }

    /// <summary>Where in UTF-16 units a code point stands; the end of the text for indexes behind it.</summary>
    public static int Offset(string text, int codePoints)
    {
        int i = 0;
        for (; codePoints > 0 && i < text.Length; codePoints--)
            i += i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]) ? 2 : 1;
        return i;
    }

    public static string CharacterAt(string text, int index)
    {
        int i = Offset(text, index);
        return text.Substring(i, i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]) ? 2 : 1);
    }

    /// <summary>Order by code points, which differs from that of UTF-16 units beyond U+FFFF.</summary>
    public static int CompareCodePoints(string a, string b)
    {
        int n = Math.Min(a.Length, b.Length);
        for (int i = 0; i < n; i++)
        {
            char x = a[i], y = b[i];
            if (x == y)
                continue;
            bool xs = char.IsSurrogate(x), ys = char.IsSurrogate(y);
            return xs == ys ? x.CompareTo(y) : xs ? 1 : -1;
        }
        return a.Length.CompareTo(b.Length);
    }

    public static string StripEnd(string text)
    {
        int end = text.Length;
        while (end > 0 && IsSpace(text[end - 1]))
            end--;
        return text[..end];
    }

    /// <summary>Without the given characters (whitespace when null) on the chosen ends.</summary>
    public static string Strip(string text, string? characters, bool start = true, bool end = true)
    {
        int from = 0, to = text.Length;
        if (characters is null)
        {
            while (start && from < to && IsSpace(text[from]))
                from++;
            while (end && to > from && IsSpace(text[to - 1]))
                to--;
            return text[from..to];
        }
        var set = new HashSet<string>(Characters(characters).Select(c => (string)c!), StringComparer.Ordinal);
        while (start && from < to)
        {
            int width = from + 1 < to && char.IsSurrogatePair(text[from], text[from + 1]) ? 2 : 1;
            if (!set.Contains(text.Substring(from, width)))
                break;
            from += width;
        }
        while (end && to > from)
        {
            int width = to - 2 >= from && char.IsSurrogatePair(text[to - 2], text[to - 1]) ? 2 : 1;
            if (!set.Contains(text.Substring(to - width, width)))
                break;
            to -= width;
        }
        return text[from..to];
    }

    /// <summary>
    /// First place of a part, from an offset on, or -1. Long parts go through the Knuth–Morris–Pratt search, so that no pair of
    /// texts makes it take more than linear time.
    /// </summary>
    public static int IndexOf(Renderer r, string text, string part, int from)
    {
        const int shortPart = 64;
        if (part.Length <= shortPart)
        {
            int found = text.IndexOf(part, from, StringComparison.Ordinal);
            r.Scan((found < 0 ? text.Length : found) - from + 16);
            return found;
        }
        r.Scan((long)text.Length - from + part.Length);
        if (part.Length > text.Length - from)
            return -1;
        r.Charge(part.Length * 2L);
        int[] fall = new int[part.Length];
        for (int i = 1, k = 0; i < part.Length; i++)
        {
            while (k > 0 && part[i] != part[k])
                k = fall[k - 1];
            fall[i] = part[i] == part[k] ? ++k : k;
        }
        for (int i = from, k = 0; i < text.Length; i++)
        {
            while (k > 0 && text[i] != part[k])
                k = fall[k - 1];
            if (text[i] == part[k] && ++k == part.Length)
                return i - k + 1;
        }
        return -1;
    }

    /// <summary>Last place of a part, or -1; found in the mirrored text, so that it takes linear time too.</summary>
    public static int LastIndexOf(Renderer r, string text, string part)
    {
        r.Charge(text.Length);
        int at = IndexOf(r, Mirror(text), Mirror(part), 0);
        return at < 0 ? -1 : text.Length - part.Length - at;
    }

    /// <summary>The UTF-16 units in reverse order.</summary>
    public static string Mirror(string text) => string.Create(text.Length, text, static (span, source) =>
    {
        source.AsSpan().CopyTo(span);
        span.Reverse();
    });

    /// <summary>Replaces the first occurrences of a part, all when the count is negative.</summary>
    public static string Replace(Renderer r, string text, string part, string by, long count)
    {
        r.Scan(text.Length);
        if (count == 0 || part == by)
            return text;
        var result = new StringBuilder();
        int from = 0;
        long left = count < 0 ? long.MaxValue : count;
        if (part.Length == 0)
        {
            // Python puts the replacement before every character and at the end.
            foreach (object? c in Characters(text))
            {
                if (left-- <= 0)
                    break;
                r.CheckTextLength((long)result.Length + by.Length + 1);
                result.Append(by).Append((string)c!);
                from += ((string)c!).Length;
            }
            result.Append(text, from, text.Length - from);
            if (left > 0)
                result.Append(by);
            r.CheckTextLength(result.Length);
            return r.Charged(result.ToString());
        }
        while (left-- > 0)
        {
            int at = IndexOf(r, text, part, from);
            if (at < 0)
                break;
            result.Append(text, from, at - from).Append(by);
            r.CheckTextLength(result.Length);
            from = at + part.Length;
        }
        result.Append(text, from, text.Length - from);
        r.CheckTextLength(result.Length);
        return r.Charged(result.ToString());
    }

    /// <summary>The lines of a text without their ends; Python knows ten line ends.</summary>
    public static IEnumerable<string> Lines(string text, bool keepEnds)
    {
        int start = 0;
        for (int i = 0; i < text.Length; i++)
        {
            if (!(text[i] is (>= '\n' and <= '\r') or (>= '\u001c' and <= '\u001e') or '\u0085' or '\u2028' or '\u2029'))
                continue;
            int end = text[i] == '\r' && i + 1 < text.Length && text[i + 1] == '\n' ? i + 2 : i + 1;
            yield return text[start..(keepEnds ? end : i)];
            start = end;
            i = end - 1;
        }
        if (start < text.Length)
            yield return text[start..];
    }

    /// <summary>Python's <c>str(value)</c>; a renderer counts what it costs and is needed for all but plain values.</summary>
    public static string Str(Renderer? r, object? value) => value switch
    {
        string text => text,
        null => "None",
        bool b => b ? "True" : "False",
        long n => n.ToString(CultureInfo.InvariantCulture),
        BigInteger n => LargeInteger(r, n),
        double d => FloatText.Repr(d),
        Undefined => "",
        Markup markup => markup.Text,
        _ => ValueText.Repr(r!, value),
    };

    private static string LargeInteger(Renderer? r, BigInteger n)
    {
        // Digits of a large integer cost more than their number.
        r?.Step(n.GetBitLength());
        return IntegerText(n);
    }

    public static string IntegerText(BigInteger n)
    {
        string text = n.ToString(CultureInfo.InvariantCulture);
        return text.Length - (n.Sign < 0 ? 1 : 0) <= PyNumber.MaxDigits
            ? text
            : throw Fault.Type($"exceeds the limit ({PyNumber.MaxDigits} digits) for integer string conversion");
    }

    /// <summary>A text in Python's quotes and escapes.</summary>
    public static string Repr(string text)
    {
        char quote = text.Contains('\'') && !text.Contains('"') ? '"' : '\'';
        var result = new StringBuilder(text.Length + 2).Append(quote);
        for (int i = 0; i < text.Length; i++)
        {
            char c = text[i];
            int code = i + 1 < text.Length && char.IsSurrogatePair(c, text[i + 1]) ? char.ConvertToUtf32(c, text[++i]) : c;
            _ = code switch
            {
                '\\' => result.Append(@"\\"),
                '\n' => result.Append(@"\n"),
                '\r' => result.Append(@"\r"),
                '\t' => result.Append(@"\t"),
                _ when code == quote => result.Append('\\').Append(quote),
                _ when IsPrintable(code) => result.Append(text, code > 0xFFFF ? i - 1 : i, code > 0xFFFF ? 2 : 1),
                < 0x100 => result.Append(CultureInfo.InvariantCulture, $@"\x{code:x2}"),
                < 0x10000 => result.Append(CultureInfo.InvariantCulture, $@"\u{code:x4}"),
                _ => result.Append(CultureInfo.InvariantCulture, $@"\U{code:x8}"),
            };
        }
        return result.Append(quote).ToString();
    }

    private static bool IsPrintable(int code)
    {
        if (code < 0x7F)
            return code >= 0x20;
        return CharUnicodeInfo.GetUnicodeCategory(code) is not (UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate
            or UnicodeCategory.PrivateUse or UnicodeCategory.OtherNotAssigned or UnicodeCategory.LineSeparator
            or UnicodeCategory.ParagraphSeparator or UnicodeCategory.SpaceSeparator);
    }
}
