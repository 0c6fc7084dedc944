using System.Runtime.CompilerServices;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Conversion of stored values to fp32. Sources need no alignment. Each value depends on its own block only,
/// so the result is the same however the work is split.
/// </summary>
internal static unsafe class Decode
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
}
