using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.PtxEmulator.Compilation;

internal static unsafe partial class VectorOps
{
    [MethodImpl(Inline)]
    public static void cvt_s64_s32(long* d, int* a)
    {
        for (int k = 0; k < 32; k += 8)
            Vector512.WidenLower(Vector256.Load(a + k).ToVector512Unsafe()).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void cvt_u64_u32(ulong* d, uint* a)
    {
        for (int k = 0; k < 32; k += 8)
            Vector512.WidenLower(Vector256.Load(a + k).ToVector512Unsafe()).Store(d + k);
    }

    /// <summary>The low half, for every mix of signs.</summary>
    [MethodImpl(Inline)]
    public static void cvt_32_64(uint* d, ulong* a)
    {
        for (int k = 0; k < 32; k += 16)
            Vector512.Narrow(Vector512.Load(a + k), Vector512.Load(a + k + 8)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void cvt_16_32(ushort* d, uint* a) => Vector512.Narrow(Vector512.Load(a), Vector512.Load(a + 16)).Store(d);

    [MethodImpl(Inline)]
    public static void cvt_u32_u16(uint* d, ushort* a)
    {
        (Vector512<uint> low, Vector512<uint> high) = Vector512.Widen(Vector512.Load(a));
        low.Store(d);
        high.Store(d + 16);
    }

    [MethodImpl(Inline)]
    public static void cvt_s32_s16(int* d, short* a)
    {
        (Vector512<int> low, Vector512<int> high) = Vector512.Widen(Vector512.Load(a));
        low.Store(d);
        high.Store(d + 16);
    }

    [MethodImpl(Inline)]
    public static void cvt_u32_u8(uint* d, uint* a)
    {
        (Vector512.Load(a) & Vector512.Create(255u)).Store(d);
        (Vector512.Load(a + 16) & Vector512.Create(255u)).Store(d + 16);
    }

    [MethodImpl(Inline)]
    public static void cvt_f32_s32(float* d, int* a)
    {
        Vector512.ConvertToSingle(Vector512.Load(a)).Store(d);
        Vector512.ConvertToSingle(Vector512.Load(a + 16)).Store(d + 16);
    }

    public static void cvt_f32_u32(float* d, uint* a)
    {
        for (int k = 0; k < 32; k++)
            d[k] = a[k];
    }

    /// <summary>Towards zero; out of range clamps and NaN gives 0, as .NET's own conversion does.</summary>
    [MethodImpl(Inline)]
    public static void cvt_rzi_s32_f32(int* d, float* a)
    {
        Vector512.ConvertToInt32(Vector512.Load(a)).Store(d);
        Vector512.ConvertToInt32(Vector512.Load(a + 16)).Store(d + 16);
    }

    [MethodImpl(Inline)]
    public static void cvt_f64_f32(double* d, float* a)
    {
        for (int k = 0; k < 32; k += 16)
        {
            (Vector512<double> low, Vector512<double> high) = Vector512.Widen(Vector512.Load(a + k));
            low.Store(d + k);
            high.Store(d + k + 8);
        }
    }

    [MethodImpl(Inline)]
    public static void cvt_f32_f64(float* d, double* a)
    {
        for (int k = 0; k < 32; k += 16)
            Vector512.Narrow(Vector512.Load(a + k), Vector512.Load(a + k + 8)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void cvt_f32_bf16(uint* d, ushort* a)
    {
        (Vector512<uint> low, Vector512<uint> high) = Vector512.Widen(Vector512.Load(a));
        Vector512.ShiftLeft(low, 16).Store(d);
        Vector512.ShiftLeft(high, 16).Store(d + 16);
    }

    /// <summary>fp16 bits (in the low half of each word) as fp32: shifted into place, scaled exactly, infinities and NaNs mended.</summary>
    [MethodImpl(Inline)]
    internal static Vector512<float> HalfToSingle(Vector512<uint> h)
    {
        Vector512<uint> magnitude = Vector512.ShiftLeft(h & Vector512.Create(0x7fffu), 13);
        Vector512<float> scaled = magnitude.AsSingle() * Vector512.Create(5.192296858534828e33f);
        Vector512<uint> special = Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(0x0f80_0000u)) & Vector512.Create(0x7f80_0000u);
        return (scaled.AsUInt32() | special | Vector512.ShiftLeft(h & Vector512.Create(0x8000u), 16)).AsSingle();
    }

    [MethodImpl(Inline)]
    public static void cvt_f32_f16(float* d, ushort* a)
    {
        (Vector512<uint> low, Vector512<uint> high) = Vector512.Widen(Vector512.Load(a));
        HalfToSingle(low).Store(d);
        HalfToSingle(high).Store(d + 16);
    }

    /// <summary>fp32 to bf16, to nearest even; every NaN becomes 0x7fff.</summary>
    [MethodImpl(Inline)]
    private static Vector512<uint> ToBFloat16(Vector512<float> v)
    {
        Vector512<uint> bits = v.AsUInt32();
        Vector512<uint> rounded = Vector512.ShiftRightLogical(bits + Vector512.Create(0x7fffu) + (Vector512.ShiftRightLogical(bits, 16) & Vector512<uint>.One), 16);
        return Vector512.ConditionalSelect(Vector512.Equals(v, v).AsUInt32(), rounded, Vector512.Create(0x7fffu));
    }

    [MethodImpl(Inline)]
    public static void cvt_bf16_f32(ushort* d, float* a) => Vector512.Narrow(ToBFloat16(Vector512.Load(a)), ToBFloat16(Vector512.Load(a + 16))).Store(d);

    [MethodImpl(Inline)]
    public static void cvt_bf16x2_f32(uint* d, float* a, float* b)
    {
        for (int k = 0; k < 32; k += 16)
            (Vector512.ShiftLeft(ToBFloat16(Vector512.Load(a + k)), 16) | ToBFloat16(Vector512.Load(b + k))).Store(d + k);
    }

    private static ushort ToHalf(float v) => float.IsNaN(v) ? (ushort)0x7fff : BitConverter.HalfToUInt16Bits((Half)v);

    public static void cvt_f16_f32(ushort* d, float* a)
    {
        for (int k = 0; k < 32; k++)
            d[k] = ToHalf(a[k]);
    }

    public static void cvt_f16x2_f32(uint* d, float* a, float* b)
    {
        for (int k = 0; k < 32; k++)
            d[k] = ((uint)ToHalf(a[k]) << 16) | ToHalf(b[k]);
    }

    [MethodImpl(Inline)]
    public static void pack_16_16(uint* d, ushort* a, ushort* b)
    {
        (Vector512<uint> low, Vector512<uint> high) = Vector512.Widen(Vector512.Load(a));
        (Vector512<uint> low2, Vector512<uint> high2) = Vector512.Widen(Vector512.Load(b));
        (low | Vector512.ShiftLeft(low2, 16)).Store(d);
        (high | Vector512.ShiftLeft(high2, 16)).Store(d + 16);
    }

    [MethodImpl(Inline)]
    public static void unpack_16_16(ushort* d, ushort* e, uint* a)
    {
        Vector512<uint> low = Vector512.Load(a), high = Vector512.Load(a + 16);
        Vector512.Narrow(low, high).Store(d);
        Vector512.Narrow(Vector512.ShiftRightLogical(low, 16), Vector512.ShiftRightLogical(high, 16)).Store(e);
    }

    [MethodImpl(Inline)]
    public static void pack_32_32(ulong* d, uint* a, uint* b)
    {
        for (int k = 0; k < 32; k += 8)
            (Vector512.WidenLower(Vector256.Load(a + k).ToVector512Unsafe()) | Vector512.ShiftLeft(Vector512.WidenLower(Vector256.Load(b + k).ToVector512Unsafe()), 32)).Store(d + k);
    }

    [MethodImpl(Inline)]
    public static void unpack_32_32(uint* d, uint* e, ulong* a)
    {
        for (int k = 0; k < 32; k += 16)
        {
            Vector512<ulong> low = Vector512.Load(a + k), high = Vector512.Load(a + k + 8);
            Vector512.Narrow(low, high).Store(d + k);
            Vector512.Narrow(Vector512.ShiftRightLogical(low, 32), Vector512.ShiftRightLogical(high, 32)).Store(e + k);
        }
    }

    /// <summary>Keeps what lanes outside of a mask had.</summary>
    [MethodImpl(Inline)]
    public static void Blend(byte* d, byte* made, int width, uint mask)
    {
        switch (width)
        {
            case 32:
                selp_32((uint*)d, (uint*)made, (uint*)d, mask);
                break;
            case 64:
                selp_64((ulong*)d, (ulong*)made, (ulong*)d, mask);
                break;
            default:
                selp_16((ushort*)d, (ushort*)made, (ushort*)d, mask);
                break;
        }
    }
}
