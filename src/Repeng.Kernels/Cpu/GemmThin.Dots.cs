using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Cpu;

/// <content>The path of dot products, over a large operand that is contiguous along the depth.</content>
internal static unsafe partial class GemmThin
{
    /// <summary>
    /// c[line, column] (+)= small[line, :]·large[column, :]. Tiles of 4 lines × 3 columns, 2 × 4 or 1 × 8 fill the
    /// registers, of 8 × 3 those of AVX-512 from five lines on; a tile that hangs over the edge repeats its last line or column and drops the result.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void Dots<TWidth, TVector, TElement>(Work* work, float* small, nint smallLine, byte* large, int columns, int depth, float* c)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        nint largeColumn = work->Call.Right.Line * TElement.Size;
        float* results = stackalloc float[24];
        int lines = work->Call.Left.Lines;
        int across = lines == 1 ? 8 : lines == 2 ? 4 : 3, most = TWidth.Lanes == 16 && lines > 4 ? 8 : 4;
        FetchFirst(large, columns * largeColumn);
        for (int column = 0; column < columns; column += across)
        {
            byte* l = large + column * largeColumn;
            int valid = Math.Min(across, columns - column);
            for (int line = 0; line < lines;)
            {
                float* s = small + line * smallLine;
                int down = Math.Min(most, lines - line);
                if (lines == 1)
                {
                    Dots1x8<TWidth, TVector, TElement>(s, l, largeColumn, valid - 1, depth, results);
                }
                else if (lines == 2)
                {
                    Dots2x4<TWidth, TVector, TElement>(s, smallLine, l, largeColumn, valid - 1, depth, results);
                }
                else if (most == 8)
                {
                    Dots8x3<TWidth, TVector, TElement>(s, smallLine, down - 1, l, largeColumn, valid - 1, depth, results);
                }
                else
                {
                    Dots4x3<TWidth, TVector, TElement>(s, smallLine, down - 1, l, largeColumn, valid - 1, depth, results);
                }
                for (int y = 0; y < down; y++)
                {
                    for (int x = 0; x < valid; x++)
                    {
                        float* to = c + (line + y) * work->Call.LeftC + (column + x) * work->Call.RightC;
                        *to = work->Call.Accumulate ? *to + results[y * across + x] : results[y * across + x];
                    }
                }
                line += down;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Dots1x8<TWidth, TVector, TElement>(float* s, byte* l, nint step, int last, int depth, float* results)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        byte* l0 = l, l1 = l + Math.Min(1, last) * step, l2 = l + Math.Min(2, last) * step, l3 = l + Math.Min(3, last) * step;
        byte* l4 = l + Math.Min(4, last) * step, l5 = l + Math.Min(5, last) * step, l6 = l + Math.Min(6, last) * step, l7 = l + Math.Min(7, last) * step;
        TVector v0 = TWidth.Zero, v1 = TWidth.Zero, v2 = TWidth.Zero, v3 = TWidth.Zero, v4 = TWidth.Zero, v5 = TWidth.Zero, v6 = TWidth.Zero, v7 = TWidth.Zero;
        nint k = 0;
        for (; k <= depth - TWidth.Lanes; k += TWidth.Lanes)
        {
            FetchAhead(l, k * 8 * TElement.Size, 8 * TWidth.Lanes * TElement.Size);
            TVector x = TWidth.Load<F32Element>((byte*)s, k);
            v0 = TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l0, k), v0);
            v1 = TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l1, k), v1);
            v2 = TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l2, k), v2);
            v3 = TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l3, k), v3);
            v4 = TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l4, k), v4);
            v5 = TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l5, k), v5);
            v6 = TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l6, k), v6);
            v7 = TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l7, k), v7);
        }
        results[0] = Finish<TWidth, TVector, TElement>(v0, s, l0, k, depth);
        results[1] = Finish<TWidth, TVector, TElement>(v1, s, l1, k, depth);
        results[2] = Finish<TWidth, TVector, TElement>(v2, s, l2, k, depth);
        results[3] = Finish<TWidth, TVector, TElement>(v3, s, l3, k, depth);
        results[4] = Finish<TWidth, TVector, TElement>(v4, s, l4, k, depth);
        results[5] = Finish<TWidth, TVector, TElement>(v5, s, l5, k, depth);
        results[6] = Finish<TWidth, TVector, TElement>(v6, s, l6, k, depth);
        results[7] = Finish<TWidth, TVector, TElement>(v7, s, l7, k, depth);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Dots2x4<TWidth, TVector, TElement>(float* s, nint smallLine, byte* l, nint step, int last, int depth, float* results)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        float* t = s + smallLine;
        byte* l0 = l, l1 = l + Math.Min(1, last) * step, l2 = l + Math.Min(2, last) * step, l3 = l + Math.Min(3, last) * step;
        TVector v0 = TWidth.Zero, v1 = TWidth.Zero, v2 = TWidth.Zero, v3 = TWidth.Zero, w0 = TWidth.Zero, w1 = TWidth.Zero, w2 = TWidth.Zero, w3 = TWidth.Zero;
        nint k = 0;
        for (; k <= depth - TWidth.Lanes; k += TWidth.Lanes)
        {
            FetchAhead(l, k * 4 * TElement.Size, 4 * TWidth.Lanes * TElement.Size);
            TVector x = TWidth.Load<F32Element>((byte*)s, k), y = TWidth.Load<F32Element>((byte*)t, k);
            TVector z = TWidth.Load<TElement>(l0, k);
            v0 = TWidth.MultiplyAdd(x, z, v0);
            w0 = TWidth.MultiplyAdd(y, z, w0);
            z = TWidth.Load<TElement>(l1, k);
            v1 = TWidth.MultiplyAdd(x, z, v1);
            w1 = TWidth.MultiplyAdd(y, z, w1);
            z = TWidth.Load<TElement>(l2, k);
            v2 = TWidth.MultiplyAdd(x, z, v2);
            w2 = TWidth.MultiplyAdd(y, z, w2);
            z = TWidth.Load<TElement>(l3, k);
            v3 = TWidth.MultiplyAdd(x, z, v3);
            w3 = TWidth.MultiplyAdd(y, z, w3);
        }
        results[0] = Finish<TWidth, TVector, TElement>(v0, s, l0, k, depth);
        results[1] = Finish<TWidth, TVector, TElement>(v1, s, l1, k, depth);
        results[2] = Finish<TWidth, TVector, TElement>(v2, s, l2, k, depth);
        results[3] = Finish<TWidth, TVector, TElement>(v3, s, l3, k, depth);
        results[4] = Finish<TWidth, TVector, TElement>(w0, t, l0, k, depth);
        results[5] = Finish<TWidth, TVector, TElement>(w1, t, l1, k, depth);
        results[6] = Finish<TWidth, TVector, TElement>(w2, t, l2, k, depth);
        results[7] = Finish<TWidth, TVector, TElement>(w3, t, l3, k, depth);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Dots4x3<TWidth, TVector, TElement>(float* s, nint smallLine, int lastLine, byte* l, nint step, int last, int depth, float* results)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        float* t = s + Math.Min(1, lastLine) * smallLine, u = s + Math.Min(2, lastLine) * smallLine, q = s + Math.Min(3, lastLine) * smallLine;
        byte* l0 = l, l1 = l + Math.Min(1, last) * step, l2 = l + Math.Min(2, last) * step;
        TVector s0 = TWidth.Zero, s1 = TWidth.Zero, s2 = TWidth.Zero, t0 = TWidth.Zero, t1 = TWidth.Zero, t2 = TWidth.Zero;
        TVector u0 = TWidth.Zero, u1 = TWidth.Zero, u2 = TWidth.Zero, q0 = TWidth.Zero, q1 = TWidth.Zero, q2 = TWidth.Zero;
        nint k = 0;
        for (; k <= depth - TWidth.Lanes; k += TWidth.Lanes)
        {
            FetchAhead(l, k * 3 * TElement.Size, 3 * TWidth.Lanes * TElement.Size);
            TVector x0 = TWidth.Load<TElement>(l0, k), x1 = TWidth.Load<TElement>(l1, k), x2 = TWidth.Load<TElement>(l2, k);
            TVector y = TWidth.Load<F32Element>((byte*)s, k);
            s0 = TWidth.MultiplyAdd(y, x0, s0);
            s1 = TWidth.MultiplyAdd(y, x1, s1);
            s2 = TWidth.MultiplyAdd(y, x2, s2);
            y = TWidth.Load<F32Element>((byte*)t, k);
            t0 = TWidth.MultiplyAdd(y, x0, t0);
            t1 = TWidth.MultiplyAdd(y, x1, t1);
            t2 = TWidth.MultiplyAdd(y, x2, t2);
            y = TWidth.Load<F32Element>((byte*)u, k);
            u0 = TWidth.MultiplyAdd(y, x0, u0);
            u1 = TWidth.MultiplyAdd(y, x1, u1);
            u2 = TWidth.MultiplyAdd(y, x2, u2);
            y = TWidth.Load<F32Element>((byte*)q, k);
            q0 = TWidth.MultiplyAdd(y, x0, q0);
            q1 = TWidth.MultiplyAdd(y, x1, q1);
            q2 = TWidth.MultiplyAdd(y, x2, q2);
        }
        results[0] = Finish<TWidth, TVector, TElement>(s0, s, l0, k, depth);
        results[1] = Finish<TWidth, TVector, TElement>(s1, s, l1, k, depth);
        results[2] = Finish<TWidth, TVector, TElement>(s2, s, l2, k, depth);
        results[3] = Finish<TWidth, TVector, TElement>(t0, t, l0, k, depth);
        results[4] = Finish<TWidth, TVector, TElement>(t1, t, l1, k, depth);
        results[5] = Finish<TWidth, TVector, TElement>(t2, t, l2, k, depth);
        results[6] = Finish<TWidth, TVector, TElement>(u0, u, l0, k, depth);
        results[7] = Finish<TWidth, TVector, TElement>(u1, u, l1, k, depth);
        results[8] = Finish<TWidth, TVector, TElement>(u2, u, l2, k, depth);
        results[9] = Finish<TWidth, TVector, TElement>(q0, q, l0, k, depth);
        results[10] = Finish<TWidth, TVector, TElement>(q1, q, l1, k, depth);
        results[11] = Finish<TWidth, TVector, TElement>(q2, q, l2, k, depth);
    }

    // Bytes between what is in use and what is fetched: see docs/decisions.md, "Decoding from packed weights".
    private const int Ahead = 4096;

    /// <summary>
    /// Fetches what a step will read some <see cref="Ahead"/> later, where the large operand's lines follow one another. Several lines at once are
    /// no stream to the hardware, and where codes are expanded few loads are on their way at a time. A fetch beyond the end does no harm.
    /// </summary>
    /// <param name="first">First line of the tile.</param>
    /// <param name="at">Bytes of the tile that are done.</param>
    /// <param name="step">Bytes of one step, a constant.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FetchAhead(byte* first, nint at, int step)
    {
        if (!Sse.IsSupported)
            return;
        byte* p = first + Ahead + at;
        Sse.Prefetch0(p);
        if (step > 64)
            Sse.Prefetch0(p + 64);
        if (step > 128)
            Sse.Prefetch0(p + 128);
        if (step > 192)
            Sse.Prefetch0(p + 192);
        if (step > 256)
        {
            Sse.Prefetch0(p + 256);
            Sse.Prefetch0(p + 320);
            Sse.Prefetch0(p + 384);
            Sse.Prefetch0(p + 448);
        }
    }

    /// <summary>Asks for the first bytes of an item at once; what <see cref="FetchAhead"/> fetches begins behind them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FetchFirst(byte* first, nint bytes)
    {
        FetchRange(first, Math.Min(bytes, Ahead));
    }

    /// <summary>Asks for every cache line of a range. Nothing is read, so it may lie beyond the operand.</summary>
    private static void FetchRange(byte* first, nint bytes)
    {
        if (!Sse.IsSupported)
            return;
        for (byte* p = first, end = first + bytes; p < end; p += 64)
            Sse.Prefetch0(p);
    }

    /// <summary>Sums the lanes and adds the rest of the depth, which does not fill a vector.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Finish<TWidth, TVector, TElement>(TVector v, float* s, byte* l, nint k, int depth)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        float sum = TWidth.Sum(v);
        for (; k < depth; k++)
            sum = MathF.FusedMultiplyAdd(s[k], TElement.Get(l, k), sum);
        return sum;
    }
}
