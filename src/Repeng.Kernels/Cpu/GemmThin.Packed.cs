using System.Runtime.CompilerServices;
using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Cpu;

/// <content>
/// Few rows by a quantised matrix: its codes are read once, decoded to tiles in L1 that are used at once, in the orders of
/// the plain paths: the bits are those of the decoded matrix.
/// </content>
internal static unsafe partial class GemmThin
{
    // Columns of one tile of dot products.
    private const int PackedColumns = 8;

    // Depth of a tile: 8 rows of it are 8 KiB. A multiple of every vector's lanes and of every block.
    private const int PackedDepth = 256;

    // Columns of an item of the path that adds up lines: 8 rows of it are 16 KiB.
    private const int PackedSumColumns = 512;

    /// <summary>As Dots; large counts elements. Accumulators rest in memory from one tile to the next, which changes no bit.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void PackedDots<TWidth, TVector>(Work* work, float* small, nint smallLine, byte* large, int columns, int depth, float* c)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector>
    {
        PackedSource* source = work->Call.Right.Packed;
        nint row = work->Call.Right.Line;
        int lines = work->Call.Left.Lines, vectors = depth / TWidth.Lanes * TWidth.Lanes;
        float* tile = stackalloc float[PackedColumns * PackedDepth];
        float* sums = stackalloc float[Limit * PackedColumns * TWidth.Lanes];
        int sumsLine = PackedColumns * TWidth.Lanes;
        byte* codes = PackedSource.At(source, (nint)large);
        FetchFirst(codes, (nint)(PackedSource.At(source, (nint)large + columns * row) - codes));
        for (int column = 0; column < columns; column += PackedColumns)
        {
            int valid = Math.Min(PackedColumns, columns - column), k = 0;
            var element = (nint)large + column * row;
            // The rows of a tile follow one another in memory: what is decoded 4 KiB later is asked for in step with what is decoded now.
            codes = PackedSource.At(source, element);
            nint codeBytes = (nint)(PackedSource.At(source, element + valid * row) - codes);
            new Span<float>(sums, lines * sumsLine).Clear();
            // At least one tile, also of a depth below a vector; the last one holds the rest that fills none.
            for (int n; ; k += n)
            {
                n = Math.Min(PackedDepth, depth - k);
                FetchRange(codes + Ahead + codeBytes * k / depth, codeBytes * n / depth);
                for (int x = 0; x < valid; x++)
                    source->Read(source, element + x * row + k, n, tile + x * PackedDepth);
                int whole = Math.Min(n, vectors - k), line = 0;
                for (; line <= lines - 2; line += 2)
                    for (int x = 0; x < valid; x += 4)
                        AddTile2x4<TWidth, TVector>(small + line * smallLine + k, smallLine, tile + x * PackedDepth, Math.Min(4, valid - x) - 1, whole, sums + line * sumsLine + x * TWidth.Lanes, sumsLine);
                if (line < lines)
                    AddTile1x8<TWidth, TVector>(small + line * smallLine + k, tile, valid - 1, whole, sums + line * sumsLine);
                if (k + n == depth)
                    break;
            }
            for (int line = 0; line < lines; line++)
            {
                for (int x = 0; x < valid; x++)
                {
                    float sum = TWidth.Sum(TWidth.Load<F32Element>((byte*)(sums + line * sumsLine + x * TWidth.Lanes), 0));
                    for (int i = vectors; i < depth; i++)
                        sum = MathF.FusedMultiplyAdd(small[line * smallLine + i], tile[x * PackedDepth + i - k], sum);
                    float* to = c + line * work->Call.LeftC + (column + x) * work->Call.RightC;
                    *to = work->Call.Accumulate ? *to + sum : sum;
                }
            }
        }
    }

    // Columns beyond the last repeat it, and their sums are not read.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddTile1x8<TWidth, TVector>(float* s, float* tile, int last, int count, float* sums)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector>
    {
        byte* l0 = (byte*)tile, l1 = (byte*)(tile + Math.Min(1, last) * PackedDepth), l2 = (byte*)(tile + Math.Min(2, last) * PackedDepth), l3 = (byte*)(tile + Math.Min(3, last) * PackedDepth);
        byte* l4 = (byte*)(tile + Math.Min(4, last) * PackedDepth), l5 = (byte*)(tile + Math.Min(5, last) * PackedDepth), l6 = (byte*)(tile + Math.Min(6, last) * PackedDepth), l7 = (byte*)(tile + Math.Min(7, last) * PackedDepth);
        int lanes = TWidth.Lanes;
        var from = (byte*)sums;
        TVector v0 = TWidth.Load<F32Element>(from, 0), v1 = TWidth.Load<F32Element>(from, lanes), v2 = TWidth.Load<F32Element>(from, 2 * lanes), v3 = TWidth.Load<F32Element>(from, 3 * lanes);
        TVector v4 = TWidth.Load<F32Element>(from, 4 * lanes), v5 = TWidth.Load<F32Element>(from, 5 * lanes), v6 = TWidth.Load<F32Element>(from, 6 * lanes), v7 = TWidth.Load<F32Element>(from, 7 * lanes);
        for (nint k = 0; k < count; k += lanes)
        {
            TVector x = TWidth.Load<F32Element>((byte*)s, k);
            v0 = TWidth.MultiplyAdd(x, TWidth.Load<F32Element>(l0, k), v0);
            v1 = TWidth.MultiplyAdd(x, TWidth.Load<F32Element>(l1, k), v1);
            v2 = TWidth.MultiplyAdd(x, TWidth.Load<F32Element>(l2, k), v2);
            v3 = TWidth.MultiplyAdd(x, TWidth.Load<F32Element>(l3, k), v3);
            v4 = TWidth.MultiplyAdd(x, TWidth.Load<F32Element>(l4, k), v4);
            v5 = TWidth.MultiplyAdd(x, TWidth.Load<F32Element>(l5, k), v5);
            v6 = TWidth.MultiplyAdd(x, TWidth.Load<F32Element>(l6, k), v6);
            v7 = TWidth.MultiplyAdd(x, TWidth.Load<F32Element>(l7, k), v7);
        }
        TWidth.Store(v0, sums);
        TWidth.Store(v1, sums + lanes);
        TWidth.Store(v2, sums + 2 * lanes);
        TWidth.Store(v3, sums + 3 * lanes);
        TWidth.Store(v4, sums + 4 * lanes);
        TWidth.Store(v5, sums + 5 * lanes);
        TWidth.Store(v6, sums + 6 * lanes);
        TWidth.Store(v7, sums + 7 * lanes);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddTile2x4<TWidth, TVector>(float* s, nint smallLine, float* tile, int last, int count, float* sums, int sumsLine)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector>
    {
        byte* l0 = (byte*)tile, l1 = (byte*)(tile + Math.Min(1, last) * PackedDepth), l2 = (byte*)(tile + Math.Min(2, last) * PackedDepth), l3 = (byte*)(tile + Math.Min(3, last) * PackedDepth);
        float* t = s + smallLine;
        int lanes = TWidth.Lanes;
        byte* from = (byte*)sums, under = (byte*)(sums + sumsLine);
        TVector v0 = TWidth.Load<F32Element>(from, 0), v1 = TWidth.Load<F32Element>(from, lanes), v2 = TWidth.Load<F32Element>(from, 2 * lanes), v3 = TWidth.Load<F32Element>(from, 3 * lanes);
        TVector w0 = TWidth.Load<F32Element>(under, 0), w1 = TWidth.Load<F32Element>(under, lanes), w2 = TWidth.Load<F32Element>(under, 2 * lanes), w3 = TWidth.Load<F32Element>(under, 3 * lanes);
        for (nint k = 0; k < count; k += lanes)
        {
            TVector x = TWidth.Load<F32Element>((byte*)s, k), y = TWidth.Load<F32Element>((byte*)t, k);
            TVector z = TWidth.Load<F32Element>(l0, k);
            v0 = TWidth.MultiplyAdd(x, z, v0);
            w0 = TWidth.MultiplyAdd(y, z, w0);
            z = TWidth.Load<F32Element>(l1, k);
            v1 = TWidth.MultiplyAdd(x, z, v1);
            w1 = TWidth.MultiplyAdd(y, z, w1);
            z = TWidth.Load<F32Element>(l2, k);
            v2 = TWidth.MultiplyAdd(x, z, v2);
            w2 = TWidth.MultiplyAdd(y, z, w2);
            z = TWidth.Load<F32Element>(l3, k);
            v3 = TWidth.MultiplyAdd(x, z, v3);
            w3 = TWidth.MultiplyAdd(y, z, w3);
        }
        TWidth.Store(v0, sums);
        TWidth.Store(v1, sums + lanes);
        TWidth.Store(v2, sums + 2 * lanes);
        TWidth.Store(v3, sums + 3 * lanes);
        TWidth.Store(w0, sums + sumsLine);
        TWidth.Store(w1, sums + sumsLine + lanes);
        TWidth.Store(w2, sums + sumsLine + 2 * lanes);
        TWidth.Store(w3, sums + sumsLine + 3 * lanes);
    }

    /// <summary>As Sums, eight rows of the large operand decoded at a time; element is the number of its first.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void PackedSums(Work* work, float* small, nint smallLine, nint element, int columns, int depth, float* sums)
    {
        PackedSource* source = work->Call.Right.Packed;
        nint stride = work->Call.Right.Depth;
        float* tile = stackalloc float[8 * PackedSumColumns];
        for (int k = 0; k < depth; k += 8)
        {
            int rows = Math.Min(8, depth - k);
            for (int i = 0; i < rows; i++)
                source->Read(source, element + (k + i) * stride, columns, tile + i * columns);
            work->Sums(small + k, smallLine, (byte*)tile, columns, work->Call.Left.Lines, columns, rows, sums);
        }
    }
}
