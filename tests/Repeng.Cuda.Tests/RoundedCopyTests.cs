using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>The bf16 copy of a layer's input, written by the op before it or by the layer before it: read again where nothing was written since, and never else.</summary>
public sealed class RoundedCopyTests
{
    private const int Rows = 20, Outputs = 136, Inputs = 520, Rank = 8;

    [Fact]
    public void LayersOfOneInputRoundItOnceAndNormsAndGatesForThem()
    {
        using var driver = new EmulatedCudaDriver();
        List<(string Kernel, long Blocks)> rounded = [];
        driver.Device.LaunchCompleted = launch =>
        {
            if (launch.Kernel.StartsWith("round_", StringComparison.Ordinal))
                rounded.Add((launch.Kernel, launch.Grid.X));
        };
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        var layer = new Layer(memory);
        int whole = Gpu.Ceil(Rows * Inputs, 2048), factors = Gpu.Ceil(Inputs * Rank, 2048) + Gpu.Ceil(Outputs * Rank, 2048);
        View x = memory.Of(Gpu.Random(Rows * Inputs, 1));
        float[] first = layer.Run(b, memory, x);
        Assert.Equal([whole + factors], Blocks());
        Assert.Equal(first, layer.Run(b, memory, x, false));
        Assert.Equal([factors], Blocks());

        // The norm and the gate write the copy; two layers and a product read it.
        foreach (bool gated in new[] { false, true })
        {
            View y = memory.Empty(Rows * Inputs), rstd = memory.Empty(Rows);
            int rows = gated ? Rows * 7 : Rows;
            if (gated)
            {
                // As many elements as it takes for one.
                y = memory.Empty((long)rows * Inputs);
                View gate = memory.Of(Gpu.Random(rows * Inputs, 2)), up = memory.Of(Gpu.Random(rows * Inputs, 3));
                b.GatedForward(y, gate, up, (long)rows * Inputs, UnaryOp.Silu);
            }
            else
                b.RmsNormForward(y, rstd, x, memory.Of(Gpu.Random(Inputs, 4)), rows, Inputs, 1e-6f, 0);
            // Room for the mixed term is asked for at the first layer: the copy may lie elsewhere then, and is made again.
            layer.Run(b, memory, y, rows: rows);
            rounded.Clear();
            if (gated)
                b.GatedForward(y, memory.Of(Gpu.Random(rows * Inputs, 5)), memory.Of(Gpu.Random(rows * Inputs, 6)), (long)rows * Inputs, UnaryOp.Silu);
            else
                b.RmsNormForward(y, rstd, x, memory.Of(Gpu.Random(Inputs, 7)), rows, Inputs, 1e-6f, 0);
            float[] one = layer.Run(b, memory, y, upload: false, rows: rows), two = layer.Run(b, memory, y, upload: false, rows: rows), three = layer.Multiply(b, y, rows);
            Assert.Equal([factors, factors], Blocks());
            Assert.Equal(one, two);
            // What another backend makes of the same values.
            using var other = new EmulatedCudaDriver();
            using CudaBackend o = Open(other);
            using var otherMemory = new TestMemory(o);
            var otherLayer = new Layer(otherMemory);
            View same = otherMemory.Of(memory.Read(y));
            Assert.Equal(otherLayer.Run(o, otherMemory, same, rows: rows), one);
            Assert.Equal(otherLayer.Multiply(o, same, rows), three);
        }

        long[] Blocks()
        {
            long[] all = [.. rounded.Select(r => r.Blocks)];
            rounded.Clear();
            return all;
        }
    }

    [Fact]
    public void AttentionWritesTheCopyForTheLayerThatFollows()
    {
        using var driver = new EmulatedCudaDriver();
        List<long> rounded = [];
        driver.Device.LaunchCompleted = launch =>
        {
            if (launch.Kernel.StartsWith("round_", StringComparison.Ordinal))
                rounded.Add(launch.Grid.X);
        };
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        var layer = new Layer(memory);
        // Heads whose results side by side are a layer's input; two sequences, of which one is padded.
        var args = new AttentionArgs(2, Rows / 2, Rows / 2, 13, 1, Inputs / 13, 0.15f);
        View o = memory.Empty(Rows * Inputs), lse = memory.Empty(Rows * 13), q = memory.Of(Gpu.Random(Rows * Inputs, 1)), k = memory.Of(Gpu.Random(Rows * args.HeadDim, 2)), v = memory.Of(Gpu.Random(Rows * args.HeadDim, 3)), first = memory.Of([0, 4]);
        b.AttentionForward(o, lse, q, k, v, first, args);
        // Room for the mixed term is asked for at the first layer.
        layer.Run(b, memory, o);
        b.AttentionForward(o, lse, q, k, v, first, args);
        rounded.Clear();
        float[] read = layer.Run(b, memory, o, upload: false);
        b.Copy(lse, memory.Zeros(lse.Length));
        Assert.Equal(read, layer.Run(b, memory, o, upload: false));
        // The first rounds the term's factors alone; the second, behind a write, its input too.
        long factors = Gpu.Ceil(Inputs * Rank, 2048) + Gpu.Ceil(Outputs * Rank, 2048);
        Assert.Equal([factors, factors + Gpu.Ceil(Rows * Inputs, 2048)], rounded);
        using var other = new EmulatedCudaDriver();
        using CudaBackend fresh = Open(other);
        using var otherMemory = new TestMemory(fresh);
        Assert.Equal(new Layer(otherMemory).Run(fresh, otherMemory, otherMemory.Of(memory.Read(o))), read);
    }

    [Fact]
    public void WhatIsWrittenInBetweenIsSeen()
    {
        using var driver = new EmulatedCudaDriver();
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        var layer = new Layer(memory);
        const int N = Rows * Inputs;
        View x = memory.Of(Gpu.Random(N, 1)), other = memory.Of(Gpu.Random(N, 2));
        float[] host = Gpu.Random(N, 3);
        (string What, Action Write)[] writes =
        [
            ("a kernel", () => b.Unary(x, x, N, UnaryOp.Scale, 2)),
            ("a fill", () => b.Fill(x.Slice(5, 1), 100)),
            ("a copy", () => b.Copy(x, other)),
            ("an upload", () => b.Upload(x, System.Runtime.InteropServices.MemoryMarshal.AsBytes(host.AsSpan()))),
            ("a product", () => b.MatMul(x, other, memory.Zeros(Inputs * Inputs), new MatMulArgs(Rows, Inputs, Inputs, TransB: true, Autocast: true))),
        ];
        foreach ((string what, Action write) in writes)
        {
            layer.Run(b, memory, x, upload: false);
            write();
            float[] seen = layer.Run(b, memory, x, upload: false);
            View copy = memory.Of(memory.Read(x));
            Assert.True(layer.Run(b, memory, copy).SequenceEqual(seen), what);
        }
        // The same from a graph: what it captured rounds its input at every launch.
        View y = memory.Empty(Rows * Outputs), z = memory.Empty(Rows * Rank), mixed = memory.Empty(Rows * Rank);
        layer.Into(b, y, z, mixed, x);
        using CudaGraphHandle graph = b.Context.Capture(() => layer.Into(b, y, z, mixed, x));
        b.Upload(x, System.Runtime.InteropServices.MemoryMarshal.AsBytes(host.AsSpan()));
        b.Context.Launch(graph);
        float[] replayed = memory.Read(y);
        Assert.Equal(layer.Run(b, memory, memory.Of(host)), replayed);
    }

    private static CudaBackend Open(EmulatedCudaDriver driver) => CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), precision: CudaPrecision.Bf16);

    private sealed class Layer(TestMemory memory)
    {
        private readonly View _w = memory.Of(Array.ConvertAll(Gpu.Random(Outputs * Inputs, 11), MatMulKernelTests.BFloat).AsSpan(), DType.BF16);
        private readonly View _v = memory.Of(Gpu.Random(Inputs * Rank, 12)), _m = memory.Of(Gpu.Random(Rank * Rank, 13)), _u = memory.Of(Gpu.Random(Outputs * Rank, 14));
        private readonly Dictionary<int, (View Y, View Z, View Mixed)> _rooms = [];

        // upload: makes its results in new memory; else in memory that was made before, so that nothing is written but what the layer writes.
        public float[] Run(CudaBackend b, TestMemory memory, View x, bool upload = true, int rows = Rows)
        {
            if (upload || !_rooms.ContainsKey(rows))
                _rooms[rows] = (memory.Empty(rows * Outputs), memory.Empty(rows * Rank), memory.Empty(rows * Rank));
            (View y, View z, View mixed) = _rooms[rows];
            Into(b, y, z, mixed, x, rows);
            return memory.Read(y);
        }

        public void Into(CudaBackend b, View y, View z, View mixed, View x, int rows = Rows) => b.LinearTerm(y, z, mixed, x, _w, default, _v, _m, _u, new TermArgs(rows, Outputs, Inputs, Rank));

        public float[] Multiply(CudaBackend b, View x, int rows)
        {
            View y = _rooms[rows].Y;
            // 64 of everything at least, for the tiles that read copies.
            b.MatMul(y, x, _w, new MatMulArgs(rows, Outputs, Inputs, TransB: true, Autocast: true));
            return memory.Read(y);
        }
    }
}
