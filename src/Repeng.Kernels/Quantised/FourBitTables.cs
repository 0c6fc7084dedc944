using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// Types whose nibbles are places in a table of 16 values: the uneven steps of IQ4_NL and IQ4_XS, and FP4 (E2M1, here
/// doubled so that it is whole) with the scale of OCP's MXFP4 (a power of two for 32 values) or NVIDIA's NVFP4 (E4M3 for 16).
/// </summary>
internal static unsafe class FourBitTables
{
    private static Vector128<sbyte> Uneven => Vector128.Create(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

    private static Vector128<sbyte> Fp4 => Vector128.Create(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

    /// <summary>d, 16 bytes: value j in the low, value j + 16 in the high nibble of byte j.</summary>
    public static void DecodeIQ4_NL(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 18, destination += 32)
            Store(source + 2, Uneven, Plain.Half(source), destination);
    }

    /// <summary>d, the high two bits of eight scales, their nibbles, then 16 bytes for each 32 values; scales are less 32.</summary>
    public static void DecodeIQ4_XS(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 136)
        {
            float d = Plain.Half(source);
            int high = Unsafe.ReadUnaligned<ushort>(source + 2);
            for (int sub = 0; sub < 8; sub++, destination += 32)
            {
                int scale = source[4 + sub / 2] >> (4 * (sub % 2)) & 15 | (high >> (2 * sub) & 3) << 4;
                Store(source + 8 + 16 * sub, Uneven, d * (scale - 32), destination);
            }
        }
    }

    /// <summary>An exponent, 16 bytes: value j in the low, value j + 16 in the high nibble of byte j.</summary>
    public static void DecodeMXFP4(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 17, destination += 32)
            Store(source + 1, Fp4, HalfOfPower(*source), destination);
    }

    /// <summary>The power of two that brings the largest value to 4 … 8 in units of FP4's step, then the nearest value of the table, the first on a tie.</summary>
    public static void EncodeMXFP4(float* source, byte* destination, long n)
    {
        Vector128<sbyte> table = Fp4;
        for (float* end = source + n; source < end; source += 32, destination += 17)
        {
            float largest = 0;
            for (int i = 0; i < 32; i++)
                largest = Math.Max(largest, Math.Abs(source[i]));
            byte exponent = largest > 0 ? (byte)Math.Clamp((int)MathF.Floor(MathF.Log2(largest)) - 2 + 127, 0, 254) : (byte)0;
            float d = HalfOfPower(exponent);
            *destination = exponent;
            for (int j = 0; j < 16; j++)
                destination[1 + j] = (byte)(Nearest(source[j]) | Nearest(source[j + 16]) << 4);

            int Nearest(float x)
            {
                int best = 0;
                float error = float.PositiveInfinity;
                for (int code = 0; code < 16; code++)
                    if (Math.Abs(table[code] * d - x) is var e && e < error)
                        (best, error) = (code, e);
                return best;
            }
        }
    }

    /// <summary>Four E4M3 scales, then 8 bytes for each 16 values: value j in the low, value j + 8 in the high nibble of byte j.</summary>
    public static void DecodeNVFP4(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 36)
            for (int sub = 0; sub < 4; sub++, destination += 16)
            {
                Vector128<byte> packed = Vector128.CreateScalar(Unsafe.ReadUnaligned<ulong>(source + 4 + 8 * sub)).AsByte();
                Vector128<byte> codes = Vector128.Create((packed & Vector128.Create((byte)15)).GetLower(), Codes.Shift(packed, 4, 15).GetLower());
                Codes.Store(Vector128.Shuffle(Fp4, codes.AsSByte()), Vector256.Create(HalfOfE4M3(source[sub])), destination);
            }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(byte* codes, Vector128<sbyte> table, float scale, float* destination)
    {
        (Vector128<byte> low, Vector128<byte> high) = Codes.Nibbles(codes);
        Vector256<float> wide = Vector256.Create(scale);
        Codes.Store(Vector128.Shuffle(table, low.AsSByte()), wide, destination);
        Codes.Store(Vector128.Shuffle(table, high.AsSByte()), wide, destination + 16);
    }

    /// <summary>2^(e − 127) / 2: the half makes up for the doubled table. The lowest two are subnormal.</summary>
    private static float HalfOfPower(byte e) => BitConverter.UInt32BitsToSingle(e < 2 ? 0x00200000u << e : (uint)(e - 1) << 23);

    /// <summary>Half of an unsigned E4M3 number; its NaN counts as 0. Without a sign the top bit says nothing.</summary>
    private static float HalfOfE4M3(byte bits)
    {
        int exponent = bits >> 3 & 15, mantissa = bits & 7;
        if (bits is 0x7F)
            return 0;
        return exponent == 0 ? mantissa * (1f / 1024) : MathF.ScaleB(8 + mantissa, exponent - 11);
    }
}
