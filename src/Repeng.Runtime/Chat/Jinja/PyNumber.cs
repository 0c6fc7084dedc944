using System.Globalization;
using System.Numerics;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// Python's numbers: exact integers of any size (within a bound), floats, and booleans that count as 0 and 1.
/// </summary>
internal static class PyNumber
{
    /// <summary>Most decimal digits of an integer that Python reads or prints.</summary>
    public const int MaxDigits = 4300;

    // A little more than MaxDigits decimal digits.
    private const long MaxBits = 14_400;

    public static bool Is(object? value) => value is long or double or bool or BigInteger;

    public static bool IsInteger(object? value) => value is long or bool or BigInteger;

    public static bool IsNan(object? value) => value is double d && double.IsNaN(d);

    /// <summary>What a number weighs in a product or quotient of large integers: its length in units of 256 bits.</summary>
    public static long Cost(object? value) => value is BigInteger n ? n.GetBitLength() / 256 + 1 : 1;

    /// <summary>An exact integer as long where it fits, else as BigInteger.</summary>
    public static object Normalize(BigInteger n)
    {
        if (n >= long.MinValue && n <= long.MaxValue)
            return (long)n;
        return n.GetBitLength() <= MaxBits ? n : throw Fault.Limit($"an integer of {n.GetBitLength()} bits is too large (limit {MaxBits})");
    }

    public static BigInteger ToBig(object value) => value switch
    {
        bool b => b ? BigInteger.One : BigInteger.Zero,
        long n => n,
        _ => (BigInteger)value,
    };

    /// <summary>An integer squeezed into 32 bits, for counts that no limit would allow to be larger.</summary>
    public static long Clamp(object value) => value switch
    {
        bool b => b ? 1 : 0,
        long n => Math.Clamp(n, -int.MaxValue, int.MaxValue),
        _ => ((BigInteger)value).Sign * (long)int.MaxValue,
    };

    public static double ToDouble(object value) => value switch
    {
        double d => d,
        bool b => b ? 1 : 0,
        long n => n,
        _ => Ratio((BigInteger)value, BigInteger.One, "int too large to convert to float"),
    };

    public static object Add(object a, object b)
    {
        if (a is double || b is double)
            return ToDouble(a) + ToDouble(b);
        if (a is long x && b is long y && !Overflows(x, y, x + y))
            return x + y;
        return Normalize(ToBig(a) + ToBig(b));
    }

    public static object Subtract(object a, object b)
        => a is double || b is double ? ToDouble(a) - ToDouble(b) : Normalize(ToBig(a) - ToBig(b));

    public static object Multiply(object a, object b)
        => a is double || b is double ? ToDouble(a) * ToDouble(b) : Normalize(ToBig(a) * ToBig(b));

    public static object Divide(object a, object b)
    {
        if (a is double || b is double)
        {
            double divisor = ToDouble(b);
            return divisor != 0 ? ToDouble(a) / divisor : throw Fault.Type("float division by zero");
        }
        BigInteger n = ToBig(a), d = ToBig(b);
        if (d.IsZero)
            throw Fault.Type("division by zero");
        return Ratio(n, d, "integer division result too large for a float");
    }

    public static object FloorDivide(object a, object b)
    {
        if (a is double || b is double)
            return FloatDivMod(ToDouble(a), ToDouble(b)).Quotient;
        return Normalize(IntegerDivMod(ToBig(a), ToBig(b)).Quotient);
    }

    public static object Modulo(object a, object b)
    {
        if (a is double || b is double)
            return FloatDivMod(ToDouble(a), ToDouble(b)).Remainder;
        return Normalize(IntegerDivMod(ToBig(a), ToBig(b)).Remainder);
    }

    public static object Power(object a, object b)
    {
        if (IsInteger(a) && IsInteger(b) && ToBig(b).Sign >= 0)
        {
            BigInteger root = ToBig(a), exponent = ToBig(b);
            if (root.IsOne || exponent.IsZero)
                return 1L;
            if (root.IsZero)
                return 0L;
            if (root == BigInteger.MinusOne)
                return exponent.IsEven ? 1L : -1L;
            if (exponent * Math.Max(1, root.GetBitLength() - 1) > MaxBits)
                throw Fault.Limit($"the power is an integer of more than {MaxBits} bits");
            return Normalize(BigInteger.Pow(root, (int)exponent));
        }
        double x = ToDouble(a), y = ToDouble(b);
        if (x == 0 && y < 0)
            throw Fault.Type("0.0 cannot be raised to a negative power");
        if (x < 0 && Math.Floor(y) != y && !double.IsInfinity(x) && double.IsFinite(y))
            throw Fault.Type("complex numbers are not supported: a negative number raised to a fraction");
        double power = Math.Pow(x, y);
        return double.IsInfinity(power) && double.IsFinite(x) && double.IsFinite(y)
            ? throw Fault.Type("numerical result out of range")
            : power;
    }

    /// <summary>Exact order of two numbers, also between integers and floats; NaN counts as largest.</summary>
    public static int Compare(object a, object b)
    {
        if (a is long x && b is long y)
            return x.CompareTo(y);
        if (a is double || b is double)
        {
            if (a is double d && b is double e)
                return double.IsNaN(d) || double.IsNaN(e) ? 1 : d.CompareTo(e);
            (double real, BigInteger whole, int sign) = a is double left ? (left, ToBig(b), 1) : ((double)b, ToBig(a), -1);
            if (double.IsNaN(real))
                return 1;
            if (double.IsInfinity(real))
                return real > 0 ? sign : -sign;
            double floor = Math.Floor(real);
            int order = new BigInteger(floor).CompareTo(whole);
            return sign * (order == 0 && real > floor ? 1 : order);
        }
        return ToBig(a).CompareTo(ToBig(b));
    }

    /// <summary>A float cut to an integer, as <c>int()</c> does.</summary>
    public static object Truncate(double value)
    {
        if (double.IsInfinity(value))
            throw Fault.Type("cannot convert float infinity to integer");
        return double.IsNaN(value) ? throw Fault.Type("cannot convert float NaN to integer") : Normalize(new BigInteger(Math.Truncate(value)));
    }

    /// <summary>The end of a run of digits that may have single underscores between them.</summary>
    public static int ScanDigits(string text, int start, int radix, bool allowLeadingUnderscore)
    {
        int p = start;
        while (p < text.Length)
        {
            bool underscore = text[p] == '_' && (p > start || allowLeadingUnderscore) && p + 1 < text.Length && DigitOf(text[p + 1]) < radix;
            if (underscore)
                p += 2;
            else if (DigitOf(text[p]) < radix)
                p++;
            else
                break;
        }
        return p;
    }

    /// <summary>Reads plain digits (which must be valid for the radix) as an exact integer.</summary>
    public static object ParseInteger(string digits, int radix)
    {
        if (digits.Length > MaxDigits)
            throw Fault.Type($"an integer of {digits.Length} digits is longer than {MaxDigits} digits");
        if (radix == 10)
            return Normalize(BigInteger.Parse(digits, NumberStyles.None, CultureInfo.InvariantCulture));
        BigInteger value = BigInteger.Zero;
        foreach (char c in digits)
            value = value * radix + DigitOf(c);
        return Normalize(value);
    }

    /// <summary>The value of a digit or letter, 99 for other characters.</summary>
    public static int DigitOf(char c) => c switch
    {
        >= '0' and <= '9' => c - '0',
        >= 'a' and <= 'z' => c - 'a' + 10,
        >= 'A' and <= 'Z' => c - 'A' + 10,
        _ => 99,
    };

    public static (BigInteger Quotient, BigInteger Remainder) IntegerDivMod(BigInteger n, BigInteger d)
    {
        if (d.IsZero)
            throw Fault.Type("integer division or modulo by zero");
        BigInteger quotient = BigInteger.DivRem(n, d, out BigInteger remainder);
        return !remainder.IsZero && remainder.Sign != d.Sign ? (quotient - 1, remainder + d) : (quotient, remainder);
    }

    // CPython's float_divmod: the remainder has the sign of the divisor, the quotient is the rounded exact one.
    private static (double Quotient, double Remainder) FloatDivMod(double n, double d)
    {
        if (d == 0)
            throw Fault.Type("float floor division or modulo by zero");
        double remainder = n % d;
        double quotient = (n - remainder) / d;
        if (remainder != 0)
        {
            if (d < 0 != remainder < 0)
            {
                remainder += d;
                quotient -= 1;
            }
        }
        else
            remainder = Math.CopySign(0, d);
        if (quotient == 0)
            return (Math.CopySign(0, n / d), remainder);
        double floor = Math.Floor(quotient);
        return (quotient - floor > 0.5 ? floor + 1 : floor, remainder);
    }

    /// <summary>The float nearest to a quotient of integers, ties to even.</summary>
    public static double Ratio(BigInteger n, BigInteger d, string tooLarge)
    {
        int sign = n.Sign * d.Sign;
        n = BigInteger.Abs(n);
        d = BigInteger.Abs(d);
        if (sign == 0)
            return 0;
        // Scale so that the quotient has 64 or 65 bits, plus one bit that stands for all that is cut off.
        long shift = 65 - (n.GetBitLength() - d.GetBitLength());
        if (shift > 0)
            n <<= (int)shift;
        else
            d <<= (int)-shift;
        BigInteger quotient = BigInteger.DivRem(n, d, out BigInteger rest);
        if (!rest.IsZero)
            quotient |= BigInteger.One;
        long drop = quotient.GetBitLength() - 64;
        ulong low = (ulong)(quotient & ((BigInteger.One << (int)drop) - 1));
        ulong top = (ulong)(quotient >> (int)drop) | (low != 0 ? 1UL : 0UL);
        double value = RoundToDouble(top, drop - shift);
        return double.IsInfinity(value) ? throw Fault.Type(tooLarge) : sign * value;
    }

    // top · 2^exponent with top's highest bit set and its lowest bit sticky: round once, at the precision the result has.
    private static double RoundToDouble(ulong top, long exponent)
    {
        long lowest = Math.Max(exponent + 11, -1074);
        int cut = (int)Math.Min(64, lowest - exponent);
        ulong kept = cut >= 64 ? 0 : top >> cut;
        ulong rest = cut >= 64 ? top : top & ((1UL << cut) - 1);
        ulong half = 1UL << (cut - 1);
        if (lowest - exponent <= 64 && (rest > half || (rest == half && (kept & 1) == 1)))
            kept++;
        return Math.ScaleB(kept, (int)Math.Clamp(lowest, -2000, 2000));
    }

    private static bool Overflows(long x, long y, long sum) => ((x ^ sum) & (y ^ sum)) < 0;
}
