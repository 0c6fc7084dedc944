using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Python's <c>"…{}…".format(values)</c>: fields by order, number or name, with attributes, items and format specs.</summary>
internal sealed class FormatMethod
{
    private readonly Renderer _r;
    private readonly CallArguments _arguments;
    private int _automatic;
    private bool _numbered;

    private FormatMethod(Renderer r, CallArguments arguments)
    {
        _r = r;
        _arguments = arguments;
    }

    public static string Apply(Renderer r, string format, CallArguments arguments)
        => new FormatMethod(r, arguments).Expand(format, nested: false);

    private string Expand(string format, bool nested)
    {
        var result = new StringBuilder();
        for (int i = 0; i < format.Length; i++)
        {
            _r.Step();
            _r.CheckTextLength(result.Length);
            char c = format[i];
            if (c is not ('{' or '}'))
            {
                result.Append(c);
            }
            else if (!nested && i + 1 < format.Length && format[i + 1] == c)
            {
                result.Append(c);
                i++;
            }
            else if (c == '}')
            {
                throw Fault.Type("Single '}' encountered in format string");
            }
            else
            {
                int end = FieldEnd(format, i + 1);
                result.Append(Field(format[(i + 1)..end], nested));
                i = end;
            }
        }
        _r.CheckTextLength(result.Length);
        return _r.Charged(result.ToString());
    }

    private static int FieldEnd(string format, int from)
    {
        int depth = 1;
        for (int i = from; i < format.Length; i++)
        {
            if (format[i] == '{')
                depth++;
            else if (format[i] == '}' && --depth == 0)
                return i;
        }
        throw Fault.Type("expected '}' before end of string");
    }

    private string Field(string field, bool nested)
    {
        int cut = field.AsSpan().IndexOfAny('!', ':');
        // A "!" or ":" inside brackets belongs to the key.
        int bracket = field.IndexOf('[');
        if (bracket >= 0 && bracket < cut)
            cut = field.IndexOf(']') is var close && close < 0 ? -1 : field.AsSpan(close).IndexOfAny('!', ':') is var next && next < 0 ? -1 : close + next;
        string name = cut < 0 ? field : field[..cut];
        string rest = cut < 0 ? "" : field[cut..];
        object? value = Value(name);
        if (rest.StartsWith('!'))
        {
            value = rest.Length > 1 ? rest[1] switch
            {
                's' => PyText.Str(_r, value),
                'r' or 'a' => ValueText.Repr(_r, value),
                _ => throw Fault.Type($"unknown conversion specifier '{rest[1]}'"),
            } : throw Fault.Type("unmatched '{' in format spec");
            rest = rest[2..];
            if (rest.Length > 0 && rest[0] != ':')
                throw Fault.Type("expected ':' after conversion specifier");
        }
        string spec = rest.Length > 0 ? rest[1..] : "";
        if (spec.Contains('{'))
            spec = nested ? throw Fault.Type("Max string recursion exceeded") : Expand(spec, nested: true);
        return FormatSpec.Apply(_r, value, spec);
    }

    private object? Value(string name)
    {
        int end = name.AsSpan().IndexOfAny('.', '[');
        string first = end < 0 ? name : name[..end];
        object? value;
        bool isNumber = first.All(char.IsAsciiDigit);
        _numbered |= isNumber && first.Length > 0;
        if (isNumber && _numbered && (_automatic > 0 || first.Length == 0))
            throw Fault.Type("format: fields without a number and fields with one cannot be mixed");
        if (first.Length == 0)
            value = Positional(_automatic++);
        else if (isNumber)
            value = Positional(first.Length < 6 ? int.Parse(first, System.Globalization.CultureInfo.InvariantCulture) : int.MaxValue);
        else
        {
            _r.Step(_arguments.Keywords.Count);
            int index = _arguments.Keywords.ToList().FindIndex(pair => pair.Key == first);
            value = index >= 0 ? _arguments.Keywords[index].Value : throw Fault.Type($"format: there is no argument '{first}'");
        }
        for (int i = end < 0 ? name.Length : end; i < name.Length;)
        {
            if (name[i] == '.')
            {
                int stop = name.AsSpan(i + 1).IndexOfAny('.', '[') is var s && s < 0 ? name.Length : i + 1 + s;
                value = Access.Attribute(_r, value, name[(i + 1)..stop]);
                i = stop;
                continue;
            }
            int close = name[i] == '[' ? name.IndexOf(']', i) : -1;
            if (close < 0)
                throw Fault.Type("format: missing ']' in a field");
            string key = name[(i + 1)..close];
            value = Access.Item(_r, value, key.Length > 0 && key.All(char.IsAsciiDigit) ? PyNumber.ParseInteger(key, 10) : key);
            i = close + 1;
        }
        return value;
    }

    private object? Positional(int index) => index < _arguments.Positional.Length
        ? _arguments.Positional[index]
        : throw Fault.Type($"format: replacement index {index} out of range for {_arguments.Positional.Length} positional argument(s)");
}

/// <summary>Python's format specs: <c>[[fill]align][sign][#][0][width][,][.precision][type]</c>.</summary>
internal static class FormatSpec
{
    public static string Apply(Renderer r, object? value, string spec)
    {
        if (spec.Length == 0)
            return PyText.Str(r, value);
        string fill = " ";
        char align = '\0';
        int i = 0;
        int second = PyText.Offset(spec, 1);
        if (second < spec.Length && spec[second] is '<' or '>' or '^' or '=')
        {
            (fill, align) = (spec[..second], spec[second]);
            i = second + 1;
        }
        else if (spec[0] is '<' or '>' or '^' or '=')
            align = spec[i++];
        string flags = "";
        for (; i < spec.Length && spec[i] is '+' or '-' or ' ' or '#'; i++)
            flags = flags.Contains(spec[i]) ? flags : flags + spec[i];
        if (i < spec.Length && spec[i] == '0')
        {
            i++;
            if (align == '\0')
                (fill, align) = ("0", '=');
        }
        long width = Number(r, spec, ref i);
        string group = i < spec.Length && spec[i] is ',' or '_' ? spec[i++].ToString() : "";
        int precision = -1;
        if (i < spec.Length && spec[i] == '.')
        {
            i++;
            precision = (int)Number(r, spec, ref i);
        }
        char type = i < spec.Length ? spec[i++] : '\0';
        if (i < spec.Length)
            throw Fault.Type($"invalid format specifier '{spec}'");
        (string text, bool numeric) = Convert(r, value, type, flags, group, precision);
        char side = align == '\0' ? numeric ? '>' : '<' : align;
        if (side == '=' && numeric && fill == "0")
            return NumberText.ZeroPad(r, text, width);
        return StringMethods.Pad(r, text, width, side switch { '<' => "ljust", '^' => "^", _ => "rjust" }, fill);
    }

    private static long Number(Renderer r, string spec, ref int i)
    {
        long n = 0;
        for (; i < spec.Length && char.IsAsciiDigit(spec[i]); i++)
        {
            n = n * 10 + (spec[i] - '0');
            r.CheckTextLength(n);
        }
        return n;
    }

    private static (string Text, bool Numeric) Convert(Renderer r, object? value, char type, string flags, string group, int precision)
    {
        bool boolText = value is bool && type == '\0';
        if (PyNumber.IsInteger(value) && !boolText && type is '\0' or 'd' or 'x' or 'X' or 'o' or 'b' or 'n')
        {
            BigInteger n = PyNumber.ToBig(value!);
            string prefix = flags.Contains('#') ? type switch { 'x' => "0x", 'X' => "0X", 'o' => "0o", 'b' => "0b", _ => "" } : "";
            string digits = NumberText.Digits(n, type);
            return (NumberText.Sign(n.Sign < 0, flags) + prefix + (group.Length > 0 ? NumberText.Group(digits, group) : digits), true);
        }
        if (PyNumber.Is(value) && !boolText && (type is 'e' or 'E' or 'f' or 'F' or 'g' or 'G' or '%' || (value is double && type is '\0' or 'n')))
        {
            double real = PyNumber.ToDouble(value!);
            double magnitude = Math.Abs(real);
            string text = type == '\0' && precision < 0
                ? FloatText.Repr(magnitude)
                : NumberText.Real(r, magnitude, type is '\0' or 'n' ? 'g' : type, precision < 0 ? 6 : precision);
            return (NumberText.Sign(double.IsNegative(real) && !double.IsNaN(real), flags) + (group.Length > 0 ? NumberText.Group(text, group) : text), true);
        }
        if (type is not ('\0' or 's') || value is not (string or Markup or bool))
            throw Fault.Type($"unsupported format string for '{TypeNames.Of(value)}'");
        string s = PyText.Str(r, value);
        return (precision >= 0 && precision < PyText.Length(s) ? s[..PyText.Offset(s, precision)] : s, false);
    }
}
