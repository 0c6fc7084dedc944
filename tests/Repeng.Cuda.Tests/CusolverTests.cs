using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.LinearAlgebra;
using Repeng.PtxEmulator;
using Repeng.PtxEmulator.Driver;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Models;
using Repeng.Testing.Cuda;

namespace Repeng.Cuda.Tests;

/// <summary>Singular vectors by cuSOLVER, here a table that decomposes on the emulator's memory: shapes, accuracy, wrong answers, no room, every call failing, versions, and the adapter that is made of them.</summary>
public sealed class CusolverTests
{
    private static CudaBackend Open(EmulatedCudaDriver driver, FakeCusolver library) => CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), new CudaLibraries(null, library).Checked());

    // Gaussian with a few directions that stand out, so that leading vectors are determined.
    private static float[] Matrix(int rows, int cols, int seed)
    {
        var random = new Random(seed);
        float[] w = new float[rows * cols], u = [.. Enumerable.Range(0, rows * 12).Select(_ => Gaussian())], v = [.. Enumerable.Range(0, cols * 12).Select(_ => Gaussian())];
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
            {
                double sum = 0.1 * Gaussian();
                for (int t = 0; t < 12; t++)
                    sum += u[(i * 12) + t] * v[(j * 12) + t] * Math.Pow(0.8, t);
                w[(i * cols) + j] = (float)sum;
            }
        return w;

        float Gaussian() => (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
    }

    private static void SameTriplets(TruncatedSvd expected, TruncatedSvd actual)
    {
        Assert.InRange(actual.Residual, 0, 1e-12);
        for (int t = 0; t < expected.Rank; t++)
            Assert.Equal(1, actual.S[t] / expected.S[t], 2e-7);
        Assert.InRange(Largest(expected.U, actual.U), 0, 1e-6);
        Assert.InRange(Largest(expected.V, actual.V), 0, 1e-6);

        static double Largest(float[] a, float[] b) => a.Zip(b, (x, y) => (double)Math.Abs(x - y)).Max();
    }

    [Theory]
    [InlineData(200, 168, 6)]
    [InlineData(168, 200, 6)]
    [InlineData(161, 161, 10)]
    // More than a sixth: the host's own way is another there.
    [InlineData(170, 164, 40)]
    public void TheTripletsAreTheHosts(int rows, int cols, int r)
    {
        float[] w = Matrix(rows, cols, rows + r);
        using CpuWorkers workers = new(1);
        TruncatedSvd expected = TopSvd.Compute(workers, w, rows, cols, r);
        using var driver = new EmulatedCudaDriver();
        var library = new FakeCusolver(driver);
        using (CudaBackend backend = Open(driver, library))
        {
            TruncatedSvd actual = TopSvd.Compute(workers, w, rows, cols, r, backend);
            if (r <= 10)
                SameTriplets(expected, actual);
            else
            {
                // Among many neighbouring values vectors turn; the decomposition is one even so.
                Assert.InRange(actual.Residual, 0, 1e-12);
                for (int t = 0; t < r; t++)
                    Assert.Equal(1, actual.S[t] / expected.S[t], 2e-7);
            }
            Assert.Equal([(Math.Max(rows, cols), (long)Math.Min(rows, cols))], library.Decomposed);
            Assert.Equal(1, backend.LibraryDecompositions);
        }
        Assert.Equal(0, library.Live);
        Assert.Equal("", driver.Leaks());
    }

    [Theory]
    [InlineData(WrongSingularVectors.NotConverged)]
    [InlineData(WrongSingularVectors.NotNumbers)]
    [InlineData(WrongSingularVectors.Ascending)]
    [InlineData(WrongSingularVectors.OfAnotherMatrix)]
    public void WhatIsNotTheLeadingSubspaceIsFoundByTheHost(WrongSingularVectors wrong)
    {
        float[] w = Matrix(180, 162, 4);
        using CpuWorkers workers = new(1);
        TruncatedSvd expected = TopSvd.Compute(workers, w, 180, 162, 5);
        using var driver = new EmulatedCudaDriver();
        var library = new FakeCusolver(driver) { Wrong = wrong };
        using (CudaBackend backend = Open(driver, library))
        {
            TruncatedSvd actual = TopSvd.Compute(workers, w, 180, 162, 5, backend);
            Assert.Single(library.Decomposed);
            Assert.Equal(expected.U, actual.U);
            Assert.Equal(expected.S, actual.S);
            Assert.Equal(expected.V, actual.V);
        }
        Assert.Equal("", driver.Leaks());
    }

    [Fact]
    public void SmallMatricesSlowDoublesAndFullDevicesAreTheHosts()
    {
        using CpuWorkers workers = new(1);
        Assert.Equal(0, Decomposed(new EmulatorOptions(), 300, 160, 5));
        Assert.Equal(0, Decomposed(new EmulatorOptions { DoubleRatio = 64 }, 170, 162, 27));
        Assert.Equal(1, Decomposed(new EmulatorOptions { DoubleRatio = 64 }, 170, 162, 28));
        // No room for the matrix; then for the matrix, not for the workspace.
        Assert.Equal(0, Decomposed(new EmulatorOptions { DeviceMemory = 400_000 }, 170, 162, 28));
        Assert.Equal(0, Decomposed(new EmulatorOptions { DeviceMemory = 4_000_000 }, 170, 162, 28, workspace: 4_000_000));
        Assert.Equal(1, Decomposed(new EmulatorOptions { DeviceMemory = 4_000_000 }, 170, 162, 28));

        int Decomposed(EmulatorOptions options, int rows, int cols, int r, long workspace = 4096)
        {
            using var driver = new EmulatedCudaDriver(options);
            var library = new FakeCusolver(driver) { Workspace = workspace };
            using CudaBackend backend = Open(driver, library);
            float[] w = Matrix(rows, cols, 1);
            TruncatedSvd svd = TopSvd.Compute(workers, w, rows, cols, r, backend);
            Assert.InRange(svd.Residual, 0, 1e-9);
            return library.Decomposed.Count;
        }
    }

    [Fact]
    public void EveryCallMayFailWithoutALeak()
    {
        using var driver = new EmulatedCudaDriver();
        var whole = new FakeCusolver(driver);
        Work(whole);
        Assert.Equal(9, whole.Calls);
        for (int i = 0; i < whole.Calls; i++)
        {
            var library = new FakeCusolver(driver) { FailAt = i };
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
            if (library.Failed.Contains("Destroy", StringComparison.Ordinal))
                Assert.Null(e);
            else
            {
                Assert.Equal(library.Failed, e?.Function);
                Assert.Contains("CUSOLVER_STATUS_INTERNAL_ERROR", e!.Message);
                Assert.Contains("REPENG_CUDA_LIBRARIES=none", e.Message);
                Assert.DoesNotContain('\n', e.Message);
            }
            Assert.Equal(0, library.Live);
            Assert.Equal($"call {i}: ", $"call {i}: {driver.Leaks()}");
        }

        void Work(FakeCusolver library)
        {
            using CpuWorkers workers = new(1);
            using CudaBackend backend = Open(driver, library);
            TopSvd.Compute(workers, Matrix(170, 161, 2), 170, 161, 3, backend);
            TopSvd.Compute(workers, Matrix(161, 170, 3), 161, 170, 3, backend);
        }
    }

    [Fact]
    public void EveryCallOfTheDriverMayFailWithoutALeak()
    {
        using var driver = new EmulatedCudaDriver(new EmulatorOptions { CheckLeaks = false });
        float[] w = Matrix(170, 161, 2);
        int calls = Run(-1, out _);
        for (int i = 0; i < calls; i++)
        {
            Run(i, out string? failed);
            Assert.NotNull(failed);
            Assert.Equal($"call {i}, {failed}: ", $"call {i}, {failed}: {driver.Leaks()}");
        }

        int Run(int failAt, out string? failed)
        {
            var faulty = new FaultyCudaDriver(driver) { FailAt = failAt };
            var library = new FakeCusolver(driver);
            CudaException? e = null;
            try
            {
                using CpuWorkers workers = new(1);
                using CudaBackend backend = CudaBackend.Open(faulty, CudaDevices.Find(faulty).Choose(), new CudaLibraries(null, library));
                TopSvd.Compute(workers, w, 170, 161, 3, backend);
            }
            catch (CudaException caught)
            {
                e = caught;
            }
            Assert.Equal(0, library.Live);
            failed = faulty.Failed;
            if (e is not null)
                Assert.StartsWith($"CUDA: {failed}", e.Message);
            else if (failed is not null)
                // Only what gives back may fail in silence, and what makes it current for that.
                Assert.True(failed is "cuStreamDestroy" or "cuDevicePrimaryCtxRelease" || (failed == "cuCtxSetCurrent" && faulty.Following is "cuStreamDestroy" or "cuDevicePrimaryCtxRelease"), failed);
            return faulty.Calls;
        }
    }

    [Fact]
    public void AnAdapterIsMadeOfTheLibrarysVectors()
    {
        ModelConfig config = new()
        {
            ModelType = "llama",
            VocabSize = 24,
            HiddenSize = 162,
            IntermediateSize = 170,
            NumLayers = 1,
            NumHeads = 2,
            NumKvHeads = 1,
            HeadDim = 8,
            MaxPositions = 32,
            NormEps = 1e-5f,
            Rope = new RopeSpec(10000, null),
            RotaryDim = 8,
            Windows = new int[1],
            AttentionScale = 0.35f,
            TiedHead = true,
        };
        SvdAdapterConfig adapterConfig = new() { Rank = 4, TargetModules = ".*(up|down)_proj" };
        using var driver = new EmulatedCudaDriver();
        var library = new FakeCusolver(driver);
        (float[] Product, double Orthogonality)[] with = Bases(() => Open(driver, library)), without = Bases(() => new CpuBackend(1));
        Assert.Equal([(170L, 162L), (170L, 162L)], library.Decomposed);
        Assert.Equal(2, with.Length);
        for (int i = 0; i < with.Length; i++)
        {
            Assert.InRange(with[i].Orthogonality, 0, 1e-6);
            double scale = without[i].Product.Max(x => Math.Abs((double)x));
            Assert.InRange(with[i].Product.Zip(without[i].Product, (x, y) => Math.Abs((double)x - y)).Max() / scale, 0, 1e-5);
        }
        Assert.Equal("", driver.Leaks());

        // U·S·Vᵀ of each adapted weight, which no choice within a plane of near singular values changes; and how far the columns of U are from orthonormal.
        (float[], double)[] Bases(Func<IBackend> open)
        {
            using var device = new Device(open(), 1);
            using DecoderModel model = ModelLoader.Load(device, config, new ModelInitialiser(config, 1, 0.3));
            using SvdAdapter adapter = SvdAdapter.Create(model, adapterConfig);
            return [.. adapter.Layers.Values.Select(layer =>
            {
                float[] u = layer.U.ToArray(), s = layer.S.ToArray(), v = layer.V.ToArray();
                int r = s.Length, rows = u.Length / r, cols = v.Length / r;
                float[] product = new float[rows * cols];
                double worst = 0;
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < cols; j++)
                        for (int t = 0; t < r; t++)
                            product[(i * cols) + j] += u[(i * r) + t] * s[t] * v[(j * r) + t];
                for (int a = 0; a < r; a++)
                    for (int b = 0; b < r; b++)
                        worst = Math.Max(worst, Math.Abs(Enumerable.Range(0, rows).Sum(i => (double)u[(i * r) + a] * u[(i * r) + b]) - (a == b ? 1 : 0)));
                return (product, worst);
            })];
        }
    }

    [Fact]
    public void ALibraryOfTheWrongVersionIsNamed()
    {
        using var driver = new EmulatedCudaDriver();
        string message = Assert.Throws<UserErrorException>(() => new CudaLibraries(null, new FakeCusolver(driver) { Version = 11204 }).Checked()).Message;
        Assert.Equal("CUDA: libcusolver.so.11 is version 11.2.4, 11.4.1 (CUDA 11.8) or newer is needed; take it out of the library path, install a newer one, or set REPENG_CUDA_LIBRARIES=none to go without", message);
        CudaLibraries libraries = new CudaLibraries(null, new FakeCusolver(driver)).Checked();
        Assert.StartsWith("libcusolver.so.11 11.6.3 for the leading singular vectors of weights with more than 160 rows and columns", libraries.DescribeSolver(2));
        Assert.Contains("more than a sixth of the (fewer on the CPU, as fp64 is 64 times slower than fp32 here)", libraries.DescribeSolver(64));
        Assert.StartsWith("no cuSOLVER", CudaLibraries.None.DescribeSolver(2));
    }
}
