using Repeng.Kernels.Quantised;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Models;

/// <summary>
/// MXFP4 (OCP Microscaling formats, 2023) as gpt-oss's safetensors store it: blocks of 32 values along the input, 16 bytes with
/// the earlier of two values in the low half, and beside them a scale 2^(s − 127) a block. ggml's blocks hold the same
/// numbers as a scale byte and 16 bytes with value j in the low and value j + 16 in the high half of byte j.
/// </summary>
internal static unsafe class Mxfp4
{
    /// <summary>Values of a block.</summary>
    public const int Block = 32;

    private const string Form = "MXFP4";

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

    /// <summary>Writes the blocks of one expert, [out, in] with the rows in the order of memory, given those of the file.</summary>
    public static void Write(ReadOnlySpan<byte> blocks, ReadOnlySpan<byte> scales, FileLayout layout, byte* to)
    {
        int perRow = layout.Columns / Block;
        for (int row = 0; row < layout.Rows; row++)
            for (int b = 0; b < perRow; b++)
            {
                int from = layout.FileRow(row) * perRow + b;
                ReadOnlySpan<byte> pairs = blocks.Slice(from * Block / 2, Block / 2);
                *to++ = scales[from];
                for (int j = 0; j < Block / 2; j++)
                    *to++ = (byte)(Value(pairs, j) | Value(pairs, j + Block / 2) << 4);
            }
    }

    private static int Value(ReadOnlySpan<byte> pairs, int i) => pairs[i / 2] >> (4 * (i & 1)) & 15;
}
