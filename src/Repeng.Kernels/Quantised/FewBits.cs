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
            Vector256<float> d = Vector256.Create(Plain.Half(source + 52));
            Vector128<byte> first = Vector128.Load(source), second = Vector128.Load(source + 16), third = Vector128.Load(source + 32);
            for (int digit = 0; digit < 5; digit++, destination += 32)
            {
                Codes.Store(HighestDigit(first), d, destination);
                Codes.Store(HighestDigit(second), d, destination + 16);
                (first, second) = (first + first + first, second + second + second);
            }
            for (int digit = 0; digit < 5; digit++, destination += 16, third = third + third + third)
                Codes.Store(HighestDigit(third), d, destination);
            Vector128<byte> last = Vector128.Create(Unsafe.ReadUnaligned<uint>(source + 48)).AsByte();
            Codes.Store(HighestDigit(last * Vector128.Create((byte)1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27)), d, destination);
            destination += 16;
        }
    }

    /// <summary>⌊3x / 256⌋ − 1 of every byte: 3x reaches 256 from 86 on, 512 from 171 on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<sbyte> HighestDigit(Vector128<byte> x) =>
        Vector128<sbyte>.AllBitsSet - Vector128.GreaterThanOrEqual(x, Vector128.Create((byte)86)).AsSByte() - Vector128.GreaterThanOrEqual(x, Vector128.Create((byte)171)).AsSByte();

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
            Vector256<float> d = Vector256.Create(Plain.Half(source));
            for (int j = 2; j < 18; j++, destination += 8)
                Vector256.ConditionalSelect(Codes.Bits(source[j]).AsSingle(), d, -d).Store(destination);
        }
    }

    /// <summary>d, then a 2-bit code (less 1) for each of 64 values, four neighbours a byte.</summary>
    public static void DecodeQ2_0(byte* source, float* destination, long n)
    {
        for (float* end = destination + n; destination < end; source += 18)
        {
            Vector256<float> d = Vector256.Create(Plain.Half(source));
            for (int j = 2; j < 18; j += 4, destination += 16)
            {
                // Every byte four times; of these two take its low nibble and two its high one, and of each two one its low bits and one its high ones.
                Vector128<byte> bytes = Vector128.Shuffle(Vector128.CreateScalar(Unsafe.ReadUnaligned<uint>(source + j)).AsByte(), Vector128.Create((byte)0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
                Vector128<byte> nibbles = Vector128.ConditionalSelect(Vector128.Create(0xFFFF0000u).AsByte(), Codes.Shift(bytes, 4, 15), bytes & Vector128.Create((byte)15));
                Vector128<byte> codes = Vector128.ConditionalSelect(Vector128.Create((ushort)0xFF00).AsByte(), Codes.Shift(nibbles, 2, 3), nibbles & Vector128.Create((byte)3));
                Codes.Store((codes - Vector128<byte>.One).AsSByte(), d, destination);
            }
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
