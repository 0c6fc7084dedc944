using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.Cuda;
using Repeng.PtxEmulator;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>rotation.cu against the CPU backend, whose own tests hold it to an independent reference; both compute in double.</summary>
public sealed class RotationKernelTests
{
    private static float[] Skew(int n, int batch, double spread, int seed)
    {
        float[] p = Gpu.Random((long)n * n * batch, seed, spread), a = new float[p.Length];
        for (int b = 0; b < batch; b++)
            for (int i = 0; i < n; i++)
                for (int j = 0; j < n; j++)
                    a[(b * n + i) * n + j] = p[(b * n + i) * n + j] - p[(b * n + j) * n + i];
        return a;
    }

    [Theory]
    [InlineData(1, 2, 0.3)]
    [InlineData(5, 3, 2)]
    [InlineData(33, 2, 0.5)]
    [InlineData(48, 1, 20)]
    public void EqualsTheCpu(int n, int batch, double spread)
    {
        using Gpu gpu = new();
        using var cpu = new CpuBackend(1);
        using TestMemory memory = new(cpu);
        int size = n * n * batch, tiles = Gpu.Ceil(n, 32) * Gpu.Ceil(n, 32);
        float[] p = Gpu.Random(size, 1), start = Gpu.Random(size, 2), x = Skew(n, batch, spread, 3), dr = Gpu.Random(size, 4);
        ulong dx = gpu.Upload(start), px = gpu.Upload(x), r = gpu.Empty<float>(size), status = gpu.Empty<int>(batch), work = gpu.Empty<double>(12 * size), pdr = gpu.Upload(dr);

        View expected = memory.Of(start);
        cpu.Skew(expected, memory.Of(p), n, batch, true);
        gpu.Run("rotation", "skew", (tiles, batch, 1), 256, 0, dx, gpu.Upload(p), n, 1);
        Assert.Equal(memory.Read(expected), gpu.Read(dx, size));

        View rotated = memory.Empty(size);
        cpu.CayleyForward(rotated, memory.Of(x), n, batch);
        gpu.Run("rotation", "cayley_forward_shared", (batch, 1, 1), 256, 8 * (n + 1) * (n | 1), r, px, status, n);
        Assert.All(gpu.Read<int>(status, batch), s => Assert.Equal(0, s));
        Close.To(2e-7, gpu.Read(r, size), memory.Read(rotated), "Cayley");
        ulong again = gpu.Empty<float>(size);
        gpu.Run("rotation", "cayley_forward_global", (batch, 1, 1), 256, PanelBytes(n), again, px, work, status, n);
        Assert.Equal(gpu.Read(r, size), gpu.Read(again, size));

        expected = memory.Of(start);
        cpu.CayleyBackward(expected, memory.Of(dr), rotated, n, batch);
        dx = gpu.Upload(start);
        gpu.Run("rotation", "cayley_backward_first", (tiles, batch, 1), 256, 0, work, pdr, gpu.Upload(memory.Read(rotated)), n);
        gpu.Run("rotation", "cayley_backward_second", (tiles, batch, 1), 256, 0, dx, work, gpu.Upload(memory.Read(rotated)), n);
        Close.To(2e-7, gpu.Read(dx, size), memory.Read(expected), "Cayley backward");

        cpu.MatrixExpForward(rotated, memory.Of(x), n, batch);
        gpu.Run("rotation", "matrix_exp_forward", batch, 256, r, px, work, status, n);
        Assert.All(gpu.Read<int>(status, batch), s => Assert.Equal(0, s));
        Close.To(2e-7, gpu.Read(r, size), memory.Read(rotated), "exponential");
        Assert.Equal(0, gpu.Run("rotation", "matrix_exp_forward_side", (batch, 1, 1), 256, 2 * 32768, again, px, work, status, n).BankConflicts);
        Assert.All(gpu.Read<int>(status, batch), s => Assert.Equal(0, s));
        Assert.Equal(gpu.Read(r, size), gpu.Read(again, size));

        expected = memory.Of(start);
        cpu.MatrixExpBackward(expected, memory.Of(dr), memory.Of(x), n, batch);
        dx = gpu.Upload(start);
        gpu.Run("rotation", "matrix_exp_backward", batch, 256, dx, pdr, px, work, status, n);
        Close.To(2e-7, gpu.Read(dx, size), memory.Read(expected), "exponential backward");
        again = gpu.Upload(start);
        Assert.Equal(0, gpu.Run("rotation", "matrix_exp_backward_side", (batch, 1, 1), 256, 4 * 32768, again, pdr, px, work, status, n).BankConflicts);
        Assert.All(gpu.Read<int>(status, batch), s => Assert.Equal(0, s));
        Assert.Equal(gpu.Read(dx, size), gpu.Read(again, size));
    }

    private static int PanelBytes(int n) => 16 * (n | 1) * (n <= 176 ? 32 : n <= 352 ? 16 : 8);

    [Theory]
    [InlineData(177)]
    [InlineData(353)]
    public void NarrowPanelsEqualTheCpu(int n)
    {
        using Gpu gpu = new();
        using var cpu = new CpuBackend(1);
        using TestMemory memory = new(cpu);
        float[] x = Skew(n, 1, 0.7, 5);
        View rotated = memory.Empty(n * n);
        cpu.CayleyForward(rotated, memory.Of(x), n, 1);
        ulong r = gpu.Empty<float>(n * n), status = gpu.Empty<int>(1);
        gpu.Run("rotation", "cayley_forward_global", (1, 1, 1), 256, PanelBytes(n), r, gpu.Upload(x), gpu.Empty<double>(n * n), status, n);
        Assert.Equal(0, gpu.Read<int>(status, 1)[0]);
        Close.To(2e-7, gpu.Read(r, n * n), memory.Read(rotated), "Cayley");
    }

    /// <summary>What a block has, 163 KiB here, counts what the kernel declares itself.</summary>
    [Theory]
    [InlineData(143, "cayley_forward_shared")]
    [InlineData(144, "cayley_forward_global")]
    public void TheLargestThatFitsIsLaunchedInSharedMemory(int n, string kernel)
    {
        using var driver = new EmulatedCudaDriver(new EmulatorOptions { CheckGlobalRaces = false, CheckSharedRaces = false, CheckInitialization = false });
        List<string> launched = [];
        driver.Device.LaunchCompleted = launch => launched.Add(launch.Kernel);
        using CudaBackend gpu = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose());
        using var cpu = new CpuBackend(1);
        using TestMemory here = new(cpu), there = new(gpu);
        float[] x = Skew(n, 1, 0.3, 6);
        View expected = here.Empty(n * n), rotated = there.Empty(n * n);
        cpu.CayleyForward(expected, here.Of(x), n, 1);
        gpu.CayleyForward(rotated, there.Of(x), n, 1);
        Assert.Equal([kernel], launched);
        Close.To(2e-7, there.Read(rotated), here.Read(expected), "Cayley");
    }

    [Fact]
    public void PivotsAndSaysWhatCannotBeDone()
    {
        using Gpu gpu = new();
        // I − x of the first needs exchanges of rows, of the second is singular, of the third not finite.
        float[] x = [1, -1, 0, -2, 1, -1, 0, -3, 0, .. new float[] { 1, 0, 0, 0, 0, 0, 0, 0, 0 }, .. new float[] { float.NaN, 0, 0, 0, 0, 0, 0, 0, 0 }];
        ulong r = gpu.Zeros(27), status = gpu.Empty<int>(3), work = gpu.Empty<double>(6 * 27), px = gpu.Upload(x);
        gpu.Run("rotation", "cayley_forward_global", (3, 1, 1), 256, PanelBytes(3), r, px, work, status, 3);
        Assert.Equal([0, 1, 1], gpu.Read<int>(status, 3));
        // (I − x)·r = I + x.
        float[] result = gpu.Read(r, 9);
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++)
                Assert.Equal((i == j ? 1 : 0) + x[i * 3 + j], Enumerable.Range(0, 3).Sum(k => ((i == k ? 1 : 0) - x[i * 3 + k]) * result[k * 3 + j]), 1e-5f);
        gpu.Run("rotation", "matrix_exp_forward", 3, 256, r, px, work, status, 3);
        Assert.Equal([0, 0, 1], gpu.Read<int>(status, 3));
        gpu.Run("rotation", "matrix_exp_forward_side", (3, 1, 1), 256, 2 * 32768, r, px, work, status, 3);
        Assert.Equal([0, 0, 1], gpu.Read<int>(status, 3));
        gpu.Run("rotation", "matrix_exp_backward_side", (3, 1, 1), 256, 4 * 32768, gpu.Zeros(27), r, px, gpu.Empty<double>(8 * 27), status, 3);
        Assert.Equal([0, 0, 1], gpu.Read<int>(status, 3));
    }
}
