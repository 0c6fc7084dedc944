using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

/// <summary>A binary float format: bits of the stored mantissa and of the exponent.</summary>
internal readonly record struct FloatFormat(int MantissaBits, int ExponentBits)
{
    public static readonly FloatFormat F16 = new(10, 5), BF16 = new(7, 8), TF32 = new(10, 8), F32 = new(23, 8), F64 = new(52, 11);

    public static FloatFormat Of(PtxType type) => type switch
    {
        PtxType.F16 or PtxType.F16x2 => F16,
        PtxType.BF16 or PtxType.BF16x2 => BF16,
        PtxType.TF32 => TF32,
        PtxType.F64 => F64,
        _ => F32,
    };
}

/// <summary>
/// Arithmetic with every rounding. Formats up to fp32 are computed in double with "round to odd" (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums",
/// IEEE TC 2008), which loses nothing that a later rounding to 24 bits or fewer needs; double itself by the sign of the exact error of the nearest result.
/// </summary>
internal static class Floats
{
    public static float F32(ulong bits) => BitConverter.UInt32BitsToSingle((uint)bits);

    public static ulong Bits(float value) => BitConverter.SingleToUInt32Bits(value);

    public static double F64(ulong bits) => BitConverter.UInt64BitsToDouble(bits);

    public static ulong Bits(double value) => BitConverter.DoubleToUInt64Bits(value);

    /// <summary>A subnormal fp32 becomes a zero of its sign.</summary>
    public static ulong Flush(ulong bits) => (bits & 0x7f80_0000) == 0 ? bits & 0x8000_0000 : bits;

    /// <summary>A stored value as a double, exactly.</summary>
    public static double Widen(ulong bits, PtxType type) => type switch
    {
        PtxType.F16 or PtxType.F16x2 => (double)BitConverter.UInt16BitsToHalf((ushort)bits),
        PtxType.BF16 or PtxType.BF16x2 => F32((bits & 0xffff) << 16),
        PtxType.TF32 => F32(bits & 0xffff_e000),
        PtxType.F64 => F64(bits),
        _ => F32(bits),
    };

    /// <summary>A double rounded to a format. The double may carry a last bit that was rounded to odd.</summary>
    public static ulong Narrow(double value, PtxType type, Rounding rounding, bool finite = false)
    {
        if (type == PtxType.F64)
            return Bits(value);
        FloatFormat format = FloatFormat.Of(type);
        if (type == PtxType.TF32)
            return Narrow(value, format, rounding, finite) << 13;
        return Narrow(value, format, rounding, finite);
    }

    private static ulong Narrow(double value, FloatFormat format, Rounding rounding, bool finite)
    {
        ulong bits = Bits(value);
        bool negative = bits >> 63 != 0;
        int m = format.MantissaBits, bias = (1 << (format.ExponentBits - 1)) - 1;
        ulong sign = negative ? 1ul << (m + format.ExponentBits) : 0, infinity = (ulong)((2 * bias) + 1) << m, largest = infinity - 1;
        if (double.IsNaN(value))
            return (1ul << (m + format.ExponentBits)) - 1;
        if (double.IsInfinity(value))
            return sign | (finite ? largest : infinity);
        ulong mantissa = bits & ((1ul << 52) - 1);
        int exponent = (int)(bits >> 52 & 0x7ff);
        if (exponent == 0 && mantissa == 0)
            return sign;
        if (exponent == 0)
            exponent = 1;
        else
            mantissa |= 1ul << 52;
        // Subnormal doubles lie far below every narrower format; as they stand they round rightly.
        int e = exponent - 1023, least = 1 - bias;
        int drop = 52 - m + Math.Max(0, least - e);
        ulong kept, rest, half;
        if (drop >= 64)
        {
            kept = 0;
            rest = 1;
            half = 2;
        }
        else
        {
            kept = mantissa >> drop;
            rest = mantissa & ((1ul << drop) - 1);
            half = 1ul << (drop - 1);
        }

        bool up = rounding switch
        {
            Rounding.Zero => false,
            Rounding.Down => negative && rest != 0,
            Rounding.Up => !negative && rest != 0,
            Rounding.NearestAway => rest >= half,
            _ => rest > half || (rest == half && (kept & 1) != 0),
        };
        kept += up ? 1ul : 0;
        ulong result = e < least ? kept : ((ulong)(e + bias - 1) << m) + kept;
        if (e >= least && result >= infinity)
        {
            bool toInfinity = rounding switch { Rounding.Zero => false, Rounding.Down => negative, Rounding.Up => !negative, _ => true };
            result = toInfinity && !finite ? infinity : largest;
        }

        return sign | result;
    }

    /// <summary>a + b in double, rounded to odd.</summary>
    public static double AddOdd(double a, double b)
    {
        double s = a + b;
        double bb = s - a, error = (a - (s - bb)) + (b - bb);
        return Odd(s, error);
    }

    /// <summary>Moves an even result one step towards its exact value, so that the last bit says "inexact".</summary>
    private static double Odd(double value, double error)
    {
        if (error == 0 || !double.IsFinite(value) || double.IsNaN(error))
            return value;
        ulong bits = Bits(value);
        if ((bits & 1) != 0)
            return value;
        return F64(error > 0 == value > 0 ? bits + 1 : bits - 1);
    }

    public static double DivideOdd(double a, double b)
    {
        double q = a / b;
        if (!double.IsFinite(q) || q == 0 || !double.IsFinite(b))
            return q;
        double remainder = Math.FusedMultiplyAdd(-q, b, a);
        return Odd(q, b > 0 ? remainder : -remainder);
    }

    public static double SqrtOdd(double a)
    {
        double q = Math.Sqrt(a);
        return double.IsFinite(q) && q != 0 ? Odd(q, Math.FusedMultiplyAdd(-q, q, a)) : q;
    }

    /// <summary>A double with the sign of its exact error, rounded another way than to nearest.</summary>
    private static double Direct(double nearest, double error, Rounding rounding, bool exactZeroOfMixedSigns)
    {
        if (rounding is Rounding.Nearest or Rounding.None || double.IsNaN(nearest))
            return nearest;
        if (nearest == 0 && exactZeroOfMixedSigns)
            return rounding == Rounding.Down ? -0.0 : nearest;
        if (double.IsInfinity(nearest))
        {
            bool keep = rounding == Rounding.Up ? nearest > 0 : rounding == Rounding.Down && nearest < 0;
            return keep ? nearest : Math.CopySign(double.MaxValue, nearest);
        }

        bool above = error < 0, below = error > 0;
        return rounding switch
        {
            Rounding.Down => above ? Math.BitDecrement(nearest) : nearest,
            Rounding.Up => below ? Math.BitIncrement(nearest) : nearest,
            _ => nearest > 0 && above ? Math.BitDecrement(nearest) : nearest < 0 && below ? Math.BitIncrement(nearest) : nearest,
        };
    }

    /// <summary>2⁻⁹⁰⁰: below it errors of products and remainders may underflow.</summary>
    private const double Tiny = 1.1830521861667747e-271, TwoTo200 = 1.6069380442589903e60, TwoTo100 = 1.2676506002282294e30;

    private static (System.Numerics.BigInteger Mantissa, int Exponent) Parts(double value)
    {
        ulong bits = Bits(value);
        int exponent = (int)(bits >> 52 & 0x7ff);
        long mantissa = (long)(bits & ((1ul << 52) - 1)) | (exponent == 0 ? 0 : 1L << 52);
        return (value < 0 ? -mantissa : mantissa, Math.Max(exponent, 1) - 1075);
    }

    /// <summary>a·b + c in whole numbers, rounded once.</summary>
    private static double Exact(double a, double b, double c, Rounding rounding)
    {
        (System.Numerics.BigInteger ma, int ea) = Parts(a);
        (System.Numerics.BigInteger mb, int eb) = Parts(b);
        (System.Numerics.BigInteger mc, int ec) = Parts(c);
        int least = Math.Min(ea + eb, ec);
        System.Numerics.BigInteger sum = ((ma * mb) << (ea + eb - least)) + (mc << (ec - least));
        if (sum.IsZero)
            return double.IsNegative(a) != double.IsNegative(b) != double.IsNegative(c) ? rounding == Rounding.Down ? -0.0 : 0.0 : (a * b) + c;
        return Round(sum, least, rounding);
    }

    private static double Divide(double a, double b, Rounding rounding)
    {
        (System.Numerics.BigInteger ma, int ea) = Parts(a);
        (System.Numerics.BigInteger mb, int eb) = Parts(b);
        System.Numerics.BigInteger quotient = System.Numerics.BigInteger.DivRem(System.Numerics.BigInteger.Abs(ma) << 120, System.Numerics.BigInteger.Abs(mb), out System.Numerics.BigInteger rest);
        quotient = (quotient << 1) | (rest.IsZero ? 0 : 1);
        return Round(double.IsNegative(a) != double.IsNegative(b) ? -quotient : quotient, ea - eb - 121, rounding);
    }

    /// <summary>mantissa · 2^exponent, rounded towards zero, down or up.</summary>
    private static double Round(System.Numerics.BigInteger mantissa, int exponent, Rounding rounding)
    {
        bool negative = mantissa.Sign < 0;
        System.Numerics.BigInteger magnitude = System.Numerics.BigInteger.Abs(mantissa);
        int top = (int)magnitude.GetBitLength() - 1 + exponent, last = Math.Max(top - 52, -1074), drop = last - exponent;
        System.Numerics.BigInteger kept = drop > 0 ? magnitude >> drop : magnitude << -drop;
        bool inexact = drop > 0 && kept << drop != magnitude;
        if (inexact && (rounding == Rounding.Up ? !negative : rounding == Rounding.Down && negative))
            kept += 1;
        double value = Math.ScaleB((double)kept, last);
        return negative ? -value : value;
    }

    private static bool Finite(double a, double b, double c = 0) => double.IsFinite(a) && double.IsFinite(b) && double.IsFinite(c);

    public static double Add64(double a, double b, Rounding rounding)
    {
        double s = a + b;
        if (rounding is Rounding.Nearest or Rounding.None || !Finite(a, b))
            return s;
        double bb = s - a, error = (a - (s - bb)) + (b - bb);
        return Direct(s, error, rounding, double.IsNegative(a) != double.IsNegative(b));
    }

    public static double Multiply64(double a, double b, Rounding rounding)
    {
        double p = a * b;
        if (rounding is Rounding.Nearest or Rounding.None || !Finite(a, b))
            return p;
        return Math.Abs(p) < Tiny && a != 0 && b != 0 ? Exact(a, b, 0, rounding) : Direct(p, Math.FusedMultiplyAdd(a, b, -p), rounding, false);
    }

    public static double Fma64(double a, double b, double c, Rounding rounding)
    {
        double r = Math.FusedMultiplyAdd(a, b, c);
        if (rounding is Rounding.Nearest or Rounding.None || !Finite(a, b, c))
            return r;
        if (Math.Abs(r) < Tiny && a != 0 && b != 0)
            return Exact(a, b, c, rounding);
        // The error of an FMA as a sum of two doubles (Boldo and Muller, "Exact and approximated error of the FMA", IEEE TC 2011).
        double u = a * b, u2 = Math.FusedMultiplyAdd(a, b, -u);
        (double alpha, double alpha2) = TwoSum(c, u2);
        (double beta, double beta2) = TwoSum(u, alpha);
        double gamma = (beta - r) + beta2;
        return Direct(r, gamma + alpha2, rounding, double.IsNegative(a) != double.IsNegative(b) != double.IsNegative(c));
    }

    public static double Divide64(double a, double b, Rounding rounding)
    {
        double q = a / b;
        if (rounding is Rounding.Nearest or Rounding.None || !Finite(a, b) || b == 0)
            return q;
        if (a != 0 && Math.Abs(q) < Tiny)
            return Divide(a, b, rounding);
        // The remainder must not underflow.
        if (Math.Abs(a) < Tiny)
            (a, b) = (a * TwoTo200, b * TwoTo200);
        double remainder = double.IsInfinity(q) ? 0 : Math.FusedMultiplyAdd(-q, b, a);
        return Direct(q, b > 0 ? remainder : -remainder, rounding, false);
    }

    public static double Sqrt64(double a, Rounding rounding)
    {
        if (a is > 0 and < Tiny)
            return Sqrt64(a * TwoTo200, rounding) / TwoTo100;
        double q = Math.Sqrt(a);
        return rounding is Rounding.Nearest or Rounding.None || !double.IsFinite(q) ? q : Direct(q, Math.FusedMultiplyAdd(-q, q, a), rounding, false);
    }

    private static (double Sum, double Error) TwoSum(double a, double b)
    {
        double s = a + b, bb = s - a;
        return (s, (a - (s - bb)) + (b - bb));
    }
}
