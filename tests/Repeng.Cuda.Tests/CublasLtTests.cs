using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing;
using Repeng.Testing.Cuda;

namespace Repeng.Cuda.Tests;

/// <summary>Large products by cuBLASLt, here a table that multiplies on the emulator's memory: layouts, leading dimensions, precision, every call failing, versions.</summary>
public sealed class CublasLtTests
{
    private const int M = 72, N = 64, K = 80;

    private static CudaBackend Open(EmulatedCudaDriver driver, CublasLt library, CudaPrecision precision = CudaPrecision.Exact, double least = 0)
        => CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), new CudaLibraries(library).Checked(), precision, least);

    private static (float[] A, ushort[] B16, float[] B) Operands()
    {
        var random = new Random(3);
        float[] a = new float[M * K], b = new float[N * K];
        foreach (ref float v in a.AsSpan())
            v = (float)(random.NextDouble() - 0.5);
        foreach (ref float v in b.AsSpan())
            v = (float)(random.NextDouble() - 0.5);
        return (a, Array.ConvertAll(b, v => (ushort)(BitConverter.SingleToUInt32Bits(v) >> 16)), b);
    }

    private static float[] Product(IBackend backend, DType type, bool transA, bool transB, bool accumulate)
    {
        (float[] a, ushort[] half, float[] b) = Operands();
        using TestMemory memory = new(backend);
        View c = memory.Of(Enumerable.Range(0, M * N).Select(i => i % 7 * 0.1f).ToArray());
        backend.MatMul(c, memory.Of(a), type == DType.F32 ? memory.Of(b) : memory.Of(half.AsSpan(), type), new MatMulArgs(M, N, K, transA, transB, accumulate, Autocast: true));
        return memory.Read(c);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void EveryLayoutIsTheSameProduct(bool transA, bool transB)
    {
        using var driver = new EmulatedCudaDriver();
        using CpuBackend cpu = new(1);
        var library = new FakeCublasLt(driver);
        using (CudaBackend backend = Open(driver, library))
        {
            foreach (DType type in (DType[])[DType.F32, DType.BF16])
                foreach (bool accumulate in (bool[])[false, true])
                {
                    int before = library.Products.Count;
                    Close.To(1e-6, Product(backend, type, transA, transB, accumulate), Product(cpu, type, transA, transB, accumulate), $"{type} {transA} {transB} {accumulate}");
                    // fp32 activations beside bf16 weights are three products of bf16 parts.
                    Assert.Equal(type == DType.F32 ? 1 : 3, library.Products.Count - before);
                }
            // The algorithm of a shape is looked for once.
            Assert.Equal(2, library.Searches);
            Assert.Equal(2, backend.LibraryShapes);
            Assert.Equal([CudaDataType.R32F, CudaDataType.R16BF], library.Products.Distinct());
        }
        Assert.Equal(0, library.Live);
        Assert.Equal("", driver.Leaks());
    }

    [Theory]
    [InlineData(DType.F32, 4, 0, 1)]
    [InlineData(DType.BF16, 0, 0, 3)]
    // Operands on 16 bytes that are not on 256, which the library counts on where it is told nothing.
    [InlineData(DType.F32, 4, 4, 1)]
    // Activations with gaps beside bf16 weights, and operands that do not lie on 16 bytes, are for the kernels.
    [InlineData(DType.BF16, 4, 0, 0)]
    [InlineData(DType.F32, 3, 0, 0)]
    [InlineData(DType.F32, 4, 1, 0)]
    public void RowsMayStandApart(DType type, int gapA, int skipped, int products)
    {
        const int LdB = K + 8, LdC = N + 12;
        int ldA = K + gapA;
        using var driver = new EmulatedCudaDriver();
        using CpuBackend cpu = new(1);
        var library = new FakeCublasLt(driver);
        using CudaBackend backend = Open(driver, library);
        Close.To(1e-6, On(backend), On(cpu), $"{type}, rows of A {ldA} apart");
        Assert.Equal(products, library.Products.Count);

        float[] On(IBackend b)
        {
            var random = new Random(8);
            float[] a = [.. Enumerable.Range(0, skipped + (M * ldA)).Select(_ => (float)random.NextDouble() - 0.5f)], w = [.. Enumerable.Range(0, N * LdB).Select(_ => (float)random.NextDouble() - 0.5f)];
            using TestMemory memory = new(b);
            View c = memory.Of(Enumerable.Range(0, M * LdC).Select(i => i % 5 * 0.1f).ToArray());
            View weights = type == DType.F32 ? memory.Of(w) : memory.Of(Array.ConvertAll(w, v => (ushort)(BitConverter.SingleToUInt32Bits(v) >> 16)).AsSpan(), type);
            b.MatMul(c, memory.Of(a).Slice(skipped, (long)M * ldA), weights, new MatMulArgs(M, N, K, TransB: true, LdA: ldA, LdB: LdB, LdC: LdC));
            return memory.Read(c);
        }
    }

    [Theory]
    [InlineData(DType.BF16)]
    [InlineData(DType.F16)]
    [InlineData(DType.F32)]
    public void Bf16IsTheSameProductWithTheLibraryAndWithout(DType type)
    {
        using var driver = new EmulatedCudaDriver();
        var library = new FakeCublasLt(driver);
        using CudaBackend with = Open(driver, library, CudaPrecision.Bf16), without = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), CudaLibraries.None, CudaPrecision.Bf16);
        foreach ((bool transA, bool transB) in new[] { (false, true), (false, false), (true, false) })
            Close.To(1e-6, Product(with, type, transA, transB, true), Product(without, type, transA, transB, true), $"{type} {transA} {transB}");
        // One product of bf16 operands each, whatever the weight's type.
        Assert.Equal([CudaDataType.R16BF, CudaDataType.R16BF, CudaDataType.R16BF], library.Products);
    }

    [Fact]
    public void SmallProductsAndShapesWithoutAnAlgorithmGoToTheKernels()
    {
        using var driver = new EmulatedCudaDriver();
        using CpuBackend cpu = new(1);
        float[] expected = Product(cpu, DType.BF16, false, true, true);
        var library = new FakeCublasLt(driver);
        using (CudaBackend backend = Open(driver, library, least: 1e9))
            Close.To(1e-5, Product(backend, DType.BF16, false, true, true), expected, "small");
        Assert.Equal(0, library.Calls);
        var without = new FakeCublasLt(driver) { HasAlgorithms = false };
        using (CudaBackend backend = Open(driver, without))
            for (int i = 0; i < 2; i++)
                Close.To(1e-5, Product(backend, DType.BF16, false, true, true), expected, "no algorithm");
        Assert.Equal(1, without.Searches);
        Assert.Empty(without.Products);
        Assert.Equal(0, without.Live);
    }

    [Fact]
    public void EveryCallMayFailWithoutALeak()
    {
        using var driver = new EmulatedCudaDriver();
        var whole = new FakeCublasLt(driver);
        Work(whole);
        Assert.InRange(whole.Calls, 20, 100);
        for (int i = 0; i < whole.Calls; i++)
        {
            var library = new FakeCublasLt(driver) { FailAt = i };
            CudaLibraryException? e = null;
            try
            {
                Work(library);
            }
            catch (CudaLibraryException caught)
            {
                e = caught;
            }
            Assert.NotNull(library.Failed);
            if (library.Failed.EndsWith("Destroy", StringComparison.Ordinal))
                Assert.Null(e);
            else
            {
                Assert.Equal(library.Failed, e?.Function);
                Assert.Contains("CUBLAS_STATUS_INTERNAL_ERROR", e!.Message);
                Assert.Contains("REPENG_CUDA_LIBRARIES=none", e.Message);
                Assert.DoesNotContain('\n', e.Message);
            }
            Assert.Equal(0, library.Live);
            Assert.Equal($"call {i}: ", $"call {i}: {driver.Leaks()}");
        }

        void Work(FakeCublasLt library)
        {
            using CudaBackend backend = Open(driver, library);
            Product(backend, DType.F32, false, true, false);
            Product(backend, DType.BF16, false, false, true);
        }
    }

    [Fact]
    public void ALibraryOfTheWrongVersionIsNamed()
    {
        using var driver = new EmulatedCudaDriver();
        string message = Assert.Throws<UserErrorException>(() => new CudaLibraries(new FakeCublasLt(driver) { Version = 110402 }).Checked()).Message;
        Assert.Equal("CUDA: libcublasLt.so.12 is version 11.4.2, 11.11.3 (CUDA 11.8) or newer is needed; take it out of the library path, install a newer one, or set REPENG_CUDA_LIBRARIES=none to go without", message);
        Assert.StartsWith("libcublasLt.so.12 12.1.3 for products of 1 GFLOP and more", new CudaLibraries(new FakeCublasLt(driver)).Checked().Describe());
        Assert.StartsWith("no cuBLASLt", CudaLibraries.None.Describe());
    }
}
