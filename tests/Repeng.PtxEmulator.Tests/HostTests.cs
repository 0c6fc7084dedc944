using System.Runtime.InteropServices;

namespace Repeng.PtxEmulator.Tests;

/// <summary>The host's side: streams, events, graphs, pinned memory, launch shapes, threads.</summary>
public sealed unsafe class HostTests
{
    private static void Saxpy(Gpu gpu, PtxFunction saxpy, ulong x, ulong y, int n, PtxStream stream)
        => gpu.Device.Launch(saxpy, (n / 32, 1, 1), (32, 1, 1), 0, stream, false, n, 2f, x, y);

    [Fact]
    public void Nothing_runs_before_somebody_waits()
    {
        using var gpu = new Gpu();
        PtxFunction saxpy = gpu.Kernel("basic.ptx", "saxpy");
        ulong x = gpu.Upload(Enumerable.Repeat(1f, 64).ToArray()), y = gpu.Upload(new float[64]);
        PtxStream a = gpu.Device.CreateStream(blocking: false), b = gpu.Device.CreateStream(blocking: false);
        float* pinned = (float*)NativeMemory.AllocZeroed(64 * 4);
        ulong registered = gpu.Device.RegisterHost(pinned, 256);
        Saxpy(gpu, saxpy, x, y, 64, a);
        // Without an event the other stream may copy first, and here it does.
        gpu.Device.CopyToHost(pinned, y, 256, b);
        gpu.Device.Synchronize(b);
        Assert.Equal(0, pinned[5]);
        PtxEvent done = gpu.Device.CreateEvent();
        gpu.Device.Record(done, a);
        gpu.Device.Wait(b, done);
        gpu.Device.CopyToHost(pinned, y, 256, b);
        Assert.Equal(0, pinned[5]);
        gpu.Device.Synchronize(b);
        Assert.Equal(2, pinned[5]);
        Assert.True(gpu.Device.Query(done));
        gpu.Device.DestroyEvent(done);
        gpu.Device.DestroyStream(a);
        gpu.Device.DestroyStream(b);
        gpu.Device.Free(registered);
        NativeMemory.Free(pinned);
    }

    [Fact]
    public void The_default_stream_waits_for_blocking_streams()
    {
        using var gpu = new Gpu();
        ulong x = gpu.Upload(Enumerable.Repeat(1f, 64).ToArray()), y = gpu.Upload(new float[64]);
        PtxStream a = gpu.Device.CreateStream();
        Saxpy(gpu, gpu.Kernel("basic.ptx", "saxpy"), x, y, 64, a);
        Assert.Equal(2, gpu.Download<float>(y, 64)[63]);
        gpu.Device.DestroyStream(a);
    }

    [Fact]
    public void A_graph_repeats_what_was_recorded()
    {
        using var gpu = new Gpu();
        PtxFunction saxpy = gpu.Kernel("basic.ptx", "saxpy");
        ulong x = gpu.Upload(Enumerable.Repeat(1f, 64).ToArray()), y = gpu.Upload(new float[64]);
        PtxStream a = gpu.Device.CreateStream();
        gpu.Device.BeginCapture(a);
        Saxpy(gpu, saxpy, x, y, 64, a);
        Saxpy(gpu, saxpy, x, y, 64, a);
        Assert.Throws<InvalidCallException>(() => gpu.Device.Synchronize(a));
        PtxGraph graph = gpu.Device.EndCapture(a);
        Assert.Equal(2, graph.NodeCount);
        Assert.Equal(0, gpu.Download<float>(y, 1)[0]);
        for (int k = 0; k < 3; k++)
            gpu.Device.Launch(graph, a);
        gpu.Device.Synchronize(a);
        Assert.Equal(12, gpu.Download<float>(y, 1)[0]);
        gpu.Device.DestroyGraph(graph);
        gpu.Device.DestroyStream(a);
    }

    [Fact]
    public void Memory_freed_in_a_stream_is_gone_for_the_next_kernel()
    {
        using var gpu = new Gpu(new EmulatorOptions { CheckLeaks = false });
        ulong x = gpu.Upload(new float[64]), y = gpu.Device.Allocate(256);
        gpu.Device.Fill(y, 0, 4, 64, gpu.Device.DefaultStream);
        gpu.Device.FreeAsync(y, gpu.Device.DefaultStream);
        Saxpy(gpu, gpu.Kernel("basic.ptx", "saxpy"), x, y, 64, gpu.Device.DefaultStream);
        Assert.Throws<UseAfterFreeException>(gpu.Device.Synchronize);
    }

    [Fact]
    public void Impossible_launches_are_refused()
    {
        using var gpu = new Gpu();
        PtxFunction saxpy = gpu.Kernel("basic.ptx", "saxpy"), matmul = gpu.Kernel("mma.ptx", "matmul_bf16"), histogram = gpu.Kernel("basic.ptx", "histogram");
        Assert.Throws<InvalidCallException>(() => gpu.Run(saxpy, 0, 32, 1, 1f, 0ul, 0ul));
        Assert.Throws<InvalidCallException>(() => gpu.Run(saxpy, 1, 1025, 1, 1f, 0ul, 0ul));
        Assert.Throws<InvalidCallException>(() => gpu.Run(saxpy, 1, 32, 1, 1f, 0ul));
        Assert.Throws<InvalidCallException>(() => gpu.Run(saxpy, 1, 32, 1L, 1f, 0ul, 0ul));
        Assert.Equal(128, matmul.MaxThreads);
        Assert.Throws<InvalidCallException>(() => gpu.Run(matmul, 1, 256, 0ul, 0ul, 0ul, 32));
        Assert.Throws<InvalidCallException>(() => gpu.Run(histogram, (1, 1, 1), (32, 1, 1), 100_000, 0ul, 0ul, 0));
        histogram.MaxDynamicShared = 100_000;
        gpu.Run(histogram, (1, 1, 1), (32, 1, 1), 100_000, gpu.Upload(new byte[1]), gpu.Upload(new uint[256]), 0);
        Assert.Throws<InvalidCallException>(() => gpu.Device.Launch(saxpy, (100_000, 1, 1), (1024, 1, 1), 0, gpu.Device.DefaultStream, true, 1, 1f, 0ul, 0ul));
        Assert.Throws<InvalidCallException>(() => gpu.Load(Gpu.Text("basic.ptx")).GetFunction("nobody"));
    }

    [Fact]
    public void Threads_of_the_host_share_a_device()
    {
        using var gpu = new Gpu();
        PtxFunction saxpy = gpu.Kernel("basic.ptx", "saxpy");
        ulong x = gpu.Upload(Enumerable.Repeat(1f, 64).ToArray());
        ulong[] y = [.. Enumerable.Range(0, 8).Select(_ => gpu.Upload(new float[64]))];
        Parallel.For(0, 8, k =>
        {
            PtxStream stream = gpu.Device.CreateStream(blocking: false);
            for (int r = 0; r < 10; r++)
                Saxpy(gpu, saxpy, x, y[k], 64, stream);
            gpu.Device.Synchronize(stream);
            gpu.Device.DestroyStream(stream);
        });
        foreach (ulong of in y)
            Assert.Equal(20, gpu.Download<float>(of, 64)[17]);
    }
}
