using System.Runtime.InteropServices;
using System.Text;

namespace Repeng.Kernels.Cuda.Interop;

/// <summary>The driver of this machine: libcuda.so.1 or nvcuda.dll.</summary>
public sealed unsafe class NativeCudaDriver : CudaDriver
{
    private const int CaptureModeThreadLocal = 1, AttributeReleaseThreshold = 4;

    private NativeCudaDriver()
    {
    }

    /// <inheritdoc/>
    public override string Name => LibCuda.FileName;

    /// <summary>Opens the driver library; null and the reason where there is none. Nothing is initialised yet.</summary>
    public static NativeCudaDriver? TryOpen(out string why) => LibCuda.TryOpen(out why) ? new NativeCudaDriver() : null;

    /// <inheritdoc/>
    public override CuResult Init(uint flags) => LibCuda.cuInit(flags);

    /// <inheritdoc/>
    public override CuResult DriverGetVersion(out int version) => LibCuda.cuDriverGetVersion(out version);

    /// <inheritdoc/>
    public override CuResult DeviceGetCount(out int count) => LibCuda.cuDeviceGetCount(out count);

    /// <inheritdoc/>
    public override CuResult DeviceGet(out int device, int ordinal) => LibCuda.cuDeviceGet(out device, ordinal);

    /// <inheritdoc/>
    public override CuResult DeviceGetName(byte* name, int length, int device) => LibCuda.cuDeviceGetName(name, length, device);

    /// <inheritdoc/>
    public override CuResult DeviceTotalMem(out nuint bytes, int device) => LibCuda.cuDeviceTotalMem_v2(out bytes, device);

    /// <inheritdoc/>
    public override CuResult DeviceGetAttribute(out int value, CuDeviceAttribute attribute, int device) => LibCuda.cuDeviceGetAttribute(out value, attribute, device);

    /// <inheritdoc/>
    public override CuResult DevicePrimaryCtxRetain(out nint context, int device) => LibCuda.cuDevicePrimaryCtxRetain(out context, device);

    /// <inheritdoc/>
    public override CuResult DevicePrimaryCtxRelease(int device) => LibCuda.cuDevicePrimaryCtxRelease_v2(device);

    /// <inheritdoc/>
    public override CuResult CtxSetCurrent(nint context) => LibCuda.cuCtxSetCurrent(context);

    /// <inheritdoc/>
    public override CuResult CtxSynchronize() => LibCuda.cuCtxSynchronize();

    /// <inheritdoc/>
    public override CuResult ModuleLoadDataEx(out nint module, byte* image, uint count, CuJitOption* options, void** values) => LibCuda.cuModuleLoadDataEx(out module, image, count, options, values);

    /// <inheritdoc/>
    public override CuResult ModuleUnload(nint module) => LibCuda.cuModuleUnload(module);

    /// <inheritdoc/>
    public override CuResult ModuleGetFunction(out nint function, nint module, string name) => LibCuda.cuModuleGetFunction(out function, module, name);

    /// <inheritdoc/>
    public override CuResult FuncGetAttribute(out int value, CuFunctionAttribute attribute, nint function) => LibCuda.cuFuncGetAttribute(out value, attribute, function);

    /// <inheritdoc/>
    public override CuResult FuncSetAttribute(nint function, CuFunctionAttribute attribute, int value) => LibCuda.cuFuncSetAttribute(function, attribute, value);

    /// <inheritdoc/>
    public override CuResult OccupancyMaxActiveBlocksPerMultiprocessor(out int blocks, nint function, int blockSize, nuint sharedBytes) =>
        LibCuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(out blocks, function, blockSize, sharedBytes);

    /// <inheritdoc/>
    public override CuResult LaunchKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments) =>
        LibCuda.cuLaunchKernel(function, grid.X, grid.Y, grid.Z, block.X, block.Y, block.Z, sharedBytes, stream, arguments, null);

    /// <inheritdoc/>
    public override CuResult LaunchCooperativeKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments) =>
        LibCuda.cuLaunchCooperativeKernel(function, grid.X, grid.Y, grid.Z, block.X, block.Y, block.Z, sharedBytes, stream, arguments);

    /// <inheritdoc/>
    public override CuResult MemGetInfo(out nuint free, out nuint total) => LibCuda.cuMemGetInfo_v2(out free, out total);

    /// <inheritdoc/>
    public override CuResult MemAlloc(out nint address, nuint bytes) => LibCuda.cuMemAlloc_v2(out address, bytes);

    /// <inheritdoc/>
    public override CuResult MemFree(nint address) => LibCuda.cuMemFree_v2(address);

    /// <inheritdoc/>
    public override CuResult MemAllocAsync(out nint address, nuint bytes, nint stream) => LibCuda.cuMemAllocAsync(out address, bytes, stream);

    /// <inheritdoc/>
    public override CuResult MemFreeAsync(nint address, nint stream) => LibCuda.cuMemFreeAsync(address, stream);

    /// <inheritdoc/>
    public override CuResult DeviceGetDefaultMemPool(out nint pool, int device) => LibCuda.cuDeviceGetDefaultMemPool(out pool, device);

    /// <inheritdoc/>
    public override CuResult MemPoolSetReleaseThreshold(nint pool, ulong bytes) => LibCuda.cuMemPoolSetAttribute(pool, AttributeReleaseThreshold, &bytes);

    /// <inheritdoc/>
    public override CuResult MemPoolTrimTo(nint pool, nuint bytes) => LibCuda.cuMemPoolTrimTo(pool, bytes);

    /// <inheritdoc/>
    public override CuResult MemHostAlloc(out nint address, nuint bytes, uint flags) => LibCuda.cuMemHostAlloc(out address, bytes, flags);

    /// <inheritdoc/>
    public override CuResult MemFreeHost(nint address) => LibCuda.cuMemFreeHost(address);

    /// <inheritdoc/>
    public override CuResult MemcpyHtoDAsync(nint destination, void* source, nuint bytes, nint stream) => LibCuda.cuMemcpyHtoDAsync_v2(destination, source, bytes, stream);

    /// <inheritdoc/>
    public override CuResult MemcpyDtoHAsync(void* destination, nint source, nuint bytes, nint stream) => LibCuda.cuMemcpyDtoHAsync_v2(destination, source, bytes, stream);

    /// <inheritdoc/>
    public override CuResult MemcpyDtoDAsync(nint destination, nint source, nuint bytes, nint stream) => LibCuda.cuMemcpyDtoDAsync_v2(destination, source, bytes, stream);

    /// <inheritdoc/>
    public override CuResult MemsetD8Async(nint destination, byte value, nuint count, nint stream) => LibCuda.cuMemsetD8Async(destination, value, count, stream);

    /// <inheritdoc/>
    public override CuResult MemsetD32Async(nint destination, uint value, nuint count, nint stream) => LibCuda.cuMemsetD32Async(destination, value, count, stream);

    /// <inheritdoc/>
    public override CuResult StreamCreate(out nint stream, uint flags) => LibCuda.cuStreamCreate(out stream, flags);

    /// <inheritdoc/>
    public override CuResult StreamDestroy(nint stream) => LibCuda.cuStreamDestroy_v2(stream);

    /// <inheritdoc/>
    public override CuResult StreamSynchronize(nint stream) => LibCuda.cuStreamSynchronize(stream);

    /// <inheritdoc/>
    public override CuResult StreamWaitEvent(nint stream, nint evt, uint flags) => LibCuda.cuStreamWaitEvent(stream, evt, flags);

    /// <inheritdoc/>
    public override CuResult StreamBeginCapture(nint stream) => LibCuda.cuStreamBeginCapture_v2(stream, CaptureModeThreadLocal);

    /// <inheritdoc/>
    public override CuResult StreamEndCapture(nint stream, out nint graph) => LibCuda.cuStreamEndCapture(stream, out graph);

    /// <inheritdoc/>
    public override CuResult EventCreate(out nint evt, uint flags) => LibCuda.cuEventCreate(out evt, flags);

    /// <inheritdoc/>
    public override CuResult EventDestroy(nint evt) => LibCuda.cuEventDestroy_v2(evt);

    /// <inheritdoc/>
    public override CuResult EventRecord(nint evt, nint stream) => LibCuda.cuEventRecord(evt, stream);

    /// <inheritdoc/>
    public override CuResult EventSynchronize(nint evt) => LibCuda.cuEventSynchronize(evt);

    /// <inheritdoc/>
    public override CuResult EventElapsedTime(out float milliseconds, nint start, nint end) => LibCuda.cuEventElapsedTime(out milliseconds, start, end);

    /// <inheritdoc/>
    public override CuResult GraphInstantiate(out nint executable, nint graph, ulong flags) => LibCuda.cuGraphInstantiateWithFlags(out executable, graph, flags);

    /// <inheritdoc/>
    public override CuResult GraphLaunch(nint executable, nint stream) => LibCuda.cuGraphLaunch(executable, stream);

    /// <inheritdoc/>
    public override CuResult GraphExecDestroy(nint executable) => LibCuda.cuGraphExecDestroy(executable);

    /// <inheritdoc/>
    public override CuResult GraphDestroy(nint graph) => LibCuda.cuGraphDestroy(graph);

    /// <inheritdoc/>
    public override string? GetErrorName(CuResult result) => LibCuda.cuGetErrorName(result, out byte* name) == CuResult.Success ? Text(name) : null;

    /// <inheritdoc/>
    public override string? GetErrorString(CuResult result) => LibCuda.cuGetErrorString(result, out byte* text) == CuResult.Success ? Text(text) : null;

    private static string? Text(byte* utf8) => utf8 == null ? null : Encoding.UTF8.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(utf8));
}
