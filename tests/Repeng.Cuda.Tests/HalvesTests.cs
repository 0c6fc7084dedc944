using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing;
using Repeng.Testing.Cuda;

namespace Repeng.Cuda.Tests;

/// <summary>Activations and gradients held as bf16 (<see cref="IBackend.LayerType"/>): every op that takes them gives the bits of the same values in fp32, rounded where the result is bf16.</summary>
public sealed class HalvesTests
{
    private static CudaBackend Open(EmulatedCudaDriver driver, CudaPrecision precision = CudaPrecision.Bf16, CudaLibraries? libraries = null) =>
        CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), libraries ?? CudaLibraries.None, precision, 0);

    [Fact]
    public void OnlyManyRowsOfARoundingBackendAreHalves()
    {
        using var driver = new EmulatedCudaDriver();
        using CudaBackend rounded = Open(driver), exact = Open(driver, CudaPrecision.Exact);
        Assert.Equal(DType.BF16, rounded.LayerType(9, 64));
        Assert.Equal(DType.F32, rounded.LayerType(8, 64));
        Assert.Equal(DType.F32, rounded.LayerType(9, 60));
        Assert.Equal(DType.F32, exact.LayerType(9, 64));
    }

    [Theory]
    [InlineData(false, "bf16")]
    [InlineData(false, "NF4")]
    [InlineData(false, "f32")]
    [InlineData(true, "NF4")]
    public void ALayerWithItsTermGivesTheSameBits(bool library, string weight)
    {
        const int rows = 70, outputs = 136, inputs = 72, r = 8;
        TermArgs args = new(rows, outputs, inputs, r);
        using var driver = new EmulatedCudaDriver();
        using CudaBackend b = Open(driver, libraries: library ? new CudaLibraries(new FakeCublasLt(driver)) : null);
        using var memory = new TestMemory(b);
        using PackedMatrix? packed = weight == "NF4" ? new PackedMatrix(weight, outputs, inputs, 3) : null;
        float[] values = Gpu.Random(outputs * inputs, 1), v = Gpu.Random(inputs * r, 3), u = Gpu.Random(outputs * r, 5), turned = [.. Enumerable.Range(0, inputs * r).Select(i => v[(i % inputs * r) + (i / inputs)])];
        float[] x = Rounded(Gpu.Random(rows * inputs, 2)), dy = Rounded(Gpu.Random(rows * outputs, 7)), before = Rounded(Gpu.Random(rows * inputs, 8));
        View w = packed?.On(memory) ?? (weight == "bf16" ? Half(values) : memory.Of(values)), m = memory.Of(Gpu.Random(r * r, 4));
        View y = memory.Empty(rows * outputs), z = memory.Empty(rows * r), mixed = memory.Empty(rows * r), dx = memory.Of(before), dMixed = memory.Empty(rows * r), dz = memory.Empty(rows * r);
        b.LinearTerm(y, z, mixed, memory.Of(x), w, default, memory.Of(v), m, memory.Of(u), args);
        b.LinearTermBackward(dx, dMixed, dz, memory.Of(dy), w, memory.Of(v), m, memory.Of(u), args, accumulate: true);
        float[][] expected = [memory.Read(z), memory.Read(mixed), memory.Read(dMixed), memory.Read(dz)];

        View halfY = Half(new float[rows * outputs]), halfDx = Half(before), wideY = memory.Empty(rows * outputs), wideDx = memory.Of(before);
        foreach ((View to, View gradient) in new[] { (halfY, halfDx), (wideY, wideDx) })
        {
            b.LinearTerm(to, z, mixed, Half(x), w, default, Half(v), m, Half(u), args);
            b.LinearTermBackward(gradient, dMixed, dz, Half(dy), w, Half(turned), m, Half(u), args, accumulate: true);
            Assert.Equal(expected, new[] { memory.Read(z), memory.Read(mixed), memory.Read(dMixed), memory.Read(dz) });
        }
        Assert.Equal(memory.Read(y), memory.Read(wideY));
        Assert.Equal(memory.Read(dx), memory.Read(wideDx));
        // The library adds to a term that was rounded: a last bit or two.
        if (library)
        {
            Close.To(2e-2, Read(halfY), Array.ConvertAll(memory.Read(y), f => f), "y");
            Close.To(2e-2, Read(halfDx), Array.ConvertAll(memory.Read(dx), f => f), "dx");
        }
        else
        {
            Assert.Equal(Rounded(memory.Read(y)), Read(halfY));
            Assert.Equal(Rounded(memory.Read(dx)), Read(halfDx));
        }

        View Half(float[] of) => memory.Of(Array.ConvertAll(of, MatMulKernelTests.BFloat), DType.BF16);

        float[] Read(View of) => ReadHalves(b, of);
    }

    [Theory]
    [InlineData(70, 136, 72, true)]
    [InlineData(9, 40, 64, true)]
    [InlineData(3, 40, 64, true)]
    [InlineData(70, 136, 72, false)]
    // What tiles do not take: a depth or a width that is no multiple of eight.
    [InlineData(70, 60, 72, false)]
    [InlineData(70, 60, 70, true)]
    public void AProductGivesTheSameBits(int m, int n, int k, bool transB)
    {
        using var driver = new EmulatedCudaDriver();
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        float[] a = Rounded(Gpu.Random(m * k, 1)), weight = Rounded(Gpu.Random(n * k, 2)), before = Rounded(Gpu.Random(m * n, 3));
        View w = memory.Of(Array.ConvertAll(weight, MatMulKernelTests.BFloat).AsSpan(), DType.BF16);
        foreach (bool accumulate in new[] { false, true })
        {
            MatMulArgs args = new(m, n, k, TransB: transB, Accumulate: accumulate, Autocast: true);
            View wide = memory.Of(before), fromHalf = memory.Of(before), half = Half(before);
            b.MatMul(wide, memory.Of(a), w, args);
            b.MatMul(fromHalf, Half(a), w, args);
            b.MatMul(half, Half(a), w, args);
            // Few rows are exact in fp32; both operands are bf16 here, so that only the order of sums differs.
            Close.To(2e-6, memory.Read(fromHalf), memory.Read(wide), $"{args}");
            if (m > 8)
                Assert.Equal(memory.Read(wide), memory.Read(fromHalf));
            Assert.Equal(Rounded(memory.Read(fromHalf)), ReadHalves(b, half));
        }

        View Half(float[] of) => memory.Of(Array.ConvertAll(of, MatMulKernelTests.BFloat), DType.BF16);
    }

    [Theory]
    [InlineData(128, 128, false)]
    [InlineData(64, 64, false)]
    [InlineData(256, 256, false)]
    // By the norm and the embedding one after the other.
    [InlineData(64, 32, false)]
    [InlineData(64, 64, true)]
    public void NormWithRotaryEmbeddingGivesTheSameBits(int dim, int rotaryDim, bool interleaved)
    {
        const int rows = 9, heads = 3;
        int n = rows * heads * dim;
        using var driver = new EmulatedCudaDriver();
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        var args = new NormRopeArgs(rows, heads, dim, rotaryDim, interleaved, 1e-6f, 0);
        float[] x = Rounded(Gpu.Random(n, 1)), before = Rounded(Gpu.Random(n, 2));
        View weight = memory.Of(Gpu.Random(dim, 3)), cos = memory.Of(Gpu.Random(rows * rotaryDim / 2, 4)), sin = memory.Of(Gpu.Random(rows * rotaryDim / 2, 5)), positions = memory.Of(Enumerable.Range(0, rows).ToArray().AsSpan()), dy = memory.Of(Gpu.Random(n, 6));
        View y = memory.Empty(n), rstd = memory.Empty(rows * heads), dx = memory.Of(before), room = memory.Empty(n), y2 = memory.Empty(n), rstd2 = memory.Empty(rows * heads), wide = memory.Of(before), half = Half(before), written = Half(before);
        b.NormRopeForward(y, rstd, memory.Of(x), weight, cos, sin, positions, args);
        b.NormRopeForward(y2, rstd2, Half(x), weight, cos, sin, positions, args);
        Assert.Equal(memory.Read(y), memory.Read(y2));
        Assert.Equal(memory.Read(rstd), memory.Read(rstd2));
        b.NormRopeBackward(dx, default, dy, memory.Of(x), weight, rstd, cos, sin, positions, room, args, accumulate: true);
        b.NormRopeBackward(wide, default, dy, Half(x), weight, rstd, cos, sin, positions, room, args, accumulate: true);
        b.NormRopeBackward(half, default, dy, Half(x), weight, rstd, cos, sin, positions, room, args, accumulate: true);
        Assert.Equal(memory.Read(dx), memory.Read(wide));
        Assert.Equal(Rounded(memory.Read(dx)), ReadHalves(b, half));
        b.NormRopeBackward(dx, default, dy, memory.Of(x), weight, rstd, cos, sin, positions, room, args, accumulate: false);
        b.NormRopeBackward(written, default, dy, Half(x), weight, rstd, cos, sin, positions, room, args, accumulate: false);
        Assert.Equal(Rounded(memory.Read(dx)), ReadHalves(b, written));

        View Half(float[] of) => memory.Of(Array.ConvertAll(of, MatMulKernelTests.BFloat), DType.BF16);
    }

    [Fact]
    public void ANormWritesHalvesAlone()
    {
        const int rows = 9, cols = 520;
        using var driver = new EmulatedCudaDriver();
        using CudaBackend b = Open(driver);
        using var memory = new TestMemory(b);
        View x = memory.Of(Gpu.Random(rows * cols, 1)), weight = memory.Of(Gpu.Random(cols, 2)), y = memory.Empty(rows * cols), rstd = memory.Empty(rows), half = memory.Of(new ushort[rows * cols].AsSpan(), DType.BF16);
        b.RmsNormForward(y, rstd, x, weight, rows, cols, 1e-6f, 0);
        b.RmsNormForward(half, rstd, x, weight, rows, cols, 1e-6f, 0);
        Assert.Equal(Rounded(memory.Read(y)), ReadHalves(b, half));
        // An op that takes fp32 alone says so.
        Assert.Throws<ArgumentException>(() => b.RmsNormForward(y, rstd, half, weight, rows, cols, 1e-6f, 0));
        Assert.Throws<ArgumentException>(() => b.Unary(y, half, rows * cols, UnaryOp.Relu));
    }

    private static float[] Rounded(float[] values) => Array.ConvertAll(values, v => MatMulKernelTests.Widen(MatMulKernelTests.BFloat(v)));

    private static float[] ReadHalves(CudaBackend b, View of)
    {
        var halves = new ushort[of.Length];
        b.Download(System.Runtime.InteropServices.MemoryMarshal.AsBytes(halves.AsSpan()), of);
        return Array.ConvertAll(halves, MatMulKernelTests.Widen);
    }
}
