using System.Runtime.InteropServices;

namespace Repeng.PtxEmulator.Tests;

/// <summary>A device with helpers for tests: arrays to and from device memory, kernels of the embedded PTX.</summary>
internal sealed class Gpu(EmulatorOptions? options = null) : IDisposable
{
    private readonly List<ulong> _allocated = [];
    private readonly List<PtxModule> _modules = [];

    public PtxDevice Device { get; } = new(options);

    public ulong Upload<T>(params T[] values) where T : unmanaged
    {
        ulong address = Empty(values.Length * Marshal.SizeOf<T>());
        Device.CopyToDevice(address, MemoryMarshal.AsBytes<T>(values));
        return address;
    }

    public ulong Empty(long bytes)
    {
        ulong address = Device.Allocate(bytes);
        _allocated.Add(address);
        return address;
    }

    public T[] Download<T>(ulong address, int count) where T : unmanaged
    {
        var values = new T[count];
        Device.CopyToHost(MemoryMarshal.AsBytes(values.AsSpan()), address);
        return values;
    }

    public PtxModule Load(string ptx)
    {
        PtxModule module = Device.LoadModule(ptx);
        _modules.Add(module);
        return module;
    }

    public static string Text(string file)
    {
        using Stream stream = typeof(Gpu).Assembly.GetManifestResourceStream(file) ?? throw new FileNotFoundException(file);
        return new StreamReader(stream).ReadToEnd();
    }

    public PtxFunction Kernel(string file, string name) => Load(Text(file)).GetFunction(name);

    public LaunchCounters Run(PtxFunction function, int blocks, int threads, params object[] parameters) => Run(function, (blocks, 1, 1), (threads, 1, 1), 0, parameters);

    public LaunchCounters Run(PtxFunction function, (int, int, int) grid, (int, int, int) block, long shared, params object[] parameters)
    {
        Device.Launch(function, grid, block, shared, Device.DefaultStream, false, parameters);
        Device.Synchronize();
        return Device.LastLaunch!.Counters;
    }

    public void Dispose()
    {
        if (Device.Fault is null)
        {
            foreach (ulong address in _allocated)
                Device.Free(address);
            foreach (PtxModule module in _modules)
                Device.UnloadModule(module);
        }

        Device.Dispose();
    }
}
