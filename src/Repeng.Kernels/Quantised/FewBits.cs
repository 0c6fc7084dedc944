using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Quantised;

/// <summary>Types of one and two bits a value: d times −1, 0, 1 (TQ1_0, TQ2_0), −1 or 1 (Q1_0), −1 … 2 (Q2_0).</summary>
internal static unsafe class FewBits
{
    private const int Super = 256;

    // TQ1_0: five values a byte for 160 and 80 values, four a byte for the last 16: (first byte, bytes, values a byte).
    private static readonly (int First, int Bytes, int Values)[] s_runs = [(0, 32, 5), (32, 16, 5), (48, 4, 4)];

    /// <summary>
    /// 52 bytes of base-3 digits, d. A byte is its number divided by 243 (3⁵) as a fraction of 256, rounded up; so that
    /// times 3^k modulo 256, times 3, over 256 gives digit k, the first value the highest. Values of a run go through all bytes first.
    /// </summary>
    public static void DecodeTQ1_0(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 54)
        {
            float d = Plain.Half(source + 52);
            foreach ((int first, int bytes, int values) in s_runs)
                for (int digit = 0, power = 1; digit < values; digit++, power *= 3)
                    for (int j = 0; j < bytes; j++)
                        *destination++ = d * (((byte)(source[first + j] * power) * 3 >> 8) - 1);
        }
    }

    public static void EncodeTQ1_0(float* source, byte* destination, long n)
    {
        for (float* end = source + n; source < end; source += Super, destination += 54)
        {
            float inverse = Inverse(source, destination + 52);
            float* x = source;
            foreach ((int first, int bytes, int values) in s_runs)
            {
                for (int j = 0; j < bytes; j++)
                {
                    int number = 0;
                    for (int digit = 0; digit < 5; digit++)
                        number = number * 3 + (digit < values ? Trit(x[digit * bytes + j] * inverse) : 0);
                    destination[first + j] = (byte)((number * 256 + 242) / 243);
                }
                x += bytes * values;
            }
        }
    }

    /// <summary>64 bytes of four 2-bit codes (less 1), d; the four of a byte lie 32 values apart.</summary>
    public static void DecodeTQ2_0(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 66)
        {
            Vector256<float> d = Vector256.Create(Plain.Half(source + 64));
            for (int half = 0; half < 64; half += 32)
                for (int shift = 0; shift < 8; shift += 2)
                    for (int part = 0; part < 32; part += 16, destination += 16)
                        Codes.Store((Codes.Shift(Vector128.Load(source + half + part), shift, 3) - Vector128<byte>.One).AsSByte(), d, destination);
        }
    }

    public static void EncodeTQ2_0(float* source, byte* destination, long n)
    {
        for (float* end = source + n; source < end; source += Super, destination += 66)
        {
            float inverse = Inverse(source, destination + 64);
            for (int j = 0; j < 64; j++)
            {
                float* x = source + j / 32 * 128 + j % 32;
                destination[j] = (byte)(Trit(x[0] * inverse) | Trit(x[32] * inverse) << 2 | Trit(x[64] * inverse) << 4 | Trit(x[96] * inverse) << 6);
            }
        }
    }

    /// <summary>d, then a bit for each of 128 values: d where it is set, else −d.</summary>
    public static void DecodeQ1_0(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 18)
        {
            float d = Plain.Half(source);
            for (int j = 0; j < 128; j++)
                *destination++ = (source[2 + j / 8] >> (j % 8) & 1) != 0 ? d : -d;
        }
    }

    /// <summary>d, then a 2-bit code (less 1) for each of 64 values, four neighbours a byte.</summary>
    public static void DecodeQ2_0(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 18)
        {
            float d = Plain.Half(source);
            for (int j = 0; j < 64; j++)
                *destination++ = d * ((source[2 + j / 4] >> (2 * (j % 4)) & 3) - 1);
        }
    }

    // The scale is the largest magnitude, stored as fp16; codes are computed with its fp32 inverse.
    private static float Inverse(float* x, byte* scale)
    {
        float largest = 0;
        for (int i = 0; i < Super; i++)
            largest = Math.Max(largest, Math.Abs(x[i]));
        Unsafe.WriteUnaligned(scale, (Half)largest);
        return Q32.Inverse(largest);
    }

    private static int Trit(float x) => (int)Q32.RoundAway(x) + 1;
}
