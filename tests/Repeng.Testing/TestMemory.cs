using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;
using Repeng.PtxEmulator.Driver;

namespace Repeng.Testing;

/// <summary>Device memory for one test: makes views from arrays, reads them back, frees everything at the end.</summary>
public sealed class TestMemory(IBackend backend) : IDisposable
{
    private readonly List<(nint Address, long Bytes)> _owned = [];

    /// <summary>The backend that the memory belongs to.</summary>
    public IBackend Backend { get; } = backend;

    /// <summary>A view that holds these values as fp32.</summary>
    public View Of(params ReadOnlySpan<double> values)
    {
        var narrow = new float[values.Length];
        for (int i = 0; i < narrow.Length; i++)
            narrow[i] = (float)values[i];
        return Of(narrow.AsSpan());
    }

    /// <summary>A view that holds these fp32 values.</summary>
    public View Of(ReadOnlySpan<float> values) => Upload(MemoryMarshal.AsBytes(values), values.Length, DType.F32);

    /// <summary>A view that holds these int32 values.</summary>
    public View Of(ReadOnlySpan<int> values) => Upload(MemoryMarshal.AsBytes(values), values.Length, DType.I32);

    /// <summary>A view of raw elements of a type.</summary>
    public View Of(ReadOnlySpan<ushort> bits, DType type) => Upload(MemoryMarshal.AsBytes(bits), bits.Length, type);

    /// <summary>Address of these bytes, <paramref name="skew"/> behind a boundary of 64.</summary>
    public nint Bytes(ReadOnlySpan<byte> bytes, int skew = 0)
    {
        // Uploads are of whole elements.
        var words = new byte[(skew + bytes.Length + 3) / 4 * 4];
        bytes.CopyTo(words.AsSpan(skew));
        return Upload(words, words.Length / 4, DType.I32).Address + skew;
    }

    /// <summary>A view of fp32 elements filled with a value; NaN by default, so that an element never written is found.</summary>
    public View Empty(long length, float fill = float.NaN)
    {
        View v = Allocate(length, DType.F32);
        Backend.Fill(v, fill);
        return v;
    }

    /// <summary>Zeroed fp32 elements (a gradient to add to).</summary>
    public View Zeros(long length) => Empty(length, 0);

    /// <summary>Reads fp32 elements back.</summary>
    public float[] Read(View v)
    {
        var host = new float[v.Length];
        Backend.Download(MemoryMarshal.AsBytes(host.AsSpan()), v);
        return host;
    }

    /// <summary>Reads int32 elements back.</summary>
    public int[] ReadInts(View v)
    {
        var host = new int[v.Length];
        Backend.Download(MemoryMarshal.AsBytes(host.AsSpan()), v);
        return host;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((nint address, long bytes) in _owned)
            Backend.Free(address, bytes);
        _owned.Clear();
    }

    private View Upload(ReadOnlySpan<byte> bytes, long length, DType type)
    {
        View v = Allocate(length, type);
        Backend.Upload(v, bytes);
        return v;
    }

    private View Allocate(long length, DType type)
    {
        long bytes = Math.Max(64, length * type.Size());
        nint address = Backend.Allocate(bytes);
        _owned.Add((address, bytes));
        return new View(address, length, type);
    }
}

/// <summary>Backends that the op theories run over.</summary>
public static class Backends
{
    /// <summary>Names for theory rows.</summary>
    public static IEnumerable<string> Names => s_gpu.Value is null ? ["cpu", "emulator"] : ["cpu", "emulator", "cuda"];

    /// <summary>The same without the emulator, for theories over sizes that would take it minutes; CudaBackendTests runs these ops on it with small ones.</summary>
    public static IEnumerable<string> Fast => Names.Where(n => n != "emulator");

    /// <summary>Whether a backend reads index values on the host, so that it can refuse wrong ones before they do harm.</summary>
    public static bool ChecksIndices(string name) => name == "cpu";

    // The GPU of this machine, where there is one that the kernels can run on.
    private static readonly Lazy<CudaDeviceInfo?> s_gpu = new(() => NativeCudaDriver.TryOpen(out _) is { } driver ? CudaDevices.Find(driver).List.FirstOrDefault(d => d.Supported) : null);

    /// <summary>Makes a backend by name; the caller disposes it. threads applies to the CPU, the precision to the others.</summary>
    public static IBackend Create(string name, int threads = 0, CudaPrecision precision = CudaPrecision.Exact) => name switch
    {
        "cpu" => new Repeng.Kernels.Cpu.CpuBackend(threads),
        // The kernels that ship, on the emulator, which checks every access and counts what is left behind.
        "emulator" => Emulated(precision),
        "cuda" => CudaBackend.Open(s_gpu.Value!.Ordinal, precision),
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "unknown backend"),
    };

    private static CudaBackend Emulated(CudaPrecision precision)
    {
        var driver = new EmulatedCudaDriver();
        return CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), ownsDriver: true, precision);
    }
}
