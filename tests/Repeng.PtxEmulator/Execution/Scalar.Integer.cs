using System.Numerics;
using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

/// <summary>
/// What an instruction computes for one lane: raw bits in, raw bits out (PTX ISA, chapter 9). This is the oracle: plain code, one case an instruction,
/// and nothing here knows of warps, frames or vectors.
/// </summary>
internal static partial class Scalar
{
    private const ulong Mask32 = 0xffff_ffff;

    public static ulong Evaluate(Instruction i, ulong a, ulong b = 0, ulong c = 0, ulong d = 0)
    {
        switch (i.Op)
        {
            case Op.Mov:
                return a;
            case Op.Selp:
                return (c & 1) != 0 ? a : b;
            case Op.Slct:
                return i.SourceType == PtxType.S32 ? (int)c >= 0 ? a : b : Floats.F32(i.Ftz ? Floats.Flush(c) : c) >= 0 ? a : b;
            case Op.And:
                return a & b;
            case Op.Or:
                return a | b;
            case Op.Xor:
                return a ^ b;
            case Op.Not:
                return Truncate(~a, i.Type);
            case Op.Cnot:
                return Truncate(a, i.Type) == 0 ? 1ul : 0;
            case Op.Setp or Op.Set:
                return SetCompare(i, a, b, c);
            case Op.Cvt:
                return Convert(i, a, b);
            case Op.CvtPack:
                return ConvertPack(i, a, b, c);
            case Op.Testp:
                return TestFloat(i, a) ? 1ul : 0;
            case Op.Copysign:
                return i.Type == PtxType.F32 ? (b & 0x7fff_ffff) | (a & 0x8000_0000) : (b & long.MaxValue) | (a & 1ul << 63);
            default:
                return i.Type.IsFloat() ? Float(i, a, b, c) : Integer(i, a, b, c, d);
        }
    }

    private static int Bits(PtxType type) => type == PtxType.Pred ? 1 : type.Size() * 8;

    private static ulong Truncate(ulong value, PtxType type)
    {
        int bits = Bits(type);
        return bits >= 64 ? value : value & ((1ul << bits) - 1);
    }

    /// <summary>The number that the low bits of a register mean in a type, extended to 64 bits.</summary>
    internal static long Extend(ulong value, PtxType type)
    {
        int bits = Bits(type);
        if (bits >= 64)
            return (long)value;
        return type.IsSigned() ? (long)(value << (64 - bits)) >> (64 - bits) : (long)Truncate(value, type);
    }

    private static ulong Integer(Instruction i, ulong a, ulong b, ulong c, ulong d)
    {
        PtxType type = i.Type;
        if (type.IsPacked())
            return Pack(IntegerOne(i, type.Half(), a & 0xffff, b & 0xffff, c, d), IntegerOne(i, type.Half(), a >> 16 & 0xffff, b >> 16 & 0xffff, c, d));
        return IntegerOne(i, type, a, b, c, d);
    }

    private static ulong Pack(ulong low, ulong high) => (low & 0xffff) | ((high & 0xffff) << 16);

    private static ulong IntegerOne(Instruction i, PtxType type, ulong a, ulong b, ulong c, ulong d)
    {
        long x = Extend(a, type), y = Extend(b, type);
        bool signed = type.IsSigned();
        int bits = Bits(type);
        switch (i.Op)
        {
            case Op.Add:
                return i.Saturate ? (ulong)Math.Clamp(x + y, int.MinValue, int.MaxValue) & Mask32 : Truncate(a + b, type);
            case Op.Sub:
                return i.Saturate ? (ulong)Math.Clamp(x - y, int.MinValue, int.MaxValue) & Mask32 : Truncate(a - b, type);
            case Op.Mul:
                return Multiply(i, type, a, b, 0);
            case Op.Mad:
                ulong sum = Multiply(i, type, a, b, c);
                return i.Saturate ? (ulong)Math.Clamp((x * y >> 32) + (int)c, int.MinValue, int.MaxValue) & Mask32 : sum;
            case Op.Mul24 or Op.Mad24:
                long m = signed ? (x << 40 >> 40) * (y << 40 >> 40) : (x & 0xff_ffff) * (y & 0xff_ffff);
                long part = i.Part == Part.Hi ? m >> 16 : m;
                if (i.Op == Op.Mul24)
                    return (ulong)part & Mask32;
                return i.Saturate ? (ulong)Math.Clamp((int)part + (long)(int)c, int.MinValue, int.MaxValue) & Mask32 : ((ulong)part + c) & Mask32;
            case Op.Sad:
                return Truncate(c + (signed ? (x < y ? (ulong)y - (ulong)x : (ulong)x - (ulong)y) : (ulong)x < (ulong)y ? b - a : a - b), type);
            case Op.Div:
                if (Truncate(b, type) == 0)
                    return Truncate(ulong.MaxValue, type);
                if (signed)
                    return Truncate(y == -1 ? (ulong)-x : (ulong)(x / y), type);
                return (ulong)x / (ulong)y;
            case Op.Rem:
                if (Truncate(b, type) == 0)
                    return Truncate(a, type);
                if (signed)
                    return y == -1 ? 0 : Truncate((ulong)(x % y), type);
                return (ulong)x % (ulong)y;
            case Op.Abs:
                return Truncate(x < 0 ? (ulong)-x : (ulong)x, type);
            case Op.Neg:
                return Truncate((ulong)-x, type);
            case Op.Min:
                return Truncate((signed ? x < y : (ulong)x < (ulong)y) ? a : b, type);
            case Op.Max:
                ulong larger = Truncate((signed ? x > y : (ulong)x > (ulong)y) ? a : b, type);
                return i.Relu && Extend(larger, type) < 0 ? 0 : larger;
            case Op.Popc:
                return (ulong)BitOperations.PopCount(Truncate(a, type));
            case Op.Clz:
                return (ulong)(BitOperations.LeadingZeroCount(Truncate(a, type)) - (64 - bits));
            case Op.Brev:
                ulong reversed = 0;
                for (int k = 0; k < bits; k++)
                    reversed |= (a >> k & 1) << (bits - 1 - k);
                return reversed;
            case Op.Bfind:
                ulong seek = Truncate(signed && x < 0 ? ~a : a, type);
                if (seek == 0)
                    return Mask32;
                int top = BitOperations.Log2(seek);
                return (ulong)(i.Flag ? bits - 1 - top : top);
            case Op.Fns:
                return FindNthSet((uint)a, (int)b, (int)c);
            case Op.Bfe:
                return ExtractField(type, bits, a, (int)(b & 0xff), (int)(c & 0xff));
            case Op.Bfi:
                int at = (int)(c & 0xff), length = (int)(d & 0xff);
                for (int k = 0; k < length && at + k < bits; k++)
                    b = (b & ~(1ul << (at + k))) | ((k < bits ? a >> k & 1 : 0) << (at + k));
                return b;
            case Op.Shl:
                return (uint)b >= bits ? 0 : Truncate(a << (int)b, type);
            case Op.Shr:
                return Truncate((uint)b >= bits ? (signed && x < 0 ? ulong.MaxValue : 0) : (signed ? (ulong)(x >> (int)b) : (ulong)x >> (int)b), type);
            case Op.Shf:
                int by = i.Mode == Mode.Clamp ? (int)Math.Min((uint)c, 32) : (int)(c & 31);
                ulong both = (b & Mask32) << 32 | (a & Mask32);
                return i.Flag ? (by == 0 ? b : both << by >> 32) & Mask32 : both >> by & Mask32;
            case Op.Prmt:
                return Permute(i.Mode, (uint)a, (uint)b, (uint)c);
            case Op.Lop3:
                ulong result = 0;
                for (int k = 0; k < 32; k++)
                    result |= (d >> (int)((a >> k & 1) << 2 | (b >> k & 1) << 1 | (c >> k & 1)) & 1) << k;
                return result;
            case Op.Szext:
                int width = i.Mode == Mode.Wrap ? (int)(b & 31) : (int)Math.Min((uint)b, 32);
                if (width == 0)
                    return 0;
                return width == 32 ? a & Mask32 : signed ? (ulong)((int)(a << (32 - width)) >> (32 - width)) & Mask32 : a & ((1ul << width) - 1);
            case Op.Bmsk:
                int from = i.Mode == Mode.Wrap ? (int)(a & 31) : (int)Math.Min((uint)a, 32), count = i.Mode == Mode.Wrap ? (int)(b & 31) : (int)Math.Min((uint)b, 32);
                return from >= 32 ? 0 : (((1ul << count) - 1) << from) & Mask32;
            case Op.Dp4a:
                int dot = (int)c;
                for (int k = 0; k < 4; k++)
                    dot += (int)(Extend(a >> (8 * k), type == PtxType.S32 ? PtxType.S8 : PtxType.U8) * Extend(b >> (8 * k), i.SourceType == PtxType.S32 ? PtxType.S8 : PtxType.U8));
                return (uint)dot;
            case Op.Dp2a:
                int pair = (int)c, shift = i.Part == Part.Hi ? 16 : 0;
                for (int k = 0; k < 2; k++)
                    pair += (int)(Extend(a >> (16 * k), type == PtxType.S32 ? PtxType.S16 : PtxType.U16) * Extend(b >> (shift + (8 * k)), i.SourceType == PtxType.S32 ? PtxType.S8 : PtxType.U8));
                return (uint)pair;
            default:
                throw new NotSupportedException($"{i.Op} of {type}");
        }
    }

    private static ulong Multiply(Instruction i, PtxType type, ulong a, ulong b, ulong c)
    {
        long x = Extend(a, type), y = Extend(b, type);
        int bits = Bits(type);
        if (i.Part == Part.Wide)
            return bits == 32 ? (ulong)(x * y) + c : ((ulong)(x * y) + c) & Mask32;
        if (i.Part == Part.Lo)
            return Truncate((a * b) + c, type);
        if (bits < 64)
            return Truncate((type.IsSigned() ? (ulong)(x * y >> bits) : (ulong)x * (ulong)y >> bits) + c, type);
        return (type.IsSigned() ? (ulong)Math.BigMul(x, y, out long _) : Math.BigMul(a, b, out ulong _)) + c;
    }

    /// <summary>Extended-precision arithmetic; the carry goes in and out as 0 or 1 (a borrow for subtraction).</summary>
    public static ulong WithCarry(Instruction i, ulong a, ulong b, ulong c, ulong carryIn, out ulong carryOut)
    {
        int bits = Bits(i.Type);
        if (i.Op is Op.SubCC or Op.SubC)
        {
            UInt128 difference = (UInt128)Truncate(a, i.Type) - Truncate(b, i.Type) - (i.Op == Op.SubC ? carryIn : 0);
            carryOut = (ulong)(difference >> bits) & 1;
            return Truncate((ulong)difference, i.Type);
        }

        UInt128 sum = i.Op is Op.MadCC or Op.MadC
            ? (UInt128)Truncate(Multiply(i, i.Type, a, b, 0), i.Type) + Truncate(c, i.Type)
            : (UInt128)Truncate(a, i.Type) + Truncate(b, i.Type);
        if (i.Op is Op.AddC or Op.MadC)
            sum += carryIn;
        carryOut = (ulong)(sum >> bits) & 1;
        return Truncate((ulong)sum, i.Type);
    }

    private static ulong ExtractField(PtxType type, int bits, ulong a, int at, int length)
    {
        bool signed = type.IsSigned();
        int top = Math.Min(at + length - 1, bits - 1);
        ulong sign = !signed || length == 0 ? 0 : a >> top & 1;
        ulong result = 0;
        for (int k = 0; k < bits; k++)
            result |= (k < length && at + k < bits ? a >> (at + k) & 1 : sign) << k;
        return result;
    }

    private static ulong FindNthSet(uint mask, int start, int offset)
    {
        if (offset == 0)
            return (mask >> start & 1) != 0 ? (ulong)start : Mask32;
        int step = Math.Sign(offset), left = Math.Abs(offset);
        for (int at = start; at is >= 0 and < 32; at += step)
            if ((mask >> at & 1) != 0 && --left == 0)
                return (ulong)at;
        return Mask32;
    }

    private static ulong Permute(Mode mode, uint a, uint b, uint c)
    {
        ulong bytes = (ulong)b << 32 | a;
        uint s = c & 3, result = 0;
        for (int k = 0; k < 4; k++)
        {
            int select = mode switch
            {
                Mode.F4e => k + (int)s,
                Mode.B4e => (int)(s - k) & 7,
                Mode.Rc8 => (int)s,
                Mode.Ecl => Math.Max(k, (int)s),
                Mode.Ecr => Math.Min(k, (int)s),
                Mode.Rc16 => (k & 1) + ((int)(s & 1) * 2),
                _ => (int)(c >> (4 * k)) & 15,
            };
            uint value = (uint)(bytes >> (8 * (select & 7))) & 0xff;
            if (mode == Mode.None && (select & 8) != 0)
                value = (value & 0x80) != 0 ? 0xffu : 0;
            result |= value << (8 * k);
        }

        return result;
    }
}
