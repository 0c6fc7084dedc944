namespace Repeng.Steering.Models;

/// <summary>
/// MXFP4 as gpt-oss's safetensors store it (OCP Microscaling formats, 2023): blocks of 32 values along the input, 16 bytes with the
/// earlier of two values in the low half, and a scale 2^(s − 127) a block. Every value is one of 16 fp4 (e2m1)
/// numbers times a power of two, which bf16 holds exactly.
/// </summary>
internal static class Mxfp4
{
    /// <summary>Values of a block.</summary>
    public const int Block = 32;

    // bf16 of the e2m1 numbers 0, 0.5, 1, 1.5, 2, 3, 4, 6.
    private static readonly float[] s_values = [0, 0.5f, 1, 1.5f, 2, 3, 4, 6];

    /// <summary>bf16 bits of blocks with one scale each; a scale of 255 (NaN) gives NaN.</summary>
    public static ushort[] ToBFloat16(ReadOnlySpan<byte> blocks, ReadOnlySpan<byte> scales)
    {
        var values = new ushort[2 * blocks.Length];
        for (int i = 0; i < values.Length; i++)
        {
            int code = blocks[i / 2] >> (4 * (i & 1)) & 15, scale = scales[i / Block];
            float v = scale == 255 ? float.NaN : MathF.ScaleB(s_values[code & 7], scale - 127);
            values[i] = (ushort)(BitConverter.SingleToUInt32Bits((code & 8) == 0 ? v : -v) >> 16);
        }
        return values;
    }
}
