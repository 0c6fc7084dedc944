using System.Globalization;
using System.Numerics;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Floats as Python prints, rounds and reads them.</summary>
internal static class FloatText
{
    /// <summary>The shortest digits that read back as the same float: <c>1.0</c>, <c>1e-07</c>, <c>1e+22</c>, <c>inf</c>, <c>nan</c>.</summary>
    public static string Repr(double value)
    {
        if (double.IsNaN(value))
            return "nan";
        if (double.IsInfinity(value))
            return value > 0 ? "inf" : "-inf";
        if (value == 0)
            return double.IsNegative(value) ? "-0.0" : "0.0";
        (string sign, string digits, int exponent) = Scientific(value.ToString("R", CultureInfo.InvariantCulture));
        return sign + Layout(digits, exponent, 16, keepPoint: true);
    }

    /// <summary>Digits with that many decimals, exactly rounded, ties to even (<c>%.2f</c>).</summary>
    public static string Fixed(double value, int decimals)
    {
        if (!double.IsFinite(value))
            return Repr(value);
        BigInteger scaled = Scale(Math.Abs(value), decimals);
        string digits = scaled.ToString(CultureInfo.InvariantCulture).PadLeft(decimals + 1, '0');
        string sign = double.IsNegative(value) ? "-" : "";
        return decimals == 0 ? sign + digits : $"{sign}{digits[..^decimals]}.{digits[^decimals..]}";
    }

    /// <summary>One digit before the point, that many behind it, and an exponent (<c>%.6e</c>).</summary>
    public static string Exponent(double value, int decimals)
    {
        if (!double.IsFinite(value))
            return Repr(value);
        string text = value.ToString("E" + decimals.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
        int e = text.IndexOf('E');
        return text[..e] + ExponentText(int.Parse(text.AsSpan(e + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture));
    }

    /// <summary>Fixed or exponent, whichever suits that many digits, without trailing zeros (<c>%.6g</c>).</summary>
    public static string General(double value, int digits)
    {
        if (!double.IsFinite(value))
            return Repr(value);
        int precision = Math.Max(1, digits);
        if (value == 0)
            return double.IsNegative(value) ? "-0" : "0";
        (string sign, string mantissa, int exponent) = Scientific(Exponent(value, precision - 1));
        return sign + Layout(mantissa, exponent, precision, keepPoint: false);
    }

    /// <summary>Python's <c>round(value, decimals)</c>: exact, ties to even.</summary>
    public static double Round(double value, int decimals)
    {
        if (!double.IsFinite(value) || decimals > 323)
            return value;
        if (decimals < -308)
            return Math.CopySign(0, value);
        BigInteger scaled = Scale(Math.Abs(value), decimals);
        BigInteger power = BigInteger.Pow(10, Math.Abs(decimals));
        double rounded = decimals >= 0
            ? PyNumber.Ratio(scaled, power, "rounded value too large to represent")
            : PyNumber.Ratio(scaled * power, BigInteger.One, "rounded value too large to represent");
        return Math.CopySign(rounded, value);
    }

    /// <summary>Reads what Python's <c>float()</c> accepts.</summary>
    public static bool TryParse(string text, out double value)
    {
        string s = PyText.Strip(text, null);
        string body = s.Length > 0 && s[0] is '+' or '-' ? s[1..] : s;
        value = 0;
        switch (body.ToLowerInvariant())
        {
            case "inf" or "infinity":
                value = s[0] == '-' ? double.NegativeInfinity : double.PositiveInfinity;
                return true;
            case "nan":
                value = double.NaN;
                return true;
        }
        // Underscores may only stand between digits.
        for (int i = 0; i < body.Length; i++)
        {
            bool fine = body[i] == '_'
                ? i > 0 && i + 1 < body.Length && char.IsAsciiDigit(body[i - 1]) && char.IsAsciiDigit(body[i + 1])
                : char.IsAsciiDigit(body[i]) || body[i] is '.' or 'e' or 'E' or '+' or '-';
            if (!fine)
                return false;
        }
        return body.Length > 0 && double.TryParse(s.Replace("_", ""),
            NumberStyles.AllowLeadingSign | NumberStyles.AllowDecimalPoint | NumberStyles.AllowExponent, CultureInfo.InvariantCulture, out value);
    }

    // value · 10^decimals rounded to an integer, ties to even; value is not negative.
    private static BigInteger Scale(double value, int decimals)
    {
        long bits = BitConverter.DoubleToInt64Bits(value);
        int exponent = (int)((bits >> 52) & 0x7FF);
        BigInteger numerator = (bits & 0xFFFFFFFFFFFFF) | (exponent == 0 ? 0 : 1L << 52);
        exponent = Math.Max(exponent, 1) - 1075;
        BigInteger denominator = BigInteger.One;
        if (exponent >= 0)
            numerator <<= exponent;
        else
            denominator <<= -exponent;
        if (decimals >= 0)
            numerator *= BigInteger.Pow(10, decimals);
        else
            denominator *= BigInteger.Pow(10, -decimals);
        BigInteger quotient = BigInteger.DivRem(numerator, denominator, out BigInteger rest);
        int half = (rest * 2).CompareTo(denominator);
        return half > 0 || (half == 0 && !quotient.IsEven) ? quotient + 1 : quotient;
    }

    // "-1.25E+07" or "123.5" as sign, digits without point and outer zeros, and the exponent of the first digit.
    private static (string Sign, string Digits, int Exponent) Scientific(string text)
    {
        string sign = text[0] == '-' ? "-" : "";
        string body = text[sign.Length..];
        int exponent = 0;
        int e = body.IndexOfAny(['e', 'E']);
        if (e >= 0)
        {
            exponent = int.Parse(body.AsSpan(e + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
            body = body[..e];
        }
        int point = body.IndexOf('.');
        string digits = point < 0 ? body : body.Remove(point, 1);
        exponent += (point < 0 ? body.Length : point) - 1;
        int zeros = digits.Length - digits.TrimStart('0').Length;
        digits = digits[zeros..].TrimEnd('0');
        return (sign, digits.Length == 0 ? "0" : digits, exponent - zeros);
    }

    private static string Layout(string digits, int exponent, int precision, bool keepPoint)
    {
        if (exponent < -4 || exponent >= precision)
            return (digits.Length > 1 ? $"{digits[0]}.{digits[1..]}" : digits) + ExponentText(exponent);
        if (exponent < 0)
            return "0." + new string('0', -exponent - 1) + digits;
        if (digits.Length <= exponent + 1)
            return digits.PadRight(exponent + 1, '0') + (keepPoint ? ".0" : "");
        return $"{digits[..(exponent + 1)]}.{digits[(exponent + 1)..]}";
    }

    private static string ExponentText(int exponent)
        => string.Create(CultureInfo.InvariantCulture, $"e{(exponent < 0 ? '-' : '+')}{Math.Abs(exponent):00}");
}
