namespace Repeng.PtxEmulator;

/// <summary>What is checked and how kernels run. Bounds, alignment, barriers and masks are always checked.</summary>
public sealed record EmulatorOptions
{
    /// <summary>Run compiled code (32 lanes at a time); false runs the interpreter, which is the oracle.</summary>
    public bool Compile { get; init; } = true;

    /// <summary>Reads of memory and registers that nobody wrote.</summary>
    public bool CheckInitialization { get; init; } = true;

    /// <summary>Races between warps in shared memory.</summary>
    public bool CheckSharedRaces { get; init; } = true;

    /// <summary>Races between the lanes of a warp in shared memory, which a bar.warp.sync orders. Several times slower, so it must be asked for.</summary>
    public bool CheckLaneRaces { get; init; }

    /// <summary>Races between blocks in global memory.</summary>
    public bool CheckGlobalRaces { get; init; } = true;

    /// <summary>Whether what is still alive when the context ends is an error.</summary>
    public bool CheckLeaks { get; init; } = true;

    /// <summary>Count sectors and bank conflicts. Instructions are always counted.</summary>
    public bool CountMemory { get; init; } = true;

    /// <summary>Warp instructions after which a launch is given up.</summary>
    public long InstructionLimit { get; init; } = 20_000_000_000;

    /// <summary>Bytes of device memory.</summary>
    public long DeviceMemory { get; init; } = 4L << 30;

    /// <summary>How many times faster the device says that fp32 arithmetic is than fp64.</summary>
    public int DoubleRatio { get; init; } = 2;

    /// <summary>Most shared memory a block may have, static and dynamic (sm_80: 163 KiB).</summary>
    public long SharedMemoryPerBlock { get; init; } = 163 * 1024;

    /// <summary>Most shared memory without opting in.</summary>
    public long SharedMemoryDefault { get; init; } = 48 * 1024;
}
