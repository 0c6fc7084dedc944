using Repeng.Kernels.Cpu;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Ops of the CPU, and the threads that they run on, leave nothing to the garbage collector.</summary>
public sealed unsafe class AllocationTests
{
    [Fact]
    public void OpsAllocateNothing()
    {
        const int Rows = 24, Width = 96, Length = 8, Heads = 3, HeadDim = 32;
        using var ops = new CpuBackend(2);
        using var memory = new TestMemory(ops);
        View Zeros(int count) => memory.Zeros(count);
        View x = Zeros(Rows * Width), y = Zeros(Rows * Width), z = Zeros(Rows * Width), w = Zeros(Width * Width), weight = Zeros(Width), perRow = Zeros(Rows);
        View first = memory.Of(new int[Rows / Length]), heads = Zeros(Rows * Heads);
        var attention = new AttentionArgs(Rows / Length, Length, Length, Heads, Heads, HeadDim, 1);
        var calls = new (string Name, Action Call)[]
        {
            ("a product of many rows", () => ops.MatMul(y, x, w, new MatMulArgs(Rows, Width, Width, TransB: true))),
            ("a product of one row", () => ops.MatMul(y, x, w, new MatMulArgs(1, Width, Width, TransB: true))),
            ("attention", () => ops.AttentionForward(y, heads, x, x, x, first, attention)),
            ("gated units", () => ops.GatedForward(y, x, z, Rows * Width, UnaryOp.Silu)),
            ("a unary op", () => ops.Unary(y, x, Rows * Width, UnaryOp.Tanh, 0)),
        };
        foreach ((string name, Action call) in calls)
        {
            call();
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < 100; i++)
                call();
            long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            Assert.True(allocated == 0, $"{name}: {allocated} bytes in 100 calls");
        }
    }

    private struct Tally
    {
        public long Bytes;
    }

    // What every thread of the pool allocates while it runs the items of many loops.
    [Fact]
    public void ThreadsAllocateNothing()
    {
        using var workers = new CpuWorkers(4);
        Tally* tallies = stackalloc Tally[4];
        static void Body(void* context, int item, int worker) => ((Tally*)context)[worker].Bytes = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 4; i++)
            tallies[i].Bytes = -1;
        // Until each thread has run an item, which on a machine with other work may take its time.
        for (var clock = System.Diagnostics.Stopwatch.StartNew(); clock.Elapsed.TotalMinutes < 1 && (tallies[1].Bytes < 0 || tallies[2].Bytes < 0 || tallies[3].Bytes < 0);)
            workers.Run(64, &Body, tallies);
        long[] before = [.. Enumerable.Range(0, 4).Select(i => tallies[i].Bytes)];
        for (int i = 0; i < 10_000; i++)
            workers.Run(64, &Body, tallies);
        for (int i = 1; i < 4; i++)
            Assert.Equal(before[i], tallies[i].Bytes);
    }
}
