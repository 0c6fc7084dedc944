using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <content>
/// A product with a low-rank term in one round of the pool. The items of z = x·Downᵀ are claimed first; who ends the last of
/// them mixes z by the segments' M. An item of x·Wᵀ then adds the term to the columns that it has just written, so the term
/// costs the bytes of its factors and no round of its own.
/// </content>
internal static unsafe partial class GemmThin
{
    private struct Term
    {
        public Work Down, Whole;
        public Work* Mixes, Ups;
        public int MixCount, UpCount;
        public int DownLeft;
        public int Ready;
    }

    /// <summary>
    /// Computes y = x·Wᵀ (whole) and adds the term: first is x·Downᵀ into room; mixes are the products with M of the
    /// segments that have one, from room's first half into its second; last is y += room·Uᵀ over all rows, of which those of
    /// segments are run. Up to <see cref="Limit"/> rows.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void RunTerm(GemmCall whole, GemmCall first, ReadOnlySpan<GemmCall> mixes, in GemmCall last, ReadOnlySpan<TermSegment> segments, float* room, CpuWorkers workers)
    {
        Work* mixWorks = stackalloc Work[Limit], upWorks = stackalloc Work[Limit];
        nint* scratch = stackalloc nint[workers.Count];
        Term term = new() { Down = Prepare(ref first, workers.Count), Whole = Prepare(ref whole, workers.Count), Mixes = mixWorks, Ups = upWorks, Ready = 0 };
        term.DownLeft = term.Down.ItemsPerProduct;
        term.Down.WorkerScratch = term.Whole.WorkerScratch = scratch;
        long floats = Math.Max(term.Down.ScratchFloats, term.Whole.ScratchFloats);
        for (int i = 0; i < mixes.Length; i++)
        {
            GemmCall mix = mixes[i];
            mixWorks[i] = Prepare(ref mix, 1);
            mixWorks[i].WorkerScratch = scratch;
            floats = Math.Max(floats, mixWorks[i].ScratchFloats);
        }
        term.MixCount = mixes.Length;
        for (int w = 0; w < workers.Count && floats > 0; w++)
            scratch[w] = (nint)workers.Scratch(w, floats * sizeof(float));

        int rows = last.Left.Lines, r = last.K;
        for (int i = 0, next; i < segments.Length; i = next)
        {
            // Neighbours that read the same half of the room are one product.
            int start = segments[i].Start, end = start;
            bool mixed = !segments[i].M.IsEmpty;
            for (next = i; next < segments.Length && segments[next].Start == end && !segments[next].M.IsEmpty == mixed; next++)
                end += segments[next].Count;
            GemmCall up = last;
            up.Left.Lines = end - start;
            up.Left.Data = (byte*)(room + ((mixed ? rows : 0) + start) * (nint)r);
            up.C = last.C + start * last.LeftC;
            upWorks[term.UpCount++] = Prepare(ref up, workers.Count);
        }
        workers.Run(term.Down.ItemsPerProduct + term.Whole.ItemsPerProduct, &TermItem, &term);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TermItem(void* context, int item, int worker)
    {
        var term = (Term*)context;
        int first = term->Down.ItemsPerProduct;
        if (item < first)
        {
            try
            {
                Factor(term, item, worker);
            }
            catch
            {
                // The others must not wait for what will not come; the pool carries the failure to the caller.
                Volatile.Write(ref term->Ready, 1);
                throw;
            }
            return;
        }

        item -= first;
        Work* whole = &term->Whole;
        Item(whole, item, worker);
        // Whoever holds an item of z is at work on it, as those are claimed first: this waits for nobody who waits.
        SpinWait spin = default;
        while (Volatile.Read(ref term->Ready) == 0)
            spin.SpinOnce(-1);
        int column = item * whole->PerItem, columns = Math.Min(whole->PerItem, whole->Call.Right.Lines - column);
        for (int u = 0; u < term->UpCount; u++)
        {
            Work* up = term->Ups + u;
            up->Dots(up, (float*)up->Call.Left.Data, up->Call.Left.Line, up->Call.Right.At(column, 0), columns, up->Call.K, up->Call.C + column * up->Call.RightC);
        }
    }

    // An item of z; the last of them mixes all rows.
    private static void Factor(Term* term, int item, int worker)
    {
        Item(&term->Down, item, worker);
        if (Interlocked.Decrement(ref term->DownLeft) > 0)
            return;
        for (int m = 0; m < term->MixCount; m++)
            for (int i = 0; i < term->Mixes[m].ItemsPerProduct; i++)
                Item(term->Mixes + m, i, worker);
        Volatile.Write(ref term->Ready, 1);
    }
}
