using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda.Interop;

/// <summary>Bindings of the driver library, named as its exports (cuda.h).</summary>
internal static unsafe partial class LibCuda
{
    private const string Library = "cuda";

    static LibCuda() => NativeLibrary.SetDllImportResolver(typeof(LibCuda).Assembly, Resolve);

    /// <summary>File name of the driver on this system.</summary>
    internal static string FileName => OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1";

    [LibraryImport(Library)]
    internal static partial CuResult cuInit(uint flags);

    [LibraryImport(Library)]
    internal static partial CuResult cuDriverGetVersion(out int version);

    [LibraryImport(Library)]
    internal static partial CuResult cuDeviceGetCount(out int count);

    [LibraryImport(Library)]
    internal static partial CuResult cuDeviceGet(out int device, int ordinal);

    [LibraryImport(Library)]
    internal static partial CuResult cuDeviceGetName(byte* name, int length, int device);

    [LibraryImport(Library)]
    internal static partial CuResult cuDeviceTotalMem_v2(out nuint bytes, int device);

    [LibraryImport(Library)]
    internal static partial CuResult cuDeviceGetAttribute(out int value, CuDeviceAttribute attribute, int device);

    [LibraryImport(Library)]
    internal static partial CuResult cuDevicePrimaryCtxRetain(out nint context, int device);

    [LibraryImport(Library)]
    internal static partial CuResult cuDevicePrimaryCtxRelease_v2(int device);

    [LibraryImport(Library)]
    internal static partial CuResult cuCtxSetCurrent(nint context);

    [LibraryImport(Library)]
    internal static partial CuResult cuCtxSynchronize();

    [LibraryImport(Library)]
    internal static partial CuResult cuModuleLoadDataEx(out nint module, byte* image, uint count, CuJitOption* options, void** values);

    [LibraryImport(Library)]
    internal static partial CuResult cuModuleUnload(nint module);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial CuResult cuModuleGetFunction(out nint function, nint module, string name);

    [LibraryImport(Library)]
    internal static partial CuResult cuFuncGetAttribute(out int value, CuFunctionAttribute attribute, nint function);

    [LibraryImport(Library)]
    internal static partial CuResult cuFuncSetAttribute(nint function, CuFunctionAttribute attribute, int value);

    [LibraryImport(Library)]
    internal static partial CuResult cuOccupancyMaxActiveBlocksPerMultiprocessor(out int blocks, nint function, int blockSize, nuint sharedBytes);

    [LibraryImport(Library)]
    internal static partial CuResult cuLaunchKernel(nint function, uint gridX, uint gridY, uint gridZ, uint blockX, uint blockY, uint blockZ, uint sharedBytes, nint stream, void** arguments, void** extra);

    [LibraryImport(Library)]
    internal static partial CuResult cuLaunchCooperativeKernel(nint function, uint gridX, uint gridY, uint gridZ, uint blockX, uint blockY, uint blockZ, uint sharedBytes, nint stream, void** arguments);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemGetInfo_v2(out nuint free, out nuint total);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemAlloc_v2(out nint address, nuint bytes);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemFree_v2(nint address);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemAllocAsync(out nint address, nuint bytes, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemFreeAsync(nint address, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuDeviceGetDefaultMemPool(out nint pool, int device);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemPoolSetAttribute(nint pool, int attribute, void* value);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemPoolTrimTo(nint pool, nuint bytes);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemHostAlloc(out nint address, nuint bytes, uint flags);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemFreeHost(nint address);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemcpyHtoDAsync_v2(nint destination, void* source, nuint bytes, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemcpyDtoHAsync_v2(void* destination, nint source, nuint bytes, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemcpyDtoDAsync_v2(nint destination, nint source, nuint bytes, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemsetD8Async(nint destination, byte value, nuint count, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuMemsetD32Async(nint destination, uint value, nuint count, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuStreamCreate(out nint stream, uint flags);

    [LibraryImport(Library)]
    internal static partial CuResult cuStreamDestroy_v2(nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuStreamSynchronize(nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuStreamWaitEvent(nint stream, nint evt, uint flags);

    [LibraryImport(Library)]
    internal static partial CuResult cuStreamBeginCapture_v2(nint stream, int mode);

    [LibraryImport(Library)]
    internal static partial CuResult cuStreamEndCapture(nint stream, out nint graph);

    [LibraryImport(Library)]
    internal static partial CuResult cuEventCreate(out nint evt, uint flags);

    [LibraryImport(Library)]
    internal static partial CuResult cuEventDestroy_v2(nint evt);

    [LibraryImport(Library)]
    internal static partial CuResult cuEventRecord(nint evt, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuEventSynchronize(nint evt);

    [LibraryImport(Library)]
    internal static partial CuResult cuEventElapsedTime(out float milliseconds, nint start, nint end);

    [LibraryImport(Library)]
    internal static partial CuResult cuGraphInstantiateWithFlags(out nint executable, nint graph, ulong flags);

    [LibraryImport(Library)]
    internal static partial CuResult cuGraphLaunch(nint executable, nint stream);

    [LibraryImport(Library)]
    internal static partial CuResult cuGraphExecDestroy(nint executable);

    [LibraryImport(Library)]
    internal static partial CuResult cuGraphDestroy(nint graph);

    [LibraryImport(Library)]
    internal static partial CuResult cuGetErrorName(CuResult result, out byte* name);

    [LibraryImport(Library)]
    internal static partial CuResult cuGetErrorString(CuResult result, out byte* text);

    // The module's own name for the driver, whatever the system calls its file.
    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? path) =>
        name == Library && NativeLibrary.TryLoad(FileName, assembly, path, out nint handle) ? handle : 0;

    /// <summary>Whether the driver library can be opened here; why not, where it cannot.</summary>
    internal static bool TryOpen(out string why)
    {
        RuntimeHelpers.RunClassConstructor(typeof(LibCuda).TypeHandle);
        try
        {
            NativeLibrary.Free(NativeLibrary.Load(FileName));
            why = "";
            return true;
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
        {
            why = e is BadImageFormatException ? $"{FileName} is not a library for this processor" : $"{FileName} was not found";
            return false;
        }
    }
}
