using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Execution;

internal enum AccessKind { Read, Write, Atomic }

/// <summary>Memory as one lane sees it: finds the bytes behind an address and checks everything that can be wrong with touching them.</summary>
internal static unsafe class MemoryUnit
{
    /// <summary>The space that a generic address lies in, and the address inside of it.</summary>
    public static Space Resolve(Space space, ref ulong address)
    {
        if (space != Space.Generic)
            return space;
        switch (address)
        {
            case >= DeviceMemory.WindowEnd:
                return Space.Global;
            case >= DeviceMemory.LocalWindow:
                address -= DeviceMemory.LocalWindow;
                return Space.Local;
            case >= DeviceMemory.SharedWindow:
                address -= DeviceMemory.SharedWindow;
                return Space.Shared;
            default:
                return Space.Global;
        }
    }

    /// <summary>Address of a lane's access, before it is known to be good.</summary>
    public static ulong AddressOf(Warp warp, in Value address, long offset, int lane) => warp.Read(address, lane) + (ulong)offset;

    /// <summary>Host address of <paramref name="size"/> bytes (1 to 32, a power of two).</summary>
    public static byte* Access(Warp warp, Instruction i, int lane, Space space, ulong address, int size, AccessKind kind, bool strong = false)
    {
        ulong given = address;
        space = Resolve(space, ref address);
        if ((address & (ulong)(size - 1)) != 0)
            throw new MisalignedAccessException($"{size} bytes at 0x{given:x}, which is no multiple of {size}: {Where(warp, space, address)}", Faults.Site(warp, i, 1u << lane), given);
        return space switch
        {
            Space.Global or Space.Constant => Global(warp, i, lane, address, size, kind, strong),
            Space.Shared => Shared(warp, i, lane, address, size, kind, strong, given),
            Space.Local => Local(warp, i, lane, address, size, kind, given),
            Space.Param => Param(warp, i, lane, address, size, kind),
            _ => throw new NotSupportedException(space.ToString()),
        };
    }

    private static string Where(Warp warp, Space space, ulong address) => space switch
    {
        Space.Shared => DescribeShared(warp, address),
        Space.Local => $"local memory, byte {address} of {warp.LocalBytes}",
        Space.Param => $"parameters, byte {address} of {warp.Block.Grid.Kernel.ParameterBytes}",
        _ => warp.Block.Grid.Memory.Describe(address),
    };

    private static byte* Global(Warp warp, Instruction i, int lane, ulong address, int size, AccessKind kind, bool strong)
    {
        Grid grid = warp.Block.Grid;
        Allocation? allocation = grid.Memory.Find(address);
        ulong at = allocation is null ? 0 : address - allocation.Address;
        if (allocation is null || at >= (ulong)allocation.Size || at + (ulong)size > (ulong)allocation.Size)
            throw new OutOfBoundsException($"{Verb(kind)} of {size} bytes at 0x{address:x}: {grid.Memory.Describe(address)}", Faults.Site(warp, i, 1u << lane), address);
        if (allocation.Freed)
            throw new UseAfterFreeException($"{Verb(kind)} of {size} bytes at 0x{address:x}: {grid.Memory.Describe(address)}", Faults.Site(warp, i, 1u << lane), address);
        if (allocation.ReadOnly && kind != AccessKind.Read)
            throw new ReadOnlyException($"a write to constant memory, {allocation}", Faults.Site(warp, i, 1u << lane), address);
        if (allocation.Written is { } written)
        {
            if (kind != AccessKind.Write && grid.Options.CheckInitialization && !written.Test((long)at, size))
                throw new UninitializedReadException($"{size} bytes at 0x{address:x} were never written: {grid.Memory.Describe(address)}", Faults.Site(warp, i, 1u << lane), address);
            if (kind != AccessKind.Read)
                written.SetFew((long)at, size);
        }

        if (grid.Options.CheckGlobalRaces && !allocation.ReadOnly)
            GlobalRace(warp, i, lane, allocation, address, (long)at, size, kind, strong);
        return allocation.Host + at;
    }

    public static RaceShadow RacesOf(Allocation allocation)
    {
        if (allocation.Races is { } races)
            return races;
        lock (allocation)
            return allocation.Races ??= new RaceShadow(allocation.Size, readerSet: false);
    }

    private static void GlobalRace(Warp warp, Instruction i, int lane, Allocation allocation, ulong address, long at, int size, AccessKind kind, bool strong)
    {
        Block block = warp.Block;
        RaceShadow races = RacesOf(allocation);
        for (long b = at; b < at + size;)
        {
            int inWord = (int)(b & 3), take = (int)Math.Min(4 - inWord, at + size - b);
            uint mask = ((1u << take) - 1) << inWord;
            long other = races.Access(b >> 2, mask, kind != AccessKind.Read, strong, (uint)block.Index, block.Clock, block.Grid.FirstTick);
            if (other >= 0)
                throw new GlobalRaceException($"{Verb(kind)} of {size} bytes at 0x{address:x}, which {(RaceShadow.IsMany(other) ? "several other blocks use" : $"block {other} uses")} in the same launch, unordered, one of them writing: {block.Grid.Memory.Describe(address)}",
                    Faults.Site(warp, i, 1u << lane), address);
            b += take;
        }
    }

    public static string DescribeShared(Warp warp, ulong address)
    {
        Grid grid = warp.Block.Grid;
        foreach (SharedVariable v in grid.Kernel.SharedVariables)
        {
            long at = (long)address - v.Offset;
            if (at >= 0 && at < v.Size)
                return $"byte {at} of shared '{v.Name}' of {v.Size}";
            if (at >= v.Size && at < v.Size + 128)
                return $"{at - v.Size} bytes past the end of shared '{v.Name}' of {v.Size}";
        }

        return $"shared memory, byte {(long)address - grid.Kernel.SharedLayoutBytes} of the dynamic {grid.DynamicShared}";
    }

    /// <summary>Whether a range of shared memory lies in one variable.</summary>
    public static bool InShared(Grid grid, ulong address, int size)
    {
        foreach ((long start, long end) in grid.SharedRanges)
            if (address >= (ulong)start && address + (ulong)size <= (ulong)end)
                return true;
        return false;
    }

    private static byte* Shared(Warp warp, Instruction i, int lane, ulong address, int size, AccessKind kind, bool strong, ulong given)
    {
        Block block = warp.Block;
        if (!InShared(block.Grid, address, size))
            throw new OutOfBoundsException($"{Verb(kind)} of {size} bytes at shared 0x{address:x}: {DescribeShared(warp, address)}", Faults.Site(warp, i, 1u << lane), given);
        if (block.CopiesInFlight && block.CopyPending!.Any((long)address, size))
        {
            (AsyncCopy copy, int by) = block.InFlight.Select(c => (c, c.LaneAt((int)address, size))).First(c => c.Item2 >= 0);
            throw new AsyncCopyRaceException($"{Verb(kind)} of {size} bytes at shared 0x{address:x} while the cp.async of PTX line {copy.Instruction.Line} by warp {copy.Warp}, lane {by} is under way: {DescribeShared(warp, address)}",
                Faults.Site(warp, i, 1u << lane), given);
        }

        if (kind != AccessKind.Write && block.Grid.Options.CheckInitialization && !block.SharedWritten!.Test((long)address, size))
            throw new UninitializedReadException($"{size} bytes at shared 0x{address:x} were never written: {DescribeShared(warp, address)}", Faults.Site(warp, i, 1u << lane), given);
        if (kind != AccessKind.Read)
            block.SharedWritten!.SetFew((long)address, size);
        if (block.SharedRaces is { } races)
        {
            for (long b = (long)address; b < (long)address + size;)
            {
                int inWord = (int)(b & 3), take = (int)Math.Min(4 - inWord, (long)address + size - b);
                uint mask = ((1u << take) - 1) << inWord;
                long other = races.Access(b >> 2, mask, kind != AccessKind.Read, strong, (uint)warp.Index, warp.Clock, block.LastFullBarrier);
                if (other >= 0)
                    throw new SharedRaceException($"{Verb(kind)} of {size} bytes at shared 0x{address:x}, which warp {other} uses since the last barrier, one of them writing: {DescribeShared(warp, address)}",
                        Faults.Site(warp, i, 1u << lane), given);
                b += take;
            }
        }

        return block.Shared + address;
    }

    private static byte* Local(Warp warp, Instruction i, int lane, ulong address, int size, AccessKind kind, ulong given)
    {
        if (address < 16 || address + (ulong)size > (ulong)warp.LocalBytes)
            throw new OutOfBoundsException($"{Verb(kind)} of {size} bytes at local 0x{address:x}, where 16 to {warp.LocalBytes} are", Faults.Site(warp, i, 1u << lane), given);
        long at = ((long)lane * warp.LocalBytes) + (long)address;
        if (kind != AccessKind.Write && warp.Block.Grid.Options.CheckInitialization && !warp.LocalWritten!.Test(at, size))
            throw new UninitializedReadException($"{size} bytes at local 0x{address:x} were never written", Faults.Site(warp, i, 1u << lane), given);
        if (kind != AccessKind.Read)
            warp.LocalWritten!.SetFew(at, size);
        return warp.Local + at;
    }

    private static byte* Param(Warp warp, Instruction i, int lane, ulong address, int size, AccessKind kind)
    {
        Grid grid = warp.Block.Grid;
        if (kind != AccessKind.Read)
            throw new ReadOnlyException("a write to the kernel's parameters", Faults.Site(warp, i, 1u << lane), address);
        if (address + (ulong)size > (ulong)grid.Kernel.ParameterBytes || address > int.MaxValue)
            throw new OutOfBoundsException($"a read of {size} bytes at parameter byte {(long)address}, where {grid.Kernel.ParameterBytes} are", Faults.Site(warp, i, 1u << lane), address);
        fixed (byte* parameters = grid.Parameters)
            return parameters + address;
    }

    private static string Verb(AccessKind kind) => kind switch { AccessKind.Read => "a read", AccessKind.Write => "a write", _ => "an atomic" };
}
