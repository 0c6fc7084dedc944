using System.Runtime.InteropServices;
using System.Text;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.PtxEmulator.Driver;

/// <summary>
/// The driver's functions on a <see cref="PtxDevice"/>: what a program hands to the real driver runs here, kernels included. One device, compute capability 8.0.
/// A fault of the emulator becomes the result that the driver would give; its text is what <see cref="GetErrorString"/> says for that result.
/// </summary>
public sealed unsafe partial class EmulatedCudaDriver : CudaDriver, IDisposable
{
    private const int KnownCuda = 12000;

    private readonly Lock _lock = new();
    private readonly Dictionary<nint, object> _objects = [];
    private readonly Dictionary<nint, (nint Host, ulong Device)> _pinned = [];
    private nint _next = 0x1000;
    private int _retained;
    private bool _initialised;

    /// <summary>Makes the device; it lives until <see cref="Dispose"/>.</summary>
    public EmulatedCudaDriver(EmulatorOptions? options = null) => Device = new PtxDevice(options);

    /// <summary>The device: options, counters of launches, memory in use.</summary>
    public PtxDevice Device { get; }

    /// <summary>What the emulator reported last, with kernel, line, block and thread; null before the first fault.</summary>
    public EmulatorException? LastFault { get; private set; }

    /// <inheritdoc/>
    public override string Name => "emulator";

    /// <summary>Things that were made and not destroyed: contexts retained, allocations, modules, streams, events, graphs, pinned memory.</summary>
    public string Leaks()
    {
        lock (_lock)
        {
            var parts = new List<string>();
            if (_retained > 0)
                parts.Add($"{_retained} × context");
            if (Device.UsedBytes > 0)
                parts.Add($"{Device.UsedBytes} bytes of device memory");
            if (_pinned.Count > 0)
                parts.Add($"{_pinned.Count} × pinned memory");
            parts.AddRange(_objects.Values.Where(o => o is not PtxFunction).GroupBy(o => o.GetType().Name).Select(g => $"{g.Count()} × {g.Key}"));
            return string.Join(", ", parts);
        }
    }

    /// <summary>Ends the device. <exception cref="LeakException">Something is still alive and the options check for it.</exception></summary>
    public void Dispose() => Device.Dispose();

    /// <inheritdoc/>
    public override CuResult Init(uint flags)
    {
        _initialised = true;
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult DriverGetVersion(out int version)
    {
        version = KnownCuda;
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult DeviceGetCount(out int count)
    {
        count = 1;
        return _initialised ? CuResult.Success : CuResult.NotInitialized;
    }

    /// <inheritdoc/>
    public override CuResult DeviceGet(out int device, int ordinal)
    {
        device = ordinal;
        return !_initialised ? CuResult.NotInitialized : ordinal == 0 ? CuResult.Success : CuResult.InvalidDevice;
    }

    /// <inheritdoc/>
    public override CuResult DeviceGetName(byte* name, int length, int device)
    {
        var to = new Span<byte>(name, length);
        to.Clear();
        Encoding.UTF8.GetBytes("PTX emulator", to[..^1]);
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult DeviceTotalMem(out nuint bytes, int device)
    {
        bytes = (nuint)Device.Options.DeviceMemory;
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult DeviceGetAttribute(out int value, CuDeviceAttribute attribute, int device)
    {
        value = attribute switch
        {
            CuDeviceAttribute.MaxThreadsPerBlock => 1024,
            CuDeviceAttribute.MaxSharedMemoryPerBlock => (int)Device.Options.SharedMemoryDefault,
            CuDeviceAttribute.MaxSharedMemoryPerBlockOptin => (int)Device.Options.SharedMemoryPerBlock,
            CuDeviceAttribute.MultiprocessorCount => PtxDevice.Multiprocessors,
            CuDeviceAttribute.ComputeCapabilityMajor => 8,
            CuDeviceAttribute.ComputeCapabilityMinor => 0,
            CuDeviceAttribute.SingleToDoublePrecisionPerfRatio => Device.Options.DoubleRatio,
            CuDeviceAttribute.CooperativeLaunch or CuDeviceAttribute.MemoryPoolsSupported => 1,
            _ => 0,
        };
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult DevicePrimaryCtxRetain(out nint context, int device)
    {
        context = 1;
        if (!_initialised)
            return CuResult.NotInitialized;
        Interlocked.Increment(ref _retained);
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult DevicePrimaryCtxRelease(int device)
    {
        if (Interlocked.Decrement(ref _retained) >= 0)
            return CuResult.Success;
        Interlocked.Increment(ref _retained);
        return CuResult.InvalidContext;
    }

    /// <inheritdoc/>
    public override CuResult CtxSetCurrent(nint context) => context is 0 or 1 ? CuResult.Success : CuResult.InvalidContext;

    /// <inheritdoc/>
    public override CuResult CtxSynchronize() => Run(Device.Synchronize);

    /// <inheritdoc/>
    public override CuResult ModuleLoadDataEx(out nint module, byte* image, uint count, CuJitOption* options, void** values)
    {
        string text = Encoding.UTF8.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(image));
        CuResult result = Make(() => Device.LoadModule(text), out module);
        if (result != CuResult.Success && LastFault is { } fault)
            for (int i = 0; i < count; i++)
                if (options[i] == CuJitOption.ErrorLogBuffer)
                {
                    int size = (int)(nint)values[i + 1];
                    int length = Encoding.UTF8.GetBytes(fault.Message.AsSpan(0, Math.Min(fault.Message.Length, size / 4)), new Span<byte>(values[i], size - 1));
                    ((byte*)values[i])[length] = 0;
                }
        return result;
    }

    /// <inheritdoc/>
    public override CuResult ModuleUnload(nint module) => Destroy<PtxModule>(module, Device.UnloadModule);

    /// <inheritdoc/>
    public override CuResult ModuleGetFunction(out nint function, nint module, string name)
    {
        function = 0;
        return Find(module, out PtxModule? m) ? Make(() => m!.GetFunction(name), out function) : CuResult.InvalidHandle;
    }

    /// <inheritdoc/>
    public override CuResult FuncGetAttribute(out int value, CuFunctionAttribute attribute, nint function)
    {
        value = 0;
        if (!Find(function, out PtxFunction? f))
            return CuResult.InvalidHandle;
        value = attribute switch
        {
            CuFunctionAttribute.SharedSizeBytes => (int)f!.SharedBytes,
            CuFunctionAttribute.LocalSizeBytes => f!.LocalBytes,
            CuFunctionAttribute.MaxDynamicSharedSizeBytes => (int)f!.MaxDynamicShared,
            _ => 0,
        };
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult FuncSetAttribute(nint function, CuFunctionAttribute attribute, int value)
    {
        if (!Find(function, out PtxFunction? f))
            return CuResult.InvalidHandle;
        if (attribute != CuFunctionAttribute.MaxDynamicSharedSizeBytes || value < 0 || value + f!.SharedBytes > Device.Options.SharedMemoryPerBlock)
            return CuResult.InvalidValue;
        f!.MaxDynamicShared = value;
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult OccupancyMaxActiveBlocksPerMultiprocessor(out int blocks, nint function, int blockSize, nuint sharedBytes)
    {
        blocks = 0;
        if (!Find(function, out PtxFunction? f))
            return CuResult.InvalidHandle;
        blocks = Device.Occupancy(f!, blockSize, (long)sharedBytes);
        return CuResult.Success;
    }

    /// <inheritdoc/>
    public override CuResult LaunchKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments) => Launch(function, grid, block, sharedBytes, stream, arguments, cooperative: false);

    /// <inheritdoc/>
    public override CuResult LaunchCooperativeKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments) => Launch(function, grid, block, sharedBytes, stream, arguments, cooperative: true);

    /// <inheritdoc/>
    public override string? GetErrorName(CuResult result) => Enum.IsDefined(result) ? "CUDA_ERROR_" + Snake(result.ToString()) : LastFault is { } f && f.CudaError == (int)result ? f.GetType().Name : null;

    /// <inheritdoc/>
    public override string? GetErrorString(CuResult result) => LastFault is { } fault && fault.CudaError == (int)result ? fault.Message : Enum.IsDefined(result) ? Snake(result.ToString()).ToLowerInvariant().Replace('_', ' ') : null;

    private CuResult Launch(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments, bool cooperative)
    {
        if (!Find(function, out PtxFunction? f) || !FindStream(stream, out PtxStream? s))
            return CuResult.InvalidHandle;
        return Run(() => Device.Launch(f!, Triple(grid), Triple(block), sharedBytes, arguments, s!, cooperative));
    }

    private static (int X, int Y, int Z) Triple(Dim3 d) => (checked((int)d.X), checked((int)d.Y), checked((int)d.Z));

    private static string Snake(string name) => string.Concat(name.Select((c, i) => char.IsUpper(c) && i > 0 ? "_" + c : char.ToUpperInvariant(c).ToString()));

    private CuResult Run(Action what)
    {
        try
        {
            what();
            return CuResult.Success;
        }
        catch (EmulatorException e)
        {
            LastFault = e;
            return (CuResult)e.CudaError;
        }
    }

    private CuResult Make<T>(Func<T> make, out nint handle)
        where T : class
    {
        nint made = 0;
        CuResult result = Run(() =>
        {
            T value = make();
            lock (_lock)
            {
                made = _next += 0x10;
                _objects.Add(made, value);
            }
        });
        handle = made;
        return result;
    }

    private CuResult Destroy<T>(nint handle, Action<T> destroy)
        where T : class
    {
        if (!Find(handle, out T? value))
            return CuResult.InvalidHandle;
        lock (_lock)
            _objects.Remove(handle);
        return Run(() => destroy(value!));
    }

    private bool Find<T>(nint handle, out T? value)
        where T : class
    {
        lock (_lock)
            value = _objects.TryGetValue(handle, out object? o) ? o as T : null;
        return value is not null;
    }

    private bool FindStream(nint handle, out PtxStream? stream)
    {
        stream = Device.DefaultStream;
        return handle == 0 || Find(handle, out stream);
    }
}
