using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Few query rows on a long cache, as in generation. The keys are cut into splits that run in parallel, each read once, in
/// the order of memory, for all rows of the group; a second loop joins the splits' sums. The cut depends on the shape alone.
/// </summary>
internal static unsafe partial class AttentionKernel<V, S>
{
    // Above this the register blocks of TileProduct are full enough to pay for the transposition.
    private const int MostDecodeRows = 8;

    private const int SplitKeys = 256;

    // Keys between the one in use and the one fetched from memory.
    private const int AheadKeys = 8;

    internal static bool IsDecode(in AttentionArgs a) => (long)a.QueryLength * a.Group <= MostDecodeRows;

    internal static int DecodeItems(in AttentionArgs a) => checked(a.Batch * a.KvHeads * Splits(a));

    internal static long DecodeScratchBytes(in AttentionArgs a) => sizeof(float) * (long)MostDecodeRows * (SplitKeys + a.HeadDim + 2);

    internal static long DecodePartialBytes(in AttentionArgs a) => sizeof(float) * (long)DecodeItems(a) * PartialSize(a);

    private static int Splits(in AttentionArgs a) => (a.KeyLength + SplitKeys - 1) / SplitKeys;

    // Of each row: the sums [head size], then maximum and denominator.
    private static long PartialSize(in AttentionArgs a) => (long)a.QueryLength * a.Group * (a.HeadDim + 2);

    /// <summary>One split of one key head's keys.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void DecodeItem(void* context, int item, int worker)
    {
        ref readonly AttentionContext c = ref *(AttentionContext*)context;
        ref readonly AttentionArgs a = ref c.Args;
        (int head, int split) = Math.DivRem(item, Splits(a));
        Tile tile = new(c, head / a.KvHeads, head % a.KvHeads, 0);
        int dim = a.HeadDim, start = Math.Max(split * SplitKeys, tile.KeyStart), count = Math.Min((split + 1) * SplitKeys, tile.KeyEnd) - start;
        float* partial = c.Partial + item * PartialSize(a);
        if (count <= 0)
        {
            for (int r = 0; r < tile.Rows; r++)
                partial[(long)r * (dim + 2) + dim + 1] = 0;
            return;
        }

        float* queries = (float*)c.Scratch[worker];
        float* scores = queries + (long)MostDecodeRows * dim;
        for (int r = 0; r < tile.Rows; r++)
            RowMath<V, S>.Scale(queries + (long)r * dim, c.Q + GlobalRow(a, tile, r) * dim, ScoreScale(a), dim);
        nint keyStride = (nint)a.KvHeads * dim;
        float* keys = c.K + KeyOffset(a, tile, start);
        int j = 0;
        for (; j + 4 <= count; j += 4)
        {
            FetchAhead(keys + (j + AheadKeys) * keyStride, keyStride, dim);
            for (int r = 0; r < tile.Rows; r++)
                RowMath<V, S>.DotFour(scores + r * SplitKeys + j, queries + (long)r * dim, keys + j * keyStride, keyStride, dim);
        }
        for (; j < count; j++)
            for (int r = 0; r < tile.Rows; r++)
                scores[r * SplitKeys + j] = RowMath<V, S>.Dot(queries + (long)r * dim, keys + j * keyStride, dim);

        for (int r = 0; r < tile.Rows; r++)
        {
            float* sums = partial + (long)r * (dim + 2);
            int index = IndexOf(a, r), lowest = LowestKey(a, tile.FirstKey, index);
            (sums[dim], sums[dim + 1]) = SoftenRow(scores + r * SplitKeys, count, lowest - start, index - start, CapScale(a));
            new Span<float>(sums, dim).Clear();
        }

        float* values = c.V + KeyOffset(a, tile, start);
        for (j = 0; j + 4 <= count; j += 4)
        {
            FetchAhead(values + (j + AheadKeys) * keyStride, keyStride, dim);
            for (int r = 0; r < tile.Rows; r++)
                RowMath<V, S>.AddFour(partial + (long)r * (dim + 2), scores + r * SplitKeys + j, values + j * keyStride, keyStride, dim);
        }
        for (; j < count; j++)
            for (int r = 0; r < tile.Rows; r++)
                RowMath<V, S>.AddScaled(partial + (long)r * (dim + 2), values + j * keyStride, scores[r * SplitKeys + j], dim);
    }

    // One head's keys lie KvHeads · head size apart, too far for the hardware to guess; a fetch beyond the end does no harm.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FetchAhead(float* rows, nint stride, int dim)
    {
        if (!Sse.IsSupported)
            return;
        for (int n = 0; n < 4; n++)
            for (int d = 0; d < dim; d += 16)
                Sse.Prefetch0(rows + n * stride + d);
    }

    // Scores of one row become 2^(score − maximum), 0 outside [lowest, highest]; gives the maximum and the sum.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static (float Maximum, float Sum) SoftenRow(float* scores, int count, int lowest, int highest, float cap)
    {
        // Whole vectors from here on: what is behind the last key counts as hidden. SplitKeys is a multiple of every width.
        int whole = (count + S.Width - 1) / S.Width * S.Width;
        for (int j = count; j < whole; j++)
            scores[j] = float.NegativeInfinity;
        if (cap > 0)
            for (int j = 0; j < whole; j += S.Width)
                S.Store(S.Mul(S.Set(cap), SimdMath.Tanh<V, S>(S.Load(scores + j))), scores + j);
        for (int j = count; j < whole; j++)
            scores[j] = float.NegativeInfinity;
        for (int j = 0; j < Math.Min(lowest, count); j++)
            scores[j] = float.NegativeInfinity;
        for (int j = Math.Max(highest + 1, 0); j < count; j++)
            scores[j] = float.NegativeInfinity;

        // A NaN that the maximum loses stays in the sum.
        V highestOf = S.Set(float.NegativeInfinity);
        for (int j = 0; j < whole; j += S.Width)
            highestOf = S.Max(highestOf, S.Load(scores + j));
        float* lanes = stackalloc float[S.Width];
        S.Store(highestOf, lanes);
        float maximum = lanes[0];
        for (int lane = 1; lane < S.Width; lane++)
            maximum = MathF.Max(maximum, lanes[lane]);
        V shift = S.Set(maximum == float.NegativeInfinity ? 0 : maximum), sum = default;
        for (int j = 0; j < whole; j += S.Width)
        {
            V p = SimdMath.Exp2Flushed<V, S>(S.Sub(S.Load(scores + j), shift));
            S.Store(p, scores + j);
            sum = S.Add(sum, p);
        }
        return (maximum, S.Sum(sum));
    }

    /// <summary>Joins the splits of one key head, first split first.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void JoinItem(void* context, int item, int worker)
    {
        ref readonly AttentionContext c = ref *(AttentionContext*)context;
        ref readonly AttentionArgs a = ref c.Args;
        Tile tile = new(c, item / a.KvHeads, item % a.KvHeads, 0);
        int dim = a.HeadDim, splits = Splits(a);
        for (int r = 0; r < tile.Rows; r++)
        {
            long row = GlobalRow(a, tile, r), size = PartialSize(a);
            float* first = c.Partial + (long)item * splits * size + (long)r * (dim + 2);
            float* o = c.O + row * dim;
            float maximum = float.NegativeInfinity;
            for (int s = 0; s < splits; s++)
                if (first[s * size + dim + 1] != 0)
                    maximum = MathF.Max(maximum, first[s * size + dim]);
            new Span<float>(o, dim).Clear();
            float denominator = 0;
            for (int s = 0; s < splits; s++)
            {
                float* sums = first + s * size;
                if (sums[dim + 1] == 0)
                    continue;
                float weight = MathF.Exp((float)Ln2 * (sums[dim] - maximum));
                denominator += weight * sums[dim + 1];
                RowMath<V, S>.AddScaled(o, sums, weight, dim);
            }
            c.Lse[row] = denominator == 0 ? float.NegativeInfinity : (float)(Ln2 * maximum + Math.Log(denominator));
            if (denominator != 0)
                RowMath<V, S>.Scale(o, o, 1 / denominator, dim);
        }
    }
}
