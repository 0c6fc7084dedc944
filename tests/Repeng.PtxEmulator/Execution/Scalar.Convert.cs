using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

internal static partial class Scalar
{
    private static ulong Convert(Instruction i, ulong a, ulong b)
    {
        if (i.Type.IsPacked())
            // d = {a, b}: the first source goes to the upper half.
            return Pack(FromFloat(i, i.Type.Half(), b), FromFloat(i, i.Type.Half(), a));
        if (i.SourceType.IsFloat())
            return i.Type.IsFloat() ? FromFloat(i, i.Type, a) : FloatToInteger(i, a);
        return i.Type.IsFloat() ? IntegerToFloat(i, a) : IntegerToInteger(i, a);
    }

    private static ulong FromFloat(Instruction i, PtxType to, ulong a)
    {
        PtxType from = i.SourceType;
        if (i.Ftz)
            a = FlushInput(a, from);
        double value = Floats.Widen(a, from);
        // A float rounded to an integer in its own format.
        if (i.Rounding >= Rounding.IntegerNearest)
            value = RoundToInteger(value, i.Rounding);
        if (i.Relu && (value < 0 || (value == 0 && double.IsNegative(value))))
            value = 0;
        ulong result;
        if (to == PtxType.F64)
            result = Floats.Bits(value);
        else if (to == from && i.Rounding == Rounding.None)
            result = a;
        else
            result = Floats.Narrow(value, to, i.Rounding is Rounding.None or >= Rounding.IntegerNearest ? Rounding.Nearest : i.Rounding, i.Saturate && to is PtxType.BF16 or PtxType.TF32);
        if (i.Saturate && to is PtxType.F16 or PtxType.F32 or PtxType.F64)
            result = Saturated(result, to);
        return i.Ftz && to == PtxType.F32 ? Floats.Flush(result) : result;
    }

    private static double RoundToInteger(double value, Rounding rounding) => rounding switch
    {
        Rounding.IntegerNearest => Math.Round(value, MidpointRounding.ToEven),
        Rounding.IntegerZero => Math.Truncate(value),
        Rounding.IntegerDown => Math.Floor(value),
        Rounding.IntegerUp => Math.Ceiling(value),
        _ => value,
    };

    /// <summary>Out of range clamps; NaN gives 0, except for 64 bits where the top bit alone is set.</summary>
    private static ulong FloatToInteger(Instruction i, ulong a)
    {
        if (i.Ftz)
            a = FlushInput(a, i.SourceType);
        double value = RoundToInteger(Floats.Widen(a, i.SourceType), i.Rounding);
        int bits = Bits(i.Type);
        ulong result;
        if (double.IsNaN(value))
        {
            result = bits == 64 && i.SourceType == PtxType.F64 ? 1ul << 63 : 0;
        }
        else if (i.Type.IsSigned())
        {
            double most = Math.ScaleB(1, bits - 1);
            result = value >= most ? ulong.MaxValue >> (65 - bits) : value <= -most ? 1ul << (bits - 1) : (ulong)(long)value;
        }
        else
        {
            double most = Math.ScaleB(1, bits);
            result = value >= most ? ulong.MaxValue >> (64 - bits) : value <= 0 ? 0 : (ulong)value;
        }

        return bits < 32 && i.Type.IsSigned() ? (ulong)Extend(result, i.Type) : Truncate(result, i.Type);
    }

    private static ulong IntegerToFloat(Instruction i, ulong a)
    {
        long x = Extend(a, i.SourceType);
        bool unsigned64 = i.SourceType == PtxType.U64;
        // 64 bits do not fit a double: the low bits are folded into one sticky bit.
        double value;
        ulong magnitude = unsigned64 || x >= 0 ? (ulong)x : (ulong)-x;
        bool negative = !unsigned64 && x < 0;
        ulong result;
        if (i.Type == PtxType.F64)
        {
            value = unsigned64 ? (double)(ulong)x : x;
            if (i.Rounding is not (Rounding.Nearest or Rounding.None) && magnitude >> 53 != 0)
            {
                Int128 exact = unsigned64 ? (Int128)(ulong)x : x, have = (Int128)value;
                if (have != exact)
                {
                    bool above = have > exact;
                    bool towardsZero = above == value > 0;
                    value = i.Rounding switch
                    {
                        Rounding.Down => above ? Math.BitDecrement(value) : value,
                        Rounding.Up => above ? value : Math.BitIncrement(value),
                        _ => towardsZero ? (value > 0 ? Math.BitDecrement(value) : Math.BitIncrement(value)) : value,
                    };
                }
            }

            result = Floats.Bits(value);
        }
        else
        {
            if (magnitude >> 53 != 0)
                magnitude = (magnitude & ~0xffful) | ((magnitude & 0xfff) != 0 ? 0x1000ul : 0);
            value = negative ? -(double)magnitude : magnitude;
            result = Floats.Narrow(value, i.Type, i.Rounding);
        }

        return i.Saturate ? Saturated(result, i.Type) : result;
    }

    private static ulong IntegerToInteger(Instruction i, ulong a)
    {
        long x = Extend(a, i.SourceType);
        if (i.Saturate)
            x = Clamp(x, i.SourceType == PtxType.U64, i.Type);
        // A destination wider than its type is extended as the type says.
        return (ulong)Extend((ulong)x, i.Type);
    }

    private static long Clamp(long x, bool unsigned64, PtxType to)
    {
        int bits = Bits(to);
        if (to.IsSigned())
        {
            long most = long.MaxValue >> (64 - bits);
            return unsigned64 && x < 0 ? most : Math.Clamp(x, -most - 1, most);
        }

        if (!unsigned64 && x < 0)
            return 0;
        ulong limit = ulong.MaxValue >> (64 - bits);
        return (long)Math.Min((ulong)x, limit);
    }

    private static ulong ConvertPack(Instruction i, ulong a, ulong b, ulong c)
    {
        int bits = Bits(i.Type);
        ulong mask = (1ul << bits) - 1;
        ulong high = (ulong)(i.Saturate ? Clamp((int)a, false, i.Type) : (int)a) & mask, low = (ulong)(i.Saturate ? Clamp((int)b, false, i.Type) : (int)b) & mask;
        ulong pair = high << bits | low;
        return bits == 16 ? pair : (c << 16 & Mask32) | pair;
    }
}
