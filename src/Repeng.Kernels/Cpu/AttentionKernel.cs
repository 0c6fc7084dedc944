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

    private const int KeyTile = 48;

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

    // Scores arrive as q·k times this; a soft cap is then tanh alone.
    private static float ScoreScale(in AttentionArgs a) => a.SoftCap > 0 ? a.Scale / a.SoftCap : a.Scale;

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
    private static void PackTransposed(float* dst, float* src, in AttentionArgs a, in Tile tile, float factor)
    {
        int stride = tile.PaddedRows;
        for (int r = 0; r < tile.PaddedRows; r++)
        {
            float* to = dst + r;
            if (r >= tile.Rows)
            {
                for (int d = 0; d < a.HeadDim; d++)
                    to[(long)d * stride] = 0;
                continue;
            }
            float* from = src + GlobalRow(a, tile, r) * a.HeadDim;
            for (int d = 0; d < a.HeadDim; d++)
                to[(long)d * stride] = from[d] * factor;
        }
    }

    // dst[n, padded head size] = the keys or values from `key` on.
    private static void PackKeys(float* dst, float* src, in AttentionArgs a, in Tile tile, int key, int count, int padded)
    {
        float* from = src + KeyOffset(a, tile, key);
        for (int j = 0; j < count; j++)
            RowMath<V, S>.CopyPadded(dst + (long)j * padded, from + (long)j * a.KvHeads * a.HeadDim, a.HeadDim, padded);
    }
}
