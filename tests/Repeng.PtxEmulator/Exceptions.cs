namespace Repeng.PtxEmulator;

/// <summary>Anything that the emulator reports. <see cref="CudaError"/> is the code that the driver would give (CUresult).</summary>
public abstract class EmulatorException(string message, int cudaError) : Exception(message)
{
    public int CudaError { get; } = cudaError;
}

/// <summary>PTX that cannot be read, or uses an instruction, modifier or directive that is not known. The driver: CUDA_ERROR_INVALID_PTX.</summary>
public sealed class PtxSyntaxException(string message, int line) : EmulatorException($"PTX line {line}: {message}", 218)
{
    public int Line { get; } = line;
}

/// <summary>A call of the host that the driver would refuse: sizes, names, handles, launch shapes.</summary>
public sealed class InvalidCallException(string message, int cudaError = 1) : EmulatorException(message, cudaError);

/// <summary>The device has no room for an allocation.</summary>
public sealed class DeviceOutOfMemoryException(string message) : EmulatorException(message, 2);

/// <summary>A device pointer that was freed before.</summary>
public sealed class DoubleFreeException(string message) : EmulatorException(message, 1);

/// <summary>Device memory, modules, streams, events or graphs that were still alive when their context ended.</summary>
public sealed class LeakException(string message) : EmulatorException(message, 1);

/// <summary>A copy or fill by the host that leaves its allocation or touches freed memory.</summary>
public sealed class HostAccessException(string message) : EmulatorException(message, 1);

/// <summary>Where in a launch something went wrong. Threads and blocks are (x, y, z).</summary>
public sealed record FaultSite(string Kernel, string Instruction, int PtxLine, SourcePlace Source, (int X, int Y, int Z) Block, (int X, int Y, int Z) Thread)
{
    public override string ToString()
        => $"{Kernel}, PTX line {PtxLine} '{Instruction}'{(Source.Line > 0 ? $" ({Source})" : "")}, block ({Block.X},{Block.Y},{Block.Z}), thread ({Thread.X},{Thread.Y},{Thread.Z})";
}

/// <summary>A line of the CUDA source, from <c>.loc</c>.</summary>
public readonly record struct SourcePlace(string File, int Line)
{
    public override string ToString() => $"{Path.GetFileName(File)}:{Line}";
}

/// <summary>A fault inside a kernel.</summary>
public abstract class KernelFaultException(string what, FaultSite site, ulong address, int cudaError)
    : EmulatorException($"{what} [{site}]", cudaError)
{
    public FaultSite Site { get; } = site;

    /// <summary>The address concerned, 0 where there is none.</summary>
    public ulong Address { get; } = address;
}

public sealed class OutOfBoundsException(string what, FaultSite site, ulong address) : KernelFaultException(what, site, address, 700);

public sealed class MisalignedAccessException(string what, FaultSite site, ulong address) : KernelFaultException(what, site, address, 716);

public sealed class UseAfterFreeException(string what, FaultSite site, ulong address) : KernelFaultException(what, site, address, 700);

public sealed class UninitializedReadException(string what, FaultSite site, ulong address) : KernelFaultException(what, site, address, 719);

/// <summary>Two warps of a block touch the same bytes of shared memory between barriers, one of them writing.</summary>
public sealed class SharedRaceException(string what, FaultSite site, ulong address) : KernelFaultException(what, site, address, 719);

/// <summary>Two blocks of a launch touch the same bytes of global memory, one of them writing, and nothing orders them.</summary>
public sealed class GlobalRaceException(string what, FaultSite site, ulong address) : KernelFaultException(what, site, address, 719);

/// <summary>Bytes that a cp.async still has under way are read or written.</summary>
public sealed class AsyncCopyRaceException(string what, FaultSite site, ulong address) : KernelFaultException(what, site, address, 719);

/// <summary>A barrier that not all running threads of the warp or block reach.</summary>
public sealed class DivergentBarrierException(string what, FaultSite site) : KernelFaultException(what, site, 0, 719);

/// <summary>A warp-wide instruction whose mask names lanes that do not execute it, or which needs all lanes.</summary>
public sealed class InactiveLaneException(string what, FaultSite site) : KernelFaultException(what, site, 0, 719);

/// <summary>Warps wait for each other for ever.</summary>
public sealed class DeadlockException(string what, FaultSite site) : KernelFaultException(what, site, 0, 719);

/// <summary>More instructions than the launch was allowed: a loop without end, most likely.</summary>
public sealed class InstructionLimitException(string what, FaultSite site) : KernelFaultException(what, site, 0, 702);

/// <summary>The kernel executed <c>trap</c>, or an assertion of it failed.</summary>
public sealed class TrapException(string what, FaultSite site) : KernelFaultException(what, site, 0, 719);

/// <summary>A write to constant memory or to a kernel's parameters.</summary>
public sealed class ReadOnlyException(string what, FaultSite site, ulong address) : KernelFaultException(what, site, address, 700);
