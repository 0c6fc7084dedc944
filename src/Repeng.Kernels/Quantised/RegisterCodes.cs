using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// A form whose elements are expanded to fp32 in registers, 32 neighbours of a row at a time, by AVX-512. Their bits are those of
/// <see cref="PackedSource.Read"/>. Empty structs, so that a product is compiled for each form with the expansion inlined.
/// </summary>
internal unsafe interface IRegisterCode
{
    /// <summary>Elements of a block; a row is whole blocks.</summary>
    static abstract int Elements { get; }

    /// <summary>Bytes of a block.</summary>
    static abstract int Bytes { get; }

    /// <summary>Elements [32·group, 32·group + 32) of a row of blocks; halves is <see cref="RegisterCodes.Halves"/>.</summary>
    static abstract void Expand(float* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second);
}

/// <summary>What the expansions share.</summary>
internal static unsafe class RegisterCodes
{
    /// <summary>fp32 of every binary16: two loads broadcast a scale, where converting one takes ten instructions and .NET offers no vcvtph2ps. 256 KiB, of which a matrix touches some 20.</summary>
    public static readonly float* Halves = BuildHalves();

    /// <summary>0 … 15.</summary>
    public static Vector512<float> Counts
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => Vector512.Create(0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    }

    /// <summary>The binary16 at an address in every lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Half(float* halves, byte* p) => Vector512.Create(halves[*(ushort*)p]);

    /// <summary>Values chosen by the low nibbles of 16 bytes, then by the high ones. The permutation looks at four bits of a lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Choose(Vector512<float> values, byte* codes, out Vector512<float> low, out Vector512<float> high)
    {
        Vector512<uint> bytes = Avx512F.ConvertToVector512UInt32(Vector128.Load(codes));
        low = Avx512F.PermuteVar16x32(values, bytes.AsInt32());
        high = Avx512F.PermuteVar16x32(values, (bytes >> 4).AsInt32());
    }

    /// <summary>Sixteen signed bytes as fp32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> ToSingle(Vector128<sbyte> codes) => Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(codes));

    private static float* BuildHalves()
    {
        var table = (float*)NativeMemory.AlignedAlloc(65536 * sizeof(float), 64);
        for (int i = 0; i < 65536; i++)
            table[i] = Plain.HalfToSingle((ushort)i);
        return table;
    }
}

/// <summary>d·(q − 8).</summary>
internal readonly unsafe struct Q4_0Code : IRegisterCode
{
    public static int Elements => 32;
    public static int Bytes => 18;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(float* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + group * 18;
        RegisterCodes.Choose((RegisterCodes.Counts - Vector512.Create(8f)) * RegisterCodes.Half(halves, block), block + 2, out first, out second);
    }
}

/// <summary>d·q + m. d·q is exact (11 and 4 bits), so one fused operation rounds as product and sum do.</summary>
internal readonly unsafe struct Q4_1Code : IRegisterCode
{
    public static int Elements => 32;
    public static int Bytes => 20;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(float* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + group * 20;
        Vector512<float> values = Vector512.FusedMultiplyAdd(RegisterCodes.Counts, RegisterCodes.Half(halves, block), RegisterCodes.Half(halves, block + 2));
        RegisterCodes.Choose(values, block + 4, out first, out second);
    }
}

/// <summary>d·q.</summary>
internal readonly unsafe struct Q8_0Code : IRegisterCode
{
    public static int Elements => 32;
    public static int Bytes => 34;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(float* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + group * 34;
        Vector512<float> d = RegisterCodes.Half(halves, block);
        first = RegisterCodes.ToSingle(Vector128.Load((sbyte*)block + 2)) * d;
        second = RegisterCodes.ToSingle(Vector128.Load((sbyte*)block + 18)) * d;
    }
}

/// <summary>(d·scale)·q − dmin·min; the products are exact, so one fused operation rounds as product and difference do.</summary>
internal readonly unsafe struct Q4_KCode : IRegisterCode
{
    public static int Elements => 256;
    public static int Bytes => 144;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(float* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + (group >> 3) * 144;
        int sub = (int)group & 7;
        (float scale, float min) = KQuants.ScaleAndMin(block + 4, sub, halves[*(ushort*)block], halves[*(ushort*)(block + 2)]);
        Vector512<float> values = Vector512.FusedMultiplyAdd(RegisterCodes.Counts, Vector512.Create(scale), Vector512.Create(min));
        // The low nibbles of 32 bytes are one group, the high ones the next.
        Vector128<int> shift = Vector128.CreateScalar((sub & 1) << 2);
        byte* codes = block + 16 + (sub >> 1) * 32;
        first = Avx512F.PermuteVar16x32(values, Avx512F.ShiftRightLogical(Avx512F.ConvertToVector512Int32(Vector128.Load(codes)), shift));
        second = Avx512F.PermuteVar16x32(values, Avx512F.ShiftRightLogical(Avx512F.ConvertToVector512Int32(Vector128.Load(codes + 16)), shift));
    }
}

/// <summary>(d·scale)·(q − 32), a scale for 16 elements.</summary>
internal readonly unsafe struct Q6_KCode : IRegisterCode
{
    public static int Elements => 256;
    public static int Bytes => 210;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(float* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + (group >> 3) * 210;
        int sub = (int)group & 7, quarter = sub & 3, half = sub >> 2;
        float d = halves[*(ushort*)(block + 208)];
        sbyte* scales = (sbyte*)block + 192 + 2 * sub;
        // Of 128 elements the low nibbles of 64 bytes are the first half, the high ones the second; two more bits lie in 32 bytes.
        byte* low = block + 64 * half + 32 * (quarter & 1), high = block + 128 + 32 * half;
        Vector128<int> lowShift = Vector128.CreateScalar((quarter >> 1) << 2), highShift = Vector128.CreateScalar(quarter << 1);
        first = Codes16(low, high, lowShift, highShift) * Vector512.Create(d * scales[0]);
        second = Codes16(low + 16, high + 16, lowShift, highShift) * Vector512.Create(d * scales[1]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Codes16(byte* low, byte* high, Vector128<int> lowShift, Vector128<int> highShift)
    {
        Vector512<int> four = Avx512F.ShiftRightLogical(Avx512F.ConvertToVector512Int32(Vector128.Load(low)), lowShift) & Vector512.Create(15);
        Vector512<int> two = Avx512F.ShiftRightLogical(Avx512F.ConvertToVector512Int32(Vector128.Load(high)), highShift) & Vector512.Create(3);
        return Avx512F.ConvertToVector512Single((four | two << 4) - Vector512.Create(32));
    }
}
