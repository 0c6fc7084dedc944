using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;
using Repeng.Kernels.Quantised;
using Repeng.PtxEmulator;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing.Cuda;

namespace Repeng.Cuda.Tests;

/// <summary>The engine's side of the driver: errors that say what to do, no leak after any failure, threads, graphs.</summary>
public sealed class DriverTests
{
    private const int N = 3000;

    [Fact]
    public void EveryCallMayFailWithoutALeak()
    {
        using (var emulator = new EmulatedCudaDriver())
        {
            var whole = new FaultyCudaDriver(emulator);
            Work(whole);
            Assert.Equal("", emulator.Leaks());
            Assert.InRange(whole.Calls, 40, 400);
            for (int i = 0; i < whole.Calls; i++)
            {
                var faulty = new FaultyCudaDriver(emulator) { FailAt = i, Failure = i % 2 == 0 ? CuResult.Unknown : CuResult.OutOfMemory };
                CudaException? e = null;
                try
                {
                    Work(faulty);
                }
                catch (CudaException caught)
                {
                    e = caught;
                }
                Assert.NotNull(faulty.Failed);
                // What only gives back cannot stop the work; anything else must be told, with the function that failed. A context that cannot be made
                // current is silent before something is given back and nowhere else; cuMemFree is told, and the work here goes on after it.
                if (e is null)
                    Assert.Contains(faulty.Failed == "cuCtxSetCurrent" ? faulty.Following ?? "cuCtxSetCurrent, and then nothing" : faulty.Failed,
                        (string[])["cuModuleUnload", "cuStreamDestroy", "cuEventDestroy", "cuGraphExecDestroy", "cuDevicePrimaryCtxRelease", "cuMemFreeHost", "cuMemFree"]);
                else
                    Assert.StartsWith($"CUDA: {faulty.Failed}", e.Message);
                Assert.Equal($"call {i}: ", $"call {i}: {emulator.Leaks()}");
            }
        }
    }

    // Everything that a run does once: open, allocate, copy, compile, launch, decode what is packed, sample, time, capture and replay, pinned memory, close.
    private static void Work(CudaDriver driver)
    {
        CudaDevices devices = CudaDevices.Find(driver);
        using CudaBackend backend = CudaBackend.Open(driver, devices.Choose());
        nint x = 0, y = 0, z = 0;
        try
        {
            z = backend.Allocate(Packed);
            Quantised(backend, z);
            x = backend.Allocate(N * sizeof(float));
            y = backend.Allocate(N * sizeof(float));
            var values = new float[N];
            Array.Fill(values, 3);
            View from = new(x, N, DType.F32), to = new(y, N, DType.F32);
            backend.Upload(from, MemoryMarshal.AsBytes(values.AsSpan()));
            backend.Unary(to, from, N, UnaryOp.Square);
            backend.ReduceSum(to, from, 1, N, 1, accumulate: false);
            _ = backend.Context.Time(() => backend.Unary(to, from, N, UnaryOp.Square));
            using (CudaGraphHandle graph = backend.Context.Capture(() => backend.AddScaled(to, from, N, 2)))
            {
                backend.Context.Launch(graph);
                backend.Context.Launch(graph);
            }
            using (CudaHostMemoryHandle pinned = backend.Context.AllocatePinned(64))
                Assert.Equal(64, pinned.Bytes);
            backend.Download(MemoryMarshal.AsBytes(values.AsSpan()), to);
            Assert.All(values, v => Assert.Equal(21, v));
        }
        finally
        {
            Free(backend, x);
            Free(backend, y);
            Free(backend, z);
        }
    }

    private const int Packed = 1 << 13;

    // 16 × 64 codes of NF4 with their code book, and LLM.int8's rows, as the loader brings them; then a token.
    private static void Quantised(CudaBackend backend, nint z)
    {
        var bytes = new byte[Packed];
        Array.Fill(bytes, (byte)0x77);
        MemoryMarshal.Cast<byte, float>(bytes.AsSpan(2048)).Fill(1);
        backend.Upload(new View(z, Packed / 4, DType.I32), bytes);
        View codes = Packing.OfCodes(FourBitCode.Nf4, z, z + 2048, 64, 1024).View, a = new(z + 4096, 128, DType.F32), c = new(z + 4608, 32, DType.F32), token = new(z + 4736, 1, DType.I32), scores = new(z + 4800, 32, DType.F32);
        backend.MatMul(c, a, codes, new MatMulArgs(2, 16, 64, TransB: true));
        backend.Unpack(new View(z + 4096, 1024, DType.F32), codes);
        backend.Sample(token, scores, c, default, [], 32, new SampleArgs(Sample: false), 0);
        Span<byte> chosen = stackalloc byte[sizeof(int)];
        backend.Download(chosen, token);
        // 0x77 is a pair of zeros, so that all logits are the same.
        Assert.Equal(-1, BitConverter.ToInt32(chosen));
    }

    private static void Free(CudaBackend backend, nint address)
    {
        try
        {
            backend.Free(address, 0);
        }
        catch (CudaException e) when (e.Function is "cuMemFree" or "cuCtxSetCurrent")
        {
            // It was freed even so.
        }
    }

    [Fact]
    public void AnOwnedDriverGoesWithTheBackendAndWithAFailureToOpen()
    {
        using var emulator = new EmulatedCudaDriver();
        CudaDeviceInfo device = CudaDevices.Find(emulator).Choose();
        for (int i = 0; ; i++)
        {
            var driver = new OwnedDriver(emulator) { FailAt = i };
            if (Record.Exception(() => CudaBackend.Open(driver, device, ownsDriver: true).Dispose()) is not { } e)
            {
                Assert.Equal(1, driver.Disposed);
                break;
            }
            Assert.StartsWith($"CUDA: {driver.Failed}", Assert.IsType<CudaException>(e).Message);
            Assert.Equal((driver.Failed, 1), (driver.Failed, driver.Disposed));
            Assert.InRange(i, 0, 20);
            Assert.Equal("", emulator.Leaks());
        }
        // What is only lent stays.
        var lent = new OwnedDriver(emulator) { FailAt = 0 };
        Assert.Throws<CudaException>(() => CudaBackend.Open(lent, device));
        Assert.Equal(0, lent.Disposed);
        Assert.Throws<ArgumentNullException>(() => CudaBackend.Open(lent, null!, ownsDriver: true));
        Assert.Equal(1, lent.Disposed);
    }

    [Fact]
    public void OutOfMemoryIsToldWithItsNumbers()
    {
        using var emulator = new EmulatedCudaDriver(new EmulatorOptions { DeviceMemory = 8 << 20 });
        using CudaBackend backend = Open(emulator);
        CudaException e = Assert.Throws<CudaException>(() => backend.Allocate(64L << 20));
        Assert.Equal(CuResult.OutOfMemory, e.Result);
        Assert.Contains("64.0 MiB more were asked", e.Message);
        Assert.Contains("8.0 MiB are free of 8.0 MiB", e.Message);
        Assert.Contains("smaller batch", e.Message);
        // The device goes on.
        nint small = backend.Allocate(1 << 20);
        backend.Free(small, 1 << 20);
    }

    [Fact]
    public void AKernelFaultLosesTheDeviceAndEveryLaterCallSaysWhy()
    {
        var emulator = new EmulatedCudaDriver(new EmulatorOptions { CheckLeaks = false });
        CudaBackend backend = Open(emulator);
        View table = Take(backend, 4 * 8, DType.F32), index = Take(backend, 1, DType.I32), y = Take(backend, 8, DType.F32);
        backend.Upload(index, BitConverter.GetBytes(1 << 24));
        backend.GatherRows(y, table, index, 1, 8);
        CudaException e = Assert.Throws<CudaException>(backend.Context.Synchronize);
        Assert.True(e.DeviceLost);
        Assert.Contains("gather_rows", e.Message);
        Assert.Contains("train --resume", e.Message);
        Assert.Same(e, Assert.Throws<CudaException>(() => backend.Fill(y, 0)));
        Assert.Same(e, Assert.Throws<CudaException>(() => backend.Allocate(64)));
        // Giving back is no error any more: the memory went with the context.
        backend.Free(y.Address, y.Bytes);
        backend.Dispose();
        emulator.Dispose();
    }

    [Fact]
    public void TheDriversCompilerIsQuoted()
    {
        using var emulator = new EmulatedCudaDriver();
        using CudaBackend backend = Open(emulator);
        CudaException e = Assert.Throws<CudaException>(() => backend.Context.LoadModule("broken", Encoding.UTF8.GetBytes(".version 7.0\n.target sm_80\n.address_size 64\n.frobnicate k;")));
        Assert.Contains("kernels broken", e.Message);
        Assert.Contains("frobnicate", e.Message);
    }

    [Fact]
    public void ADeviceThatIsNotThereIsNamed()
    {
        using var emulator = new EmulatedCudaDriver();
        CudaDevices devices = CudaDevices.Find(emulator);
        Assert.Equal("--device cuda:7: there is one GPU, cuda:0", Assert.Throws<UserErrorException>(() => devices.Choose(7)).Message);
        Assert.Equal("--device cuda:7: there are 2 GPUs, cuda:0 to cuda:1", Assert.Throws<UserErrorException>(() => CudaDevices.Find(new OtherDriver(emulator) { Count = 2 }).Choose(7)).Message);
        Assert.Contains("shows no GPU", Assert.Throws<UserErrorException>(() => CudaDevices.Find(new OtherDriver(emulator) { Count = 0 }).Choose()).Message);
        Assert.Contains("the kernels need compute capability 8.0", Assert.Throws<UserErrorException>(() => CudaDevices.Find(new OtherDriver(emulator) { Major = 7 }).Choose()).Message);
        Assert.Contains("knows CUDA 11.4", Assert.Throws<UserErrorException>(() => CudaDevices.Find(new OtherDriver(emulator) { Version = 11040 })).Message);
    }

    [Fact]
    public void WithoutADriverTheLibraryIsNamed()
    {
        if (NativeCudaDriver.TryOpen(out string why) is not null)
            Assert.Skip("there is an NVIDIA driver here");
        Assert.Contains(OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1", why);
        UserErrorException e = Assert.Throws<UserErrorException>(() => CudaDevices.Find());
        Assert.Contains("--device cpu", e.Message);
    }

    [Fact]
    public async Task ThreadsShareADevice()
    {
        using var emulator = new EmulatedCudaDriver();
        using CudaBackend backend = Open(emulator);
        await Task.WhenAll(Enumerable.Range(1, 4).Select(k => Task.Run(() =>
        {
            View x = Take(backend, 500, DType.F32);
            try
            {
                var values = new float[500];
                for (int round = 0; round < 5; round++)
                {
                    backend.Fill(x, k);
                    backend.Unary(x, x, 500, UnaryOp.Scale, round);
                    backend.Download(MemoryMarshal.AsBytes(values.AsSpan()), x);
                    Assert.All(values, v => Assert.Equal(k * round, v));
                }
            }
            finally
            {
                backend.Free(x.Address, x.Bytes);
            }
        }, TestContext.Current.CancellationToken)));
    }

    [Fact]
    public void ParametersOfEveryKernelAreThoseOfTheManifest()
    {
        using var device = new PtxDevice();
        JsonArray modules = JsonNode.Parse(KernelImages.Manifest)!["modules"]!.AsArray();
        Assert.Equal(KernelImages.Names, modules.Select(m => (string)m!["name"]!).Order(StringComparer.Ordinal));
        foreach (JsonNode? listed in modules)
        {
            PtxModule module = device.LoadModule(Encoding.UTF8.GetString(KernelImages.Read((string)listed!["name"]!)));
            Assert.Equal(module.Kernels.Order(StringComparer.Ordinal), listed["kernels"]!.AsArray().Select(k => (string)k!["name"]!).Order(StringComparer.Ordinal));
            foreach (JsonNode? kernel in listed["kernels"]!.AsArray())
                Assert.Equal(kernel!["params"]!.AsArray().Select(p => Bytes((string)p!)), module.GetFunction((string)kernel["name"]!).ParameterSizes);
            device.UnloadModule(module);
        }

        // bytes[136] is a structure, u64 and f32 count bits.
        static int Bytes(string type) => type.StartsWith("bytes[", StringComparison.Ordinal) ? int.Parse(type.AsSpan(6, type.Length - 7), CultureInfo.InvariantCulture) : int.Parse(type.AsSpan(1), CultureInfo.InvariantCulture) / 8;
    }

    private static CudaBackend Open(CudaDriver driver) => CudaBackend.Open(driver, CudaDevices.Find(driver).Choose());

    private static View Take(CudaBackend backend, int length, DType type) => new(backend.Allocate(length * 4), length, type);

    private sealed class OwnedDriver(CudaDriver inner) : FaultyCudaDriver(inner), IDisposable
    {
        public int Disposed { get; private set; }

        public void Dispose() => Disposed++;
    }

    /// <summary>An emulator that says something else about itself.</summary>
    private sealed class OtherDriver(CudaDriver inner) : FaultyCudaDriver(inner)
    {
        public int Count { get; init; } = 1;

        public int Major { get; init; } = 8;

        public int Version { get; init; } = 12000;

        public override CuResult DeviceGetCount(out int count)
        {
            count = Count;
            return CuResult.Success;
        }

        public override CuResult DriverGetVersion(out int version)
        {
            version = Version;
            return CuResult.Success;
        }

        // All of them are the one.
        public override CuResult DeviceGet(out int device, int ordinal) => base.DeviceGet(out device, 0);

        public override CuResult DeviceGetAttribute(out int value, CuDeviceAttribute attribute, int device)
        {
            CuResult result = base.DeviceGetAttribute(out value, attribute, device);
            if (attribute == CuDeviceAttribute.ComputeCapabilityMajor)
                value = Major;
            return result;
        }
    }
}
