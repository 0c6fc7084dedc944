using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// ggml's blocks of 32: an fp16 scale d, in the _1 types an fp16 minimum m, then codes. Value = d·q or d·q + m with
/// product and sum each rounded to fp32 (no fused multiply-add), which is what ggml's plain C gives. In the 4- and
/// 5-bit types byte j holds value j in its low and value j + 16 in its high nibble.
/// </summary>
internal static unsafe partial class Q32
{
    private const int Block = 32;

    public static void DecodeQ8_0(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i += Block, source += 34)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source));
            StoreScaled(Vector128.Load((sbyte*)source + 2), scale, destination + i);
            StoreScaled(Vector128.Load((sbyte*)source + 18), scale, destination + i + 16);
        }
    }

    public static void DecodeQ4_0(byte* source, float* destination, long n)
    {
        Vector128<byte> offset = Vector128.Create((byte)8);
        for (long i = 0; i < n; i += Block, source += 18)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source));
            (Vector128<byte> low, Vector128<byte> high) = Nibbles(source + 2);
            StoreScaled((low - offset).AsSByte(), scale, destination + i);
            StoreScaled((high - offset).AsSByte(), scale, destination + i + 16);
        }
    }

    public static void DecodeQ4_1(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i += Block, source += 20)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source)), minimum = Vector256.Create(Plain.Half(source + 2));
            (Vector128<byte> low, Vector128<byte> high) = Nibbles(source + 4);
            StoreScaled(low.AsSByte(), scale, minimum, destination + i);
            StoreScaled(high.AsSByte(), scale, minimum, destination + i + 16);
        }
    }

    public static void DecodeQ5_0(byte* source, float* destination, long n)
    {
        Vector128<byte> offset = Vector128.Create((byte)16);
        for (long i = 0; i < n; i += Block, source += 22)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source));
            (Vector128<byte> low, Vector128<byte> high) = Nibbles(source + 6);
            uint fifth = Unsafe.ReadUnaligned<uint>(source + 2);
            StoreScaled(((low | FifthBits(fifth)) - offset).AsSByte(), scale, destination + i);
            StoreScaled(((high | FifthBits(fifth >> 16)) - offset).AsSByte(), scale, destination + i + 16);
        }
    }

    public static void DecodeQ5_1(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i += Block, source += 24)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source)), minimum = Vector256.Create(Plain.Half(source + 2));
            (Vector128<byte> low, Vector128<byte> high) = Nibbles(source + 8);
            uint fifth = Unsafe.ReadUnaligned<uint>(source + 4);
            StoreScaled((low | FifthBits(fifth)).AsSByte(), scale, minimum, destination + i);
            StoreScaled((high | FifthBits(fifth >> 16)).AsSByte(), scale, minimum, destination + i + 16);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector128<byte> Low, Vector128<byte> High) Nibbles(byte* p)
    {
        Vector128<byte> packed = Vector128.Load(p), mask = Vector128.Create((byte)0x0F);
        return (packed & mask, (packed.AsUInt16() >> 4).AsByte() & mask);
    }

    /// <summary>16 in byte j where bit j of the low 16 bits is set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> FifthBits(uint bits)
    {
        Vector128<byte> spread = Vector128.Shuffle(Vector128.Create((ushort)bits).AsByte(), Vector128.Create((byte)0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
        Vector128<byte> place = Vector128.Create((byte)1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128);
        return Vector128.Equals(spread & place, place) & Vector128.Create((byte)16);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreScaled(Vector128<sbyte> codes, Vector256<float> scale, float* destination)
    {
        (Vector256<float> low, Vector256<float> high) = ToSingle(codes);
        (low * scale).Store(destination);
        (high * scale).Store(destination + 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreScaled(Vector128<sbyte> codes, Vector256<float> scale, Vector256<float> minimum, float* destination)
    {
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
