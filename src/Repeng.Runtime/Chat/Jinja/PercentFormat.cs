using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Python's <c>"…%s…" % values</c>.</summary>
internal sealed class PercentFormat
{
    private readonly Renderer _r;
    private readonly string _format;
    private readonly object? _values;
    private int _next;
    private int _position;

    private PercentFormat(Renderer r, string format, object? values)
    {
        _r = r;
        _format = format;
        _values = values;
    }

    public static string Apply(Renderer r, string format, object? values) => new PercentFormat(r, format, values).Run();

    private string Run()
    {
        var result = new StringBuilder();
        while (_position < _format.Length)
        {
            _r.Step();
            _r.CheckTextLength(result.Length);
            int percent = _format.IndexOf('%', _position);
            if (percent < 0)
                percent = _format.Length;
            result.Append(_format, _position, percent - _position);
            _position = percent + 1;
            if (percent < _format.Length)
                result.Append(Field());
        }
        int count = _values is PyTuple tuple ? tuple.Count : 1;
        if (_next < count && _values is not (PyDict or PyList or Undefined))
            throw Fault.Type("not all arguments converted during string formatting");
        _r.CheckTextLength(result.Length);
        return _r.Charged(result.ToString());
    }

    private string Field()
    {
        object? named = CallArguments.Missing;
        if (Peek() == '(')
        {
            int close = _format.IndexOf(')', _position);
            if (close < 0)
                throw Fault.Type("incomplete format key");
            if (_values is not PyDict dict)
                throw Fault.Type("format requires a mapping");
            string key = _format[(_position + 1)..close];
            if (!dict.TryGetText(key, out named))
                throw Fault.Type($"the format needs a value for the key '{key}'");
            _position = close + 1;
        }
        string flags = "";
        for (; Peek() is '-' or '+' or ' ' or '0' or '#'; _position++)
            flags = flags.Contains(Peek()) ? flags : flags + Peek();
        long width = Count();
        if (width < 0)
            (flags, width) = (flags + "-", -width);
        int precision = -1;
        if (Peek() == '.')
        {
            _position++;
            precision = (int)Math.Clamp(Count(), 0, int.MaxValue);
        }
        while (Peek() is 'l' or 'h' or 'L')
            _position++;
        char conversion = Peek();
        _position++;
        if (conversion == '%')
            return "%";
        if (conversion == '\0')
            throw Fault.Type("incomplete format");
        object? value = ReferenceEquals(named, CallArguments.Missing) ? Next() : named;
        return Pad(Convert(conversion, value, flags, precision), flags, width, conversion);
    }

    private char Peek() => _position < _format.Length ? _format[_position] : '\0';

    private long Count()
    {
        if (Peek() == '*')
        {
            _position++;
            object? value = Next();
            return PyNumber.IsInteger(value) ? PyNumber.Clamp(value!) : throw Fault.Type("* wants int");
        }
        long count = 0;
        for (; char.IsAsciiDigit(Peek()); _position++)
        {
            count = count * 10 + (_format[_position] - '0');
            _r.CheckTextLength(count);
        }
        return count;
    }

    private object? Next()
    {
        if (_values is PyTuple tuple)
            return _next < tuple.Count ? tuple[_next++] : throw Fault.Type("not enough arguments for format string");
        return _next++ == 0 ? _values : throw Fault.Type("not enough arguments for format string");
    }

    private string Convert(char conversion, object? value, string flags, int precision)
    {
        switch (conversion)
        {
            case 's' or 'r' or 'a':
                string text = conversion == 's' ? PyText.Str(_r, value) : ValueText.Repr(_r, value);
                return precision >= 0 && precision < PyText.Length(text) ? text[..PyText.Offset(text, precision)] : text;
            case 'c':
                if (value is string { Length: > 0 } one && PyText.Length(one) == 1)
                    return one;
                return value is long code && Rune.IsValid((int)Math.Clamp(code, -1, int.MaxValue))
                    ? new Rune((int)code).ToString()
                    : throw Fault.Type("%c requires int or char");
            case 'd' or 'i' or 'u' or 'x' or 'X' or 'o':
                BigInteger n = value switch
                {
                    double d when conversion is 'd' or 'i' or 'u' => PyNumber.ToBig(PyNumber.Truncate(d)),
                    _ when PyNumber.IsInteger(value) => PyNumber.ToBig(value!),
                    _ => throw Fault.Type($"%{conversion} format: a number is required, not {TypeNames.Of(value)}"),
                };
                _r.CheckTextLength(precision);
                string digits = NumberText.Digits(n, conversion).PadLeft(Math.Max(precision, 0), '0');
                string prefix = flags.Contains('#') ? conversion switch { 'x' => "0x", 'X' => "0X", 'o' => "0o", _ => "" } : "";
                return NumberText.Sign(n.Sign < 0, flags) + prefix + digits;
            case 'e' or 'E' or 'f' or 'F' or 'g' or 'G':
                if (!PyNumber.Is(value))
                    throw Fault.Type($"must be real number, not {TypeNames.Of(value)}");
                double real = PyNumber.ToDouble(value!);
                return NumberText.Sign(double.IsNegative(real) && !double.IsNaN(real), flags) + NumberText.Real(_r, Math.Abs(real), conversion, precision < 0 ? 6 : precision);
            default:
                throw Fault.Type($"unsupported format character '{conversion}'");
        }
    }

    private string Pad(string text, string flags, long width, char conversion)
    {
        bool numeric = conversion is not ('s' or 'r' or 'a' or 'c');
        if (flags.Contains('-'))
            return StringMethods.Pad(_r, text, width, "ljust", " ");
        if (!numeric || !flags.Contains('0'))
            return StringMethods.Pad(_r, text, width, "rjust", " ");
        return NumberText.ZeroPad(_r, text, width);
    }
}
