using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Conversion of stored values to fp32. Sources need no alignment. Each value depends on its own block only,
/// so the result is the same however the work is split.
/// </summary>
internal static unsafe partial class Decode
{
    // A chunk is large enough to hide the hand-over to a thread and a multiple of every block size.
    private const long ChunkElements = 1 << 18;

    /// <summary>Converts elements (whole blocks), on all cores where there is enough work.</summary>
    public static void Run(StorageType type, byte* source, float* destination, long elements)
    {
        if (elements <= 2 * ChunkElements || Environment.ProcessorCount == 1)
        {
            type.ToF32(source, destination, elements);
            return;
        }
        long chunks = (elements + ChunkElements - 1) / ChunkElements;
        Parallel.For(0, chunks, chunk =>
        {
            long start = chunk * ChunkElements;
            type.ToF32(source + start / type.BlockElements * type.BlockBytes, destination + start, Math.Min(ChunkElements, elements - start));
        });
    }

    public static void F32(byte* source, float* destination, long n) => Buffer.MemoryCopy(source, destination, n * 4, n * 4);

    public static void BF16(byte* source, float* destination, long n)
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

    public static void F16(byte* source, float* destination, long n)
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

    public static void F64(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = (float)Unsafe.ReadUnaligned<double>(source + 8 * i);
    }

    public static void Bool(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = source[i] != 0 ? 1f : 0f;
    }

    public static void U8(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = source[i];
    }

    public static void I8(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = (sbyte)source[i];
    }

    public static void U16(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = Unsafe.ReadUnaligned<ushort>(source + 2 * i);
    }

    public static void I16(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = Unsafe.ReadUnaligned<short>(source + 2 * i);
    }

    public static void U32(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = Unsafe.ReadUnaligned<uint>(source + 4 * i);
    }

    public static void I32(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = Unsafe.ReadUnaligned<int>(source + 4 * i);
    }

    public static void U64(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = Unsafe.ReadUnaligned<ulong>(source + 8 * i);
    }

    public static void I64(byte* source, float* destination, long n)
    {
        for (long i = 0; i < n; i++)
            destination[i] = Unsafe.ReadUnaligned<long>(source + 8 * i);
    }

    /// <summary>One binary16 to fp32, exact, subnormals and the payload of NaNs included.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static float HalfToSingle(ushort bits)
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
