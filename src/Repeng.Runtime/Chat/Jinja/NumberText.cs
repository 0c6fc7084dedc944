using System.Globalization;
using System.Numerics;
using System.Text;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>The parts of numbers that both kinds of Python formatting share.</summary>
internal static class NumberText
{
    // A float has no more significant decimal places than this.
    private const int MaxDecimals = 1100;

    public static string Sign(bool negative, string flags) => negative ? "-" : flags.Contains('+') ? "+" : flags.Contains(' ') ? " " : "";

    /// <summary>The digits of a magnitude in the base that a conversion stands for.</summary>
    public static string Digits(BigInteger n, char conversion)
    {
        BigInteger magnitude = BigInteger.Abs(n);
        int bits = conversion switch { 'x' or 'X' => 4, 'o' => 3, 'b' => 1, _ => 0 };
        if (bits == 0)
            return PyText.IntegerText(magnitude);
        var digits = new StringBuilder();
        for (BigInteger rest = magnitude; !rest.IsZero || digits.Length == 0; rest >>= bits)
            digits.Insert(0, "0123456789abcdef"[(int)(rest & ((1 << bits) - 1))]);
        return conversion == 'X' ? digits.ToString().ToUpperInvariant() : digits.ToString();
    }

    /// <summary>A float that is not negative, as <c>e f g</c> or <c>%</c> print it.</summary>
    public static string Real(Renderer r, double value, char conversion, int precision)
    {
        r.CheckTextLength(precision);
        int decimals = Math.Min(precision, MaxDecimals);
        string text = char.ToLowerInvariant(conversion) switch
        {
            'e' => FloatText.Exponent(value, decimals),
            'f' => FloatText.Fixed(value, decimals) + (double.IsFinite(value) ? new string('0', precision - decimals) : ""),
            '%' => FloatText.Fixed(value * 100, decimals) + "%",
            _ => FloatText.General(value, decimals),
        };
        return char.IsUpper(conversion) ? text.ToUpperInvariant() : text;
    }

    /// <summary>Zeros between sign and digits, up to a width.</summary>
    public static string ZeroPad(Renderer r, string text, long width)
    {
        int lead = text.Length > 0 && text[0] is '-' or '+' or ' ' ? 1 : 0;
        if (text.Length > lead + 1 && text[lead] == '0' && char.IsAsciiLetter(text[lead + 1]))
            lead += 2;
        return text[..lead] + StringMethods.Pad(r, text[lead..], width - lead, "rjust", "0");
    }

    /// <summary>A separator between every three digits of the part before the point.</summary>
    public static string Group(string text, string separator)
    {
        int end = text.AsSpan().IndexOfAnyExceptInRange('0', '9');
        if (end < 0)
            end = text.Length;
        var result = new StringBuilder(text);
        for (int i = end - 3; i > 0; i -= 3)
            result.Insert(i, separator);
        return result.ToString();
    }

}
