using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Quantised;

/// <summary>Forms that products expand in registers; None goes through <see cref="PackedSource.Read"/>.</summary>
internal enum RegisterForm
{
    None,
    Q4_0,
    Q4_1,
    Q8_0,
    Q4_K,
    Q6_K,

    /// <summary>NF4 and FP4 of bitsandbytes.</summary>
    FourBit,
}

/// <summary>
/// A packed matrix as CPU kernels see it: <see cref="Read"/> decodes any run of its elements, numbered row by row, to fp32.
/// An element's value depends on its own block and scale alone, so how a matrix is cut into runs changes no bit.
/// </summary>
internal unsafe partial struct PackedSource
{
    private const int LargestBlock = 256;

    /// <summary>Decodes elements [first, first + count) to fp32.</summary>
    public delegate*<PackedSource*, long, int, float*, void> Read;

    /// <summary>Whether elements [first, first + count) are surely finite, by their scales alone; null where only the values tell.</summary>
    public delegate*<PackedSource*, long, long, bool> Sound;

    public byte* Data;

    // Blocks of ggml.
    public delegate*<byte*, float*, long, void> Decode;
    public int BlockElements, BlockBytes;
    public RegisterForm Register;

    // Bytes of a block where its fp16 scales lie; the same twice where it has one.
    public int FirstScale, SecondScale;

    // Scales: fp32 a block or a row, or codes of them with scales of their own.
    public float* Scales;
    public byte* ScaleCodes;
    public float* NestedMap;
    public float* NestedScales;
    public float Offset;
    public int BlockShift, NestedShift;
    public fixed float Code[16];

    // Elements of a row where scales go by rows.
    public int Columns;

    /// <summary>Whole blocks straight to the destination; a block that is cut goes through a copy.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    public static void ReadBlocks(PackedSource* source, long first, int count, float* to)
    {
        int size = source->BlockElements;
        long block = first / size;
        int at = (int)(first - block * size);
        byte* from = source->Data + block * source->BlockBytes;
        if (at == 0 && count % size == 0)
        {
            source->Decode(from, to, count);
            return;
        }
        float* cut = stackalloc float[LargestBlock];
        if (at > 0)
        {
            int n = Math.Min(count, size - at);
            source->Decode(from, cut, size);
            Unsafe.CopyBlockUnaligned(to, cut + at, (uint)n * sizeof(float));
            to += n;
            count -= n;
            from += source->BlockBytes;
        }
        int whole = count / size * size;
        if (whole > 0)
            source->Decode(from, to, whole);
        if (count > whole)
        {
            source->Decode(from + whole / size * (nint)source->BlockBytes, cut, size);
            Unsafe.CopyBlockUnaligned(to + whole, cut, (uint)(count - whole) * sizeof(float));
        }
    }

    /// <summary>bitsandbytes' 4-bit codes, block by block.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void ReadCodes(PackedSource* source, long first, int count, float* to)
    {
        int size = 1 << source->BlockShift;
        while (count > 0)
        {
            long block = first >> source->BlockShift;
            int n = Math.Min(count, size - (int)(first & (size - 1)));
            Expand(source->Code, source->Data, first, n, Scale(source, block), to);
            first += n;
            count -= n;
            to += n;
        }
    }

    /// <summary>LLM.int8, row by row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void ReadRows(PackedSource* source, long first, int count, float* to)
    {
        var from = (sbyte*)source->Data + first;
        long row = first / source->Columns;
        int left = source->Columns - (int)(first - row * source->Columns);
        while (count > 0)
        {
            int n = Math.Min(count, left), i = 0;
            float scale = source->Scales[row];
            Vector256<float> s = Vector256.Create(scale), part = Vector256.Create(1f / 127);
            for (; i <= n - 16; i += 16)
            {
                (Vector128<short> low, Vector128<short> high) = Vector128.Widen(Vector128.Load(from + i));
                (ToSingle(low) * s * part).Store(to + i);
                (ToSingle(high) * s * part).Store(to + i + 8);
            }
            for (; i < n; i++)
                to[i] = from[i] * scale * (1f / 127);
            from += n;
            to += n;
            count -= n;
            left = source->Columns;
            row++;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> ToSingle(Vector128<short> codes) => Vector256.ConvertToSingle(Vector256.WidenLower(codes.ToVector256Unsafe()));

    /// <summary>The scale of the 4-bit codes at an address.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float ScaleOf(PackedSource* source, byte* codes) => Scale(source, (codes - source->Data) >> (source->BlockShift - 1));

    /// <summary>Address of the byte where the code of an element lies, or the block that it is in.</summary>
    public static byte* At(PackedSource* source, long element) => source->Data + (source->BlockElements > 0
        ? element / source->BlockElements * source->BlockBytes
        : source->Columns > 0 ? element : element >> 1);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Scale(PackedSource* source, long block)
    {
        if (source->ScaleCodes == null)
            return source->Scales[block];
        // Two roundings, as the reference has them: the JIT fuses nothing by itself.
        float product = source->NestedMap[source->ScaleCodes[block]] * source->NestedScales[block >> source->NestedShift];
        return product + source->Offset;
    }

    // Sixteen nibbles choose among sixteen values by one permutation (AVX-512), or by two of eight and a blend (AVX2).
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Expand(float* code, byte* data, long first, int count, float scale, float* to)
    {
        if ((first & 1) != 0)
        {
            *to++ = code[data[first >> 1] & 15] * scale;
            first++;
            count--;
        }
        byte* from = data + (first >> 1);
        int i = 0;
        if (Avx512BW.IsSupported)
        {
            Vector512<float> values = Vector512.Load(code), s = Vector512.Create(scale);
            // Each byte twice, as the lowest of two 32-bit lanes; the permutation looks at four bits of a lane.
            Vector512<byte> spread = Vector512.Create(
                0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
                4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, (byte)7);
            Vector512<uint> shifts = Vector512.Create(4u, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0);
            for (; i <= count - 16; i += 16)
            {
                Vector512<byte> bytes = Vector512.Create(Unsafe.ReadUnaligned<ulong>(from + (i >> 1))).AsByte();
                Vector512<uint> nibbles = Avx512F.ShiftRightLogicalVariable(Avx512BW.Shuffle(bytes, spread).AsUInt32(), shifts);
                (Avx512F.PermuteVar16x32(values, nibbles.AsInt32()) * s).Store(to + i);
            }
        }
        if (Avx2.IsSupported)
        {
            Vector256<float> low = Vector256.Load(code), high = Vector256.Load(code + 8), s = Vector256.Create(scale);
            Vector256<uint> shifts = Vector256.Create(4u, 0, 12, 8, 20, 16, 28, 24);
            for (; i <= count - 8; i += 8)
            {
                Vector256<uint> nibbles = Avx2.ShiftRightLogicalVariable(Vector256.Create(Unsafe.ReadUnaligned<uint>(from + (i >> 1))), shifts);
                Vector256<float> lower = Avx2.PermuteVar8x32(low, nibbles.AsInt32()), upper = Avx2.PermuteVar8x32(high, nibbles.AsInt32());
                // The nibble's own highest bit, as a sign, chooses the upper half of the values.
                (Avx.BlendVariable(lower, upper, (nibbles << 28).AsSingle()) * s).Store(to + i);
            }
        }
        for (; i <= count - 2; i += 2)
        {
            byte two = from[i >> 1];
            to[i] = code[two >> 4] * scale;
            to[i + 1] = code[two & 15] * scale;
        }
        if (i < count)
            to[i] = code[from[i >> 1] >> 4] * scale;
    }
}
