using System.Runtime.CompilerServices;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;
using Repeng.PtxEmulator;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>Packed weights that products in bf16 decode: kept while there is memory, with the bits of decoding them anew, and given back when memory is needed.</summary>
public sealed class DecodedWeightTests
{
    private const int Rows = 20, Outputs = 72, Inputs = 64, Rank = 8;

    [Theory]
    [InlineData("NF4")]
    [InlineData("FP4+DQ")]
    [InlineData("Q8_0")]
    [InlineData("INT8")]
    public void AWeightIsDecodedOnceAndGivesTheSameBits(string form)
    {
        using var driver = new EmulatedCudaDriver();
        int decoded = 0;
        driver.Device.LaunchCompleted = launch => decoded += launch.Kernel.StartsWith("unpack_", StringComparison.Ordinal) ? 1 : 0;
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        using var weight = new PackedMatrix(form, Outputs, Inputs, 3);
        View w = weight.On(memory);
        b.KeepsDecoded = false;
        float[][] anew = Everything(b, memory, w);
        Assert.Equal(4, decoded);
        Assert.Equal(0, b.DecodedBytes);
        b.KeepsDecoded = true;
        decoded = 0;
        for (int pass = 0; pass < 2; pass++)
            foreach ((float[] again, float[] first) in Everything(b, memory, w).Zip(anew))
                Assert.Equal(first, again);
        Assert.Equal(1, decoded);
        Assert.Equal(2 * Outputs * Inputs, b.DecodedBytes);
        b.KeepsDecoded = false;
        Assert.Equal(0, b.DecodedBytes);
        Assert.Equal(anew[0], Everything(b, memory, w)[0]);
    }

    [Fact]
    public void WhatNobodyHoldsAnyMoreGoesBeforeTheNextIsKept()
    {
        using var driver = new EmulatedCudaDriver();
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        RunOne(b, memory, 1);
        Assert.Equal(2 * Outputs * Inputs, b.DecodedBytes);
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        RunOne(b, memory, 2);
        Assert.Equal(2 * Outputs * Inputs, b.DecodedBytes);

        [MethodImpl(MethodImplOptions.NoInlining)]
        static void RunOne(CudaBackend b, TestMemory memory, ulong seed)
        {
            using var weight = new PackedMatrix("NF4", Outputs, Inputs, seed);
            Everything(b, memory, weight.On(memory));
        }
    }

    [Fact]
    public void ExactKeepsNone()
    {
        using var driver = new EmulatedCudaDriver();
        using CudaBackend b = Open(driver, CudaPrecision.Exact);
        using var memory = new TestMemory(b);
        using var weight = new PackedMatrix("NF4", Outputs, Inputs, 3);
        Everything(b, memory, weight.On(memory));
        Assert.Equal(0, b.DecodedBytes);
    }

    [Fact]
    public void OthersComeFirstWhereMemoryIsShort()
    {
        const long Device = 32 << 20;
        using var driver = new EmulatedCudaDriver(new EmulatorOptions { DeviceMemory = Device });
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        using var weight = new PackedMatrix("NF4", 1024, 1024, 3);
        using var another = new PackedMatrix("NF4", Outputs, Inputs, 4);
        View w = weight.On(memory), x = memory.Of(Gpu.Random(Rows * 1024, 1)), y = memory.Empty(Rows * 1024), small = another.On(memory);
        MatMulArgs args = new(Rows, 1024, 1024, TransB: true, Autocast: true);
        b.MatMul(y, x, w, args);
        float[] kept = memory.Read(y);
        Assert.Equal(2L << 20, b.DecodedBytes);
        // More than is free: what was decoded makes room, and no more is kept from here on.
        (long free, _) = b.Context.Memory();
        long size = free + (1 << 20);
        nint address = b.Allocate(size);
        Assert.Equal(0, b.DecodedBytes);
        Assert.False(b.KeepsDecoded);
        b.Free(address, size);
        b.MatMul(y, x, w, args);
        Assert.Equal(kept, memory.Read(y));
        Assert.Equal(0, b.DecodedBytes);
        // A quarter of the device stays free.
        b.KeepsDecoded = true;
        (free, _) = b.Context.Memory();
        size = free - (Device / 4);
        address = b.Allocate(size);
        Everything(b, memory, small);
        Assert.Equal(0, b.DecodedBytes);
        b.Free(address, size);
        Assert.Equal(CuResult.OutOfMemory, Assert.Throws<CudaException>(() => b.Allocate(2 * Device)).Result);
    }

    private static CudaBackend Open(EmulatedCudaDriver driver, CudaPrecision precision = CudaPrecision.Bf16) => CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), precision: precision);

    // A layer with a term and its backward pass, a product, and one with a part of the weight.
    private static float[][] Everything(CudaBackend b, TestMemory memory, View w)
    {
        TermArgs args = new(Rows, Outputs, Inputs, Rank);
        View x = memory.Of(Gpu.Random(Rows * Inputs, 1)), dy = memory.Of(Gpu.Random(Rows * Outputs, 2)), v = memory.Of(Gpu.Random(Inputs * Rank, 3)), m = memory.Of(Gpu.Random(Rank * Rank, 4)), u = memory.Of(Gpu.Random(Outputs * Rank, 5));
        View y = memory.Empty(Rows * Outputs), dx = memory.Empty(Rows * Inputs), z = memory.Empty(Rows * Rank), mixed = memory.Empty(Rows * Rank), plain = memory.Empty(Rows * Outputs), part = memory.Empty(Rows * 24);
        b.LinearTerm(y, z, mixed, x, w, default, v, m, u, args);
        b.LinearTermBackward(dx, z, mixed, dy, w, v, m, u, args, accumulate: false);
        b.MatMul(plain, x, w, new MatMulArgs(Rows, Outputs, Inputs, TransB: true, Autocast: true));
        b.MatMul(part, x, w.Slice(16 * Inputs, 24 * Inputs), new MatMulArgs(Rows, 24, Inputs, TransB: true, Autocast: true));
        return [memory.Read(y), memory.Read(dx), memory.Read(plain), memory.Read(part)];
    }
}
