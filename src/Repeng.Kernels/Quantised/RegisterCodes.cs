using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// A form whose elements are expanded to fp32 in registers, 32 neighbours of a row at a time, by AVX2 and mostly by AVX-512. Their bits are those of
/// <see cref="PackedSource.Read"/>. Empty structs, so that a product is compiled for each form with the expansion inlined.
/// </summary>
internal unsafe interface IRegisterCode
{
    /// <summary>Elements of a block; a row is whole blocks. Of forms whose scales lie apart, what shares a byte.</summary>
    static abstract int Elements { get; }

    /// <summary>Bytes of a block.</summary>
    static abstract int Bytes { get; }

    /// <summary>What expanding looks things up in: <see cref="RegisterCodes.Halves"/> of blocks with scales of their own.</summary>
    static abstract void* Tables(PackedSource* source);

    /// <summary>Elements [32·group, 32·group + 32) of a row, in four vectors of eight.</summary>
    static abstract void Expand(void* tables, byte* row, nint group, out Vector256<float> first, out Vector256<float> second, out Vector256<float> third, out Vector256<float> fourth);
}

/// <summary>A form that AVX-512 expands too.</summary>
internal unsafe interface IWideRegisterCode : IRegisterCode
{
    /// <summary>Elements [32·group, 32·group + 32) of a row.</summary>
    static abstract void Expand(void* tables, byte* row, nint group, out Vector512<float> first, out Vector512<float> second);
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
    public static Vector512<float> Half(void* halves, byte* p) => Vector512.Create(Single(halves, p));

    /// <summary>The binary16 at an address.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Single(void* halves, byte* p) => ((float*)halves)[*(ushort*)p];

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

    /// <summary>The low nibbles of 16 bytes, then the high ones.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Nibbles(byte* codes, out Vector256<int> low, out Vector256<int> low8, out Vector256<int> high, out Vector256<int> high8)
    {
        Vector256<int> bytes = Avx2.ConvertToVector256Int32(codes), bytes8 = Avx2.ConvertToVector256Int32(codes + 8), mask = Vector256.Create(15);
        (low, low8, high, high8) = (bytes & mask, bytes8 & mask, bytes >>> 4, bytes8 >>> 4);
    }

    /// <summary>scale · code + minimum, rounded once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Scaled(Vector256<int> codes, Vector256<float> scale, Vector256<float> minimum) => Vector256.FusedMultiplyAdd(Avx.ConvertToVector256Single(codes), scale, minimum);

    private static float* BuildHalves()
    {
        var table = (float*)NativeMemory.AlignedAlloc(65536 * sizeof(float), 64);
        for (int i = 0; i < 65536; i++)
            table[i] = Plain.HalfToSingle((ushort)i);
        return table;
    }
}

/// <summary>d·(q − 8).</summary>
internal readonly unsafe struct Q4_0Code : IWideRegisterCode
{
    public static int Elements => 32;
    public static int Bytes => 18;
    public static void* Tables(PackedSource* source) => RegisterCodes.Halves;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + group * 18;
        RegisterCodes.Choose((RegisterCodes.Counts - Vector512.Create(8f)) * RegisterCodes.Half(halves, block), block + 2, out first, out second);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector256<float> first, out Vector256<float> second, out Vector256<float> third, out Vector256<float> fourth)
    {
        byte* block = row + group * 18;
        Vector256<float> d = Vector256.Create(RegisterCodes.Single(halves, block));
        Vector256<int> offset = Vector256.Create(8);
        RegisterCodes.Nibbles(block + 2, out Vector256<int> low, out Vector256<int> low8, out Vector256<int> high, out Vector256<int> high8);
        first = Avx.ConvertToVector256Single(low - offset) * d;
        second = Avx.ConvertToVector256Single(low8 - offset) * d;
        third = Avx.ConvertToVector256Single(high - offset) * d;
        fourth = Avx.ConvertToVector256Single(high8 - offset) * d;
    }
}

/// <summary>d·q + m. d·q is exact (11 and 4 bits), so one fused operation rounds as product and sum do.</summary>
internal readonly unsafe struct Q4_1Code : IWideRegisterCode
{
    public static int Elements => 32;
    public static int Bytes => 20;
    public static void* Tables(PackedSource* source) => RegisterCodes.Halves;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + group * 20;
        Vector512<float> values = Vector512.FusedMultiplyAdd(RegisterCodes.Counts, RegisterCodes.Half(halves, block), RegisterCodes.Half(halves, block + 2));
        RegisterCodes.Choose(values, block + 4, out first, out second);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector256<float> first, out Vector256<float> second, out Vector256<float> third, out Vector256<float> fourth)
    {
        byte* block = row + group * 20;
        Vector256<float> d = Vector256.Create(RegisterCodes.Single(halves, block)), m = Vector256.Create(RegisterCodes.Single(halves, block + 2));
        RegisterCodes.Nibbles(block + 4, out Vector256<int> low, out Vector256<int> low8, out Vector256<int> high, out Vector256<int> high8);
        first = RegisterCodes.Scaled(low, d, m);
        second = RegisterCodes.Scaled(low8, d, m);
        third = RegisterCodes.Scaled(high, d, m);
        fourth = RegisterCodes.Scaled(high8, d, m);
    }
}

/// <summary>d·q.</summary>
internal readonly unsafe struct Q8_0Code : IWideRegisterCode
{
    public static int Elements => 32;
    public static int Bytes => 34;
    public static void* Tables(PackedSource* source) => RegisterCodes.Halves;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + group * 34;
        Vector512<float> d = RegisterCodes.Half(halves, block);
        first = RegisterCodes.ToSingle(Vector128.Load((sbyte*)block + 2)) * d;
        second = RegisterCodes.ToSingle(Vector128.Load((sbyte*)block + 18)) * d;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector256<float> first, out Vector256<float> second, out Vector256<float> third, out Vector256<float> fourth)
    {
        byte* block = row + group * 34;
        var codes = (sbyte*)block + 2;
        Vector256<float> d = Vector256.Create(RegisterCodes.Single(halves, block));
        first = Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(codes)) * d;
        second = Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(codes + 8)) * d;
        third = Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(codes + 16)) * d;
        fourth = Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(codes + 24)) * d;
    }
}

/// <summary>(d·scale)·q − dmin·min; the products are exact, so one fused operation rounds as product and difference do.</summary>
internal readonly unsafe struct Q4_KCode : IWideRegisterCode
{
    public static int Elements => 256;
    public static int Bytes => 144;
    public static void* Tables(PackedSource* source) => RegisterCodes.Halves;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + (group >> 3) * 144;
        int sub = (int)group & 7;
        (float scale, float min) = KQuants.ScaleAndMin(block + 4, sub, RegisterCodes.Single(halves, block), RegisterCodes.Single(halves, block + 2));
        Vector512<float> values = Vector512.FusedMultiplyAdd(RegisterCodes.Counts, Vector512.Create(scale), Vector512.Create(min));
        // The low nibbles of 32 bytes are one group, the high ones the next.
        Vector128<int> shift = Vector128.CreateScalar((sub & 1) << 2);
        byte* codes = block + 16 + (sub >> 1) * 32;
        first = Avx512F.PermuteVar16x32(values, Avx512F.ShiftRightLogical(Avx512F.ConvertToVector512Int32(Vector128.Load(codes)), shift));
        second = Avx512F.PermuteVar16x32(values, Avx512F.ShiftRightLogical(Avx512F.ConvertToVector512Int32(Vector128.Load(codes + 16)), shift));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector256<float> first, out Vector256<float> second, out Vector256<float> third, out Vector256<float> fourth)
    {
        byte* block = row + (group >> 3) * 144;
        int sub = (int)group & 7;
        (float scale, float min) = KQuants.ScaleAndMin(block + 4, sub, RegisterCodes.Single(halves, block), RegisterCodes.Single(halves, block + 2));
        Vector256<float> d = Vector256.Create(scale), m = Vector256.Create(min);
        Vector128<int> shift = Vector128.CreateScalar((sub & 1) << 2);
        Vector256<int> mask = Vector256.Create(15);
        byte* codes = block + 16 + (sub >> 1) * 32;
        first = RegisterCodes.Scaled(Avx2.ShiftRightLogical(Avx2.ConvertToVector256Int32(codes), shift) & mask, d, m);
        second = RegisterCodes.Scaled(Avx2.ShiftRightLogical(Avx2.ConvertToVector256Int32(codes + 8), shift) & mask, d, m);
        third = RegisterCodes.Scaled(Avx2.ShiftRightLogical(Avx2.ConvertToVector256Int32(codes + 16), shift) & mask, d, m);
        fourth = RegisterCodes.Scaled(Avx2.ShiftRightLogical(Avx2.ConvertToVector256Int32(codes + 24), shift) & mask, d, m);
    }
}

/// <summary>(d·scale)·(q − 32), a scale for 16 elements.</summary>
internal readonly unsafe struct Q6_KCode : IWideRegisterCode
{
    public static int Elements => 256;
    public static int Bytes => 210;
    public static void* Tables(PackedSource* source) => RegisterCodes.Halves;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        byte* block = row + (group >> 3) * 210;
        int sub = (int)group & 7, quarter = sub & 3, half = sub >> 2;
        float d = RegisterCodes.Single(halves, block + 208);
        sbyte* scales = (sbyte*)block + 192 + 2 * sub;
        // Of 128 elements the low nibbles of 64 bytes are the first half, the high ones the second; two more bits lie in 32 bytes.
        byte* low = block + 64 * half + 32 * (quarter & 1), high = block + 128 + 32 * half;
        Vector128<int> lowShift = Vector128.CreateScalar((quarter >> 1) << 2), highShift = Vector128.CreateScalar(quarter << 1);
        first = Codes16(low, high, lowShift, highShift) * Vector512.Create(d * scales[0]);
        second = Codes16(low + 16, high + 16, lowShift, highShift) * Vector512.Create(d * scales[1]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* halves, byte* row, nint group, out Vector256<float> first, out Vector256<float> second, out Vector256<float> third, out Vector256<float> fourth)
    {
        byte* block = row + (group >> 3) * 210;
        int sub = (int)group & 7, quarter = sub & 3, half = sub >> 2;
        float d = RegisterCodes.Single(halves, block + 208);
        sbyte* scales = (sbyte*)block + 192 + 2 * sub;
        byte* low = block + 64 * half + 32 * (quarter & 1), high = block + 128 + 32 * half;
        Vector128<int> lowShift = Vector128.CreateScalar((quarter >> 1) << 2), highShift = Vector128.CreateScalar(quarter << 1);
        Vector256<float> d0 = Vector256.Create(d * scales[0]), d1 = Vector256.Create(d * scales[1]);
        first = Codes8(low, high, lowShift, highShift) * d0;
        second = Codes8(low + 8, high + 8, lowShift, highShift) * d0;
        third = Codes8(low + 16, high + 16, lowShift, highShift) * d1;
        fourth = Codes8(low + 24, high + 24, lowShift, highShift) * d1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Codes8(byte* low, byte* high, Vector128<int> lowShift, Vector128<int> highShift)
    {
        Vector256<int> four = Avx2.ShiftRightLogical(Avx2.ConvertToVector256Int32(low), lowShift) & Vector256.Create(15);
        Vector256<int> two = Avx2.ShiftRightLogical(Avx2.ConvertToVector256Int32(high), highShift) & Vector256.Create(3);
        return Avx.ConvertToVector256Single((four | two << 4) - Vector256.Create(32));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Codes16(byte* low, byte* high, Vector128<int> lowShift, Vector128<int> highShift)
    {
        Vector512<int> four = Avx512F.ShiftRightLogical(Avx512F.ConvertToVector512Int32(Vector128.Load(low)), lowShift) & Vector512.Create(15);
        Vector512<int> two = Avx512F.ShiftRightLogical(Avx512F.ConvertToVector512Int32(Vector128.Load(high)), highShift) & Vector512.Create(3);
        return Avx512F.ConvertToVector512Single((four | two << 4) - Vector512.Create(32));
    }
}
