using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Products where C has few rows (decoding) or few columns: bound by reading the large operand, which is therefore read
/// once, in place, without packing. Where it is contiguous along the depth, and the small operand has up to Limit lines, an
/// element of C is a dot product: one accumulator of the SIMD width over k in order, its lanes summed in fixed order, the
/// rest of K last. Otherwise, with up to SumLimit lines, multiples of its lines are added up, in exactly the order of
/// <see cref="Gemm"/>. Either way an element's bits do not depend on how many lines there are, on its place or on the
/// number of threads.
/// </summary>
internal static unsafe partial class GemmThin
{
    /// <summary>Most lines of the small operand.</summary>
    internal const int Limit = 8;

    // Adding up lines gives the blocked path's bits, so it may go on as long as it is faster.
    private const int SumLimit = 16;

    // Partial sums of one item on the path that adds up lines: half of a 32 KiB L1.
    private const int SumFloats = 4096;

    // Below this many multiply-adds a product is cheaper on the calling thread than a wake-up of the pool.
    private const double SerialLimit = 20_000;

    internal struct Work
    {
        // Left is the small operand, Right the large one.
        public GemmCall Call;
        public nint* WorkerScratch;
        public nint SumsAt;
        public long ScratchFloats;
        public int PerItem, ItemsPerProduct;
        public delegate*<Work*, float*, nint, byte*, int, int, float*, void> Dots;
        public delegate*<float*, nint, byte*, nint, int, int, int, float*, void> Sums;

        public readonly bool SmallInPlace => Call.Left.Type == DType.F32 && Call.Left.Depth == 1;
    }

    /// <summary>Whether this path takes the product.</summary>
    public static bool Takes(in GemmCall call) =>
        Math.Min(call.Left.Lines, call.Right.Lines) <= Limit || (call.Left.Lines <= Math.Min(SumLimit, call.Right.Lines) && call.Right.Depth != 1);

    /// <summary>Computes all products of the call.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Run(GemmCall call, CpuWorkers workers)
    {
        Work work = Prepare(ref call, workers.Count);
        int threads = workers.Count;
        bool serial = IsSerial(call, threads);
        nint* scratch = stackalloc nint[threads];
        for (int w = 0; w < (serial ? 1 : threads) && work.ScratchFloats > 0; w++)
            scratch[w] = (nint)workers.Scratch(w, work.ScratchFloats * sizeof(float));
        work.WorkerScratch = scratch;
        CpuWorkers? pool = serial ? null : workers;
        if (call.StrideC != 0 || call.Batch == 1)
        {
            RunItems(&work, checked(work.ItemsPerProduct * call.Batch), pool);
            return;
        }
        // One output for the whole batch: products in order, so that no two items add to the same place.
        for (int i = 0; i < call.Batch; i++)
        {
            RunItems(&work, work.ItemsPerProduct, pool);
            work.Call.Left.Advance(1);
            work.Call.Right.Advance(1);
        }
    }

    private static bool IsSerial(in GemmCall call, int threads) =>
        threads == 1 || (double)call.Left.Lines * call.Right.Lines * call.K * call.Batch < SerialLimit;

    // Chooses kernels and items; the call has its smaller operand on the left afterwards.
    internal static Work Prepare(ref GemmCall call, int threads)
    {
        if (call.Left.Lines > call.Right.Lines)
            call.Swap();
        Work work = default;
        work.Call = call;
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

        int lines = call.Left.Lines, columns = call.Right.Lines;
        bool dots = call.Right.Depth == 1;
        // Items of up to 256 KiB of the large operand, at least four per thread; the sums read long runs instead.
        long most = dots ? Math.Max(24, 65536 / call.K) : call.Right.Packed != null ? PackedSumColumns : SumFloats / lines;
        long balanced = IsSerial(call, threads) ? columns : (columns - 1L) / (dots ? 4L * threads : threads) + 1;
        int step = call.Right.Packed != null ? dots ? PackedColumns : PackedSumColumns : lines == 1 ? 8 : 24;
        if (dots && balanced < columns)
        {
            // As many items as a multiple of the threads, so that none waits for another's last one.
            long items = (columns - 1) / Math.Min(balanced, most) + 1;
            balanced = (columns - 1) / ((items + threads - 1) / threads * threads) + 1;
        }
        work.PerItem = (int)Math.Min(columns, (Math.Min(balanced, most) + step - 1) / step * step);
        work.ItemsPerProduct = (columns - 1) / work.PerItem + 1;

        long copyFloats = work.SmallInPlace ? 0 : ((long)lines * call.K + 15) & ~15L;
        work.ScratchFloats = copyFloats + (dots ? 0 : (long)lines * work.PerItem);
        work.SumsAt = (nint)copyFloats;
        return work;
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
        switch (work.Call.Right.Type)
        {
            case DType.Packed:
                work.Dots = CodeKernel(work.Call);
                if (work.Dots == null)
                    work.Dots = &PackedDots<TWidth, TVector>;
                work.Sums = &Sums<TWidth, TVector, F32Element>;
                break;
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

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Item(void* context, int item, int worker)
    {
        var work = (Work*)context;
        ref GemmCall call = ref work->Call;
        int product = item / work->ItemsPerProduct, column = item % work->ItemsPerProduct * work->PerItem;
        int columns = Math.Min(work->PerItem, call.Right.Lines - column);
        GemmOperand left = call.Left, right = call.Right;
        left.Advance(product);
        right.Advance(product);
        var scratch = (float*)work->WorkerScratch[worker];
        var small = (float*)left.Data;
        nint smallLine = left.Line;
        if (!work->SmallInPlace)
        {
            Gather(left, call.K, scratch);
            small = scratch;
            smallLine = call.K;
        }
        float* c = call.C + product * call.StrideC + column * call.RightC;
        if (right.Depth == 1)
            work->Dots(work, small, smallLine, right.At(column, 0), columns, call.K, c);
        else
            AddUp(work, small, smallLine, right.At(column, 0), columns, scratch + work->SumsAt, c);
    }

    private static void Gather(in GemmOperand small, int depth, float* rows)
    {
        switch (small.Type)
        {
            case DType.Packed:
                GemmPackedPack.Gather(small, depth, rows);
                break;
            case DType.F32:
                GemmPack.Gather<F32Element>(small.Data, small.Line, small.Depth, small.Lines, depth, rows);
                break;
            case DType.F16:
                GemmPack.Gather<F16Element>(small.Data, small.Line, small.Depth, small.Lines, depth, rows);
                break;
            default:
                GemmPack.Gather<BF16Element>(small.Data, small.Line, small.Depth, small.Lines, depth, rows);
                break;
        }
    }

    /// <summary>The path along lines of the large operand: sums of one depth block start at zero and are then added to C, as in Gemm.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddUp(Work* work, float* small, nint smallLine, byte* large, int columns, float* sums, float* c)
    {
        ref GemmCall call = ref work->Call;
        int depthBlock = Gemm.DepthBlock(call.K), lines = call.Left.Lines;
        for (int k = 0; k < call.K; k += depthBlock)
        {
            int depth = Math.Min(depthBlock, call.K - k);
            new Span<float>(sums, lines * columns).Clear();
            if (call.Right.Packed != null)
                PackedSums(work, small + k, smallLine, (nint)large + k * call.Right.Depth, columns, depth, sums);
            else
                work->Sums(small + k, smallLine, large + k * call.Right.Depth * call.Right.Type.Size(), call.Right.Depth, lines, columns, depth, sums);
            bool add = k > 0 || call.Accumulate;
            for (int line = 0; line < lines; line++)
            {
                float* from = sums + line * columns;
                float* to = c + line * call.LeftC;
                nint step = call.RightC;
                for (int i = 0; i < columns; i++)
                    to[i * step] = add ? to[i * step] + from[i] : from[i];
            }
        }
    }

    /// <summary>
    /// sums[line, column] += Σ_k small[line, k]·large[k, column]. Two lines take four k at a time, one line eight, so that
    /// the sums are loaded and stored once per four or eight multiply-adds.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums<TWidth, TVector, TElement>(float* small, nint smallLine, byte* large, nint stride, int lines, int columns, int depth, float* sums)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        nint step = stride * TElement.Size;
        int k = 0;
        for (; k <= depth - 8; k += 8, large += 8 * step)
        {
            int line = 0;
            for (; line <= lines - 2; line += 2)
            {
                float* s = small + line * smallLine + k;
                float* to = sums + line * columns;
                Sums2x4<TWidth, TVector, TElement>(s, smallLine, large, step, columns, to);
                Sums2x4<TWidth, TVector, TElement>(s + 4, smallLine, large + 4 * step, step, columns, to);
            }
            if (line < lines)
                Sums1x8<TWidth, TVector, TElement>(small + line * smallLine + k, large, step, columns, sums + line * columns);
        }
        for (; k < depth; k++, large += step)
            for (int line = 0; line < lines; line++)
                Sums1x1<TWidth, TVector, TElement>(small[line * smallLine + k], large, columns, sums + line * columns);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums2x4<TWidth, TVector, TElement>(float* s, nint smallLine, byte* l0, nint step, int columns, float* to)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        byte* l1 = l0 + step, l2 = l1 + step, l3 = l2 + step;
        float* t = s + smallLine;
        TVector s0 = TWidth.Broadcast(s[0]), s1 = TWidth.Broadcast(s[1]), s2 = TWidth.Broadcast(s[2]), s3 = TWidth.Broadcast(s[3]);
        TVector t0 = TWidth.Broadcast(t[0]), t1 = TWidth.Broadcast(t[1]), t2 = TWidth.Broadcast(t[2]), t3 = TWidth.Broadcast(t[3]);
        nint i = 0;
        for (; i <= columns - TWidth.Lanes; i += TWidth.Lanes)
        {
            TVector v = TWidth.Load<F32Element>((byte*)to, i), w = TWidth.Load<F32Element>((byte*)(to + columns), i);
            TVector x = TWidth.Load<TElement>(l0, i);
            v = TWidth.MultiplyAdd(s0, x, v);
            w = TWidth.MultiplyAdd(t0, x, w);
            x = TWidth.Load<TElement>(l1, i);
            v = TWidth.MultiplyAdd(s1, x, v);
            w = TWidth.MultiplyAdd(t1, x, w);
            x = TWidth.Load<TElement>(l2, i);
            v = TWidth.MultiplyAdd(s2, x, v);
            w = TWidth.MultiplyAdd(t2, x, w);
            x = TWidth.Load<TElement>(l3, i);
            v = TWidth.MultiplyAdd(s3, x, v);
            w = TWidth.MultiplyAdd(t3, x, w);
            TWidth.Store(v, to + i);
            TWidth.Store(w, to + columns + i);
        }
        for (; i < columns; i++)
        {
            float x0 = TElement.Get(l0, i), x1 = TElement.Get(l1, i), x2 = TElement.Get(l2, i), x3 = TElement.Get(l3, i);
            to[i] = Chain(s, x0, x1, x2, x3, to[i]);
            to[columns + i] = Chain(t, x0, x1, x2, x3, to[columns + i]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums1x8<TWidth, TVector, TElement>(float* s, byte* l0, nint step, int columns, float* to)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        byte* l1 = l0 + step, l2 = l1 + step, l3 = l2 + step, l4 = l3 + step, l5 = l4 + step, l6 = l5 + step, l7 = l6 + step;
        TVector s0 = TWidth.Broadcast(s[0]), s1 = TWidth.Broadcast(s[1]), s2 = TWidth.Broadcast(s[2]), s3 = TWidth.Broadcast(s[3]);
        TVector s4 = TWidth.Broadcast(s[4]), s5 = TWidth.Broadcast(s[5]), s6 = TWidth.Broadcast(s[6]), s7 = TWidth.Broadcast(s[7]);
        nint i = 0;
        for (; i <= columns - TWidth.Lanes; i += TWidth.Lanes)
        {
            TVector v = TWidth.Load<F32Element>((byte*)to, i);
            v = TWidth.MultiplyAdd(s0, TWidth.Load<TElement>(l0, i), v);
            v = TWidth.MultiplyAdd(s1, TWidth.Load<TElement>(l1, i), v);
            v = TWidth.MultiplyAdd(s2, TWidth.Load<TElement>(l2, i), v);
            v = TWidth.MultiplyAdd(s3, TWidth.Load<TElement>(l3, i), v);
            v = TWidth.MultiplyAdd(s4, TWidth.Load<TElement>(l4, i), v);
            v = TWidth.MultiplyAdd(s5, TWidth.Load<TElement>(l5, i), v);
            v = TWidth.MultiplyAdd(s6, TWidth.Load<TElement>(l6, i), v);
            v = TWidth.MultiplyAdd(s7, TWidth.Load<TElement>(l7, i), v);
            TWidth.Store(v, to + i);
        }
        for (; i < columns; i++)
        {
            float v = Chain(s, TElement.Get(l0, i), TElement.Get(l1, i), TElement.Get(l2, i), TElement.Get(l3, i), to[i]);
            to[i] = Chain(s + 4, TElement.Get(l4, i), TElement.Get(l5, i), TElement.Get(l6, i), TElement.Get(l7, i), v);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums1x1<TWidth, TVector, TElement>(float s, byte* l, int columns, float* to)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        TVector x = TWidth.Broadcast(s);
        nint i = 0;
        for (; i <= columns - TWidth.Lanes; i += TWidth.Lanes)
            TWidth.Store(TWidth.MultiplyAdd(x, TWidth.Load<TElement>(l, i), TWidth.Load<F32Element>((byte*)to, i)), to + i);
        for (; i < columns; i++)
            to[i] = MathF.FusedMultiplyAdd(s, TElement.Get(l, i), to[i]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Chain(float* s, float x0, float x1, float x2, float x3, float sum)
    {
        sum = MathF.FusedMultiplyAdd(s[0], x0, sum);
        sum = MathF.FusedMultiplyAdd(s[1], x1, sum);
        sum = MathF.FusedMultiplyAdd(s[2], x2, sum);
        return MathF.FusedMultiplyAdd(s[3], x3, sum);
    }
}
