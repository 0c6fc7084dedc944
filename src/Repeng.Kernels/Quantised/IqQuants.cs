using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// ggml's IQ types of one to three bits: superblocks of 256 values, of which 8 (or 4) at a time are a point of a grid
/// with signs, times a scale of a few bits and an fp16 number.
/// </summary>
internal static unsafe class IqQuants
{
    // What IQ1 types add to all values of a grid point.
    private const float Delta = 0.125f;

    /// <summary>d, then for each 32 values four grid codes of a byte, and in 32 bits four sign codes of seven bits and a scale of four.</summary>
    public static void DecodeIQ2_XXS(byte* source, float* destination, long n)
    {
        sbyte[] grid = IqGrid.IQ2_XXS.Values;
        for (float* end = destination + n; destination < end; source += 66)
        {
            float d = Plain.Half(source);
            byte* codes = source + 2;
            for (int sub = 0; sub < 8; sub++, codes += 8)
            {
                uint rest = Unsafe.ReadUnaligned<uint>(codes + 4);
                float scale = d * (0.5f + (rest >> 28)) * 0.25f;
                for (int k = 0; k < 4; k++, destination += 8)
                    Store(Point8(grid, codes[k]), Signs(rest >> (7 * k)), scale, destination);
            }
        }
    }

    /// <summary>d, then for each 8 values a grid code of nine and a sign code of seven bits, then a scale of four bits for each 16.</summary>
    public static void DecodeIQ2_XS(byte* source, float* destination, long n)
    {
        sbyte[] grid = IqGrid.IQ2_XS.Values;
        for (float* end = destination + n; destination < end; source += 74)
        {
            float d = Plain.Half(source);
            for (int k = 0; k < 32; k++, destination += 8)
            {
                uint code = Unsafe.ReadUnaligned<ushort>(source + 2 + 2 * k);
                Store(Point8(grid, (int)(code & 511)), Signs(code >> 9), QuarterScale(d, source + 66, k), destination);
            }
        }
    }

    /// <summary>d, low bytes of grid codes, signs (a byte for each 8 values), high two bits of grid codes, a scale of four bits for each 16 values.</summary>
    public static void DecodeIQ2_S(byte* source, float* destination, long n)
    {
        sbyte[] grid = IqGrid.IQ2_S.Values;
        for (float* end = destination + n; destination < end; source += 82)
        {
            float d = Plain.Half(source);
            byte* codes = source + 2, signs = source + 34, high = source + 66;
            for (int k = 0; k < 32; k++, destination += 8)
                Store(Point8(grid, codes[k] | (high[k / 4] >> (2 * (k % 4)) & 3) << 8), signs[k], QuarterScale(d, source + 74, k), destination);
        }
    }

    /// <summary>d, a grid code of a byte for each 4 values, then for each 32 values 32 bits with four sign codes of seven bits and a scale of four.</summary>
    public static void DecodeIQ3_XXS(byte* source, float* destination, long n)
    {
        sbyte[] grid = IqGrid.IQ3_XXS.Values;
        for (float* end = destination + n; destination < end; source += 98)
        {
            float d = Plain.Half(source);
            byte* codes = source + 2;
            for (int sub = 0; sub < 8; sub++)
            {
                uint rest = Unsafe.ReadUnaligned<uint>(source + 66 + 4 * sub);
                float scale = d * (0.5f + (rest >> 28)) * 0.5f;
                for (int k = 0; k < 4; k++, codes += 2, destination += 8)
                    Store(Points4(grid, codes[0], codes[1]), Signs(rest >> (7 * k)), scale, destination);
            }
        }
    }

    /// <summary>d, low bytes of grid codes (one for each 4 values), their ninth bits, signs (a byte for each 8 values), a scale of four bits for each 32.</summary>
    public static void DecodeIQ3_S(byte* source, float* destination, long n)
    {
        sbyte[] grid = IqGrid.IQ3_S.Values;
        for (float* end = destination + n; destination < end; source += 110)
        {
            float d = Plain.Half(source);
            byte* codes = source + 2, high = source + 66, signs = source + 74, scales = source + 106;
            for (int sub = 0; sub < 8; sub++)
            {
                float scale = d * (1 + 2 * (scales[sub / 2] >> (4 * (sub % 2)) & 15));
                for (int ninth = high[sub], k = 0; k < 4; k++, ninth >>= 2, codes += 2, destination += 8)
                    Store(Points4(grid, codes[0] | (ninth & 1) << 8, codes[1] | (ninth & 2) << 7), *signs++, scale, destination);
            }
        }
    }

    /// <summary>d, low bytes of grid codes, then for each 32 values 16 bits: four times three high bits, a scale of three bits, the sign of the shift.</summary>
    public static void DecodeIQ1_S(byte* source, float* destination, long n)
    {
        sbyte[] grid = IqGrid.IQ1_S.Values;
        for (float* end = destination + n; destination < end; source += 50)
        {
            float d = Plain.Half(source);
            for (int sub = 0; sub < 8; sub++)
            {
                int rest = Unsafe.ReadUnaligned<ushort>(source + 34 + 2 * sub);
                float scale = d * (2 * (rest >> 12 & 7) + 1), shift = (rest & 0x8000) != 0 ? -Delta : Delta;
                for (int k = 0; k < 4; k++, destination += 8)
                    StoreShifted(grid, source[2 + 4 * sub + k] | (rest >> (3 * k) & 7) << 8, scale, shift, destination);
            }
        }
    }

    /// <summary>
    /// Low bytes of grid codes; nibbles with three high bits and the sign of the shift for each 8 values; four times 16 bits
    /// with a scale of three bits for each 16 values, whose top nibbles together are the fp16 d.
    /// </summary>
    public static void DecodeIQ1_M(byte* source, float* destination, long n)
    {
        sbyte[] grid = IqGrid.IQ1_S.Values;
        for (float* end = destination + n; destination < end; source += 56)
        {
            ulong packed = Unsafe.ReadUnaligned<ulong>(source + 48);
            float d = Plain.HalfToSingle((ushort)((packed >> 12 & 0x000F) | (packed >> 24 & 0x00F0) | (packed >> 36 & 0x0F00) | (packed >> 48 & 0xF000)));
            for (int k = 0; k < 32; k++, destination += 8)
            {
                int rest = source[32 + k / 2] >> (4 * (k % 2)), sub = k / 2;
                float scale = d * (2 * (int)(packed >> (16 * (sub / 4) + 3 * (sub % 4)) & 7) + 1);
                StoreShifted(grid, source[k] | (rest & 7) << 8, scale, (rest & 8) != 0 ? -Delta : Delta, destination);
            }
        }
    }

    /// <summary>Seven signs; the eighth makes their number even.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Signs(uint code) => (code & 127) | (uint)(BitOperations.PopCount(code & 127) & 1) << 7;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float QuarterScale(float d, byte* scales, int k) => d * (0.5f + (scales[k / 4] >> (4 * (k / 2 % 2)) & 15)) * 0.25f;

    /// <summary>A point of eight values, a byte each.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Point8(sbyte[] grid, int point) => MemoryMarshal.Read<ulong>(MemoryMarshal.AsBytes(grid.AsSpan(point * 8, 8)));

    /// <summary>Two points of four values, a byte each.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Points4(sbyte[] grid, int first, int second) =>
        MemoryMarshal.Read<uint>(MemoryMarshal.AsBytes(grid.AsSpan(first * 4, 4))) | (ulong)MemoryMarshal.Read<uint>(MemoryMarshal.AsBytes(grid.AsSpan(second * 4, 4))) << 32;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(ulong values, uint signs, float scale, float* destination)
    {
        // Negated before the conversion, so that a zero stays a positive one.
        Vector256<int> negative = Codes.Bits(signs);
        (Vector256.ConvertToSingle((Codes.Widen(values) ^ negative) - negative) * Vector256.Create(scale)).Store(destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreShifted(sbyte[] grid, int point, float scale, float shift, float* destination) =>
        ((Vector256.ConvertToSingle(Codes.Widen(Point8(grid, point))) + Vector256.Create(shift)) * Vector256.Create(scale)).Store(destination);
}
