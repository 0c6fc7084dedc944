using System.Runtime.InteropServices;
using Repeng.Kernels;

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
    public static IEnumerable<string> Names => ["cpu"];

    /// <summary>Makes a backend by name; the caller disposes it. threads applies to the CPU.</summary>
    public static IBackend Create(string name, int threads = 0) => name switch
    {
        "cpu" => new Repeng.Kernels.Cpu.CpuBackend(threads),
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "unknown backend"),
    };
}
