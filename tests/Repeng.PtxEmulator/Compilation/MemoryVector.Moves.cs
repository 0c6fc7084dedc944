using System.Numerics;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Repeng.PtxEmulator.Execution;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Compilation;

/// <summary>How the bytes of a checked access go to registers and back.</summary>
internal static unsafe partial class MemoryVector
{
    public static void Load(Warp warp, Instruction i, byte* frame, uint mask)
    {
        if (i.Space == Space.Param && i.Address.Kind == ValueKind.Immediate && mask == uint.MaxValue)
        {
            LoadParameter(warp, i, frame);
            return;
        }

        int element = i.Type.Size(), size = element * i.Count;
        byte* at = null;
        AccessPattern? pattern = null;
        if (i.Semantics == Semantics.Weak && i.Space is not (Space.Local or Space.Param))
        {
            pattern = AccessPattern.Of(frame, i.Address, i.Offset, mask, size, ref i.Patterns, out ulong least);
            at = pattern is null ? null : Prepare(warp, i, i.Space, pattern, least, size, AccessKind.Read);
        }

        if (at == null)
        {
            MemoryInstructions.Load(warp, i, mask);
            return;
        }

        fixed (uint* offsets = pattern!.Offsets)
        {
            if (element == 4 && i.Count == 4 && mask == uint.MaxValue && Sse2.IsSupported && Vector(i.Destinations))
            {
                LoadFours(frame, i.Destinations, at, offsets);
                return;
            }

            bool signed = i.Type.IsSigned();
            for (int k = 0; k < i.Count; k++)
            {
                Register? to = i.Destinations[k].Register;
                if (to is null)
                    continue;
                byte* register = frame + to.Offset, from = at + (k * element);
                if (element == 4 && to.Width == 32)
                    Words((uint*)register, from, offsets, pattern, i.Count, mask);
                else if (element * 8 == to.Width && pattern.Contiguous && i.Count == 1)
                    Copy(from, register, 32 * element);
                else
                    Elements(register, to.Width, from, offsets, element, signed ? i.Type : PtxType.None, mask);
            }
        }
    }

    private static void Copy(byte* from, byte* to, int bytes)
    {
        for (int b = 0; b < bytes; b += 64)
            Vector512.Load(from + b).Store(to + b);
    }

    private static void Words(uint* d, byte* from, uint* offsets, AccessPattern pattern, int count, uint mask)
    {
        if (pattern.Contiguous && count == 1)
        {
            Vector512.Load((uint*)from).Store(d);
            Vector512.Load((uint*)from + 16).Store(d + 16);
        }
        else if (pattern.Uniform)
        {
            Vector512<uint> v = Vector512.Create(*(uint*)from);
            v.Store(d);
            v.Store(d + 16);
        }
        else if (mask == uint.MaxValue)
        {
            for (int lane = 0; lane < 32; lane++)
                d[lane] = *(uint*)(from + offsets[lane]);
        }
        else
        {
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            {
                int lane = BitOperations.TrailingZeroCount(lanes);
                d[lane] = *(uint*)(from + offsets[lane]);
            }
        }
    }

    private static void Elements(byte* register, int width, byte* from, uint* offsets, int element, PtxType signed, uint mask)
    {
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ulong bits = MemoryInstructions.ReadBytes(from + offsets[lane], element);
            if (signed != PtxType.None)
                bits = (ulong)Scalar.Extend(bits, signed);
            switch (width)
            {
                case 16:
                    ((ushort*)register)[lane] = (ushort)bits;
                    break;
                case 32:
                    ((uint*)register)[lane] = (uint)bits;
                    break;
                default:
                    ((ulong*)register)[lane] = bits;
                    break;
            }
        }
    }

    /// <summary>Whether all values of a vector are registers of 32 bits.</summary>
    private static bool Vector(Value[] values)
    {
        foreach (Value value in values)
            if (value.Register is not { Width: 32 })
                return false;
        return true;
    }

    /// <summary>Four words a lane: four lanes at a time by rows and columns.</summary>
    private static void LoadFours(byte* frame, Value[] to, byte* at, uint* offsets)
    {
        uint* d0 = (uint*)(frame + to[0].Register!.Offset), d1 = (uint*)(frame + to[1].Register!.Offset), d2 = (uint*)(frame + to[2].Register!.Offset), d3 = (uint*)(frame + to[3].Register!.Offset);
        for (int lane = 0; lane < 32; lane += 4)
        {
            Vector128<uint> a = Vector128.Load((uint*)(at + offsets[lane])), b = Vector128.Load((uint*)(at + offsets[lane + 1])), c = Vector128.Load((uint*)(at + offsets[lane + 2])), d = Vector128.Load((uint*)(at + offsets[lane + 3]));
            Turn(ref a, ref b, ref c, ref d);
            a.Store(d0 + lane);
            b.Store(d1 + lane);
            c.Store(d2 + lane);
            d.Store(d3 + lane);
        }
    }

    private static void StoreFours(byte* frame, Value[] from, byte* at, uint* offsets)
    {
        uint* s0 = (uint*)(frame + from[0].Register!.Offset), s1 = (uint*)(frame + from[1].Register!.Offset), s2 = (uint*)(frame + from[2].Register!.Offset), s3 = (uint*)(frame + from[3].Register!.Offset);
        for (int lane = 0; lane < 32; lane += 4)
        {
            Vector128<uint> a = Vector128.Load(s0 + lane), b = Vector128.Load(s1 + lane), c = Vector128.Load(s2 + lane), d = Vector128.Load(s3 + lane);
            Turn(ref a, ref b, ref c, ref d);
            a.Store((uint*)(at + offsets[lane]));
            b.Store((uint*)(at + offsets[lane + 1]));
            c.Store((uint*)(at + offsets[lane + 2]));
            d.Store((uint*)(at + offsets[lane + 3]));
        }
    }

    /// <summary>Four rows of four words become four columns.</summary>
    private static void Turn(ref Vector128<uint> a, ref Vector128<uint> b, ref Vector128<uint> c, ref Vector128<uint> d)
    {
        Vector128<ulong> ab0 = Sse2.UnpackLow(a, b).AsUInt64(), ab2 = Sse2.UnpackHigh(a, b).AsUInt64(), cd0 = Sse2.UnpackLow(c, d).AsUInt64(), cd2 = Sse2.UnpackHigh(c, d).AsUInt64();
        a = Sse2.UnpackLow(ab0, cd0).AsUInt32();
        b = Sse2.UnpackHigh(ab0, cd0).AsUInt32();
        c = Sse2.UnpackLow(ab2, cd2).AsUInt32();
        d = Sse2.UnpackHigh(ab2, cd2).AsUInt32();
    }

    private static void LoadParameter(Warp warp, Instruction i, byte* frame)
    {
        int element = i.Type.Size();
        byte* at = MemoryUnit.Access(warp, i, 0, Space.Param, i.Address.Bits + (ulong)i.Offset, element * i.Count, AccessKind.Read);
        for (int k = 0; k < i.Count; k++)
        {
            ulong bits = MemoryInstructions.ReadBytes(at + (k * element), element);
            if (i.Type.IsSigned())
                bits = (ulong)Scalar.Extend(bits, i.Type);
            if (i.Destinations[k].Register is not { } to)
                continue;
            byte* register = frame + to.Offset;
            int bytes = to.Width * 4;
            if (to.Width == 16)
                bits = (ushort)bits * 0x0001_0001_0001_0001ul;
            else if (to.Width == 32)
                bits = (uint)bits * 0x0000_0001_0000_0001ul;
            Vector512<ulong> all = Vector512.Create(bits);
            for (int b = 0; b < bytes; b += 64)
                all.Store((ulong*)(register + b));
        }
    }

    public static void Store(Warp warp, Instruction i, byte* frame, uint mask)
    {
        int element = i.Type.Size(), size = element * i.Count;
        byte* at = null;
        AccessPattern? pattern = null;
        if (i.Semantics == Semantics.Weak && i.Space is not (Space.Local or Space.Param))
        {
            pattern = AccessPattern.Of(frame, i.Address, i.Offset, mask, size, ref i.Patterns, out ulong least);
            at = pattern is null ? null : Prepare(warp, i, i.Space, pattern, least, size, AccessKind.Write);
        }

        if (at == null)
        {
            MemoryInstructions.Store(warp, i, mask);
            return;
        }

        fixed (uint* offsets = pattern!.Offsets)
        {
            if (element == 4 && i.Count == 4 && mask == uint.MaxValue && Sse2.IsSupported && Vector(i.Sources))
            {
                StoreFours(frame, i.Sources, at, offsets);
                return;
            }

            for (int k = 0; k < i.Count; k++)
            {
                byte* to = at + (k * element);
                if (i.Sources[k].Register is not { } from)
                {
                    for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                        MemoryInstructions.WriteBytes(to + offsets[BitOperations.TrailingZeroCount(lanes)], element, i.Sources[k].Bits);
                    continue;
                }

                byte* register = frame + from.Offset;
                if (element * 8 == from.Width && pattern.Contiguous && i.Count == 1)
                {
                    Copy(register, to, 32 * element);
                    continue;
                }

                int width = from.Width / 8;
                for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                {
                    int lane = BitOperations.TrailingZeroCount(lanes);
                    MemoryInstructions.WriteBytes(to + offsets[lane], element, MemoryInstructions.ReadBytes(register + (lane * width), width));
                }
            }
        }
    }

    private static readonly Vector512<ushort> s_firstColumns = Columns(0), s_lastColumns = Columns(4);

    /// <summary>Places of four columns in eight rows of eight.</summary>
    private static Vector512<ushort> Columns(int first)
    {
        Vector512<ushort> places = default;
        for (int k = 0; k < 32; k++)
            places = places.WithElement(k, (ushort)((8 * (k % 8)) + first + (k / 8)));
        return places;
    }

    /// <summary>Eight rows of eight 16-bit elements by columns: column c goes to lanes 4c to 4c + 3.</summary>
    private static void Transpose(Vector512<ushort> upper, Vector512<ushort> lower, ushort* d)
    {
        if (Avx512BW.IsSupported)
        {
            Avx512BW.PermuteVar32x16x2(upper, s_firstColumns, lower).Store(d);
            Avx512BW.PermuteVar32x16x2(upper, s_lastColumns, lower).Store(d + 32);
            return;
        }

        if (Sse2.IsSupported)
        {
            Vector256<ushort> r01 = upper.GetLower(), r23 = upper.GetUpper(), r45 = lower.GetLower(), r67 = lower.GetUpper();
            // Pairs of rows, then fours of rows, then whole columns.
            Four(Sse2.UnpackLow(r01.GetLower(), r01.GetUpper()).AsUInt32(), Sse2.UnpackLow(r23.GetLower(), r23.GetUpper()).AsUInt32(),
                Sse2.UnpackLow(r45.GetLower(), r45.GetUpper()).AsUInt32(), Sse2.UnpackLow(r67.GetLower(), r67.GetUpper()).AsUInt32(), (uint*)d);
            Four(Sse2.UnpackHigh(r01.GetLower(), r01.GetUpper()).AsUInt32(), Sse2.UnpackHigh(r23.GetLower(), r23.GetUpper()).AsUInt32(),
                Sse2.UnpackHigh(r45.GetLower(), r45.GetUpper()).AsUInt32(), Sse2.UnpackHigh(r67.GetLower(), r67.GetUpper()).AsUInt32(), (uint*)d + 16);
            return;
        }

        for (int k = 0; k < 64; k++)
        {
            int row = k % 8, column = k / 8;
            d[k] = row < 4 ? upper[(8 * row) + column] : lower[(8 * (row - 4)) + column];
        }

        static void Four(Vector128<uint> p01, Vector128<uint> p23, Vector128<uint> p45, Vector128<uint> p67, uint* to)
        {
            Vector128<ulong> low0 = Sse2.UnpackLow(p01, p23).AsUInt64(), low4 = Sse2.UnpackLow(p45, p67).AsUInt64(), high0 = Sse2.UnpackHigh(p01, p23).AsUInt64(), high4 = Sse2.UnpackHigh(p45, p67).AsUInt64();
            Sse2.UnpackLow(low0, low4).AsUInt32().Store(to);
            Sse2.UnpackHigh(low0, low4).AsUInt32().Store(to + 4);
            Sse2.UnpackLow(high0, high4).AsUInt32().Store(to + 8);
            Sse2.UnpackHigh(high0, high4).AsUInt32().Store(to + 12);
        }
    }
}
