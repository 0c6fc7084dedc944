using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <summary>SIMD width of the matrix product; tests set it to run every width's kernels (in software where the hardware lacks them).</summary>
    internal GemmWidth MatMulWidth { get; init; } = Gemm.NativeWidth;

    /// <inheritdoc/>
    /// <remarks>
    /// Bits: an element of C depends on its row of op(A), its column of op(B) and K alone, not on the number of threads, its
    /// place, or how many rows and columns there are; with one exception: products with M or N of at most
    /// <see cref="GemmThin.Limit"/> whose larger operand is contiguous along K sum in another order (and by SIMD width).
    /// Sums are fp32. With a batch, StrideC = 0 is taken with Accumulate only: C += Σ of the products in order.
    /// </remarks>
    /// <exception cref="ArgumentException">A size is negative, a row stride is below the row's length, a view is too short or of a wrong type.</exception>
    public void MatMul(View c, View a, View b, in MatMulArgs args)
    {
        if (Prepare(c, a, b, args, out GemmCall call))
            Gemm.Run(call, _workers);
        GC.KeepAlive(b.Packing);
    }

    /// <inheritdoc/>
    public void MatMulTerm(View y, View x, View w, View down, View u, ReadOnlySpan<TermSegment> segments, View room, in TermArgs args)
    {
        (int rows, int outputs, int inputs, int r) = args;
        int from = rows, to = 0;
        foreach (TermSegment s in segments)
        {
            if (s.Start < to || s.Count < 1 || s.Count > rows - s.Start)
                throw new ArgumentException($"MatMulTerm: segment {s.Start} + {s.Count} of {rows} rows after row {to}: segments must be ascending, disjoint and inside");
            (from, to) = (Math.Min(from, s.Start), s.Start + s.Count);
        }
        if (room.Length < 2L * rows * r)
            throw new ArgumentException($"MatMulTerm: room of {room.Length} elements for {rows} rows of rank {r}; it needs {2L * rows * r}");
        if (_workers.Count > 1 && to > from && rows <= GemmThin.Limit && rows <= outputs && inputs > 0 && r > 0
            && Prepare(y, x, w, new MatMulArgs(rows, outputs, inputs, TransB: true), out GemmCall whole)
            && Prepare(room.Slice((long)from * r, (long)(to - from) * r), x.Slice((long)from * inputs, (long)(to - from) * inputs), down, new MatMulArgs(to - from, r, inputs, TransB: true), out GemmCall first)
            && Prepare(y, room.Slice(0, (long)rows * r), u, new MatMulArgs(rows, outputs, r, TransB: true, Accumulate: true), out GemmCall last))
        {
            Span<GemmCall> mixes = stackalloc GemmCall[GemmThin.Limit];
            int mixed = 0;
            foreach (TermSegment s in segments)
                if (!s.M.IsEmpty && Prepare(room.Slice((long)(rows + s.Start) * r, (long)s.Count * r), room.Slice((long)s.Start * r, (long)s.Count * r), s.M, new MatMulArgs(s.Count, r, r), out mixes[mixed]))
                    mixed++;
            GemmThin.RunTerm(whole, first, mixes[..mixed], last, segments, room.Floats, _workers);
            GC.KeepAlive(w.Packing);
            return;
        }
        TermArgs.OneByOne(this, y, x, w, down, u, segments, room, args);
    }

    /// <inheritdoc/>
    public void MatMulGroups(View c, View a, ReadOnlySpan<MatMulGroup> groups, in GroupArgs args)
    {
        // A product that has more rows than its share of the threads is better cut among all of them.
        if (groups.Length < 2 * _workers.Count || args.K == 0)
        {
            GroupArgs.OneByOne(this, c, a, groups, args);
            return;
        }
        Span<GemmCall> calls = stackalloc GemmCall[Gemm.Together];
        int count = 0;
        foreach (MatMulGroup g in groups)
        {
            if (g.Count == 0 || !Prepare(c.Slice((long)g.Start * args.N, (long)g.Count * args.N), a.Slice((long)g.Start * args.K, (long)g.Count * args.K), g.B,
                    new MatMulArgs(g.Count, args.N, args.K, TransB: args.TransB, Accumulate: args.Accumulate), out calls[count]))
                continue;
            if (++count < Gemm.Together)
                continue;
            Gemm.RunGroups(calls, _workers);
            count = 0;
        }
        if (count > 0)
            Gemm.RunGroups(calls[..count], _workers);
        foreach (MatMulGroup g in groups)
            GC.KeepAlive(g.B.Packing);
    }

    // False when there is nothing to compute.
    private bool Prepare(View c, View a, View b, in MatMulArgs args, out GemmCall call)
    {
        call = default;
        Check.Product(args);
        if (args.M == 0 || args.N == 0 || args.Batch == 0)
            return false;
        int rowA = args.RowStrideA, rowB = args.RowStrideB, rowC = args.RowStrideC;
        DType typeB = b.Type is DType.F16 or DType.BF16 or DType.Packed ? b.Type : DType.F32;
        RequireMatrix(a, DType.F32, "A", args.TransA ? args.K : args.M, args.TransA ? args.M : args.K, rowA, args.Batch, args.StrideA);
        RequireMatrix(b, typeB, "B", args.TransB ? args.N : args.K, args.TransB ? args.K : args.N, rowB, args.Batch, args.StrideB);
        RequireMatrix(c, DType.F32, "C", args.M, args.N, rowC, args.Batch, args.StrideC);

        call = new GemmCall
        {
            Left = new GemmOperand
            {
                Data = (byte*)a.Address,
                Type = DType.F32,
                Lines = args.M,
                Line = args.TransA ? 1 : rowA,
                Depth = args.TransA ? rowA : 1,
                Stride = (nint)args.StrideA,
            },
            Right = new GemmOperand
            {
                Data = b.Packing is null ? (byte*)b.Address : (byte*)b.Start,
                Type = typeB,
                Packed = b.Packing is null ? null : b.Packing.Source,
                Lines = args.N,
                Line = args.TransB ? rowB : 1,
                Depth = args.TransB ? 1 : rowB,
                Stride = (nint)args.StrideB,
            },
            K = args.K,
            C = (float*)c.Address,
            LeftC = rowC,
            RightC = 1,
            StrideC = (nint)args.StrideC,
            Accumulate = args.Accumulate,
            Batch = args.Batch,
            Width = MatMulWidth,
        };
        return true;
    }

    /// <inheritdoc/>
    public void AddBias(View y, View bias, int rows, int cols)
    {
        if (rows < 0 || cols < 0)
            throw new ArgumentException($"AddBias: negative size: {rows} rows, {cols} columns");
        if (rows == 0 || cols == 0)
            return;
        y.Require((long)rows * cols, DType.F32, "AddBias", "y");
        bias.Require(cols, DType.F32, "AddBias", "bias");
        var call = new BiasCall { Matrix = y.Floats, Bias = bias.Floats, Rows = rows, Columns = cols };
        call.PerItem = Math.Max(1, BiasItem / cols);
        _workers.Run((rows + call.PerItem - 1) / call.PerItem, &AddBiasRows, &call);
    }

    /// <inheritdoc/>
    /// <remarks>Each column is summed over the rows in order, in double, and added to dBias once: the same bits at any thread count.</remarks>
    public void AddBiasBackward(View dBias, View dy, int rows, int cols)
    {
        if (rows < 0 || cols < 0)
            throw new ArgumentException($"AddBiasBackward: negative size: {rows} rows, {cols} columns");
        if (dBias.IsEmpty || rows == 0 || cols == 0)
            return;
        dy.Require((long)rows * cols, DType.F32, "AddBiasBackward", "dy");
        dBias.Require(cols, DType.F32, "AddBiasBackward", "dBias");
        var call = new BiasCall { Matrix = dy.Floats, Bias = dBias.Floats, Rows = rows, Columns = cols, PerItem = BiasColumns };
        int items = (cols + BiasColumns - 1) / BiasColumns;
        if ((long)rows * cols < BiasItem)
        {
            for (int i = 0; i < items; i++)
                SumColumns(&call, i, 0);
            return;
        }
        _workers.Run(items, &SumColumns, &call);
    }

    // Elements of one item: about 10 µs of work.
    private const int BiasItem = 32768;

    // Columns summed together: 64 doubles of sums stay in L1 while whole cache lines are read.
    private const int BiasColumns = 64;

    private struct BiasCall
    {
        public float* Matrix;
        public float* Bias;
        public int Rows, Columns, PerItem;
    }

    private static void AddBiasRows(void* context, int item, int worker)
    {
        var call = (BiasCall*)context;
        int first = item * call->PerItem, last = Math.Min(call->Rows, first + call->PerItem);
        for (int r = first; r < last; r++)
        {
            float* y = call->Matrix + (long)r * call->Columns;
            int i = 0;
            for (; i <= call->Columns - 8; i += 8)
                (Vector256.Load(y + i) + Vector256.Load(call->Bias + i)).Store(y + i);
            for (; i < call->Columns; i++)
                y[i] += call->Bias[i];
        }
    }

    [SkipLocalsInit]
    private static void SumColumns(void* context, int item, int worker)
    {
        var call = (BiasCall*)context;
        int first = item * BiasColumns, count = Math.Min(BiasColumns, call->Columns - first);
        double* sums = stackalloc double[BiasColumns];
        new Span<double>(sums, count).Clear();
        float* row = call->Matrix + first;
        for (int r = 0; r < call->Rows; r++, row += call->Columns)
        {
            int i = 0;
            for (; i <= count - 4; i += 4)
            {
                (Vector256<double> low, _) = Vector256.Widen(Vector128.Load(row + i).ToVector256Unsafe());
                (Vector256.Load(sums + i) + low).Store(sums + i);
            }
            for (; i < count; i++)
                sums[i] += row[i];
        }
        for (int i = 0; i < count; i++)
            call->Bias[first + i] = (float)(call->Bias[first + i] + sums[i]);
    }

    private static void RequireMatrix(View view, DType type, string operand, int rows, int columns, int rowStride, int batch, long stride)
    {
        if (rows > 1 && rowStride < columns)
            throw new ArgumentException($"MatMul: operand {operand} [{rows}, {columns}] has row stride {rowStride}, needs at least {columns}");
        if (rows == 0 || columns == 0)
            return;
        long elements = checked((batch - 1) * stride + (rows - 1L) * rowStride + columns);
        view.Require(elements, type, "MatMul", operand);
    }
}
