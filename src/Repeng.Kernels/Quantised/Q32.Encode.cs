using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// Quantisers of the blocks of 32, byte for byte those of ggml's reference C: scales are stored as fp16, codes
/// are computed with the unrounded fp32 scale's inverse. A block of zeros has the scale 0.
/// </summary>
internal static unsafe partial class Q32
{
    public static void EncodeQ8_0(float* source, byte* destination, long n)
    {
        for (float* end = source + n; source < end; source += Block, destination += 34)
        {
            float d = Math.Abs(Extreme(source)) / 127, inverse = Inverse(d);
            Unsafe.WriteUnaligned(destination, (Half)d);
            for (int j = 0; j < Block; j++)
                destination[2 + j] = (byte)(sbyte)RoundAway(source[j] * inverse);
        }
    }

    public static void EncodeQ4_0(float* source, byte* destination, long n)
    {
        for (float* end = source + n; source < end; source += Block, destination += 18)
        {
            float d = Extreme(source) / -8, inverse = Inverse(d);
            Unsafe.WriteUnaligned(destination, (Half)d);
            for (int j = 0; j < 16; j++)
                destination[2 + j] = (byte)(Signed(source[j], inverse, 8) | Signed(source[j + 16], inverse, 8) << 4);
        }
    }

    public static void EncodeQ5_0(float* source, byte* destination, long n)
    {
        for (float* end = source + n; source < end; source += Block, destination += 22)
        {
            float d = Extreme(source) / -16, inverse = Inverse(d);
            Unsafe.WriteUnaligned(destination, (Half)d);
            uint fifth = 0;
            for (int j = 0; j < 16; j++)
                destination[6 + j] = Fifth(Signed(source[j], inverse, 16), Signed(source[j + 16], inverse, 16), j, ref fifth);
            Unsafe.WriteUnaligned(destination + 2, fifth);
        }
    }

    public static void EncodeQ4_1(float* source, byte* destination, long n)
    {
        for (float* end = source + n; source < end; source += Block, destination += 20)
        {
            (float min, float inverse) = Range(source, destination, 15);
            for (int j = 0; j < 16; j++)
                destination[4 + j] = (byte)(Unsigned(source[j], min, inverse, 15) | Unsigned(source[j + 16], min, inverse, 15) << 4);
        }
    }

    public static void EncodeQ5_1(float* source, byte* destination, long n)
    {
        for (float* end = source + n; source < end; source += Block, destination += 24)
        {
            (float min, float inverse) = Range(source, destination, 31);
            uint fifth = 0;
            for (int j = 0; j < 16; j++)
                destination[8 + j] = Fifth(Unsigned(source[j], min, inverse, 31), Unsigned(source[j + 16], min, inverse, 31), j, ref fifth);
            Unsafe.WriteUnaligned(destination + 4, fifth);
        }
    }

    /// <summary>1/d; 0 where d is 0 or so small that its inverse is none (its fp16 form is 0 then as well).</summary>
    internal static float Inverse(float d) => 1 / d is var inverse && float.IsFinite(inverse) ? inverse : 0;

    /// <summary>To the nearest whole number, halves away from zero, with C's steps: an fp32 just below one half must not be lifted over it.</summary>
    internal static float RoundAway(float x)
    {
        float size = Math.Abs(x), whole = MathF.Floor(size);
        return MathF.CopySign(whole + MathF.Floor(2 * (size - whole)), x);
    }

    /// <summary>The value of largest magnitude with its sign, the first on a tie.</summary>
    private static float Extreme(float* x)
    {
        float extreme = x[0];
        for (int j = 1; j < Block; j++)
            if (Math.Abs(x[j]) > Math.Abs(extreme))
                extreme = x[j];
        return extreme;
    }

    // Product and sum each rounded to fp32, as ggml's plain C does: near a whole number the sum may be lifted to it, which fp64 would not show.
    private static int Signed(float x, float inverse, int offset) => Math.Clamp((int)(x * inverse + (offset + 0.5f)), 0, 2 * offset - 1);

    private static int Unsigned(float x, float min, float inverse, int most) => Math.Clamp((int)((x - min) * inverse + 0.5f), 0, most);

    private static (float Min, float Inverse) Range(float* x, byte* destination, int steps)
    {
        float min = x[0], max = x[0];
        for (int j = 1; j < Block; j++)
            (min, max) = (Math.Min(min, x[j]), Math.Max(max, x[j]));
        float d = (max - min) / steps;
        Unsafe.WriteUnaligned(destination, (Half)d);
        Unsafe.WriteUnaligned(destination + 2, (Half)min);
        return (min, Inverse(d));
    }

    private static byte Fifth(int low, int high, int j, ref uint fifth)
    {
        fifth |= (uint)(low >> 4) << j | (uint)(high >> 4) << (j + 16);
        return (byte)(low & 15 | (high & 15) << 4);
    }
}
