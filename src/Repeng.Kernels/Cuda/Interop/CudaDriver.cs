namespace Repeng.Kernels.Cuda.Interop;

/// <summary>
/// The functions of the CUDA driver that this engine calls: a table that is injected, so that the same engine runs on
/// a GPU (<see cref="NativeCudaDriver"/>), on an emulator, and on a table that fails on purpose. Names, order of the arguments and
/// results are those of cuda.h; handles are opaque numbers, device memory is addressed by nint. Implementations may be called from several threads.
/// </summary>
public abstract unsafe class CudaDriver
{
    /// <summary>What to call it in messages: <c>libcuda.so.1</c>, <c>emulator</c>.</summary>
    public abstract string Name { get; }

    /// <summary>Whether launches compute nothing: a table that only writes down what it is asked.</summary>
    public virtual bool IsDry => false;

    // Driver and devices

    /// <summary>cuInit.</summary>
    public abstract CuResult Init(uint flags);

    /// <summary>cuDriverGetVersion: 1000·major + 10·minor of the newest CUDA that the driver knows.</summary>
    public abstract CuResult DriverGetVersion(out int version);

    /// <summary>cuDeviceGetCount.</summary>
    public abstract CuResult DeviceGetCount(out int count);

    /// <summary>cuDeviceGet.</summary>
    public abstract CuResult DeviceGet(out int device, int ordinal);

    /// <summary>cuDeviceGetName; UTF-8, ended by 0.</summary>
    public abstract CuResult DeviceGetName(byte* name, int length, int device);

    /// <summary>cuDeviceTotalMem_v2.</summary>
    public abstract CuResult DeviceTotalMem(out nuint bytes, int device);

    /// <summary>cuDeviceGetAttribute.</summary>
    public abstract CuResult DeviceGetAttribute(out int value, CuDeviceAttribute attribute, int device);

    // Contexts

    /// <summary>cuDevicePrimaryCtxRetain.</summary>
    public abstract CuResult DevicePrimaryCtxRetain(out nint context, int device);

    /// <summary>cuDevicePrimaryCtxRelease_v2.</summary>
    public abstract CuResult DevicePrimaryCtxRelease(int device);

    /// <summary>cuCtxSetCurrent, for the calling thread.</summary>
    public abstract CuResult CtxSetCurrent(nint context);

    /// <summary>cuCtxSynchronize.</summary>
    public abstract CuResult CtxSynchronize();

    // Modules and functions

    /// <summary>cuModuleLoadDataEx; image is PTX text ended by 0, or a cubin.</summary>
    public abstract CuResult ModuleLoadDataEx(out nint module, byte* image, uint count, CuJitOption* options, void** values);

    /// <summary>cuModuleUnload.</summary>
    public abstract CuResult ModuleUnload(nint module);

    /// <summary>cuModuleGetFunction.</summary>
    public abstract CuResult ModuleGetFunction(out nint function, nint module, string name);

    /// <summary>cuFuncGetAttribute.</summary>
    public abstract CuResult FuncGetAttribute(out int value, CuFunctionAttribute attribute, nint function);

    /// <summary>cuFuncSetAttribute.</summary>
    public abstract CuResult FuncSetAttribute(nint function, CuFunctionAttribute attribute, int value);

    /// <summary>cuOccupancyMaxActiveBlocksPerMultiprocessor.</summary>
    public abstract CuResult OccupancyMaxActiveBlocksPerMultiprocessor(out int blocks, nint function, int blockSize, nuint sharedBytes);

    /// <summary>cuLaunchKernel.</summary>
    public abstract CuResult LaunchKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments);

    /// <summary>cuLaunchCooperativeKernel.</summary>
    public abstract CuResult LaunchCooperativeKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments);

    // Memory

    /// <summary>cuMemGetInfo_v2, of the current context's device.</summary>
    public abstract CuResult MemGetInfo(out nuint free, out nuint total);

    /// <summary>cuMemAlloc_v2.</summary>
    public abstract CuResult MemAlloc(out nint address, nuint bytes);

    /// <summary>cuMemFree_v2.</summary>
    public abstract CuResult MemFree(nint address);

    /// <summary>cuMemAllocAsync, from the device's current memory pool.</summary>
    public abstract CuResult MemAllocAsync(out nint address, nuint bytes, nint stream);

    /// <summary>cuMemFreeAsync.</summary>
    public abstract CuResult MemFreeAsync(nint address, nint stream);

    /// <summary>cuDeviceGetDefaultMemPool.</summary>
    public abstract CuResult DeviceGetDefaultMemPool(out nint pool, int device);

    /// <summary>cuMemPoolSetAttribute with CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: bytes that the pool keeps over a synchronisation.</summary>
    public abstract CuResult MemPoolSetReleaseThreshold(nint pool, ulong bytes);

    /// <summary>cuMemPoolTrimTo.</summary>
    public abstract CuResult MemPoolTrimTo(nint pool, nuint bytes);

    /// <summary>cuMemHostAlloc: pinned host memory.</summary>
    public abstract CuResult MemHostAlloc(out nint address, nuint bytes, uint flags);

    /// <summary>cuMemFreeHost.</summary>
    public abstract CuResult MemFreeHost(nint address);

    /// <summary>cuMemcpyHtoDAsync_v2.</summary>
    public abstract CuResult MemcpyHtoDAsync(nint destination, void* source, nuint bytes, nint stream);

    /// <summary>cuMemcpyDtoHAsync_v2.</summary>
    public abstract CuResult MemcpyDtoHAsync(void* destination, nint source, nuint bytes, nint stream);

    /// <summary>cuMemcpyDtoDAsync_v2.</summary>
    public abstract CuResult MemcpyDtoDAsync(nint destination, nint source, nuint bytes, nint stream);

    /// <summary>cuMemsetD8Async.</summary>
    public abstract CuResult MemsetD8Async(nint destination, byte value, nuint count, nint stream);

    /// <summary>cuMemsetD32Async.</summary>
    public abstract CuResult MemsetD32Async(nint destination, uint value, nuint count, nint stream);

    // Streams, events, graphs

    /// <summary>cuStreamCreate.</summary>
    public abstract CuResult StreamCreate(out nint stream, uint flags);

    /// <summary>cuStreamDestroy_v2.</summary>
    public abstract CuResult StreamDestroy(nint stream);

    /// <summary>cuStreamSynchronize.</summary>
    public abstract CuResult StreamSynchronize(nint stream);

    /// <summary>cuStreamWaitEvent.</summary>
    public abstract CuResult StreamWaitEvent(nint stream, nint evt, uint flags);

    /// <summary>cuStreamBeginCapture_v2 with CU_STREAM_CAPTURE_MODE_THREAD_LOCAL.</summary>
    public abstract CuResult StreamBeginCapture(nint stream);

    /// <summary>cuStreamEndCapture.</summary>
    public abstract CuResult StreamEndCapture(nint stream, out nint graph);

    /// <summary>cuEventCreate.</summary>
    public abstract CuResult EventCreate(out nint evt, uint flags);

    /// <summary>cuEventDestroy_v2.</summary>
    public abstract CuResult EventDestroy(nint evt);

    /// <summary>cuEventRecord.</summary>
    public abstract CuResult EventRecord(nint evt, nint stream);

    /// <summary>cuEventSynchronize.</summary>
    public abstract CuResult EventSynchronize(nint evt);

    /// <summary>cuEventElapsedTime, milliseconds.</summary>
    public abstract CuResult EventElapsedTime(out float milliseconds, nint start, nint end);

    /// <summary>cuGraphInstantiateWithFlags.</summary>
    public abstract CuResult GraphInstantiate(out nint executable, nint graph, ulong flags);

    /// <summary>cuGraphLaunch.</summary>
    public abstract CuResult GraphLaunch(nint executable, nint stream);

    /// <summary>cuGraphExecDestroy.</summary>
    public abstract CuResult GraphExecDestroy(nint executable);

    /// <summary>cuGraphDestroy.</summary>
    public abstract CuResult GraphDestroy(nint graph);

    // Errors

    /// <summary>cuGetErrorName, such as CUDA_ERROR_OUT_OF_MEMORY; null for a number that the driver does not know.</summary>
    public abstract string? GetErrorName(CuResult result);

    /// <summary>cuGetErrorString; null for a number that the driver does not know.</summary>
    public abstract string? GetErrorString(CuResult result);
}
