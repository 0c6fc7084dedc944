using System.Globalization;
using System.Runtime.InteropServices;

namespace Repeng.Bench.Training;

/// <summary>Resident memory of this process (Linux), and the C library's way of keeping freed memory.</summary>
internal static unsafe class ProcessMemory
{
    private const int TrimThreshold = -1, MmapThreshold = -3;
    private const int MiB = 1 << 20;

    /// <summary>Peak of the resident memory since <see cref="ResetPeak"/>, in MiB.</summary>
    public static double Peak => Status("VmHWM");

    /// <summary>Resident memory now, in MiB.</summary>
    public static double Now => Status("VmRSS");

    /// <summary>Gives back what preparation left and begins a new peak.</summary>
    public static void ResetPeak()
    {
        GC.Collect(2, GCCollectionMode.Aggressive, blocking: true, compacting: true);
        GC.WaitForPendingFinalizers();
        ((delegate* unmanaged<nint, int>)Function("malloc_trim"))(0);
        // 5 resets the peak resident size (man 5 proc_pid_clear_refs).
        File.WriteAllText("/proc/self/clear_refs", "5");
    }

    /// <summary>
    /// glibc's own behaviour once warm: blocks up to 32 MiB are kept for reuse. The CPU backend asks for another (freed blocks of 1 MiB
    /// and more go back at once), which fits its pool but makes libtorch pay page faults for every activation.
    /// </summary>
    public static void KeepFreedBlocks() => Set(32 * MiB, 64 * MiB);

    /// <summary>What the CPU backend asks for.</summary>
    public static void ReturnFreedBlocks() => Set(MiB, 128 << 10);

    private static void Set(int mmapThreshold, int trimThreshold)
    {
        var mallopt = (delegate* unmanaged<int, int, int>)Function("mallopt");
        if (mallopt(MmapThreshold, mmapThreshold) != 1 || mallopt(TrimThreshold, trimThreshold) != 1)
            throw new InvalidOperationException("mallopt refused; this benchmark needs glibc");
    }

    private static nint Function(string name) => NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"), name);

    private static double Status(string field)
    {
        string line = File.ReadLines("/proc/self/status").First(l => l.StartsWith(field + ":", StringComparison.Ordinal));
        return long.Parse(line.Split(' ', '\t', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) / 1024.0;
    }
}
