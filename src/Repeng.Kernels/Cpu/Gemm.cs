using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

/// <summary>One matrix product with everything that its parallel items read; lives on the caller's stack.</summary>
internal unsafe struct GemmCall
{
    /// <summary>op(A) element (m, k) is A[m·RowA + k·DepthA], fp32.</summary>
    public byte* A;
    public nint RowA, DepthA;

    /// <summary>op(B) element (k, n) is B[k·DepthB + n·ColumnB], of type TypeB.</summary>
    public byte* B;
    public nint DepthB, ColumnB;
    public DType TypeB;

    public float* C;
    public nint RowC;
    public int M, N, K;
    public bool Accumulate;
    public int Batch;
    public nint StrideA, StrideB, StrideC;

    public GemmWidth Width;
}

/// <summary>SIMD widths that the product has kernels for.</summary>
internal enum GemmWidth
{
    Bits128 = 128,
    Bits256 = 256,
    Bits512 = 512,
}

/// <summary>
/// The blocked matrix product. op(B) is packed in blocks of DepthBlock × ColumnBlock into panels as wide as the register
/// tile, op(A) in blocks of RowBlock × DepthBlock; the tiles of GemmTiles run over them. One item of work is a
/// rectangle of C; the depth is never split between threads. An element of C is, over blocks of DepthBlock in order,
/// C = (C +) one fused multiply-add chain: its bits depend on its row of op(A), its column of op(B) and K alone,
/// not on M, N, the transposes, the number of threads or the SIMD width. Products with M or N of at most
/// GemmThin.Limit take the path of <see cref="GemmThin"/>, which has its own fixed order.
/// </summary>
internal static unsafe class Gemm
{
    // Part of what fixes the bits, so the same for every width: a 16-wide panel of B is 24 KiB, within L1.
    internal const int DepthBlock = 384;

    // A block of A: 144 × 384 floats are 216 KiB, within half of a 512 KiB L2.
    private const int RowBlock = 144;

    // A block of B that all workers share: 3072 × 384 floats are 4.5 MiB, within L3.
    private const int ColumnBlock = 3072;

    // The same when a worker packs for itself.
    private const int LocalColumnBlock = 512;

    // Below this many multiply-adds a product is cheaper on the calling thread than a wake-up of the pool.
    private const double SerialLimit = 400_000;

    private struct Blocks
    {
        public GemmCall Call;
        public int TileRows, TileColumns;
        public delegate*<float*, float*, nint, float*, nint, bool, void> Tile;
        public delegate*<byte*, nint, int, int, int, float*, void> PackA, PackB;
        public nint LinesA, LinesB;
        public nint LineStrideA, LineStrideB;

        // The current block of B and its packed panels.
        public float* PanelsB;
        public int ColumnStart, Columns, DepthStart, Depth;
        public int PanelsPerItem;

        // How C's columns are split into items: rows blocks × column groups.
        public int RowBlockSize, RowBlocks, ColumnBlockSize, PanelsPerGroup, Groups;
        public nint* WorkerScratch;
        public long* WorkerRowBlock;
    }

    /// <summary>The widest unit of this machine.</summary>
    public static GemmWidth NativeWidth =>
        Vector512.IsHardwareAccelerated ? GemmWidth.Bits512 : Vector256.IsHardwareAccelerated ? GemmWidth.Bits256 : GemmWidth.Bits128;

    /// <summary>Computes all products of the call.</summary>
    public static void Run(ref GemmCall call, CpuWorkers workers)
    {
        if (call.M == 0 || call.N == 0 || call.Batch == 0)
            return;
        if (call.K == 0)
        {
            if (!call.Accumulate)
                Clear(call);
            return;
        }
        if (GemmThin.Takes(call))
        {
            GemmThin.Run(ref call, workers);
            return;
        }

        Blocks blocks = default;
        blocks.Call = call;
        SelectKernels(ref blocks);
        double each = (double)call.M * call.N * call.K;
        int threads = workers.Count;
        nint* scratch = stackalloc nint[threads];
        blocks.WorkerScratch = scratch;
        // Items of one batch that add to the same C must not run side by side.
        bool batchItems = call.StrideC != 0 && (call.Batch >= 4 * threads || (call.Batch >= threads && each < 16 * SerialLimit));
        bool serial = threads == 1 || each * call.Batch < SerialLimit;
        if (serial || batchItems)
        {
            PrepareWhole(ref blocks, workers, serial ? 1 : threads);
            if (!serial)
            {
                workers.Run(call.Batch, &Whole, &blocks);
                return;
            }
            for (int i = 0; i < call.Batch; i++)
                Whole(&blocks, i, 0);
            return;
        }
        long* packedRows = stackalloc long[threads];
        blocks.WorkerRowBlock = packedRows;
        PrepareShared(ref blocks, workers);
        for (int i = 0; i < call.Batch; i++)
        {
            Shared(&blocks, workers);
            blocks.Call.A += call.StrideA * sizeof(float);
            blocks.Call.B += call.StrideB * call.TypeB.Size();
            blocks.Call.C += call.StrideC;
        }
    }

    private static void Clear(in GemmCall call)
    {
        for (int i = 0; i < call.Batch; i++)
            for (int m = 0; m < call.M; m++)
                new Span<float>(call.C + i * call.StrideC + m * call.RowC, call.N).Clear();
    }

    private static void SelectKernels(ref Blocks blocks)
    {
        ref GemmCall call = ref blocks.Call;
        switch (call.Width)
        {
            case GemmWidth.Bits512:
                (blocks.TileRows, blocks.TileColumns) = (12, 32);
                blocks.Tile = &GemmTiles.Tile12x32;
                break;
            case GemmWidth.Bits256:
                (blocks.TileRows, blocks.TileColumns) = (6, 16);
                blocks.Tile = &GemmTiles.Tile6x16;
                break;
            default:
                (blocks.TileRows, blocks.TileColumns) = (8, 8);
                blocks.Tile = &GemmTiles.Tile8x8;
                break;
        }

        bool acrossA = call.DepthA == 1, acrossB = call.DepthB == 1;
        blocks.PackA = acrossA ? &GemmPack.Across<F32Element> : &GemmPack.Along<F32Element>;
        blocks.PackB = call.TypeB switch
        {
            DType.F32 => acrossB ? &GemmPack.Across<F32Element> : &GemmPack.Along<F32Element>,
            DType.F16 => acrossB ? &GemmPack.Across<F16Element> : &GemmPack.Along<F16Element>,
            _ => acrossB ? &GemmPack.Across<BF16Element> : &GemmPack.Along<BF16Element>,
        };
        blocks.LineStrideA = acrossA ? call.RowA : call.DepthA;
        blocks.LineStrideB = acrossB ? call.ColumnB : call.DepthB;
    }

    private static void PrepareWhole(ref Blocks blocks, CpuWorkers workers, int threads)
    {
        ref GemmCall call = ref blocks.Call;
        int depthMost = Math.Min(call.K, DepthBlock);
        blocks.ColumnBlockSize = RoundUp(Math.Min(call.N, LocalColumnBlock), blocks.TileColumns);
        blocks.RowBlockSize = RoundUp(Math.Min(call.M, RowBlock), blocks.TileRows);
        for (int w = 0; w < threads; w++)
            blocks.WorkerScratch[w] = (nint)workers.Scratch(w, ((long)blocks.ColumnBlockSize + blocks.RowBlockSize) * depthMost * sizeof(float));
    }

    /// <summary>One product of the batch on one worker, which packs both operands into its own scratch.</summary>
    private static void Whole(void* context, int batch, int worker)
    {
        var blocks = (Blocks*)context;
        ref GemmCall call = ref blocks->Call;
        int columnMost = blocks->ColumnBlockSize, rowMost = blocks->RowBlockSize;
        var packedB = (float*)blocks->WorkerScratch[worker];
        float* packedA = packedB + (long)columnMost * Math.Min(call.K, DepthBlock);

        for (int column = 0; column < call.N; column += columnMost)
        {
            int columns = Math.Min(columnMost, call.N - column);
            for (int depthStart = 0; depthStart < call.K; depthStart += DepthBlock)
            {
                int depth = Math.Min(DepthBlock, call.K - depthStart);
                PackB(blocks, batch, column, columns, depthStart, depth, packedB);
                for (int row = 0; row < call.M; row += rowMost)
                {
                    int rows = Math.Min(rowMost, call.M - row);
                    PackA(blocks, batch, row, rows, depthStart, depth, packedA);
                    Multiply(blocks, packedA, packedB, rows, columns, depth,
                        call.C + batch * call.StrideC + row * call.RowC + column, depthStart > 0 || call.Accumulate);
                }
            }
        }
    }

    private static void PrepareShared(ref Blocks blocks, CpuWorkers workers)
    {
        ref GemmCall call = ref blocks.Call;
        int rowBlocks = (call.M + RowBlock - 1) / RowBlock;
        blocks.RowBlockSize = RoundUp((call.M + rowBlocks - 1) / rowBlocks, blocks.TileRows);
        blocks.RowBlocks = (call.M + blocks.RowBlockSize - 1) / blocks.RowBlockSize;
        int columnBlocks = (call.N + ColumnBlock - 1) / ColumnBlock;
        blocks.ColumnBlockSize = RoundUp((call.N + columnBlocks - 1) / columnBlocks, blocks.TileColumns);
        int depthMost = Math.Min(call.K, DepthBlock);

        long ownBytes = ((long)blocks.RowBlockSize * depthMost * sizeof(float) + 63) & ~63L;
        for (int w = 1; w < workers.Count; w++)
            blocks.WorkerScratch[w] = (nint)workers.Scratch(w, ownBytes);
        // The panels of B that all share lie behind the first worker's own part.
        blocks.WorkerScratch[0] = (nint)workers.Scratch(0, ownBytes + (long)blocks.ColumnBlockSize * depthMost * sizeof(float));
        blocks.PanelsB = (float*)(blocks.WorkerScratch[0] + (nint)ownBytes);
    }

    /// <summary>
    /// One product on all workers: per block of B, they pack it together, then take rectangles of C. A worker packs a
    /// row block of A when it first meets it; items are ordered by row block, so that this happens rarely.
    /// </summary>
    private static void Shared(Blocks* blocks, CpuWorkers workers)
    {
        ref GemmCall call = ref blocks->Call;
        int threads = workers.Count;
        for (int column = 0; column < call.N; column += blocks->ColumnBlockSize)
        {
            for (int depthStart = 0; depthStart < call.K; depthStart += DepthBlock)
            {
                blocks->ColumnStart = column;
                blocks->Columns = Math.Min(blocks->ColumnBlockSize, call.N - column);
                blocks->DepthStart = depthStart;
                blocks->Depth = Math.Min(DepthBlock, call.K - depthStart);
                int panels = (blocks->Columns + blocks->TileColumns - 1) / blocks->TileColumns;
                blocks->PanelsPerItem = Math.Max(1, Math.Min(panels / (4 * threads), 128 / blocks->TileColumns));
                workers.Run((panels + blocks->PanelsPerItem - 1) / blocks->PanelsPerItem, &PackItem, blocks);

                int groups = Math.Min(panels, Math.Max(1, (4 * threads + blocks->RowBlocks - 1) / blocks->RowBlocks));
                blocks->PanelsPerGroup = (panels + groups - 1) / groups;
                blocks->Groups = (panels + blocks->PanelsPerGroup - 1) / blocks->PanelsPerGroup;
                for (int w = 0; w < threads; w++)
                    blocks->WorkerRowBlock[w] = -1;
                workers.Run(blocks->RowBlocks * blocks->Groups, &MultiplyItem, blocks);
            }
        }
    }

    private static void PackItem(void* context, int item, int worker)
    {
        var blocks = (Blocks*)context;
        int start = item * blocks->PanelsPerItem * blocks->TileColumns;
        int columns = Math.Min(blocks->PanelsPerItem * blocks->TileColumns, blocks->Columns - start);
        PackB(blocks, 0, blocks->ColumnStart + start, columns, blocks->DepthStart, blocks->Depth, blocks->PanelsB + (long)start * blocks->Depth);
    }

    private static void MultiplyItem(void* context, int item, int worker)
    {
        var blocks = (Blocks*)context;
        ref GemmCall call = ref blocks->Call;
        int rowBlock = item / blocks->Groups, group = item % blocks->Groups;
        int row = rowBlock * blocks->RowBlockSize, rows = Math.Min(blocks->RowBlockSize, call.M - row);
        int column = group * blocks->PanelsPerGroup * blocks->TileColumns;
        int columns = Math.Min(blocks->PanelsPerGroup * blocks->TileColumns, blocks->Columns - column);
        var packedA = (float*)blocks->WorkerScratch[worker];
        if (blocks->WorkerRowBlock[worker] != rowBlock)
        {
            PackA(blocks, 0, row, rows, blocks->DepthStart, blocks->Depth, packedA);
            blocks->WorkerRowBlock[worker] = rowBlock;
        }
        Multiply(blocks, packedA, blocks->PanelsB + (long)column * blocks->Depth, rows, columns, blocks->Depth,
            call.C + row * call.RowC + blocks->ColumnStart + column, blocks->DepthStart > 0 || call.Accumulate);
    }

    private static void PackA(Blocks* blocks, int batch, int row, int rows, int depthStart, int depth, float* panels)
    {
        ref GemmCall call = ref blocks->Call;
        byte* source = call.A + (batch * call.StrideA + row * call.RowA + depthStart * call.DepthA) * sizeof(float);
        nint step = blocks->TileRows * call.RowA * sizeof(float);
        for (int r = 0; r < rows; r += blocks->TileRows, source += step, panels += (long)blocks->TileRows * depth)
            blocks->PackA(source, blocks->LineStrideA, Math.Min(blocks->TileRows, rows - r), blocks->TileRows, depth, panels);
    }

    private static void PackB(Blocks* blocks, int batch, int column, int columns, int depthStart, int depth, float* panels)
    {
        ref GemmCall call = ref blocks->Call;
        int size = call.TypeB.Size();
        byte* source = call.B + (batch * call.StrideB + depthStart * call.DepthB + column * call.ColumnB) * size;
        nint step = blocks->TileColumns * call.ColumnB * size;
        for (int c = 0; c < columns; c += blocks->TileColumns, source += step, panels += (long)blocks->TileColumns * depth)
            blocks->PackB(source, blocks->LineStrideB, Math.Min(blocks->TileColumns, columns - c), blocks->TileColumns, depth, panels);
    }

    /// <summary>Runs the register tile over packed panels; a tile that hangs over C's edge goes through a full-size copy.</summary>
    [SkipLocalsInit]
    private static void Multiply(Blocks* blocks, float* panelsA, float* panelsB, int rows, int columns, int depth, float* c, bool add)
    {
        int tileRows = blocks->TileRows, tileColumns = blocks->TileColumns;
        nint rowC = blocks->Call.RowC;
        float* edge = stackalloc float[12 * 32];
        for (int j = 0; j < columns; j += tileColumns, panelsB += (long)tileColumns * depth)
        {
            int across = Math.Min(tileColumns, columns - j);
            float* a = panelsA;
            for (int i = 0; i < rows; i += tileRows, a += (long)tileRows * depth)
            {
                int down = Math.Min(tileRows, rows - i);
                float* to = c + i * rowC + j;
                if (across == tileColumns && down == tileRows)
                {
                    blocks->Tile(a, panelsB, depth, to, rowC, add);
                    continue;
                }
                blocks->Tile(a, panelsB, depth, edge, tileColumns, false);
                for (int y = 0; y < down; y++)
                    for (int x = 0; x < across; x++)
                        to[y * rowC + x] = add ? to[y * rowC + x] + edge[y * tileColumns + x] : edge[y * tileColumns + x];
            }
        }
    }

    private static int RoundUp(int value, int multiple) => (value + multiple - 1) / multiple * multiple;
}
