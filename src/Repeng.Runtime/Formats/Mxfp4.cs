using Repeng.Kernels.Quantised;

namespace Repeng.Runtime.Formats;

/// <summary>
/// MXFP4 (OCP Microscaling formats, 2023) as gpt-oss's safetensors store it: blocks of 32 values along the input, 16 bytes with
/// the earlier of two values in the low half, and beside them a scale 2^(s − 127) a block. ggml's blocks hold the same
/// numbers as a scale byte and 16 bytes with value j in the low and value j + 16 in the high half of byte j.
/// </summary>
public static unsafe class Mxfp4
{
    /// <summary>Values of a block.</summary>
    public const int Block = 32;

    /// <summary>Name of the type.</summary>
    public const string Form = "MXFP4";

    /// <summary>Ends of the names of the two tensors of a stack of experts.</summary>
    public const string Blocks = "_blocks", Scales = "_scales";

    /// <summary>Bytes of so many values, in whole blocks.</summary>
    public static long Bytes(long elements) => BlockType.Find(Form)!.SizeOf(elements);

    /// <summary>A matrix of ggml's blocks that fill writes.</summary>
    public static PackedTensor Packed(long elements, PackedFill fill) => new()
    {
        Form = Form,
        Bytes = Bytes(elements),
        At = address => Packing.OfBlocks(BlockType.Find(Form)!, address, elements),
        Fill = fill,
    };

    /// <summary>Writes one row of values as ggml's blocks; blocks and scales are those of the row in a safetensors file.</summary>
    public static void WriteRow(ReadOnlySpan<byte> blocks, ReadOnlySpan<byte> scales, byte* to)
    {
        for (int b = 0; b < scales.Length; b++)
        {
            ReadOnlySpan<byte> pairs = blocks.Slice(b * Block / 2, Block / 2);
            *to++ = scales[b];
            for (int j = 0; j < Block / 2; j++)
                *to++ = (byte)(Value(pairs, j) | Value(pairs, j + Block / 2) << 4);
        }
    }

    private static int Value(ReadOnlySpan<byte> pairs, int i) => pairs[i / 2] >> (4 * (i & 1)) & 15;
}
