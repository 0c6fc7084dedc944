using System.Numerics;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Filters that make numbers.</summary>
internal static class NumberFilters
{
    public static object? Int(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("int", 0, "default", "base");
        object? fallback = CallArguments.Or(b[0], 0L);
        // As in Python the base counts for texts alone, and one that does not exist is a number that cannot be read.
        long? radix = CallArguments.Or(b[1], 10L) is long n and (0 or >= 2 and <= 36) ? n : null;
        switch (value)
        {
            case Undefined undefined:
                throw undefined.Error();
            case bool or long or BigInteger:
                return PyNumber.Add(0L, value);
            case double d:
                return double.IsNaN(d) ? fallback : PyNumber.Truncate(d);
            case string or Markup:
                string text = PyText.Str(r, value);
                r.Step(text.Length);
                if (radix is { } known && TryParse(text, (int)known, out object? number))
                    return number;
                return FloatText.TryParse(text, out double real) && double.IsFinite(real) ? PyNumber.Truncate(real) : fallback;
            default:
                return fallback;
        }
    }

    public static object? Float(Renderer r, object? value, CallArguments a)
    {
        object? fallback = CallArguments.Or(a.Bind("float", 0, "default")[0], 0.0);
        if (value is Undefined undefined)
            throw undefined.Error();
        if (PyNumber.Is(value))
            return PyNumber.ToDouble(value!);
        if (value is not (string or Markup))
            return fallback;
        string text = PyText.Str(r, value);
        r.Step(text.Length);
        return FloatText.TryParse(text, out double real) ? real : fallback;
    }

    public static object? Abs(Renderer r, object? value, CallArguments a)
    {
        a.Bind("abs", 0);
        return value switch
        {
            double d => Math.Abs(d),
            bool or long or BigInteger => PyNumber.Normalize(BigInteger.Abs(PyNumber.ToBig(value))),
            _ => throw Fault.Type($"bad operand type for abs(): '{TypeNames.Of(value)}'"),
        };
    }

    public static object? Round(Renderer r, object? value, CallArguments a)
    {
        object?[] b = a.Bind("round", 0, "precision", "method");
        string? method = CallArguments.Or(b[1], "common") as string;
        if (method is not ("common" or "ceil" or "floor"))
            throw Fault.Type("round: the method must be common, ceil or floor");
        object? precision = CallArguments.Or(b[0], 0L);
        if (!PyNumber.Is(value) || !PyNumber.IsInteger(precision))
            throw Fault.Type($"round: a number and an integer precision are needed, not {TypeNames.Of(value)} and {TypeNames.Of(precision)}");
        int digits = (int)PyNumber.Clamp(precision!);
        if (method == "common")
            return value is double d ? FloatText.Round(d, digits) : RoundInteger(PyNumber.ToBig(value!), digits);
        object scale = PyNumber.Power(10L, precision!);
        object scaled = PyNumber.Multiply(value!, scale);
        object whole = scaled is double x ? PyNumber.Truncate(method == "ceil" ? Math.Ceiling(x) : Math.Floor(x)) : scaled;
        return PyNumber.Divide(whole, scale);
    }

    // Half to even, at a decimal place left of the point.
    private static object RoundInteger(BigInteger value, int digits)
    {
        if (digits >= 0)
            return PyNumber.Normalize(value);
        if (-digits > PyNumber.MaxDigits)
            return 0L;
        BigInteger unit = BigInteger.Pow(10, -digits);
        (BigInteger quotient, BigInteger rest) = PyNumber.IntegerDivMod(value, unit);
        int half = (rest * 2).CompareTo(unit);
        return PyNumber.Normalize((half > 0 || (half == 0 && !quotient.IsEven) ? quotient + 1 : quotient) * unit);
    }

    // Python's int(text, base): a sign, an optional prefix for the base, underscores between digits.
    private static bool TryParse(string text, int radix, out object? value)
    {
        value = null;
        string s = PyText.Strip(text, null);
        bool negative = s.StartsWith('-');
        if (s.Length > 0 && s[0] is '+' or '-')
            s = s[1..];
        int prefix = s.Length > 1 && s[0] == '0' ? char.ToLowerInvariant(s[1]) switch { 'x' => 16, 'o' => 8, 'b' => 2, _ => 0 } : 0;
        bool prefixed = prefix != 0 && (radix == prefix || radix == 0);
        if (prefixed)
            (s, radix) = (s[2..], prefix);
        else if (radix == 0)
        {
            radix = 10;
            if (s.Length > 1 && s[0] == '0' && s.Any(c => c is not ('0' or '_')))
                return false;
        }
        if (s.Length == 0 || PyNumber.ScanDigits(s, 0, radix, allowLeadingUnderscore: prefixed) != s.Length)
            return false;
        string digits = s.Replace("_", "");
        if (digits.Length > PyNumber.MaxDigits)
            return false;
        object magnitude = PyNumber.ParseInteger(digits, radix);
        value = negative ? PyNumber.Subtract(0L, magnitude) : magnitude;
        return true;
    }
}
