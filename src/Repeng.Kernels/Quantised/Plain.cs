using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Quantised;

/// <summary>Types without blocks: fp32, fp16, bf16. Sources need no alignment.</summary>
internal static unsafe class Plain
{
    public static void DecodeF32(byte* source, float* destination, long n) => Buffer.MemoryCopy(source, destination, n * 4, n * 4);

    public static void EncodeF32(float* source, byte* destination, long n) => Buffer.MemoryCopy(source, destination, n * 4, n * 4);

    /// <summary>To the nearest, ties to even; beyond ±65504 infinity.</summary>
    public static void EncodeF16(float* source, byte* destination, long n)
    {
        for (long i = 0; i < n; i++)
            Unsafe.WriteUnaligned(destination + 2 * i, (Half)source[i]);
    }

    /// <summary>To the nearest, ties to even; a NaN stays one.</summary>
    public static void EncodeBF16(float* source, byte* destination, long n)
    {
        for (long i = 0; i < n; i++)
        {
            uint bits = BitConverter.SingleToUInt32Bits(source[i]);
            uint rounded = float.IsNaN(source[i]) ? bits | 1u << 22 : bits + 0x7FFF + (bits >> 16 & 1);
            Unsafe.WriteUnaligned(destination + 2 * i, (ushort)(rounded >> 16));
        }
    }

    public static void DecodeBF16(byte* source, float* destination, long n)
    {
        var s = (ushort*)source;
        long i = 0;
        for (; i + 16 <= n; i += 16)
        {
            (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(Vector256.Load(s + i));
            (low << 16).AsSingle().Store(destination + i);
            (high << 16).AsSingle().Store(destination + i + 8);
        }
        for (; i < n; i++)
            destination[i] = BitConverter.UInt32BitsToSingle((uint)Unsafe.ReadUnaligned<ushort>(s + i) << 16);
    }

    public static void DecodeF16(byte* source, float* destination, long n)
    {
        var s = (ushort*)source;
        long i = 0;
        for (; i + 16 <= n; i += 16)
        {
            (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(Vector256.Load(s + i));
            WidenHalf(low).Store(destination + i);
            WidenHalf(high).Store(destination + i + 8);
        }
        for (; i < n; i++)
            destination[i] = HalfToSingle(Unsafe.ReadUnaligned<ushort>(s + i));
    }

    /// <summary>The binary16 at an address as fp32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Half(byte* p) => HalfToSingle(Unsafe.ReadUnaligned<ushort>(p));

    /// <summary>One binary16 to fp32, exact, subnormals and the payload of NaNs included.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float HalfToSingle(ushort bits)
    {
        uint magnitude = (uint)(bits & 0x7FFF) << 13;
        uint exponent = magnitude & 0x0F800000;
        uint result = magnitude + 0x38000000;
        if (exponent == 0x0F800000)
            result += 0x38000000;
        else if (exponent == 0)
            result = BitConverter.SingleToUInt32Bits(BitConverter.UInt32BitsToSingle(result + 0x00800000) - BitConverter.UInt32BitsToSingle(0x38800000));
        return BitConverter.UInt32BitsToSingle(result | (uint)(bits & 0x8000) << 16);
    }

    /// <summary>
    /// <see cref="HalfToSingle"/> on eight values in the low halves: move exponent and mantissa into place, add the
    /// difference of the biases (112) to the exponent, twice for infinity and NaN; subnormals are made normal
    /// by a subtraction of 2⁻¹⁴, so that no fp32 subnormal, slow on many processors, appears.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> WidenHalf(Vector256<uint> bits)
    {
        Vector256<uint> bias = Vector256.Create(0x38000000u), mask = Vector256.Create(0x0F800000u), magic = Vector256.Create(0x38800000u);
        Vector256<uint> magnitude = (bits & Vector256.Create(0x7FFFu)) << 13;
        Vector256<uint> exponent = magnitude & mask;
        Vector256<uint> normal = magnitude + bias;
        Vector256<uint> special = normal + bias;
        Vector256<uint> subnormal = ((magnitude + magic).AsSingle() - magic.AsSingle()).AsUInt32();
        Vector256<uint> result = Vector256.ConditionalSelect(Vector256.Equals(exponent, mask), special, normal);
        result = Vector256.ConditionalSelect(Vector256.Equals(exponent, Vector256<uint>.Zero), subnormal, result);
        return (result | (bits & Vector256.Create(0x8000u)) << 16).AsSingle();
    }
}
