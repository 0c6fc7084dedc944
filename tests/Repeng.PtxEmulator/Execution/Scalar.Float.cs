using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

internal static partial class Scalar
{
    private static ulong Float(Instruction i, ulong a, ulong b, ulong c)
    {
        PtxType type = i.Type;
        if (!type.IsPacked())
            return FloatOne(i, type, a, b, c);
        PtxType half = type.Half();
        return Pack(FloatOne(i, half, a & 0xffff, b & 0xffff, c & 0xffff), FloatOne(i, half, a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff));
    }

    private static ulong FloatOne(Instruction i, PtxType type, ulong a, ulong b, ulong c)
    {
        if (i.Ftz)
        {
            a = FlushInput(a, type);
            b = FlushInput(b, type);
            c = FlushInput(c, type);
        }

        ulong result = type == PtxType.F64 ? Float64(i, a, b, c) : FloatNarrow(i, type, a, b, c);
        if (i.Saturate)
            result = Saturated(result, type);
        if (i.Relu && Floats.Widen(result, type) < 0)
            result = 0;
        return i.Ftz ? FlushInput(result, type) : result;
    }

    private static ulong FlushInput(ulong bits, PtxType type) => type switch
    {
        PtxType.F32 => Floats.Flush(bits),
        PtxType.F16 => (bits & 0x7c00) == 0 ? bits & 0x8000 : bits,
        _ => bits,
    };

    /// <summary>Clamped to [0, 1]; NaN becomes +0.</summary>
    private static ulong Saturated(ulong bits, PtxType type)
    {
        double value = Floats.Widen(bits, type);
        return value > 1 ? Floats.Narrow(1, type, Rounding.Nearest) : value > 0 ? bits : 0;
    }

    private static ulong FloatNarrow(Instruction i, PtxType type, ulong a, ulong b, ulong c)
    {
        if (type == PtxType.F32 && i.Rounding is Rounding.Nearest or Rounding.None)
        {
            float p = Floats.F32(a), q = Floats.F32(b), r = Floats.F32(c);
            switch (i.Op)
            {
                case Op.Add:
                    return Floats.Bits(p + q);
                case Op.Sub:
                    return Floats.Bits(p - q);
                case Op.Mul:
                    return Floats.Bits(p * q);
                case Op.Fma:
                    return Floats.Bits(MathF.FusedMultiplyAdd(p, q, r));
                case Op.Div:
                    return Floats.Bits(p / q);
                case Op.Rcp:
                    return Floats.Bits(1 / p);
                case Op.Sqrt:
                    return Floats.Bits(MathF.Sqrt(p));
            }
        }

        int bits = Bits(type);
        ulong sign = 1ul << (bits - 1);
        double x = Floats.Widen(a, type), y = Floats.Widen(b, type), z = Floats.Widen(c, type);
        switch (i.Op)
        {
            case Op.Abs:
                return a & ~sign;
            case Op.Neg:
                return (a ^ sign) & (sign | (sign - 1));
            case Op.Min or Op.Max:
                return MinMax(i, type, a, b);
            case Op.Rsqrt:
                return Floats.Bits(Approximations.Rsqrt((float)x));
            case Op.Sin:
                return Floats.Bits(Approximations.Sin((float)x));
            case Op.Cos:
                return Floats.Bits(Approximations.Cos((float)x));
            case Op.Lg2:
                return Floats.Bits(Approximations.Lg2((float)x));
            case Op.Ex2:
                return type == PtxType.F32 ? Floats.Bits(Approximations.Ex2((float)x)) : Floats.Narrow(Approximations.Ex2((float)x), type, Rounding.Nearest);
            case Op.Tanh:
                return type == PtxType.F32 ? Floats.Bits(Approximations.Tanh((float)x)) : Floats.Narrow(Approximations.Tanh((float)x), type, Rounding.Nearest);
        }

        double exact = i.Op switch
        {
            Op.Add => Floats.AddOdd(x, y),
            Op.Sub => Floats.AddOdd(x, -y),
            Op.Mul => x * y,
            Op.Fma => Floats.AddOdd(x * y, z),
            Op.Div => Floats.DivideOdd(x, y),
            Op.Rcp => Floats.DivideOdd(1, x),
            Op.Sqrt => Floats.SqrtOdd(x),
            _ => throw new NotSupportedException($"{i.Op} of {type}"),
        };
        // A sum that cancels exactly is −0 only when rounding down.
        if (exact == 0 && i.Rounding == Rounding.Down && i.Op is Op.Add or Op.Sub or Op.Fma)
        {
            double left = i.Op == Op.Fma ? x * y : x, right = i.Op switch { Op.Fma => z, Op.Sub => -y, _ => y };
            if (double.IsNegative(left) != double.IsNegative(right))
                exact = -0.0;
        }

        return Floats.Narrow(exact, type, i.Rounding == Rounding.None ? Rounding.Nearest : i.Rounding);
    }

    private static ulong MinMax(Instruction i, PtxType type, ulong a, ulong b)
    {
        int bits = Bits(type);
        ulong signBit = 1ul << (bits - 1), quiet = type switch { PtxType.F64 => 0x7fff_ffff_ffff_ffff, PtxType.F32 => 0x7fff_ffff, _ => 0x7fff };
        ulong sign = (a ^ b) & signBit;
        if (i.XorSignAbs)
        {
            a &= ~signBit;
            b &= ~signBit;
        }

        double x = Floats.Widen(a, type), y = Floats.Widen(b, type);
        ulong result;
        if (double.IsNaN(x) || double.IsNaN(y))
            result = i.NanWins || (double.IsNaN(x) && double.IsNaN(y)) ? quiet : double.IsNaN(x) ? b : a;
        else if (x == y)
            // −0 is less than +0.
            result = i.Op == Op.Min ? (double.IsNegative(x) ? a : b) : double.IsNegative(x) ? b : a;
        else
            result = x < y == (i.Op == Op.Min) ? a : b;
        return i.XorSignAbs ? (result & ~signBit) | sign : result;
    }

    private static ulong Float64(Instruction i, ulong a, ulong b, ulong c)
    {
        double x = Floats.F64(a), y = Floats.F64(b), z = Floats.F64(c);
        return i.Op switch
        {
            Op.Add => Floats.Bits(Floats.Add64(x, y, i.Rounding)),
            Op.Sub => Floats.Bits(Floats.Add64(x, -y, i.Rounding)),
            Op.Mul => Floats.Bits(Floats.Multiply64(x, y, i.Rounding)),
            Op.Fma => Floats.Bits(Floats.Fma64(x, y, z, i.Rounding)),
            Op.Div => Floats.Bits(Floats.Divide64(x, y, i.Rounding)),
            Op.Rcp => Floats.Bits(Floats.Divide64(1, x, i.Approximate ? Rounding.Nearest : i.Rounding)),
            Op.Sqrt => Floats.Bits(Floats.Sqrt64(x, i.Rounding)),
            Op.Rsqrt => Floats.Bits(1 / Math.Sqrt(x)),
            Op.Abs => a & long.MaxValue,
            Op.Neg => a ^ 1ul << 63,
            Op.Min or Op.Max => MinMax(i, PtxType.F64, a, b),
            _ => throw new NotSupportedException($"{i.Op} of f64"),
        };
    }

    private static bool TestFloat(Instruction i, ulong a)
    {
        double value = Floats.Widen(a, i.SourceType);
        bool subnormal = i.SourceType == PtxType.F32 ? float.IsSubnormal(Floats.F32(a)) : double.IsSubnormal(value);
        return i.Mode switch
        {
            Mode.Finite => double.IsFinite(value),
            Mode.Infinite => double.IsInfinity(value),
            Mode.Number => !double.IsNaN(value),
            Mode.NotANumber => double.IsNaN(value),
            Mode.Normal => double.IsFinite(value) && value != 0 && !subnormal,
            _ => subnormal,
        };
    }

    private static ulong SetCompare(Instruction i, ulong a, ulong b, ulong c)
    {
        if (i.SourceType.IsPacked())
        {
            PtxType half = i.SourceType.Half();
            return Pack(SetCompare(i, half, a & 0xffff, b & 0xffff, c), SetCompare(i, half, a >> 16 & 0xffff, b >> 16 & 0xffff, c));
        }

        return SetCompare(i, i.SourceType, a, b, c);
    }

    private static ulong SetCompare(Instruction i, PtxType type, ulong a, ulong b, ulong c)
    {
        bool result = Compares(i, type, a, b);
        bool third = (c & 1) != 0;
        result = i.Combine switch { Mode.And => result & third, Mode.Or => result | third, Mode.Xor => result ^ third, _ => result };
        if (i.Op == Op.Setp)
            return result ? 1ul : 0;
        return i.Type switch
        {
            PtxType.F32 => result ? Floats.Bits(1f) : 0,
            PtxType.F16 or PtxType.F16x2 => result ? 0x3c00ul : 0,
            PtxType.BF16 or PtxType.BF16x2 => result ? 0x3f80ul : 0,
            _ => result ? Truncate(ulong.MaxValue, i.Type) : 0,
        };
    }

    /// <summary>The comparison alone, without what it is combined with.</summary>
    public static bool Compares(Instruction i, PtxType type, ulong a, ulong b)
    {
        if (!type.IsFloat())
        {
            long x = Extend(a, type), y = Extend(b, type);
            bool signed = type.IsSigned();
            return i.Compare switch
            {
                Compare.Eq => x == y,
                Compare.Ne => x != y,
                Compare.Lt => signed ? x < y : (ulong)x < (ulong)y,
                Compare.Le => signed ? x <= y : (ulong)x <= (ulong)y,
                Compare.Gt => signed ? x > y : (ulong)x > (ulong)y,
                _ => signed ? x >= y : (ulong)x >= (ulong)y,
            };
        }

        if (i.Ftz)
        {
            a = FlushInput(a, type);
            b = FlushInput(b, type);
        }

        double p = Floats.Widen(a, type), q = Floats.Widen(b, type);
        bool unordered = double.IsNaN(p) || double.IsNaN(q);
        return i.Compare switch
        {
            Compare.Eq => p == q,
            Compare.Ne => !unordered && p != q,
            Compare.Lt => p < q,
            Compare.Le => p <= q,
            Compare.Gt => p > q,
            Compare.Ge => p >= q,
            Compare.Equ => unordered || p == q,
            Compare.Neu => unordered || p != q,
            Compare.Ltu => unordered || p < q,
            Compare.Leu => unordered || p <= q,
            Compare.Gtu => unordered || p > q,
            Compare.Geu => unordered || p >= q,
            Compare.Num => !unordered,
            _ => unordered,
        };
    }
}
