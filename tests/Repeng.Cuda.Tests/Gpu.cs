using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.PtxEmulator;

namespace Repeng.Cuda.Tests;

/// <summary>An emulated device with the committed kernels: arrays to and from its memory, launches by name.</summary>
internal sealed class Gpu : IDisposable
{
    // Devices go from test to test with the modules that they have read; one that stopped with an error is thrown away.
    private static readonly ConcurrentBag<(PtxDevice, Dictionary<string, PtxModule>)> s_idle = [];

    private readonly List<ulong> _allocated = [];
    private readonly Dictionary<string, PtxModule> _modules;

    public Gpu() => (Device, _modules) = s_idle.TryTake(out var idle) ? idle : (new PtxDevice(new EmulatorOptions { CheckLaneRaces = true }), []);

    public PtxDevice Device { get; }

    /// <summary>Device memory with these values, <paramref name="skew"/> elements behind a 256-byte boundary.</summary>
    public ulong Upload<T>(ReadOnlySpan<T> values, int skew = 0) where T : unmanaged
    {
        ulong address = Empty<T>(values.Length, skew);
        Device.CopyToDevice(address, MemoryMarshal.AsBytes(values));
        return address;
    }

    public ulong Upload<T>(T[] values, int skew = 0) where T : unmanaged => Upload((ReadOnlySpan<T>)values, skew);

    public ulong Upload(double[] values, int skew = 0) => Upload(Array.ConvertAll(values, v => (float)v), skew);

    /// <summary>Memory that nothing was written to: reading it is an error.</summary>
    public ulong Empty<T>(long count, int skew = 0) where T : unmanaged
    {
        int size = Marshal.SizeOf<T>();
        ulong address = Device.Allocate(Math.Max(1, (count + skew) * size));
        _allocated.Add(address);
        return address + (ulong)(skew * size);
    }

    public ulong Zeros(long count) => Upload(new float[count]);

    public T[] Read<T>(ulong address, long count) where T : unmanaged
    {
        var values = new T[count];
        Device.CopyToHost(MemoryMarshal.AsBytes(values.AsSpan()), address);
        return values;
    }

    public float[] Read(ulong address, long count) => Read<float>(address, count);

    public LaunchCounters Run(string module, string kernel, long grid, int block, params ReadOnlySpan<object> parameters) => Run(module, kernel, ((int)grid, 1, 1), block, 0, parameters);

    public LaunchCounters Run(string module, string kernel, (int, int, int) grid, int block, long shared, params ReadOnlySpan<object> parameters)
    {
        if (!_modules.TryGetValue(module, out PtxModule? loaded))
        {
            using Stream stream = typeof(IBackend).Assembly.GetManifestResourceStream($"Repeng.Kernels.Cuda.{module}.ptx") ?? throw new FileNotFoundException(module);
            using StreamReader reader = new(stream);
            _modules[module] = loaded = Device.LoadModule(reader.ReadToEnd());
        }
        PtxFunction function = loaded.GetFunction(kernel);
        function.MaxDynamicShared = shared;
        Device.Launch(function, grid, (block, 1, 1), shared, Device.DefaultStream, false, parameters);
        Device.Synchronize();
        return Device.LastLaunch!.Counters;
    }

    public void Dispose()
    {
        if (Device.Fault is not null)
        {
            Device.Dispose();
            return;
        }
        foreach (ulong address in _allocated)
            Device.Free(address);
        _allocated.Clear();
        s_idle.Add((Device, _modules));
    }

    public static float[] Random(long n, int seed, double spread = 1)
    {
        var random = new Random(seed);
        var values = new float[n];
        for (long i = 0; i < n; i++)
            values[i] = (float)(spread * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        return values;
    }

    public static int Ceil(long a, int b) => (int)((a + b - 1) / b);
}
