using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Packing of a quantised operand into the panels of <see cref="GemmPack"/>: a few rows at a time are decoded to a tile in
/// L1 and laid out from there, so that the matrix never stands in memory as fp32 and the tiles of the product see the
/// same panels as those of its decoded elements: the same bits.
/// </summary>
internal static unsafe class GemmPackedPack
{
    // A tile of 8 rows by this many elements is 8 KiB; the largest block of codes fits once.
    private const int TileElements = 256;

    /// <summary>Packs lines [line, line + lines) of depth [k, k + depth): to rows where width is 0, else to panels of that width.</summary>
    public static void Run(in GemmOperand operand, int line, int lines, int width, int k, int depth, float* to)
    {
        var element = (nint)operand.At(line, k);
        if (width == 0)
            Rows(operand.Packed, element, operand.Line, lines, depth, to);
        else if (operand.Depth == 1)
            Across(operand.Packed, element, operand.Line, lines, width, depth, to);
        else
            Along(operand.Packed, element, operand.Depth, lines, width, depth, to);
    }

    /// <summary>Decodes a small operand to rows [lines, depth], whatever its strides.</summary>
    public static void Gather(in GemmOperand operand, int depth, float* rows)
    {
        if (operand.Depth == 1)
        {
            Rows(operand.Packed, (nint)operand.At(0, 0), operand.Line, operand.Lines, depth, rows);
            return;
        }
        float* one = stackalloc float[operand.Lines];
        for (int k = 0; k < depth; k++)
        {
            operand.Packed->Read(operand.Packed, (nint)operand.At(0, k), operand.Lines, one);
            for (int line = 0; line < operand.Lines; line++)
                rows[(nint)line * depth + k] = one[line];
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Rows(PackedSource* source, nint element, nint stride, int lines, int depth, float* rows)
    {
        for (int line = 0; line < lines; line++, rows += depth, element += stride)
            source->Read(source, element, depth, rows);
    }

    // The source is contiguous along the depth (a weight [out, in] that x is multiplied by from the left).
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void Across(PackedSource* source, nint element, nint stride, int count, int width, int depth, float* panels)
    {
        float* tile = stackalloc float[8 * TileElements];
        for (int first = 0; first < count; first += width, panels += (nint)width * depth)
        {
            int lines = Math.Min(width, count - first);
            if (lines < width)
                NativeMemory.Clear(panels, (nuint)width * (nuint)depth * sizeof(float));
            for (int line = 0; line < lines; line += 8)
            {
                int valid = Math.Min(8, lines - line);
                nint at = element + (first + line) * stride;
                if (valid < 8)
                    new Span<float>(tile + valid * TileElements, (8 - valid) * TileElements).Clear();
                for (int k = 0, n; k < depth; k += n)
                {
                    // Tiles end where blocks do, so that none is decoded twice.
                    n = Math.Min(TileElements - (int)((at + k) & (TileElements - 1)), depth - k);
                    for (int l = 0; l < valid; l++)
                        source->Read(source, at + l * stride + k, n, tile + l * TileElements);
                    GemmPack.Lines8(tile, TileElements, width, n, panels + (nint)k * width + line);
                }
            }
        }
    }

    // The source is contiguous along the lines (the same weight that dy is multiplied by).
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void Along(PackedSource* source, nint element, nint stride, int count, int width, int depth, float* panels)
    {
        float* row = stackalloc float[TileElements];
        nint panelLength = (nint)width * depth;
        int rest = count % width;
        if (rest > 0)
            NativeMemory.Clear(panels + count / width * panelLength, (nuint)panelLength * sizeof(float));
        for (int first = 0; first < count; first += TileElements, element += TileElements)
        {
            int columns = Math.Min(TileElements, count - first);
            nint at = element;
            // Every width divides the tile.
            float* to = panels + first / width * panelLength;
            for (int k = 0; k < depth; k++, at += stride, to += width)
            {
                source->Read(source, at, columns, row);
                float* panel = to;
                int i = 0;
                for (; i <= columns - width; i += width, panel += panelLength)
                    for (int j = 0; j < width; j += 8)
                        Vector256.Load(row + i + j).Store(panel + j);
                for (int j = 0; i + j < columns; j++)
                    panel[j] = row[i + j];
            }
        }
    }
}
