using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

internal static unsafe partial class AttentionKernel<V, S>
{
    internal static long BackwardScratchBytes(in AttentionArgs a)
    {
        long padded = TileProduct<V, S>.Padded(a.HeadDim);
        return sizeof(float) * (2L * a.HeadDim * RowTile + 3L * RowTile * padded + 2L * KeyTile * padded + 2L * KeyTile * RowTile + 4L * RowTile);
    }

    /// <summary>
    /// All queries of one key head, tile after tile, so that dk and dv sum in one order. Probabilities are computed
    /// again from the log denominators: P = e^(S − lse), dS = P ∘ (dO·Vᵀ − Σ dO·o), with the derivative 1 − tanh² of a soft cap.
    /// </summary>
    internal static void BackwardItem(void* context, int item, int worker)
    {
        ref readonly AttentionContext c = ref *(AttentionContext*)context;
        ref readonly AttentionArgs a = ref c.Args;
        for (int index = 0; index < TileCount(a); index++)
            BackwardTile(c, new Tile(c, item / a.KvHeads, item % a.KvHeads, index), (float*)c.Scratch[worker]);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void BackwardTile(in AttentionContext c, in Tile tile, float* scratch)
    {
        ref readonly AttentionArgs a = ref c.Args;
        int dim = a.HeadDim, padded = TileProduct<V, S>.Padded(dim), stride = tile.PaddedRows;
        float* queriesT = scratch;
        float* gradsT = queriesT + (long)dim * RowTile;
        float* queries = gradsT + (long)dim * RowTile;
        float* grads = queries + (long)RowTile * padded;
        float* dQueries = grads + (long)RowTile * padded;
        float* keys = dQueries + (long)RowTile * padded;
        float* dKeys = keys + (long)KeyTile * padded;
        float* scores = dKeys + (long)KeyTile * padded;
        float* dScores = scores + (long)KeyTile * RowTile;
        float* logSum = dScores + (long)KeyTile * RowTile;
        float* delta = logSum + RowTile;
        float* lowest = delta + RowTile;
        float* highest = lowest + RowTile;

        LoadRowSums(c, tile, logSum, delta);
        if (tile.KeyStart >= tile.KeyEnd)
            return;
        PackTransposed(queriesT, c.Q, a, tile, ScoreScale(a));
        PackRows(queries, c.Q, a, tile, logSum, padded);
        PackRows(grads, c.DO, a, tile, logSum, padded);
        TransposePacked(gradsT, grads, dim, padded, tile);
        FillBounds(a, tile, lowest, highest);
        bool wantsScores = c.DQ != null || c.DK != null;

        for (int key = tile.KeyStart; key < tile.KeyEnd; key += KeyTile)
        {
            int count = Math.Min(KeyTile, tile.KeyEnd - key);
            nint keyStride = (nint)a.KvHeads * dim;
            long offset = KeyOffset(a, tile, key);
            KeyProducts(scores, c.K + offset, queriesT, a, tile, highest, key, count);
            if (wantsScores)
                KeyProducts(dScores, c.V + offset, gradsT, a, tile, highest, key, count);
            bool masked = key < tile.FullStart || key + count > tile.FullEnd;
            for (int r = 0; r < stride; r += S.Width)
            {
                int panelEnd = r / TileProduct<V, S>.Panel * TileProduct<V, S>.Panel + TileProduct<V, S>.Panel - 1;
                int seen = KeysUpTo(tile, highest, panelEnd, key, count);
                Differentiate(scores + r, dScores + r, stride, key, seen, count, masked, wantsScores, a, logSum + r, delta + r, lowest + r, highest + r);
            }

            if (c.DV != null)
            {
                KeySums(dKeys, scores, grads, padded, a, tile, key, count);
                for (int j = 0; j < count; j++)
                    RowMath<V, S>.Add(c.DV + offset + j * keyStride, dKeys + (long)j * padded, dim);
            }
            if (c.DK != null)
            {
                KeySums(dKeys, dScores, queries, padded, a, tile, key, count);
                for (int j = 0; j < count; j++)
                    RowMath<V, S>.Add(c.DK + offset + j * keyStride, dKeys + (long)j * padded, dim);
            }
            if (c.DQ != null)
            {
                PackKeys(keys, c.K, a, tile, key, count, padded);
                RowSums(dQueries, dScores, keys, padded, tile, highest, key, count, key != tile.KeyStart);
            }
        }

        if (c.DQ != null)
            for (int r = 0; r < tile.Rows; r++)
                RowMath<V, S>.Add(c.DQ + GlobalRow(a, tile, r) * dim, dQueries + (long)r * padded, dim);
    }

    // A row that saw no key takes part in nothing: with +∞ as its log denominator every probability is 2^−∞ = 0.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void LoadRowSums(in AttentionContext c, in Tile tile, float* logSum, float* delta)
    {
        int dim = c.Args.HeadDim;
        for (int r = 0; r < tile.PaddedRows; r++)
        {
            logSum[r] = float.PositiveInfinity;
            delta[r] = 0;
            if (r >= tile.Rows)
                continue;
            long row = GlobalRow(c.Args, tile, r);
            if (c.Lse[row] != float.NegativeInfinity)
            {
                // In units of ln 2, as the scores are.
                logSum[r] = (float)(c.Lse[row] / Ln2);
                delta[r] = RowMath<V, S>.Dot(c.DO + row * dim, c.O + row * dim, dim);
            }
            c.Delta[row] = delta[r];
        }
    }

    // dst[r, padded head size]; rows without a visible key are 0, whatever their operands hold.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PackRows(float* dst, float* src, in AttentionArgs a, in Tile tile, float* logSum, int padded)
    {
        for (int r = 0; r < tile.Rows; r++)
        {
            if (logSum[r] == float.PositiveInfinity)
                new Span<float>(dst + (long)r * padded, padded).Clear();
            else
                RowMath<V, S>.CopyPadded(dst + (long)r * padded, src + GlobalRow(a, tile, r) * a.HeadDim, a.HeadDim, padded);
        }
    }

    // The same rows as PackTransposed would write, from rows that are packed already.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TransposePacked(float* dst, float* src, int dim, int padded, in Tile tile)
    {
        int stride = tile.PaddedRows, r = 0;
        for (; r + 4 <= tile.Rows; r += 4)
        {
            float* from = src + (long)r * padded;
            Transpose.FourRows(dst + r, stride, from, from + padded, from + 2L * padded, from + 3L * padded, dim, 1);
        }
        for (; r < stride; r++)
            for (int d = 0; d < dim; d++)
                dst[(long)d * stride + r] = r < tile.Rows ? src[(long)r * padded + d] : 0;
    }

    // scores → P, dScores (dO·V) → scale · dS, for one vector of rows down the keys of a tile; keys from `seen` on get 0.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Differentiate(float* scores, float* dScores, int stride, int key, int seen, int count, bool masked, bool wantsScores, in AttentionArgs a, float* logSum, float* delta, float* lowest, float* highest)
    {
        V log = S.Load(logSum), sum = S.Load(delta), low = S.Load(lowest), high = S.Load(highest);
        V hidden = S.Set(float.NegativeInfinity), cap = S.Set(CapScale(a)), scale = S.Set(a.Scale), one = S.Set(1f);
        bool capped = a.SoftCap > 0;
        for (int j = 0; j < seen; j++)
        {
            V s = S.Load(scores + (long)j * stride), slope = scale;
            if (capped)
            {
                V t = SimdMath.Tanh<V, S>(s);
                s = S.Mul(cap, t);
                slope = S.Mul(scale, S.Mul(S.Sub(one, t), S.Add(one, t)));
            }
            if (masked)
            {
                V at = S.Set(key + j);
                s = S.Select(S.And(S.LessOrEqual(low, at), S.LessOrEqual(at, high)), s, hidden);
            }
            V p = SimdMath.Exp2Flushed<V, S>(S.Sub(s, log));
            S.Store(p, scores + (long)j * stride);
            if (wantsScores)
                S.Store(S.Mul(S.Mul(p, slope), S.Sub(S.Load(dScores + (long)j * stride), sum)), dScores + (long)j * stride);
        }
        for (int j = seen; j < count; j++)
        {
            S.Store(S.Set(0f), scores + (long)j * stride);
            S.Store(S.Set(0f), dScores + (long)j * stride);
        }
    }
}
