using System.Globalization;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Decodes the inside of a quoted string with Python's escapes.</summary>
internal static class StringLiteral
{
    public static string Decode(string text, int line)
    {
        if (!text.Contains('\\'))
            return text;
        var result = new StringBuilder(text.Length);
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] != '\\')
            {
                result.Append(text[i]);
                continue;
            }
            char c = text[++i];
            switch (c)
            {
                case '\n': break;
                case '\\' or '\'' or '"': result.Append(c); break;
                case 'a': result.Append('\a'); break;
                case 'b': result.Append('\b'); break;
                case 'f': result.Append('\f'); break;
                case 'n': result.Append('\n'); break;
                case 'r': result.Append('\r'); break;
                case 't': result.Append('\t'); break;
                case 'v': result.Append('\v'); break;
                case 'x': i = Hex(text, i, 2, result, line); break;
                case 'u': i = Hex(text, i, 4, result, line); break;
                case 'U': i = Hex(text, i, 8, result, line); break;
                case 'N': throw Fault.Syntax(@"characters by name (\N{…}) are not supported in strings; write them as they are or as \uXXXX", line);
                case >= '0' and <= '7': i = Octal(text, i, result); break;
                case < '\u0080': result.Append('\\').Append(c); break;
                default: i = Escaped(text, i, result); break;
            }
        }
        return result.ToString();
    }

    private static int Hex(string text, int i, int digits, StringBuilder result, int line)
    {
        if (i + digits >= text.Length
            || !uint.TryParse(text.AsSpan(i + 1, digits), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out uint value)
            || value > 0x10FFFF)
            throw Fault.Syntax($@"invalid \{text[i]} escape in a string", line);
        if (value > 0xFFFF)
            result.Append(char.ConvertFromUtf32((int)value));
        else
            result.Append((char)value);
        return i + digits;
    }

    private static int Octal(string text, int i, StringBuilder result)
    {
        int value = 0;
        int end = i;
        for (; end < text.Length && end < i + 3 && text[end] is >= '0' and <= '7'; end++)
            value = value * 8 + (text[end] - '0');
        result.Append((char)value);
        return end - 1;
    }

    // Jinja escapes non-ASCII characters before it decodes, so a backslash in front of one turns its code into text.
    private static int Escaped(string text, int i, StringBuilder result)
    {
        int code = char.IsSurrogatePair(text, i) ? char.ConvertToUtf32(text, i) : text[i];
        string digits = code switch { < 0x100 => $"x{code:x2}", < 0x10000 => $"u{code:x4}", _ => $"U{code:x8}" };
        result.Append('\\').Append(digits);
        return code > 0xFFFF ? i + 1 : i;
    }
}
