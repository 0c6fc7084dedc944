using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Testing.Cuda;

/// <summary>
/// A table of driver functions that asks before each call whether it shall fail, and passes the others on. Calls are numbered from 0 in
/// their order. What destroys something is done even where it is made to fail, as a real driver's errors in it are left over from earlier work.
/// </summary>
public unsafe class FaultyCudaDriver(CudaDriver inner) : CudaDriver
{
    private int _calls = -1;

    /// <inheritdoc/>
    public override string Name => inner.Name;

    /// <summary>The call that fails; −1 for none.</summary>
    public int FailAt { get; set; } = -1;

    /// <summary>How it fails.</summary>
    public CuResult Failure { get; set; } = CuResult.Unknown;

    /// <summary>Calls so far.</summary>
    public int Calls => _calls + 1;

    /// <summary>The function that was made to fail; null before that.</summary>
    public string? Failed { get; private set; }

    /// <summary>The function that was called after it; null where none was.</summary>
    public string? Following { get; private set; }

    /// <summary>Where to write down the functions that are called; null for nowhere.</summary>
    public List<string>? Log { get; init; }

    /// <inheritdoc/>
    public override CuResult Init(uint flags) => Before("cuInit") is not CuResult.Success and var failure ? failure : inner.Init(flags);

    /// <inheritdoc/>
    public override CuResult DriverGetVersion(out int version)
    {
        version = default;
        return Before("cuDriverGetVersion") is not CuResult.Success and var failure ? failure : inner.DriverGetVersion(out version);
    }

    /// <inheritdoc/>
    public override CuResult DeviceGetCount(out int count)
    {
        count = default;
        return Before("cuDeviceGetCount") is not CuResult.Success and var failure ? failure : inner.DeviceGetCount(out count);
    }

    /// <inheritdoc/>
    public override CuResult DeviceGet(out int device, int ordinal)
    {
        device = default;
        return Before("cuDeviceGet") is not CuResult.Success and var failure ? failure : inner.DeviceGet(out device, ordinal);
    }

    /// <inheritdoc/>
    public override CuResult DeviceGetName(byte* name, int length, int device) => Before("cuDeviceGetName") is not CuResult.Success and var failure ? failure : inner.DeviceGetName(name, length, device);

    /// <inheritdoc/>
    public override CuResult DeviceTotalMem(out nuint bytes, int device)
    {
        bytes = default;
        return Before("cuDeviceTotalMem") is not CuResult.Success and var failure ? failure : inner.DeviceTotalMem(out bytes, device);
    }

    /// <inheritdoc/>
    public override CuResult DeviceGetAttribute(out int value, CuDeviceAttribute attribute, int device)
    {
        value = default;
        return Before("cuDeviceGetAttribute") is not CuResult.Success and var failure ? failure : inner.DeviceGetAttribute(out value, attribute, device);
    }

    /// <inheritdoc/>
    public override CuResult DevicePrimaryCtxRetain(out nint context, int device)
    {
        context = default;
        return Before("cuDevicePrimaryCtxRetain") is not CuResult.Success and var failure ? failure : inner.DevicePrimaryCtxRetain(out context, device);
    }

    /// <inheritdoc/>
    public override CuResult DevicePrimaryCtxRelease(int device) => After("cuDevicePrimaryCtxRelease", inner.DevicePrimaryCtxRelease(device));

    /// <inheritdoc/>
    public override CuResult CtxSetCurrent(nint context) => Before("cuCtxSetCurrent") is not CuResult.Success and var failure ? failure : inner.CtxSetCurrent(context);

    /// <inheritdoc/>
    public override CuResult CtxSynchronize() => Before("cuCtxSynchronize") is not CuResult.Success and var failure ? failure : inner.CtxSynchronize();

    /// <inheritdoc/>
    public override CuResult ModuleLoadDataEx(out nint module, byte* image, uint count, CuJitOption* options, void** values)
    {
        module = default;
        return Before("cuModuleLoadDataEx") is not CuResult.Success and var failure ? failure : inner.ModuleLoadDataEx(out module, image, count, options, values);
    }

    /// <inheritdoc/>
    public override CuResult ModuleUnload(nint module) => After("cuModuleUnload", inner.ModuleUnload(module));

    /// <inheritdoc/>
    public override CuResult ModuleGetFunction(out nint function, nint module, string name)
    {
        function = default;
        return Before("cuModuleGetFunction") is not CuResult.Success and var failure ? failure : inner.ModuleGetFunction(out function, module, name);
    }

    /// <inheritdoc/>
    public override CuResult FuncGetAttribute(out int value, CuFunctionAttribute attribute, nint function)
    {
        value = default;
        return Before("cuFuncGetAttribute") is not CuResult.Success and var failure ? failure : inner.FuncGetAttribute(out value, attribute, function);
    }

    /// <inheritdoc/>
    public override CuResult FuncSetAttribute(nint function, CuFunctionAttribute attribute, int value) => Before("cuFuncSetAttribute") is not CuResult.Success and var failure ? failure : inner.FuncSetAttribute(function, attribute, value);

    /// <inheritdoc/>
    public override CuResult OccupancyMaxActiveBlocksPerMultiprocessor(out int blocks, nint function, int blockSize, nuint sharedBytes)
    {
        blocks = default;
        return Before("cuOccupancyMaxActiveBlocksPerMultiprocessor") is not CuResult.Success and var failure ? failure : inner.OccupancyMaxActiveBlocksPerMultiprocessor(out blocks, function, blockSize, sharedBytes);
    }

    /// <inheritdoc/>
    public override CuResult LaunchKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments) => Before("cuLaunchKernel") is not CuResult.Success and var failure ? failure : inner.LaunchKernel(function, grid, block, sharedBytes, stream, arguments);

    /// <inheritdoc/>
    public override CuResult LaunchCooperativeKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments) => Before("cuLaunchCooperativeKernel") is not CuResult.Success and var failure ? failure : inner.LaunchCooperativeKernel(function, grid, block, sharedBytes, stream, arguments);

    /// <inheritdoc/>
    public override CuResult MemGetInfo(out nuint free, out nuint total)
    {
        free = default;
        total = default;
        return Before("cuMemGetInfo") is not CuResult.Success and var failure ? failure : inner.MemGetInfo(out free, out total);
    }

    /// <inheritdoc/>
    public override CuResult MemAlloc(out nint address, nuint bytes)
    {
        address = default;
        return Before("cuMemAlloc") is not CuResult.Success and var failure ? failure : inner.MemAlloc(out address, bytes);
    }

    /// <inheritdoc/>
    public override CuResult MemFree(nint address) => After("cuMemFree", inner.MemFree(address));

    /// <inheritdoc/>
    public override CuResult MemAllocAsync(out nint address, nuint bytes, nint stream)
    {
        address = default;
        return Before("cuMemAllocAsync") is not CuResult.Success and var failure ? failure : inner.MemAllocAsync(out address, bytes, stream);
    }

    /// <inheritdoc/>
    public override CuResult MemFreeAsync(nint address, nint stream) => After("cuMemFreeAsync", inner.MemFreeAsync(address, stream));

    /// <inheritdoc/>
    public override CuResult DeviceGetDefaultMemPool(out nint pool, int device)
    {
        pool = default;
        return Before("cuDeviceGetDefaultMemPool") is not CuResult.Success and var failure ? failure : inner.DeviceGetDefaultMemPool(out pool, device);
    }

    /// <inheritdoc/>
    public override CuResult MemPoolSetReleaseThreshold(nint pool, ulong bytes) => Before("cuMemPoolSetAttribute") is not CuResult.Success and var failure ? failure : inner.MemPoolSetReleaseThreshold(pool, bytes);

    /// <inheritdoc/>
    public override CuResult MemPoolTrimTo(nint pool, nuint bytes) => Before("cuMemPoolTrimTo") is not CuResult.Success and var failure ? failure : inner.MemPoolTrimTo(pool, bytes);

    /// <inheritdoc/>
    public override CuResult MemHostAlloc(out nint address, nuint bytes, uint flags)
    {
        address = default;
        return Before("cuMemHostAlloc") is not CuResult.Success and var failure ? failure : inner.MemHostAlloc(out address, bytes, flags);
    }

    /// <inheritdoc/>
    public override CuResult MemFreeHost(nint address) => After("cuMemFreeHost", inner.MemFreeHost(address));

    /// <inheritdoc/>
    public override CuResult MemcpyHtoDAsync(nint destination, void* source, nuint bytes, nint stream) => Before("cuMemcpyHtoDAsync") is not CuResult.Success and var failure ? failure : inner.MemcpyHtoDAsync(destination, source, bytes, stream);

    /// <inheritdoc/>
    public override CuResult MemcpyDtoHAsync(void* destination, nint source, nuint bytes, nint stream) => Before("cuMemcpyDtoHAsync") is not CuResult.Success and var failure ? failure : inner.MemcpyDtoHAsync(destination, source, bytes, stream);

    /// <inheritdoc/>
    public override CuResult MemcpyDtoDAsync(nint destination, nint source, nuint bytes, nint stream) => Before("cuMemcpyDtoDAsync") is not CuResult.Success and var failure ? failure : inner.MemcpyDtoDAsync(destination, source, bytes, stream);

    /// <inheritdoc/>
    public override CuResult MemsetD8Async(nint destination, byte value, nuint count, nint stream) => Before("cuMemsetD8Async") is not CuResult.Success and var failure ? failure : inner.MemsetD8Async(destination, value, count, stream);

    /// <inheritdoc/>
    public override CuResult MemsetD32Async(nint destination, uint value, nuint count, nint stream) => Before("cuMemsetD32Async") is not CuResult.Success and var failure ? failure : inner.MemsetD32Async(destination, value, count, stream);

    /// <inheritdoc/>
    public override CuResult StreamCreate(out nint stream, uint flags)
    {
        stream = default;
        return Before("cuStreamCreate") is not CuResult.Success and var failure ? failure : inner.StreamCreate(out stream, flags);
    }

    /// <inheritdoc/>
    public override CuResult StreamDestroy(nint stream) => After("cuStreamDestroy", inner.StreamDestroy(stream));

    /// <inheritdoc/>
    public override CuResult StreamSynchronize(nint stream) => Before("cuStreamSynchronize") is not CuResult.Success and var failure ? failure : inner.StreamSynchronize(stream);

    /// <inheritdoc/>
    public override CuResult StreamWaitEvent(nint stream, nint evt, uint flags) => Before("cuStreamWaitEvent") is not CuResult.Success and var failure ? failure : inner.StreamWaitEvent(stream, evt, flags);

    /// <inheritdoc/>
    public override CuResult StreamBeginCapture(nint stream) => Before("cuStreamBeginCapture") is not CuResult.Success and var failure ? failure : inner.StreamBeginCapture(stream);

    /// <inheritdoc/>
    public override CuResult StreamEndCapture(nint stream, out nint graph)
    {
        graph = default;
        return Before("cuStreamEndCapture") is not CuResult.Success and var failure ? failure : inner.StreamEndCapture(stream, out graph);
    }

    /// <inheritdoc/>
    public override CuResult EventCreate(out nint evt, uint flags)
    {
        evt = default;
        return Before("cuEventCreate") is not CuResult.Success and var failure ? failure : inner.EventCreate(out evt, flags);
    }

    /// <inheritdoc/>
    public override CuResult EventDestroy(nint evt) => After("cuEventDestroy", inner.EventDestroy(evt));

    /// <inheritdoc/>
    public override CuResult EventRecord(nint evt, nint stream) => Before("cuEventRecord") is not CuResult.Success and var failure ? failure : inner.EventRecord(evt, stream);

    /// <inheritdoc/>
    public override CuResult EventSynchronize(nint evt) => Before("cuEventSynchronize") is not CuResult.Success and var failure ? failure : inner.EventSynchronize(evt);

    /// <inheritdoc/>
    public override CuResult EventElapsedTime(out float milliseconds, nint start, nint end)
    {
        milliseconds = default;
        return Before("cuEventElapsedTime") is not CuResult.Success and var failure ? failure : inner.EventElapsedTime(out milliseconds, start, end);
    }

    /// <inheritdoc/>
    public override CuResult GraphInstantiate(out nint executable, nint graph, ulong flags)
    {
        executable = default;
        return Before("cuGraphInstantiateWithFlags") is not CuResult.Success and var failure ? failure : inner.GraphInstantiate(out executable, graph, flags);
    }

    /// <inheritdoc/>
    public override CuResult GraphLaunch(nint executable, nint stream) => Before("cuGraphLaunch") is not CuResult.Success and var failure ? failure : inner.GraphLaunch(executable, stream);

    /// <inheritdoc/>
    public override CuResult GraphExecDestroy(nint executable) => After("cuGraphExecDestroy", inner.GraphExecDestroy(executable));

    /// <inheritdoc/>
    public override CuResult GraphDestroy(nint graph) => After("cuGraphDestroy", inner.GraphDestroy(graph));

    /// <inheritdoc/>
    public override string? GetErrorName(CuResult result) => inner.GetErrorName(result);

    /// <inheritdoc/>
    public override string? GetErrorString(CuResult result) => inner.GetErrorString(result);

    private CuResult After(string function, CuResult result) => Before(function) is not CuResult.Success and var failure ? failure : result;

    private CuResult Before(string function)
    {
        int call = Interlocked.Increment(ref _calls);
        Log?.Add(function);
        if (call == FailAt + 1 && Failed is not null)
            Following = function;
        if (call != FailAt)
            return CuResult.Success;
        Failed = function;
        return Failure;
    }
}
