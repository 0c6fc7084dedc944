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
            Codes.Store(Vector128.Load((sbyte*)source + 2), scale, destination + i);
            Codes.Store(Vector128.Load((sbyte*)source + 18), scale, destination + i + 16);
        }
    }

    public static void DecodeQ4_0(byte* source, float* destination, long n)
    {
        Vector128<byte> offset = Vector128.Create((byte)8);
        for (long i = 0; i < n; i += Block, source += 18)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source));
            (Vector128<byte> low, Vector128<byte> high) = Codes.Nibbles(source + 2);
            Codes.Store((low - offset).AsSByte(), scale, destination + i);
            Codes.Store((high - offset).AsSByte(), scale, destination + i + 16);
        }
    }

    public static void DecodeQ4_1(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i += Block, source += 20)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source)), minimum = Vector256.Create(Plain.Half(source + 2));
            (Vector128<byte> low, Vector128<byte> high) = Codes.Nibbles(source + 4);
            Codes.Store(low.AsSByte(), scale, minimum, destination + i);
            Codes.Store(high.AsSByte(), scale, minimum, destination + i + 16);
        }
    }

    public static void DecodeQ5_0(byte* source, float* destination, long n)
    {
        Vector128<byte> offset = Vector128.Create((byte)16);
        for (long i = 0; i < n; i += Block, source += 22)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source));
            (Vector128<byte> low, Vector128<byte> high) = Codes.Nibbles(source + 6);
            uint fifth = Unsafe.ReadUnaligned<uint>(source + 2);
            Codes.Store(((low | FifthBits(fifth)) - offset).AsSByte(), scale, destination + i);
            Codes.Store(((high | FifthBits(fifth >> 16)) - offset).AsSByte(), scale, destination + i + 16);
        }
    }

    public static void DecodeQ5_1(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i += Block, source += 24)
        {
            Vector256<float> scale = Vector256.Create(Plain.Half(source)), minimum = Vector256.Create(Plain.Half(source + 2));
            (Vector128<byte> low, Vector128<byte> high) = Codes.Nibbles(source + 8);
            uint fifth = Unsafe.ReadUnaligned<uint>(source + 4);
            Codes.Store((low | FifthBits(fifth)).AsSByte(), scale, minimum, destination + i);
            Codes.Store((high | FifthBits(fifth >> 16)).AsSByte(), scale, minimum, destination + i + 16);
        }
    }

    /// <summary>16 in byte j where bit j of the low 16 bits is set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<byte> FifthBits(uint bits)
    {
        Vector128<byte> spread = Vector128.Shuffle(Vector128.Create((ushort)bits).AsByte(), Vector128.Create((byte)0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
        Vector128<byte> place = Vector128.Create((byte)1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128);
        return Vector128.Equals(spread & place, place) & Vector128.Create((byte)16);
    }
}
