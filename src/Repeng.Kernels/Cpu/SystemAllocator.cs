using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cpu;

/// <summary>Settings of the C library's allocator.</summary>
internal static class SystemAllocator
{
    private const int MmapThreshold = -3;
    private const int OneMiB = 1 << 20;

    /// <summary>
    /// Makes glibc give freed blocks of 1 MiB and more back to the system at once. By itself it raises that limit up to
    /// 32 MiB as blocks are freed and keeps the smaller ones: 255 MiB of 1.75 GiB in a training of a model of 135 M
    /// parameters. Other C libraries have no such setting and need none.
    /// </summary>
    public static bool ReturnLargeBlocks { get; } = OperatingSystem.IsLinux() && TrySet();

    private static bool TrySet()
    {
        if (!NativeLibrary.TryLoad("libc.so.6", out nint library) || !NativeLibrary.TryGetExport(library, "mallopt", out nint address))
            return false;
        unsafe
        {
            return ((delegate* unmanaged<int, int, int>)address)(MmapThreshold, OneMiB) == 1;
        }
    }
}
