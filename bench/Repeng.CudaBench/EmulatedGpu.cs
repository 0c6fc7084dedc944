using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;
using Repeng.PtxEmulator;
using Repeng.PtxEmulator.Driver;

namespace Repeng.CudaBench;

/// <summary>Fills in the values of a launch.</summary>
internal delegate void Arguments(ref KernelArguments arguments);

/// <summary>What the launches of one kernel counted together.</summary>
internal sealed class KernelCounts
{
    /// <summary>Whether a case launched it by its name, not through an op of the engine.</summary>
    public bool ByName { get; set; }

    public long Launches { get; private set; }

    public long Blocks { get; private set; }

    public long SectorsRead { get; private set; }

    public long SectorsWritten { get; private set; }

    public long SharedPhases { get; private set; }

    public long SharedWays { get; private set; }

    public long MmaFlop { get; private set; }

    public long WarpInstructions { get; private set; }

    /// <summary>Bytes of the sectors that were asked for.</summary>
    public double Bytes => 32.0 * (SectorsRead + SectorsWritten);

    public void Add(LaunchRecord launch)
    {
        Launches++;
        Blocks += (long)launch.Grid.X * launch.Grid.Y * launch.Grid.Z;
        LaunchCounters c = launch.Counters;
        SectorsRead += c.GlobalSectorsRead;
        SectorsWritten += c.GlobalSectorsWritten;
        SharedPhases += c.SharedPhases;
        SharedWays += c.SharedWays;
        MmaFlop += c.MmaFlop;
        WarpInstructions += c.WarpInstructions;
    }
}

/// <summary>
/// The CUDA engine on an emulated device that counts, and looks for races between lanes, as every kernel runs here; its other checks are left to the tests: operands with values that keep kernels on their usual way,
/// ops through the engine's own launch code or kernels by name, and what each kernel counted.
/// </summary>
internal sealed class EmulatedGpu : IDisposable
{
    private readonly EmulatedCudaDriver _driver;
    private readonly Dictionary<string, CudaModule> _modules = [];
    private readonly List<nint> _taken = [];
    private Dictionary<string, KernelCounts> _counts = [];
    private readonly HashSet<string> _byName = new(StringComparer.Ordinal);
    private ulong _state;
    private CudaBackend? _rounding;

    public EmulatedGpu()
    {
        _driver = new EmulatedCudaDriver(new EmulatorOptions { CheckGlobalRaces = false, CheckSharedRaces = false, CheckInitialization = false, CheckLeaks = false, CheckLaneRaces = true, DeviceMemory = 16L << 30 });
        Backend = CudaBackend.Open(_driver, CudaDevices.Find(_driver).Choose());
        _driver.Device.LaunchCompleted = launch =>
        {
            if (!_counts.TryGetValue(launch.Kernel, out KernelCounts? counts))
                _counts[launch.Kernel] = counts = new KernelCounts();
            counts.Add(launch);
        };
    }

    public CudaBackend Backend { get; }

    /// <summary>The same device with operands of products and attention rounded to bf16.</summary>
    public CudaBackend Rounding => _rounding ??= CudaBackend.Open(_driver, CudaDevices.Find(_driver).Choose(), CudaLibraries.None, CudaPrecision.Bf16);

    /// <summary>What each kernel counted while this ran; operands that it took are given back.</summary>
    public IReadOnlyDictionary<string, KernelCounts> Count(Action<EmulatedGpu> run)
    {
        _counts = [];
        _byName.Clear();
        _state = 0x9E3779B97F4A7C15;
        run(this);
        Backend.Context.Synchronize();
        _rounding?.Context.Synchronize();
        foreach (string kernel in _byName)
            _counts[kernel].ByName = true;
        foreach (nint address in _taken)
            Backend.Context.Free(address);
        _taken.Clear();
        return _counts;
    }

    public nint Take(long bytes)
    {
        nint address = Backend.Context.Allocate(bytes);
        _taken.Add(address);
        return address;
    }

    /// <summary>Zeros.</summary>
    public View Zeros(long n) => new(Take(n * sizeof(float)), n, DType.F32);

    /// <summary>Values in (−0.5, 0.5).</summary>
    public View Signed(long n) => Fill(n, u => u - 0.5f);

    /// <summary>Values in (0.25, 0.75): where every function of one variable is defined.</summary>
    public View Positive(long n) => Fill(n, u => 0.25f + (u / 2));

    public View Weights(long n, DType type)
    {
        if (type == DType.F32)
            return Signed(n);
        var values = new ushort[n];
        foreach (ref ushort v in values.AsSpan())
        {
            float x = Uniform() - 0.5f;
            v = type == DType.F16 ? BitConverter.HalfToUInt16Bits((Half)x) : (ushort)(BitConverter.SingleToUInt32Bits(x) >> 16);
        }
        return new View(Bytes(MemoryMarshal.AsBytes(values.AsSpan())), n, type);
    }

    public View Ints(params ReadOnlySpan<int> values) => new(Bytes(MemoryMarshal.AsBytes(values)), values.Length, DType.I32);

    public nint Bytes(ReadOnlySpan<byte> values)
    {
        nint address = Take(values.Length);
        Backend.Context.Upload(address, values);
        return address;
    }

    /// <summary>Random bytes, for codes of which all values are valid.</summary>
    public nint Codes(long n)
    {
        var bytes = new byte[n];
        foreach (ref byte b in bytes.AsSpan())
            b = (byte)(Next() >> 40);
        return Bytes(bytes);
    }

    public void Launch(string image, string kernel, Dim3 grid, int block, int shared, Arguments fill)
    {
        if (!_modules.TryGetValue(image, out CudaModule? module))
            _modules[image] = module = Backend.Context.LoadModule(image, KernelImages.Read(image));
        _byName.Add(kernel);
        KernelArguments arguments = default;
        fill(ref arguments);
        module.Function(kernel).Launch(grid, new((uint)block), shared, ref arguments);
    }

    public void Dispose()
    {
        foreach (CudaModule module in _modules.Values)
            module.Dispose();
        _rounding?.Dispose();
        Backend.Dispose();
        _driver.Dispose();
    }

    private View Fill(long n, Func<float, float> of)
    {
        var values = new float[n];
        foreach (ref float v in values.AsSpan())
            v = of(Uniform());
        return new View(Bytes(MemoryMarshal.AsBytes(values.AsSpan())), n, DType.F32);
    }

    private float Uniform() => ((Next() >> 41) + 0.5f) / (1 << 23);

    // Knuth's linear congruential generator: the same operands in every run.
    private ulong Next() => _state = (_state * 6364136223846793005) + 1442695040888963407;
}
