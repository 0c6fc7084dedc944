namespace Repeng.Kernels.Cpu;

internal static unsafe partial class Gemm
{
    /// <summary>Most products that run in one go.</summary>
    internal const int Together = 64;

    private struct GroupWork
    {
        public Blocks* Blocks;
        public GemmThin.Work* Thin;
        public int* Ends;
    }

    /// <summary>
    /// Products of different operands in one loop: their items stand in one row, and a worker packs for itself what its item reads.
    /// Many small products cost one wake-up instead of two each. The bits are those of <see cref="Run"/>, which do not depend on how a
    /// product is cut. At most <see cref="Together"/> calls without a batch, each with something to compute and K above 0.
    /// </summary>
    public static void RunGroups(Span<GemmCall> calls, CpuWorkers workers)
    {
        Blocks* blocks = stackalloc Blocks[calls.Length];
        GemmThin.Work* thin = stackalloc GemmThin.Work[calls.Length];
        int* ends = stackalloc int[calls.Length];
        nint* scratch = stackalloc nint[workers.Count];
        long floats = 0;
        int items = 0;
        double size = 0;
        for (int i = 0; i < calls.Length; i++)
        {
            GemmCall call = calls[i];
            size += (double)call.Left.Lines * call.Right.Lines * call.K;
            if (GemmThin.Takes(call))
            {
                blocks[i] = default;
                thin[i] = GemmThin.Prepare(ref call, 1);
                thin[i].WorkerScratch = scratch;
                floats = Math.Max(floats, thin[i].ScratchFloats);
                items += thin[i].ItemsPerProduct;
            }
            else
            {
                thin[i] = default;
                blocks[i] = Plan(ref call);
                PrepareOwn(ref blocks[i], 1);
                blocks[i].WorkerScratch = scratch;
                floats = Math.Max(floats, OwnFloats(blocks[i]));
                items += blocks[i].RightBlocks;
            }
            ends[i] = items;
        }
        bool serial = workers.Count == 1 || size < SerialLimit / 10;
        for (int w = 0; w < (serial ? 1 : workers.Count); w++)
            scratch[w] = (nint)workers.Scratch(w, Math.Max(1, floats) * sizeof(float));
        var work = new GroupWork { Blocks = blocks, Thin = thin, Ends = ends };
        if (!serial)
        {
            workers.Run(items, &GroupItem, &work);
            return;
        }
        for (int i = 0; i < items; i++)
            GroupItem(&work, i, 0);
    }

    private static void GroupItem(void* context, int item, int worker)
    {
        var work = (GroupWork*)context;
        int i = 0;
        while (work->Ends[i] <= item)
            i++;
        int own = item - (i == 0 ? 0 : work->Ends[i - 1]);
        if (work->Thin[i].ItemsPerProduct > 0)
            GemmThin.Item(work->Thin + i, own, worker);
        else
            OwnItem(work->Blocks + i, own, worker);
    }
}
