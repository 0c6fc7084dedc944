using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// Sixteen codes at a time to fp32: d·q or d·q + m with product and sum each rounded (no fused multiply-add), which
/// is what ggml's plain C gives.
/// </summary>
internal static unsafe class Codes
{
    /// <summary>The low and the high nibbles of 16 bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<byte> Low, Vector128<byte> High) Nibbles(byte* p)
    {
        Vector128<byte> packed = Vector128.Load(p);
        return (packed & Vector128.Create((byte)0x0F), Shift(packed, 4, 0x0F));
    }

    /// <summary>Every byte shifted right, then masked.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte> Shift(Vector128<byte> bytes, int shift, byte mask) => (bytes.AsUInt16() >> shift).AsByte() & Vector128.Create(mask);

    /// <summary>Bit <paramref name="bit"/> of every byte, as <paramref name="value"/> where it is set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte> Bit(Vector128<byte> bytes, int bit, byte value)
    {
        Vector128<byte> place = Vector128.Create((byte)(1 << bit));
        return Vector128.Equals(bytes & place, place) & Vector128.Create(value);
    }

    /// <summary>All bits of lane j where bit j of the low eight is set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<int> Bits(uint bits)
    {
        Vector256<int> places = Vector256.Create(1, 2, 4, 8, 16, 32, 64, 128);
        return Vector256.Equals(Vector256.Create((int)bits) & places, places);
    }

    /// <summary>Eight signed bytes as 32-bit integers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<int> Widen(ulong bytes) => Vector256.WidenLower(Vector128.WidenLower(Vector128.CreateScalar(bytes).AsSByte()).ToVector256Unsafe());

    /// <summary>scale · code.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector128<sbyte> codes, Vector256<float> scale, float* destination)
    {
        if (Avx512F.IsSupported)
        {
            (Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(codes)) * Vector512.Create(scale, scale)).Store(destination);
            return;
        }
        (Vector256<float> low, Vector256<float> high) = ToSingle(codes);
        (low * scale).Store(destination);
        (high * scale).Store(destination + 8);
    }

    /// <summary>scale · code + minimum.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector128<sbyte> codes, Vector256<float> scale, Vector256<float> minimum, float* destination)
    {
        if (Avx512F.IsSupported)
        {
            (Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(codes)) * Vector512.Create(scale, scale) + Vector512.Create(minimum, minimum)).Store(destination);
            return;
        }
        (Vector256<float> low, Vector256<float> high) = ToSingle(codes);
        (low * scale + minimum).Store(destination);
        (high * scale + minimum).Store(destination + 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector256<float> Low, Vector256<float> High) ToSingle(Vector128<sbyte> codes)
    {
        Vector256<short> wide = Vector256.Create(Vector128.WidenLower(codes), Vector128.WidenUpper(codes));
        (Vector256<int> low, Vector256<int> high) = Vector256.Widen(wide);
        return (Vector256.ConvertToSingle(low), Vector256.ConvertToSingle(high));
    }
}
