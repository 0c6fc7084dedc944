namespace Repeng.PtxEmulator;

/// <summary>Classes that the counters tell apart.</summary>
public enum InstructionClass
{
    Integer,
    Float32,
    Float16,
    Float64,
    Special,
    Convert,
    Move,
    Predicate,
    Branch,
    Barrier,
    GlobalLoad,
    GlobalStore,
    SharedLoad,
    SharedStore,
    LocalMemory,
    ParamLoad,
    Atomic,
    AsyncCopy,
    TensorCore,
    Warp,
    Other,
}

/// <summary>What one launch did. Instructions are counted once a warp, as the hardware issues them.</summary>
public sealed class LaunchCounters
{
    internal long[] ByClass { get; } = new long[Enum.GetValues<InstructionClass>().Length];

    /// <summary>Instructions that warps issued.</summary>
    public long WarpInstructions { get; internal set; }

    /// <summary>The same times the lanes that were active.</summary>
    public long LaneInstructions { get; internal set; }

    /// <summary>Bytes that lanes asked of global memory, loads and cp.async.</summary>
    public long GlobalBytesRead { get; internal set; }

    public long GlobalBytesWritten { get; internal set; }

    /// <summary>32-byte sectors that the loads of a warp touch, each counted once an instruction.</summary>
    public long GlobalSectorsRead { get; internal set; }

    public long GlobalSectorsWritten { get; internal set; }

    /// <summary>Accesses to shared memory, by warp and phase (a half warp for 8 bytes a lane, a quarter for 16).</summary>
    public long SharedPhases { get; internal set; }

    /// <summary>Cycles that these phases take: the most words that one of the 32 banks has to give. Without conflicts equal to <see cref="SharedPhases"/>.</summary>
    public long SharedWays { get; internal set; }

    /// <summary>Multiplications and additions of mma.</summary>
    public long MmaFlop { get; internal set; }

    /// <summary>Arrivals of warps at barriers.</summary>
    public long Barriers { get; internal set; }

    /// <summary>Branches where the lanes of a warp part.</summary>
    public long DivergentBranches { get; internal set; }

    public long Instructions(InstructionClass of) => ByClass[(int)of];

    /// <summary>Ways beyond one, 0 when no access to shared memory conflicts.</summary>
    public long BankConflicts => SharedWays - SharedPhases;

    public override string ToString()
    {
        string classes = string.Join(", ", Enum.GetValues<InstructionClass>().Where(c => ByClass[(int)c] > 0).Select(c => $"{c} {ByClass[(int)c]}"));
        return $"{WarpInstructions} warp instructions ({classes}); global {GlobalBytesRead} B read in {GlobalSectorsRead} sectors, {GlobalBytesWritten} B written in {GlobalSectorsWritten}; "
            + $"shared {SharedPhases} phases, {BankConflicts} conflicts; {MmaFlop} mma FLOP; {Barriers} barriers; {DivergentBranches} divergent branches";
    }
}
