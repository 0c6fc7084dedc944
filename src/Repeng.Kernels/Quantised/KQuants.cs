using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// ggml's K types: superblocks of 256 values whose 8 or 16 sub-blocks have small integer scales (and minima), which
/// one or two fp16 numbers multiply. Value = (d·scale)·q − (dmin·min)·1, every product and the difference rounded to fp32.
/// </summary>
internal static unsafe class KQuants
{
    /// <summary>16 bytes of (scale, min) nibbles, 64 of 2-bit codes, d, dmin.</summary>
    public static void DecodeQ2_K(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 84)
        {
            float d = Plain.Half(source + 80), dmin = Plain.Half(source + 82);
            byte* scales = source, codes = source + 16;
            for (int half = 0; half < 2; half++, codes += 32)
                for (int shift = 0; shift < 8; shift += 2)
                    for (int part = 0; part < 2; part++, scales++, destination += 16)
                        Codes.Store(Codes.Shift(Vector128.Load(codes + 16 * part), shift, 3).AsSByte(),
                            Vector256.Create(d * (*scales & 15)), Vector256.Create(-(dmin * (*scales >> 4))), destination);
        }
    }

    /// <summary>32 bytes of third bits (clear: 4 less), 64 of 2-bit codes, 12 of 6-bit scales (less 32), d.</summary>
    public static void DecodeQ3_K(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 110)
        {
            float d = Plain.Half(source + 108);
            byte* packed = source + 96, codes = source + 32;
            for (int sub = 0; sub < 16; sub++, destination += 16)
            {
                // Scale s: its low nibble in byte s % 8, its high two bits in byte 8 + s % 4.
                int low = sub < 8 ? packed[sub] & 15 : packed[sub - 8] >> 4, high = packed[8 + sub % 4] >> (2 * (sub / 4)) & 3;
                int group = sub / 2;
                Vector128<byte> q = Codes.Shift(Vector128.Load(codes + 32 * (sub / 8) + 16 * (sub % 2)), 2 * (group % 4), 3);
                Vector128<byte> third = Codes.Bit(Vector128.Load(source + 16 * (sub % 2)), group, 4);
                Codes.Store((q + third - Vector128.Create((byte)4)).AsSByte(), Vector256.Create(d * ((low | high << 4) - 32)), destination);
            }
        }
    }

    /// <summary>d, dmin, 12 bytes of 6-bit scales and minima, 128 of nibbles.</summary>
    public static void DecodeQ4_K(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 144)
        {
            float d = Plain.Half(source), dmin = Plain.Half(source + 2);
            byte* codes = source + 16;
            for (int pair = 0; pair < 4; pair++, codes += 32, destination += 64)
            {
                (Vector256<float> lowScale, Vector256<float> lowMin) = Wide(ScaleAndMin(source + 4, 2 * pair, d, dmin));
                (Vector256<float> highScale, Vector256<float> highMin) = Wide(ScaleAndMin(source + 4, 2 * pair + 1, d, dmin));
                for (int part = 0; part < 32; part += 16)
                {
                    (Vector128<byte> low, Vector128<byte> high) = Codes.Nibbles(codes + part);
                    Codes.Store(low.AsSByte(), lowScale, lowMin, destination + part);
                    Codes.Store(high.AsSByte(), highScale, highMin, destination + 32 + part);
                }
            }
        }
    }

    /// <summary>As Q4_K with 32 bytes of fifth bits before the nibbles: bit k of byte j belongs to value 32·k + j.</summary>
    public static void DecodeQ5_K(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 176)
        {
            float d = Plain.Half(source), dmin = Plain.Half(source + 2);
            byte* fifth = source + 16, codes = source + 48;
            for (int pair = 0; pair < 4; pair++, codes += 32, destination += 64)
            {
                (Vector256<float> lowScale, Vector256<float> lowMin) = Wide(ScaleAndMin(source + 4, 2 * pair, d, dmin));
                (Vector256<float> highScale, Vector256<float> highMin) = Wide(ScaleAndMin(source + 4, 2 * pair + 1, d, dmin));
                for (int part = 0; part < 32; part += 16)
                {
                    (Vector128<byte> low, Vector128<byte> high) = Codes.Nibbles(codes + part);
                    Vector128<byte> bits = Vector128.Load(fifth + part);
                    Codes.Store((low | Codes.Bit(bits, 2 * pair, 16)).AsSByte(), lowScale, lowMin, destination + part);
                    Codes.Store((high | Codes.Bit(bits, 2 * pair + 1, 16)).AsSByte(), highScale, highMin, destination + 32 + part);
                }
            }
        }
    }

    /// <summary>128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, d; codes are less 32.</summary>
    public static void DecodeQ6_K(byte* source, float* destination, long n)
    {
        Vector128<byte> offset = Vector128.Create((byte)32);
        for (float* end = destination + n; destination < end; source += 210)
        {
            float d = Plain.Half(source + 208);
            var scales = (sbyte*)source + 192;
            for (int half = 0; half < 2; half++, scales += 8, destination += 128)
                for (int part = 0; part < 2; part++)
                {
                    byte* low = source + 64 * half + 16 * part;
                    Vector128<byte> high = Vector128.Load(source + 128 + 32 * half + 16 * part);
                    (Vector128<byte> first, Vector128<byte> third) = Codes.Nibbles(low);
                    (Vector128<byte> second, Vector128<byte> fourth) = Codes.Nibbles(low + 32);
                    float* to = destination + 16 * part;
                    Codes.Store(((first | (Codes.Shift(high, 0, 3) << 4)) - offset).AsSByte(), Vector256.Create(d * scales[part]), to);
                    Codes.Store(((second | (Codes.Shift(high, 2, 3) << 4)) - offset).AsSByte(), Vector256.Create(d * scales[part + 2]), to + 32);
                    Codes.Store(((third | (Codes.Shift(high, 4, 3) << 4)) - offset).AsSByte(), Vector256.Create(d * scales[part + 4]), to + 64);
                    Codes.Store(((fourth | (Codes.Shift(high, 6, 3) << 4)) - offset).AsSByte(), Vector256.Create(d * scales[part + 6]), to + 96);
                }
        }
    }

    /// <summary>d·scale and −dmin·min of a sub-block: six bits each; the first four pairs lie in bytes 0-3 and 4-7, of the others the high two bits there and the nibbles in bytes 8-11.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static (float Scale, float Min) ScaleAndMin(byte* packed, int sub, float d, float dmin)
    {
        int scale, min;
        if (sub < 4)
            (scale, min) = (packed[sub] & 63, packed[sub + 4] & 63);
        else
            (scale, min) = (packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4, packed[sub + 4] >> 4 | packed[sub] >> 6 << 4);
        return (d * scale, -(dmin * min));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector256<float> Scale, Vector256<float> Min) Wide((float Scale, float Min) of) => (Vector256.Create(of.Scale), Vector256.Create(of.Min));
}
