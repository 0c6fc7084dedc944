using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Products where C has few rows (decoding) or few columns: bound by reading the large operand, which is therefore read
/// once, in place, without packing. The small operand has up to Limit lines. Where the large one is contiguous along
/// the depth, an element of C is a dot product: one accumulator of the SIMD width over k in order, its lanes summed in
/// fixed order, the rest of K last. Otherwise multiples of its lines are added up, in exactly the order of
/// <see cref="Gemm"/>. Either way an element's bits do not depend on how many lines there are, on its place or on the
/// number of threads.
/// </summary>
internal static unsafe class GemmThin
{
    /// <summary>Most lines of the small operand.</summary>
    internal const int Limit = 8;

    // Columns of one item on the path that adds up lines: 8 lines of partial sums stay in L1.
    private const int SumBlock = 512;

    // Below this many multiply-adds a product is cheaper on the calling thread than a wake-up of the pool.
    private const double SerialLimit = 100_000;

    private struct Work
    {
        public nint* WorkerScratch;

        // Small operand: element (line, k) at Small[line·SmallLine + k·SmallDepth].
        public byte* Small;
        public nint SmallLine, SmallDepth, SmallStride;
        public DType SmallType;
        public int Lines;

        // Large operand: element (column, k) at Large[column·LargeColumn + k·LargeDepth].
        public byte* Large;
        public nint LargeColumn, LargeDepth, LargeStride;
        public DType LargeType;
        public int Columns;

        // Output element (line, column) at C[line·LineC + column·ColumnC].
        public float* C;
        public nint LineC, ColumnC, StrideC;
        public bool Accumulate;

        public int K;
        public int ColumnsPerItem, ItemsPerProduct;
        public nint SumsAt;
        public readonly bool InPlace => SmallType == DType.F32 && SmallDepth == 1;
        public delegate*<Work*, float*, nint, byte*, int, int, float*, void> Dots;
        public delegate*<float*, nint, byte*, nint, int, int, int, float*, void> Sums;
    }

    /// <summary>Whether this path takes the product.</summary>
    public static bool Takes(in GemmCall call) => Math.Min(call.M, call.N) <= Limit;

    /// <summary>Computes all products of the call.</summary>
    public static void Run(ref GemmCall call, CpuWorkers workers)
    {
        Work work = default;
        work.C = call.C;
        work.StrideC = call.StrideC;
        work.Accumulate = call.Accumulate;
        work.K = call.K;
        if (call.M <= call.N)
        {
            work.Small = call.A;
            work.SmallLine = call.RowA;
            work.SmallDepth = call.DepthA;
            work.SmallStride = call.StrideA;
            work.SmallType = DType.F32;
            work.Lines = call.M;
            work.Large = call.B;
            work.LargeColumn = call.ColumnB;
            work.LargeDepth = call.DepthB;
            work.LargeStride = call.StrideB;
            work.LargeType = call.TypeB;
            work.Columns = call.N;
            work.LineC = call.RowC;
            work.ColumnC = 1;
        }
        else
        {
            work.Small = call.B;
            work.SmallLine = call.ColumnB;
            work.SmallDepth = call.DepthB;
            work.SmallStride = call.StrideB;
            work.SmallType = call.TypeB;
            work.Lines = call.N;
            work.Large = call.A;
            work.LargeColumn = call.RowA;
            work.LargeDepth = call.DepthA;
            work.LargeStride = call.StrideA;
            work.LargeType = DType.F32;
            work.Columns = call.M;
            work.LineC = 1;
            work.ColumnC = call.RowC;
        }

        bool dots = work.LargeDepth == 1;
        switch (call.Width)
        {
            case GemmWidth.Bits512:
                SelectKernels<Width512, Vector512<float>>(ref work);
                break;
            case GemmWidth.Bits256:
                SelectKernels<Width256, Vector256<float>>(ref work);
                break;
            default:
                SelectKernels<Width128, Vector128<float>>(ref work);
                break;
        }

        // Items of about 64 KiB of the large operand, at least four per thread where there is enough.
        int threads = workers.Count;
        long wanted = Math.Max(24, 16384 / Math.Max(1, work.K));
        long balanced = (work.Columns + 4L * threads - 1) / (4L * threads);
        int perItem = dots
            ? (int)Math.Min(work.Columns, (Math.Max(24, Math.Min(balanced, 4 * wanted)) + 23) / 24 * 24)
            : (int)Math.Min(SumBlock, Math.Max(64, (balanced + 15) / 16 * 16));
        work.ColumnsPerItem = perItem;
        work.ItemsPerProduct = (work.Columns + perItem - 1) / perItem;

        double all = (double)work.Lines * work.Columns * work.K * call.Batch;
        bool serial = threads == 1 || all < SerialLimit;
        long rowsLength = work.InPlace ? 0 : ((long)work.Lines * work.K + 15) & ~15L;
        long sumsLength = dots ? 0 : (long)work.Lines * perItem;
        work.SumsAt = (nint)rowsLength;
        nint* scratch = stackalloc nint[threads];
        for (int w = 0; w < (serial ? 1 : threads); w++)
            scratch[w] = rowsLength + sumsLength > 0 ? (nint)workers.Scratch(w, (rowsLength + sumsLength) * sizeof(float)) : 0;
        work.WorkerScratch = scratch;
        CpuWorkers? pool = serial ? null : workers;
        if (call.StrideC == 0)
        {
            // One output for the whole batch: products in order, so that no two items add to the same place.
            for (int i = 0; i < call.Batch; i++)
            {
                RunItems(&work, work.ItemsPerProduct, pool);
                work.Small += work.SmallStride * work.SmallType.Size();
                work.Large += work.LargeStride * work.LargeType.Size();
            }
            return;
        }
        RunItems(&work, checked(work.ItemsPerProduct * call.Batch), pool);
    }

    private static void RunItems(Work* work, int items, CpuWorkers? pool)
    {
        if (pool is not null)
        {
            pool.Run(items, &Item, work);
            return;
        }
        for (int i = 0; i < items; i++)
            Item(work, i, 0);
    }

    private static void SelectKernels<TWidth, TVector>(ref Work work)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector>
    {
        switch (work.LargeType)
        {
            case DType.F32:
                work.Dots = &Dots<TWidth, TVector, F32Element>;
                work.Sums = &Sums<TWidth, TVector, F32Element>;
                break;
            case DType.F16:
                work.Dots = &Dots<TWidth, TVector, F16Element>;
                work.Sums = &Sums<TWidth, TVector, F16Element>;
                break;
            default:
                work.Dots = &Dots<TWidth, TVector, BF16Element>;
                work.Sums = &Sums<TWidth, TVector, BF16Element>;
                break;
        }
    }

    private static void Item(void* context, int item, int worker)
    {
        var work = (Work*)context;
        int product = item / work->ItemsPerProduct;
        int column = item % work->ItemsPerProduct * work->ColumnsPerItem;
        int columns = Math.Min(work->ColumnsPerItem, work->Columns - column);
        var scratch = (float*)work->WorkerScratch[worker];
        byte* source = work->Small + product * work->SmallStride * work->SmallType.Size();
        float* small = (float*)source;
        nint smallLine = work->SmallLine;
        if (!work->InPlace)
        {
            small = scratch;
            smallLine = work->K;
            CopyRows(work, source, scratch);
        }

        byte* large = work->Large + (product * work->LargeStride + column * work->LargeColumn) * work->LargeType.Size();
        float* c = work->C + product * work->StrideC + column * work->ColumnC;
        if (work->LargeDepth == 1)
            work->Dots(work, small, smallLine, large, columns, work->K, c);
        else
            AddUp(work, small, smallLine, large, columns, scratch + work->SumsAt, c);
    }

    private static void CopyRows(Work* work, byte* source, float* rows)
    {
        switch (work->SmallType)
        {
            case DType.F32:
                GemmPack.Rows<F32Element>(source, work->SmallLine, work->SmallDepth, work->Lines, work->K, rows);
                break;
            case DType.F16:
                GemmPack.Rows<F16Element>(source, work->SmallLine, work->SmallDepth, work->Lines, work->K, rows);
                break;
            default:
                GemmPack.Rows<BF16Element>(source, work->SmallLine, work->SmallDepth, work->Lines, work->K, rows);
                break;
        }
    }

    /// <summary>The path along lines of the large operand: sums of one depth block start at zero and are then added to C, as in Gemm.</summary>
    private static void AddUp(Work* work, float* small, nint smallLine, byte* large, int columns, float* sums, float* c)
    {
        for (int depthStart = 0; depthStart < work->K; depthStart += Gemm.DepthBlock)
        {
            int depth = Math.Min(Gemm.DepthBlock, work->K - depthStart);
            new Span<float>(sums, work->Lines * columns).Clear();
            work->Sums(small + depthStart, smallLine, large + depthStart * work->LargeDepth * work->LargeType.Size(), work->LargeDepth,
                work->Lines, columns, depth, sums);
            bool add = depthStart > 0 || work->Accumulate;
            for (int line = 0; line < work->Lines; line++)
            {
                float* from = sums + line * columns;
                float* to = c + line * work->LineC;
                nint step = work->ColumnC;
                for (int i = 0; i < columns; i++)
                    to[i * step] = add ? to[i * step] + from[i] : from[i];
            }
        }
    }

    /// <summary>sums[line, column] += Σ_k small[line, k]·large[k, column], four k at a time so that the sums are loaded once per four.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums<TWidth, TVector, TElement>(float* small, nint smallLine, byte* large, nint stride, int lines, int columns, int depth, float* sums)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        nint step = stride * TElement.Size;
        int k = 0;
        for (; k <= depth - 4; k += 4, large += 4 * step)
        {
            byte* l0 = large, l1 = l0 + step, l2 = l1 + step, l3 = l2 + step;
            for (int line = 0; line < lines; line++)
            {
                float* s = small + line * smallLine + k;
                float* to = sums + line * columns;
                TVector s0 = TWidth.Broadcast(s[0]), s1 = TWidth.Broadcast(s[1]), s2 = TWidth.Broadcast(s[2]), s3 = TWidth.Broadcast(s[3]);
                int i = 0;
                for (; i <= columns - TWidth.Lanes; i += TWidth.Lanes)
                {
                    TVector v = TWidth.Load<F32Element>((byte*)to, i);
                    v = TWidth.MultiplyAdd(s0, TWidth.Load<TElement>(l0, i), v);
                    v = TWidth.MultiplyAdd(s1, TWidth.Load<TElement>(l1, i), v);
                    v = TWidth.MultiplyAdd(s2, TWidth.Load<TElement>(l2, i), v);
                    v = TWidth.MultiplyAdd(s3, TWidth.Load<TElement>(l3, i), v);
                    TWidth.Store(v, to + i);
                }
                for (; i < columns; i++)
                {
                    float v = MathF.FusedMultiplyAdd(s[0], TElement.Get(l0, i), to[i]);
                    v = MathF.FusedMultiplyAdd(s[1], TElement.Get(l1, i), v);
                    v = MathF.FusedMultiplyAdd(s[2], TElement.Get(l2, i), v);
                    to[i] = MathF.FusedMultiplyAdd(s[3], TElement.Get(l3, i), v);
                }
            }
        }
        for (; k < depth; k++, large += step)
        {
            for (int line = 0; line < lines; line++)
            {
                float s = small[line * smallLine + k];
                float* to = sums + line * columns;
                for (int i = 0; i < columns; i++)
                    to[i] = MathF.FusedMultiplyAdd(s, TElement.Get(large, i), to[i]);
            }
        }
    }

    /// <summary>
    /// c[line, column] (+)= small[line, :]·large[column, :]. Tiles of 4 lines × 3 columns, 2 × 4 or 1 × 8 fill the
    /// registers; a tile that hangs over the edge repeats its last line or column and drops the result.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void Dots<TWidth, TVector, TElement>(Work* work, float* small, nint smallLine, byte* large, int columns, int depth, float* c)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        nint largeColumn = work->LargeColumn * TElement.Size;
        float* results = stackalloc float[12];
        int lines = work->Lines;
        int across = lines == 1 ? 8 : lines == 2 ? 4 : 3;
        for (int column = 0; column < columns; column += across)
        {
            byte* l = large + column * largeColumn;
            int valid = Math.Min(across, columns - column);
            for (int line = 0; line < lines;)
            {
                float* s = small + line * smallLine;
                int down = Math.Min(4, lines - line);
                if (lines == 1)
                {
                    Dots1x8<TWidth, TVector, TElement>(s, l, largeColumn, valid - 1, depth, results);
                }
                else if (lines == 2)
                {
                    Dots2x4<TWidth, TVector, TElement>(s, smallLine, l, largeColumn, valid - 1, depth, results);
                }
                else
                {
                    Dots4x3<TWidth, TVector, TElement>(s, smallLine, down - 1, l, largeColumn, valid - 1, depth, results);
                }
                for (int y = 0; y < down; y++)
                {
                    for (int x = 0; x < valid; x++)
                    {
                        float* to = c + (line + y) * work->LineC + (column + x) * work->ColumnC;
                        *to = work->Accumulate ? *to + results[y * across + x] : results[y * across + x];
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
