using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

internal static unsafe partial class AttentionKernel<V, S>
{
    internal static int ForwardItems(in AttentionArgs a) => checked(a.Batch * a.KvHeads * TileCount(a));

    internal static long ForwardScratchBytes(in AttentionArgs a)
    {
        long padded = TileProduct<V, S>.Padded(a.HeadDim);
        return sizeof(float) * ((long)a.HeadDim * RowTile + (long)KeyTile * RowTile + KeyTile * padded + RowTile * padded + 5L * RowTile);
    }

    /// <summary>One tile of query rows against all keys that it sees, with a running maximum and denominator.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void ForwardItem(void* context, int item, int worker)
    {
        ref readonly AttentionContext c = ref *(AttentionContext*)context;
        ref readonly AttentionArgs a = ref c.Args;
        // The last tiles see the most keys; starting with them leaves short items to fill the end of the loop.
        (int fromLast, int head) = Math.DivRem(item, a.Batch * a.KvHeads);
        Tile tile = new(c, head / a.KvHeads, head % a.KvHeads, TileCount(a) - 1 - fromLast);
        int dim = a.HeadDim, padded = TileProduct<V, S>.Padded(dim), stride = tile.PaddedRows;

        float* queries = (float*)c.Scratch[worker];
        float* scores = queries + (long)dim * RowTile;
        float* values = scores + (long)KeyTile * RowTile;
        float* sums = values + (long)KeyTile * padded;
        float* maximum = sums + (long)RowTile * padded;
        float* denominator = maximum + RowTile;
        float* rescale = denominator + RowTile;
        float* lowest = rescale + RowTile;
        float* highest = lowest + RowTile;

        PackTransposed(queries, c.Q, a, tile, ScoreScale(a));
        FillBounds(a, tile, lowest, highest);
        new Span<float>(maximum, stride).Fill(float.NegativeInfinity);
        new Span<float>(denominator, stride).Clear();

        for (int key = tile.KeyStart; key < tile.KeyEnd; key += KeyTile)
        {
            int count = Math.Min(KeyTile, tile.KeyEnd - key);
            KeyProducts(scores, c.K + KeyOffset(a, tile, key), queries, a, tile, highest, key, count);
            bool masked = key < tile.FullStart || key + count > tile.FullEnd;
            for (int r = 0; r < stride; r += S.Width)
            {
                int panelEnd = r / TileProduct<V, S>.Panel * TileProduct<V, S>.Panel + TileProduct<V, S>.Panel - 1;
                int seen = KeysUpTo(tile, highest, panelEnd, key, count);
                Soften(scores + r, stride, key, seen, count, masked, CapScale(a), maximum + r, denominator + r, rescale + r, lowest + r, highest + r);
            }
            bool first = key == tile.KeyStart;
            if (!first)
                for (int r = 0; r < tile.Rows; r++)
                    if (rescale[r] != 1)
                        RowMath<V, S>.Scale(sums + (long)r * padded, sums + (long)r * padded, rescale[r], padded);
            PackKeys(values, c.V, a, tile, key, count, padded);
            RowSums(sums, scores, values, padded, tile, highest, key, count, !first);
        }

        for (int r = 0; r < tile.Rows; r++)
        {
            long row = GlobalRow(a, tile, r);
            float* o = c.O + row * dim;
            if (denominator[r] == 0)
            {
                new Span<float>(o, dim).Clear();
                c.Lse[row] = float.NegativeInfinity;
                continue;
            }
            RowMath<V, S>.Scale(o, sums + (long)r * padded, 1 / denominator[r], dim);
            c.Lse[row] = (float)(Ln2 * maximum[r] + Math.Log(denominator[r]));
        }
    }

    // One vector of rows down the keys of a tile: scores become 2^(score − maximum), the running values are brought up to date.
    // Of `count` keys the first `seen` have scores; the others get 0.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Soften(float* scores, int stride, int key, int seen, int count, bool masked, float cap, float* maximum, float* denominator, float* rescale, float* lowest, float* highest)
    {
        V before = S.Load(maximum), peak = before;
        if (masked || cap > 0)
        {
            V low = S.Load(lowest), high = S.Load(highest), hidden = S.Set(float.NegativeInfinity), capped = S.Set(cap);
            for (int j = 0; j < seen; j++)
            {
                V s = S.Load(scores + (long)j * stride);
                if (cap > 0)
                    s = S.Mul(capped, SimdMath.Tanh<V, S>(s));
                V at = S.Set(key + j);
                s = S.Select(S.And(S.LessOrEqual(low, at), S.LessOrEqual(at, high)), s, hidden);
                S.Store(s, scores + (long)j * stride);
                peak = S.Max(peak, s);
            }
        }
        else
        {
            V other = before;
            int j = 0;
            for (; j + 2 <= seen; j += 2)
            {
                peak = S.Max(peak, S.Load(scores + (long)j * stride));
                other = S.Max(other, S.Load(scores + (long)(j + 1) * stride));
            }
            if (j < seen)
                peak = S.Max(peak, S.Load(scores + (long)j * stride));
            peak = S.Max(peak, other);
        }

        // A row that has seen no key yet keeps −∞ as its maximum; subtracting 0 instead gives 2^−∞ = 0, not NaN.
        V shift = S.Select(S.LessOrEqual(peak, S.Set(float.MinValue)), S.Set(0f), peak);
        V factor = SimdMath.Exp2Flushed<V, S>(S.Sub(before, shift));
        V sum = S.Mul(S.Load(denominator), factor);
        for (int j = 0; j < seen; j++)
        {
            V p = SimdMath.Exp2Flushed<V, S>(S.Sub(S.Load(scores + (long)j * stride), shift));
            S.Store(p, scores + (long)j * stride);
            sum = S.Add(sum, p);
        }
        for (int j = seen; j < count; j++)
            S.Store(S.Set(0f), scores + (long)j * stride);
        S.Store(peak, maximum);
        S.Store(factor, rescale);
        S.Store(sum, denominator);
    }
}
