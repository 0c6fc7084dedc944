using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <summary>Operands of one attention op, as its items see them. Gradients that are not wanted are null.</summary>
internal unsafe struct AttentionContext
{
    internal AttentionArgs Args;
    internal float* Q;
    internal float* K;
    internal float* V;
    internal float* O;
    internal float* Lse;
    internal float* DO;
    internal float* Delta;
    internal float* DQ;
    internal float* DK;
    internal float* DV;
    internal int* FirstKey;
    internal nint* Scratch;
    internal float* Partial;
}

/// <summary>
/// Attention by tiles. A tile of query rows holds the flattened (token, query head of the group) pairs of one key head,
/// so that grouped heads share each key tile. Scores are kept transposed, [keys, rows]: keys and values are then read where
/// they lie, the softmax runs down the lanes without horizontal sums, and the mask is one comparison per vector.
/// </summary>
internal static unsafe partial class AttentionKernel<V, S>
    where V : struct
    where S : struct, ISimd<V>
{
    // Multiples of 6 rows and of whole panels, the register block of TileProduct.
    private static int RowTile => S.Width == 16 ? 96 : 48;

    private const int KeyTile = 64;

    private static int TileCount(in AttentionArgs a) => (int)(((long)a.QueryLength * a.Group + RowTile - 1) / RowTile);

    /// <summary>The rows of a tile that hold queries, and which keys they see.</summary>
    private readonly ref struct Tile
    {
        internal readonly int Sequence, KvHead, FirstRow, Rows, PaddedRows, FirstKey;

        /// <summary>Keys [KeyStart, KeyEnd) are visible to some row; [FullStart, FullEnd) to every row.</summary>
        internal readonly int KeyStart, KeyEnd, FullStart, FullEnd;

        internal Tile(in AttentionContext c, int sequence, int kvHead, int index)
        {
            ref readonly AttentionArgs a = ref c.Args;
            Sequence = sequence;
            KvHead = kvHead;
            FirstRow = index * RowTile;
            Rows = Math.Min(RowTile, a.QueryLength * a.Group - FirstRow);
            PaddedRows = TileProduct<V, S>.Padded(Rows);
            FirstKey = c.FirstKey[sequence];
            int firstIndex = IndexOf(a, FirstRow), lastIndex = IndexOf(a, FirstRow + Rows - 1);
            KeyStart = LowestKey(a, FirstKey, firstIndex);
            KeyEnd = lastIndex + 1;
            FullStart = LowestKey(a, FirstKey, lastIndex);
            FullEnd = firstIndex + 1;
        }
    }

    // Key index at which the query of a flattened row stands.
    private static int IndexOf(in AttentionArgs a, int row) => a.KeyLength - a.QueryLength + row / a.Group;

    private static int LowestKey(in AttentionArgs a, int firstKey, int index) =>
        a.Window > 0 ? Math.Max(firstKey, index - a.Window + 1) : firstKey;

    // Number of the [Batch, QueryLength, Heads] row that a tile's row stands for.
    private static long GlobalRow(in AttentionArgs a, in Tile tile, int row)
    {
        (int token, int member) = Math.DivRem(tile.FirstRow + row, a.Group);
        return ((long)tile.Sequence * a.QueryLength + token) * a.Heads + (long)tile.KvHead * a.Group + member;
    }

    // The first element of a key or value.
    private static long KeyOffset(in AttentionArgs a, in Tile tile, int key) =>
        (((long)tile.Sequence * a.KeyStride + key) * a.KvHeads + tile.KvHead) * a.HeadDim;

    // Scores are kept in units of ln 2, so that the softmax needs 2ˣ only. They arrive as q·k times this; with a soft cap
    // they arrive as the argument of tanh and CapScale brings them to units of ln 2.
    private static float ScoreScale(in AttentionArgs a) => a.SoftCap > 0 ? a.Scale / a.SoftCap : a.Scale * SimdMath.Log2E;

    private static float CapScale(in AttentionArgs a) => a.SoftCap * SimdMath.Log2E;

    private const double Ln2 = 0.693147180559945309417;

    // Rows that end at the diagonal are cut into blocks of this many, each with just the keys that its last row sees.
    private const int DiagonalBlock = 12;

    // How many of `count` keys from `key` on are visible to the tile's row `row` or to a row before it, rounded up to
    // whole register blocks of 6 keys, which cost less than a remainder.
    private static int KeysUpTo(in Tile tile, float* highest, int row, int key, int count)
    {
        int visible = Math.Max((int)highest[Math.Min(row, tile.Rows - 1)] - key + 1, 0);
        return Math.Min((visible + 5) / 6 * 6, count);
    }

    // The tile's first row that stands at a key or after it.
    private static int FirstRowAt(in AttentionArgs a, in Tile tile, int key) =>
        (int)Math.Clamp((key - (long)(a.KeyLength - a.QueryLength)) * a.Group - tile.FirstRow, 0, tile.Rows);

    // scores[keys, rows] = keys · queriesᵀ, each panel of rows with the keys that it sees.
    private static void KeyProducts(float* scores, float* keys, float* queries, in AttentionArgs a, in Tile tile, float* highest, int key, int count)
    {
        nint keyStride = (nint)a.KvHeads * a.HeadDim, stride = tile.PaddedRows;
        int panel = TileProduct<V, S>.Panel;
        if (key + count <= tile.FullEnd)
            TileProduct<V, S>.Run(scores, stride, keys, keyStride, 1, queries, stride, count, (int)stride, a.HeadDim, false);
        else
            for (int r = 0; r < stride; r += panel)
                TileProduct<V, S>.Run(scores + r, stride, keys, keyStride, 1, queries + r, stride, KeysUpTo(tile, highest, r + panel - 1, key, count), panel, a.HeadDim, false);
    }

    // sums[rows, padded] (+)= weights[keys, rows]ᵀ · values[keys, padded]. Weights of keys that a row does not see are 0.
    private static void RowSums(float* sums, float* weights, float* values, int padded, in Tile tile, float* highest, int key, int count, bool accumulate)
    {
        int stride = tile.PaddedRows;
        if (key + count <= tile.FullEnd)
        {
            TileProduct<V, S>.Run(sums, padded, weights, 1, stride, values, padded, tile.Rows, padded, count, accumulate);
            return;
        }
        for (int r = 0; r < tile.Rows; r += DiagonalBlock)
        {
            int rows = Math.Min(DiagonalBlock, tile.Rows - r), seen = KeysUpTo(tile, highest, r + rows - 1, key, count);
            TileProduct<V, S>.Run(sums + (long)r * padded, padded, weights + r, 1, stride, values, padded, rows, padded, seen, accumulate);
        }
    }

    // sums[keys, padded] = weights[keys, rows] · rows[rows, padded], each block of keys from the first row that sees it.
    private static void KeySums(float* sums, float* weights, float* rows, int padded, in AttentionArgs a, in Tile tile, int key, int count)
    {
        int stride = tile.PaddedRows, block = key + count <= tile.FullEnd ? count : DiagonalBlock;
        for (int j = 0; j < count; j += block)
        {
            int first = FirstRowAt(a, tile, key + j);
            TileProduct<V, S>.Run(sums + (long)j * padded, padded, weights + (long)j * stride + first, stride, 1, rows + (long)first * padded, padded,
                Math.Min(block, count - j), padded, tile.Rows - first, false);
        }
    }

    // Lowest and highest visible key of each row; padding rows see none.
    private static void FillBounds(in AttentionArgs a, in Tile tile, float* lowest, float* highest)
    {
        for (int r = 0; r < tile.PaddedRows; r++)
        {
            int index = r < tile.Rows ? IndexOf(a, tile.FirstRow + r) : -1;
            lowest[r] = r < tile.Rows ? LowestKey(a, tile.FirstKey, index) : 0;
            highest[r] = index;
        }
    }

    // dst[d, r] = src[row r, d] · factor, padding rows 0.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PackTransposed(float* dst, float* src, in AttentionArgs a, in Tile tile, float factor)
    {
        int stride = tile.PaddedRows, dim = a.HeadDim, r = 0;
        for (; r + 4 <= tile.Rows; r += 4)
            Transpose.FourRows(dst + r, stride,
                src + GlobalRow(a, tile, r) * dim, src + GlobalRow(a, tile, r + 1) * dim,
                src + GlobalRow(a, tile, r + 2) * dim, src + GlobalRow(a, tile, r + 3) * dim, dim, factor);
        for (; r < stride; r++)
        {
            float* from = r < tile.Rows ? src + GlobalRow(a, tile, r) * dim : null;
            for (int d = 0; d < dim; d++)
                dst[(long)d * stride + r] = from == null ? 0 : from[d] * factor;
        }
    }

    // dst[n, padded head size] = the keys or values from `key` on.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PackKeys(float* dst, float* src, in AttentionArgs a, in Tile tile, int key, int count, int padded)
    {
        float* from = src + KeyOffset(a, tile, key);
        for (int j = 0; j < count; j++)
            RowMath<V, S>.CopyPadded(dst + (long)j * padded, from + (long)j * a.KvHeads * a.HeadDim, a.HeadDim, padded);
    }
}
