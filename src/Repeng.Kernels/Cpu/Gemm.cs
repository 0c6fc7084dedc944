using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// The blocked matrix product. The right operand is packed in blocks into panels as wide as the register tile; the left
/// one is broadcast from its rows in place, or from packed panels where it is contiguous the other way; the tiles of
/// GemmTiles and GemmRowTiles run over them. One item of work is a rectangle of C; the depth is never split between
/// threads. An element of C is, over blocks of the depth in order, C = (C +) one chain of fused multiply-adds: its bits
/// depend on its row of op(A), its column of op(B) and K alone, not on M, N, the transposes, the number of threads or the
/// SIMD width. Products with M or N of at most GemmThin.Limit take the path of <see cref="GemmThin"/>, which has its own
/// fixed order.
/// </summary>
internal static unsafe partial class Gemm
{
    // Most of the depth in one block: a 16-wide panel is L1's size then, but is read in order, so the hardware keeps up.
    private const int DepthLimit = 640;

    // Lines of a left block: 144 × 640 floats are 360 KiB, within a 512 KiB L2.
    private const int LeftBlock = 144;

    // Lines of a right block that all workers share: 3072 × 640 floats are 7.5 MiB, within L3.
    private const int RightBlock = 3072;

    // The same when a worker packs for itself. With the left operand in place, the panels stay in L2 (128 × 640 floats are
    // 320 KiB) while tiles of left lines pass; a packed left block stays there instead and the panels pass.
    private const int OwnRightBlockInPlace = 128, OwnRightBlockPacked = 512;

    // Panels of A that stay in L2 when B is the left operand: all of 512 KiB, half of a larger one.
    private const int SwappedPanelBytes = 512 << 10;

    // Below this many multiply-adds a product is cheaper on the calling thread than a wake-up of the pool.
    private const double SerialLimit = 400_000;

    private struct Blocks
    {
        public GemmCall Call;
        public int TileLeft, TileRight;
        public delegate*<float*, nint, int, float*, nint, float*, nint, bool, void> Tile;
        public delegate*<byte*, nint, int, int, int, float*, void> PackLeft, PackRight;

        // The left operand is used where it lies (InPlace), copied in rows (Rows), or packed in panels.
        public bool InPlace, Rows;
        public int DepthBlock, LeftBlock, LeftBlocks, RightBlock, RightBlocks;
        public nint* WorkerScratch;

        // The current right block, packed by all workers, and how it is split into items.
        public float* Panels;
        public int RightStart, Rights, DepthStart, Depth;
        public int PanelsPerPack, PanelsPerGroup, Groups;
        public long* WorkerLeftBlock;
    }

    /// <summary>The widest unit of this machine.</summary>
    public static GemmWidth NativeWidth =>
        Vector512.IsHardwareAccelerated ? GemmWidth.Bits512 : Vector256.IsHardwareAccelerated ? GemmWidth.Bits256 : GemmWidth.Bits128;

    /// <summary>Depth of one block: K in equal parts. It is part of what fixes the bits, so it depends on nothing but K.</summary>
    internal static int DepthBlock(int k)
    {
        int blocks = Math.Max(1, (k + DepthLimit - 1) / DepthLimit);
        return Math.Min(k, RoundUp((k + blocks - 1) / blocks, 8));
    }

    /// <summary>Computes all products of the call.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Run(GemmCall call, CpuWorkers workers)
    {
        if (call.Left.Lines == 0 || call.Right.Lines == 0 || call.Batch == 0)
            return;
        if (call.K == 0)
        {
            if (!call.Accumulate)
                Clear(call);
            return;
        }
        if (GemmThin.Takes(call))
        {
            GemmThin.Run(call, workers);
            return;
        }

        Blocks blocks = Plan(ref call);
        double each = (double)call.Left.Lines * call.Right.Lines * call.K;
        int threads = workers.Count;
        nint* scratch = stackalloc nint[threads];
        blocks.WorkerScratch = scratch;
        bool serial = threads == 1 || each * call.Batch < SerialLimit;
        PrepareOwn(ref blocks, serial ? 1 : threads);
        // Products of one batch that add to the same C must not run side by side.
        int ownItems = blocks.RightBlocks * (call.StrideC != 0 || call.Batch == 1 ? call.Batch : 1);
        bool batchItems = call.Batch >= threads && each < 16 * SerialLimit;
        if (serial || (ownItems >= 3 * threads && (blocks.InPlace || call.Batch > 1)) || (batchItems && ownItems >= threads))
        {
            RunOwn(&blocks, workers, serial ? 1 : threads);
            return;
        }
        long* packed = stackalloc long[threads];
        blocks.WorkerLeftBlock = packed;
        PrepareShared(ref blocks, workers);
        for (int i = 0; i < call.Batch; i++)
        {
            Shared(&blocks, workers);
            blocks.Call.Left.Advance(1);
            blocks.Call.Right.Advance(1);
            blocks.Call.C += call.StrideC;
        }
    }

    // Operands in their roles, tile and kernels of a product.
    private static Blocks Plan(ref GemmCall call)
    {
        Blocks blocks = default;
        (blocks.TileLeft, blocks.TileRight) = call.Width switch
        {
            GemmWidth.Bits512 => (12, 32),
            GemmWidth.Bits256 => (6, 16),
            _ => (8, 8),
        };
        if (IsBetterSwapped(call, blocks.TileLeft, blocks.TileRight))
            call.Swap();
        blocks.Call = call;
        blocks.DepthBlock = DepthBlock(call.K);
        SelectKernels(ref blocks);
        return blocks;
    }

    /// <summary>
    /// Whether B should be the left operand. It saves transposing a weight [N, K], when few rows of A share that cost, for
    /// transposing A and storing C across, and rounds M to the tile's other side. Costs are cycles by measurement.
    /// </summary>
    private static bool IsBetterSwapped(in GemmCall call, int tileLeft, int tileRight)
    {
        if (call.Right.Depth != 1)
            return false;
        const double pack = 0.7, store = 0.6, fromL3 = 1.25;
        double m = call.Left.Lines, n = call.Right.Lines, k = call.K;
        double perCycle = tileRight;
        double straight = RoundUp(call.Left.Lines, tileLeft) * n * k / perCycle + pack * n * k;
        // All panels of A pass for every tile of B's lines: beyond L2 they cost a fifth of the rate.
        bool inL2 = m * DepthBlock(call.K) * sizeof(float) <= SwappedPanelBytes;
        double swapped = (inL2 ? 1 : fromL3) * RoundUp(call.Left.Lines, tileRight) * n * k / perCycle + pack * m * k + store * m * n * Math.Ceiling(k / DepthLimit);
        return swapped < straight;
    }

    private static void Clear(in GemmCall call)
    {
        for (int i = 0; i < call.Batch; i++)
            for (int m = 0; m < call.Left.Lines; m++)
                for (int n = 0; n < call.Right.Lines; n++)
                    call.C[i * call.StrideC + m * call.LeftC + n * call.RightC] = 0;
    }

    private static void SelectKernels(ref Blocks blocks)
    {
        ref GemmCall call = ref blocks.Call;
        bool rows = call.Left.Depth == 1;
        // Rows a multiple of 4 KiB apart fall into few sets of the caches and evict each other.
        blocks.InPlace = rows && call.Left.Type == DType.F32 && (call.Left.Line * sizeof(float) & 4095) != 0;
        blocks.Rows = rows && !blocks.InPlace;
        switch (call.Width)
        {
            case GemmWidth.Bits512:
                blocks.Tile = rows ? &GemmRowTiles.Tile12x32 : &GemmTiles.Tile12x32;
                break;
            case GemmWidth.Bits256:
                blocks.Tile = rows ? &GemmRowTiles.Tile6x16 : &GemmTiles.Tile6x16;
                break;
            default:
                blocks.Tile = rows ? &GemmRowTiles.Tile8x8 : &GemmTiles.Tile8x8;
                break;
        }
        blocks.PackLeft = Packer(call.Left, rows);
        blocks.PackRight = Packer(call.Right, false);
    }

    private static delegate*<byte*, nint, int, int, int, float*, void> Packer(in GemmOperand operand, bool rows) => operand.Type switch
    {
        DType.F32 => rows ? &GemmPack.Rows<F32Element> : operand.Depth == 1 ? &GemmPack.Across<F32Element> : &GemmPack.Along<F32Element>,
        DType.F16 => rows ? &GemmPack.Rows<F16Element> : operand.Depth == 1 ? &GemmPack.Across<F16Element> : &GemmPack.Along<F16Element>,
        // See Pack.
        DType.Packed => null,
        _ => rows ? &GemmPack.Rows<BF16Element> : operand.Depth == 1 ? &GemmPack.Across<BF16Element> : &GemmPack.Along<BF16Element>,
    };

    private static void PrepareOwn(ref Blocks blocks, int threads)
    {
        int rights = blocks.Call.Right.Lines;
        int most = blocks.InPlace ? OwnRightBlockInPlace : OwnRightBlockPacked;
        int count = (rights + most - 1) / most;
        // Equal blocks, and as many as the threads can share evenly.
        if (blocks.InPlace && blocks.Call.Batch == 1 && threads > 1 && count < 4 * threads)
            count = Math.Max(count, Math.Min(4 * threads, rights / (2 * blocks.TileRight)));
        blocks.RightBlock = RoundUp((rights + count - 1) / count, blocks.TileRight);
        // A block of codes that two items share would be decoded twice.
        if (blocks.Call.Right is { Packed: not null, Depth: not 1 })
            blocks.RightBlock = RoundUp(blocks.RightBlock, Math.Max(blocks.TileRight, blocks.Call.Right.Packed->BlockElements));
        blocks.RightBlocks = (rights + blocks.RightBlock - 1) / blocks.RightBlock;
        blocks.LeftBlock = RoundUp(Math.Min(blocks.Call.Left.Lines, LeftBlock), blocks.TileLeft);
    }

    /// <summary>All products, each right block of each product an item of one worker, which packs both operands into its own scratch.</summary>
    private static void RunOwn(Blocks* blocks, CpuWorkers workers, int threads)
    {
        ref GemmCall call = ref blocks->Call;
        long floats = OwnFloats(*blocks);
        for (int w = 0; w < threads; w++)
            blocks->WorkerScratch[w] = (nint)workers.Scratch(w, floats * sizeof(float));
        bool apart = call.StrideC != 0 || call.Batch == 1;
        int runs = apart ? 1 : call.Batch, items = checked(blocks->RightBlocks * (apart ? call.Batch : 1));
        for (int run = 0; run < runs; run++)
        {
            if (threads > 1)
            {
                workers.Run(items, &OwnItem, blocks);
            }
            else
            {
                for (int i = 0; i < items; i++)
                    OwnItem(blocks, i, 0);
            }
            call.Left.Advance(1);
            call.Right.Advance(1);
        }
    }

    // What a worker packs into when it packs for itself.
    private static long OwnFloats(in Blocks blocks) => ((long)blocks.RightBlock + (blocks.InPlace ? 0 : blocks.LeftBlock)) * blocks.DepthBlock;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void OwnItem(void* context, int item, int worker)
    {
        var blocks = (Blocks*)context;
        ref GemmCall call = ref blocks->Call;
        int batch = item / blocks->RightBlocks, r = item % blocks->RightBlocks * blocks->RightBlock;
        int rights = Math.Min(blocks->RightBlock, call.Right.Lines - r);
        GemmOperand left = call.Left, right = call.Right;
        left.Advance(batch);
        right.Advance(batch);
        float* c = call.C + batch * call.StrideC + r * call.RightC;
        var panels = (float*)blocks->WorkerScratch[worker];
        float* ownLeft = panels + (long)blocks->RightBlock * blocks->DepthBlock;
        for (int k = 0; k < call.K; k += blocks->DepthBlock)
        {
            int depth = Math.Min(blocks->DepthBlock, call.K - k);
            bool add = k > 0 || call.Accumulate;
            Pack(blocks->PackRight, right, r, rights, blocks->TileRight, k, depth, panels);
            for (int l = 0; l < left.Lines; l += blocks->LeftBlock)
            {
                int lefts = Math.Min(blocks->LeftBlock, left.Lines - l);
                if (!blocks->InPlace)
                    Pack(blocks->PackLeft, left, l, lefts, blocks->Rows ? 0 : blocks->TileLeft, k, depth, ownLeft);
                Multiply(blocks, blocks->InPlace ? (float*)left.At(l, k) : ownLeft, panels, lefts, rights, depth, c + l * call.LeftC, add);
            }
        }
    }

    private static void PrepareShared(ref Blocks blocks, CpuWorkers workers)
    {
        ref GemmCall call = ref blocks.Call;
        int leftBlocks = (call.Left.Lines + LeftBlock - 1) / LeftBlock;
        blocks.LeftBlock = RoundUp((call.Left.Lines + leftBlocks - 1) / leftBlocks, blocks.TileLeft);
        blocks.LeftBlocks = (call.Left.Lines + blocks.LeftBlock - 1) / blocks.LeftBlock;
        int rightBlocks = (call.Right.Lines + RightBlock - 1) / RightBlock;
        blocks.RightBlock = RoundUp((call.Right.Lines + rightBlocks - 1) / rightBlocks, blocks.TileRight);

        long ownBytes = blocks.InPlace ? 0 : ((long)blocks.LeftBlock * blocks.DepthBlock * sizeof(float) + 63) & ~63L;
        for (int w = 1; w < workers.Count && ownBytes > 0; w++)
            blocks.WorkerScratch[w] = (nint)workers.Scratch(w, ownBytes);
        // The panels that all share lie behind the first worker's own part.
        blocks.WorkerScratch[0] = (nint)workers.Scratch(0, ownBytes + (long)blocks.RightBlock * blocks.DepthBlock * sizeof(float));
        blocks.Panels = (float*)(blocks.WorkerScratch[0] + (nint)ownBytes);
    }

    /// <summary>
    /// One product on all workers: per right block, they pack it together, then take rectangles of C. A worker that must
    /// pack a left block does so when it first meets it; items are ordered by left block, so that this happens rarely.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Shared(Blocks* blocks, CpuWorkers workers)
    {
        ref GemmCall call = ref blocks->Call;
        int threads = workers.Count;
        for (int r = 0; r < call.Right.Lines; r += blocks->RightBlock)
        {
            for (int k = 0; k < call.K; k += blocks->DepthBlock)
            {
                blocks->RightStart = r;
                blocks->Rights = Math.Min(blocks->RightBlock, call.Right.Lines - r);
                blocks->DepthStart = k;
                blocks->Depth = Math.Min(blocks->DepthBlock, call.K - k);
                int panels = (blocks->Rights + blocks->TileRight - 1) / blocks->TileRight;
                blocks->PanelsPerPack = Math.Max(1, Math.Min(panels / (4 * threads), 128 / blocks->TileRight));
                workers.Run((panels + blocks->PanelsPerPack - 1) / blocks->PanelsPerPack, &PackItem, blocks);

                int groups = Math.Min(panels, Math.Max(1, (4 * threads + blocks->LeftBlocks - 1) / blocks->LeftBlocks));
                blocks->PanelsPerGroup = (panels + groups - 1) / groups;
                blocks->Groups = (panels + blocks->PanelsPerGroup - 1) / blocks->PanelsPerGroup;
                for (int w = 0; w < threads; w++)
                    blocks->WorkerLeftBlock[w] = -1;
                workers.Run(blocks->LeftBlocks * blocks->Groups, &MultiplyItem, blocks);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PackItem(void* context, int item, int worker)
    {
        var blocks = (Blocks*)context;
        int start = item * blocks->PanelsPerPack * blocks->TileRight;
        int rights = Math.Min(blocks->PanelsPerPack * blocks->TileRight, blocks->Rights - start);
        Pack(blocks->PackRight, blocks->Call.Right, blocks->RightStart + start, rights, blocks->TileRight,
            blocks->DepthStart, blocks->Depth, blocks->Panels + (long)start * blocks->Depth);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MultiplyItem(void* context, int item, int worker)
    {
        var blocks = (Blocks*)context;
        ref GemmCall call = ref blocks->Call;
        int leftBlock = item / blocks->Groups, group = item % blocks->Groups;
        int l = leftBlock * blocks->LeftBlock, lefts = Math.Min(blocks->LeftBlock, call.Left.Lines - l);
        int r = group * blocks->PanelsPerGroup * blocks->TileRight;
        int rights = Math.Min(blocks->PanelsPerGroup * blocks->TileRight, blocks->Rights - r);
        float* left;
        if (blocks->InPlace)
        {
            left = (float*)call.Left.At(l, blocks->DepthStart);
        }
        else
        {
            left = (float*)blocks->WorkerScratch[worker];
            if (blocks->WorkerLeftBlock[worker] != leftBlock)
                Pack(blocks->PackLeft, call.Left, l, lefts, blocks->Rows ? 0 : blocks->TileLeft, blocks->DepthStart, blocks->Depth, left);
            blocks->WorkerLeftBlock[worker] = leftBlock;
        }
        Multiply(blocks, left, blocks->Panels + (long)r * blocks->Depth, lefts, rights, blocks->Depth,
            call.C + l * call.LeftC + (blocks->RightStart + r) * call.RightC, blocks->DepthStart > 0 || call.Accumulate);
    }

    private static void Pack(delegate*<byte*, nint, int, int, int, float*, void> pack, in GemmOperand operand, int line, int lines, int width, int k, int depth, float* to)
    {
        if (pack != null)
            pack(operand.At(line, k), operand.Depth == 1 ? operand.Line : operand.Depth, lines, width, depth, to);
        else
            GemmPackedPack.Run(operand, line, lines, width, k, depth, to);
    }

    /// <summary>
    /// Runs the register tile over a left block and packed panels. A tile that hangs over C's edge goes through a full-size
    /// copy; so does every tile when C's rows run along the left operand.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void Multiply(Blocks* blocks, float* left, float* panels, int lefts, int rights, int depth, float* c, bool add)
    {
        int tileLeft = blocks->TileLeft, tileRight = blocks->TileRight;
        nint leftC = blocks->Call.LeftC, rightC = blocks->Call.RightC;
        nint row = blocks->InPlace ? blocks->Call.Left.Line : depth;
        nint leftStep = blocks->InPlace || blocks->Rows ? tileLeft * row : (nint)tileLeft * depth;
        float* copy = stackalloc float[12 * 32];
        // The operand of the outer loop stays in L1 for the inner one: lines in place come from afar once, packed ones lie in L2.
        bool leftOutside = blocks->InPlace;
        int leftTiles = (lefts + tileLeft - 1) / tileLeft, rightTiles = (rights + tileRight - 1) / tileRight;
        int tiles = leftTiles * rightTiles, y = 0, x = 0;
        for (int t = 0; t < tiles; t++)
        {
            int down = Math.Min(tileLeft, lefts - y * tileLeft), across = Math.Min(tileRight, rights - x * tileRight);
            float* a = left + y * leftStep, b = panels + x * (nint)tileRight * depth;
            float* to = c + y * tileLeft * leftC + x * tileRight * rightC;
            Prefetch(to, leftC, rightC, down, across);
            if (across == tileRight && down == tileLeft && rightC == 1)
            {
                blocks->Tile(a, row, tileLeft - 1, b, depth, to, leftC, add);
            }
            else
            {
                blocks->Tile(a, row, down - 1, b, depth, copy, tileRight, false);
                if (leftC == 1)
                    StoreTransposed(copy, tileRight, down, across, to, rightC, add);
                else
                    Store(copy, tileRight, down, across, to, leftC, rightC, add);
            }
            if (leftOutside)
            {
                if (++x == rightTiles)
                    (x, y) = (0, y + 1);
            }
            else if (++y == leftTiles)
            {
                (x, y) = (x + 1, 0);
            }
        }
    }

    // C is fetched while the tile computes; its rows lie too far apart for the hardware to guess.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch(float* to, nint leftC, nint rightC, int down, int across)
    {
        if (!Sse.IsSupported)
            return;
        if (rightC == 1)
        {
            for (int y = 0; y < down; y++)
                Sse.Prefetch0(to + y * leftC + across - 1);
        }
        else
        {
            for (int x = 0; x < across; x++)
                Sse.Prefetch0(to + x * rightC);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Store(float* from, int width, int down, int across, float* to, nint leftC, nint rightC, bool add)
    {
        for (int y = 0; y < down; y++)
        {
            for (int x = 0; x < across; x++)
            {
                float* at = to + y * leftC + x * rightC;
                *at = add ? *at + from[y * width + x] : from[y * width + x];
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void StoreTransposed(float* from, int width, int down, int across, float* to, nint rightC, bool add)
    {
        int y = 0;
        for (; y <= down - 4; y += 4, from += 4 * width, to += 4)
        {
            int x = 0;
            for (; x <= across - 4; x += 4)
            {
                Vector128<float> v0 = Vector128.Load(from + x), v1 = Vector128.Load(from + width + x);
                Vector128<float> v2 = Vector128.Load(from + 2 * width + x), v3 = Vector128.Load(from + 3 * width + x);
                GemmPack.Transpose(ref v0, ref v1, ref v2, ref v3);
                float* line = to + x * rightC;
                Put(v0, line, add);
                Put(v1, line + rightC, add);
                Put(v2, line + 2 * rightC, add);
                Put(v3, line + 3 * rightC, add);
            }
            if (x < across)
                Store(from + x, width, 4, across - x, to + x * rightC, 1, rightC, add);
        }
        if (y < down)
            Store(from, width, down - y, across, to, 1, rightC, add);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(Vector128<float> v, float* to, bool add)
    {
        if (add)
            v += Vector128.Load(to);
        v.Store(to);
    }

    private static int RoundUp(int value, int multiple) => (value + multiple - 1) / multiple * multiple;
}
