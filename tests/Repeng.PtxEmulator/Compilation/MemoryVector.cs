using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Repeng.PtxEmulator.Execution;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Compilation;

/// <summary>
/// Loads and stores of a whole warp. What is usual (one allocation, in bounds, written, not raced for) is checked for all lanes at once; everything else goes to
/// the interpreter, which finds the lane at fault or does it lane by lane.
/// </summary>
internal static unsafe partial class MemoryVector
{
    /// <summary>Checks, notes and counts an access whose lowest address is <paramref name="least"/>. Gives the host address of that; null when the interpreter must look.</summary>
    private static byte* Prepare(Warp warp, Instruction i, Space space, AccessPattern pattern, ulong least, int size, AccessKind kind)
    {
        if (space == Space.Generic)
        {
            ulong most = least + pattern.Span - (ulong)size;
            space = MemoryUnit.Resolve(space, ref least);
            if (MemoryUnit.Resolve(Space.Generic, ref most) != space)
                return null;
        }

        if (kind == AccessKind.Write && pattern.Collides)
            return null;
        Grid grid = warp.Block.Grid;
        byte* at = space switch
        {
            Space.Global or Space.Constant => Global(warp, grid, least, kind, pattern),
            Space.Shared => Shared(warp, grid, least, kind, pattern),
            _ => null,
        };
        if (at != null && space == Space.Shared && warp.Block.LaneRaces is { } races)
            CheckLanes(races, warp, i, least, pattern, size, kind);
        if (at == null || !grid.Options.CountMemory)
            return at;
        LaunchCounters counters = grid.Counters;
        if (space == Space.Shared)
        {
            counters.SharedPhases += pattern.Phases;
            counters.SharedWays += pattern.Ways;
        }
        else if (space == Space.Global && kind == AccessKind.Read)
        {
            counters.GlobalSectorsRead += pattern.Sectors;
            counters.GlobalBytesRead += pattern.Lanes * size;
        }
        else if (space == Space.Global)
        {
            counters.GlobalSectorsWritten += pattern.Sectors;
            counters.GlobalBytesWritten += pattern.Lanes * size;
        }

        return at;
    }

    private static byte* Global(Warp warp, Grid grid, ulong address, AccessKind kind, AccessPattern pattern)
    {
        Block block = warp.Block;
        Allocation? allocation = grid.Memory.Find(address);
        if (allocation is null || allocation.Freed || address < allocation.Address || (long)(address - allocation.Address) + pattern.Span > allocation.Size || (kind != AccessKind.Read && allocation.ReadOnly))
            return null;
        long first = (long)(address - allocation.Address);
        ByteBits? written = allocation.Written;
        if (kind == AccessKind.Read && written is not null && grid.Options.CheckInitialization && !AllWritten(written, first, pattern))
            return null;
        if (grid.Options.CheckGlobalRaces && !allocation.ReadOnly
            && !MemoryUnit.RacesOf(allocation).Note(pattern, first, kind != AccessKind.Read, (uint)block.Index, block.Clock, grid.FirstTick))
            return null;
        if (kind == AccessKind.Write && written is not null)
            Mark(written, first, pattern);
        return allocation.Host + first;
    }

    private static byte* Shared(Warp warp, Grid grid, ulong address, AccessKind kind, AccessPattern pattern)
    {
        Block block = warp.Block;
        if (!MemoryUnit.InShared(grid, address, (int)pattern.Span))
            return null;
        long first = (long)address;
        if (block.CopiesInFlight && AnyMarked(block.CopyPending!, first, pattern))
            return null;
        ByteBits written = block.SharedWritten!;
        if (kind == AccessKind.Read && grid.Options.CheckInitialization && !AllWritten(written, first, pattern))
            return null;
        if (block.SharedRaces is { } races && !races.Note(pattern, first, kind != AccessKind.Read, (uint)warp.Index, warp.Clock, block.LastFullBarrier))
            return null;
        if (kind == AccessKind.Write)
            Mark(written, first, pattern);
        return block.Shared + address;
    }

    private static bool AllWritten(ByteBits written, long first, AccessPattern pattern)
    {
        if (pattern.Bits is { } bits)
            return written.TestAll(first, bits);
        foreach (Run run in pattern.Runs)
            if (!written.Test(first + run.Offset, run.Bytes))
                return false;
        return true;
    }

    private static bool AnyMarked(ByteBits marks, long first, AccessPattern pattern)
    {
        if (pattern.Bits is { } bits)
            return marks.TestAny(first, bits);
        foreach (Run run in pattern.Runs)
            for (int b = 0; b < run.Bytes; b += 16)
                if (marks.Any(first + run.Offset + b, Math.Min(16, run.Bytes - b)))
                    return true;
        return false;
    }

    private static void Mark(ByteBits marks, long first, AccessPattern pattern)
    {
        if (pattern.Bits is { } bits)
        {
            marks.SetAll(first, bits);
            return;
        }

        foreach (Run run in pattern.Runs)
            marks.Set(first + run.Offset, run.Bytes);
    }

    private static void CheckLanes(LaneShadow races, Warp warp, Instruction i, ulong least, AccessPattern pattern, int size, AccessKind kind)
    {
        Span<ulong> addresses = stackalloc ulong[Warp.Lanes];
        for (int lane = 0; lane < Warp.Lanes; lane++)
            addresses[lane] = least + pattern.Offsets[lane];
        races.Access(warp, i, addresses, pattern.Mask, size, kind);
    }

    /// <summary>ldmatrix: rows of 16 bytes at the addresses of the first 8, 16 or 32 lanes.</summary>
    public static void LoadMatrix(Warp warp, Instruction i, byte* frame, uint mask)
    {
        byte* at = null;
        AccessPattern? pattern = null;
        if (mask == uint.MaxValue && i.Space == Space.Shared)
        {
            uint rows = i.Count == 4 ? uint.MaxValue : (1u << (8 * i.Count)) - 1;
            pattern = AccessPattern.Of(frame, i.Address, i.Offset, rows, 16, ref i.Patterns, out ulong least);
            at = pattern is null ? null : Prepare(warp, i, Space.Shared, pattern, least, 16, AccessKind.Read);
        }

        if (at == null)
        {
            MatrixInstructions.LoadMatrix(warp, i, mask);
            return;
        }

        fixed (uint* offsets = pattern!.Offsets)
        {
            for (int matrix = 0; matrix < i.Count; matrix++)
            {
                if (i.Destinations[matrix].Register is not { } register)
                    continue;
                ushort* d = (ushort*)(frame + register.Offset);
                uint* of = offsets + (8 * matrix);
                Vector512<ushort> upper = Rows(at, of), lower = Rows(at, of + 4);
                if (i.Transposed)
                    Transpose(upper, lower, d);
                else
                {
                    upper.Store(d);
                    lower.Store(d + 32);
                }
            }
        }
    }

    private static Vector512<ushort> Rows(byte* at, uint* of)
        => Vector512.Create(
            Vector256.Create(Vector128.Load((ushort*)(at + of[0])), Vector128.Load((ushort*)(at + of[1]))),
            Vector256.Create(Vector128.Load((ushort*)(at + of[2])), Vector128.Load((ushort*)(at + of[3]))));

    /// <summary>cp.async of a warp: bytes are read now and arrive at the wait.</summary>
    public static void CopyAsync(Warp warp, Instruction i, byte* frame, uint mask)
    {
        byte* source = null, target = null;
        AccessPattern? read = null, written = null;
        if (i.Sources.Length == 0)
        {
            read = AccessPattern.Of(frame, i.Address2, i.Offset2, mask, i.Count, ref i.Patterns, out ulong from);
            written = AccessPattern.Of(frame, i.Address, i.Offset, mask, i.Count, ref i.Patterns2, out ulong to);
            if (read is not null && written is not null)
                source = Prepare(warp, i, Space.Global, read, from, i.Count, AccessKind.Read);
            if (source != null)
                target = Prepare(warp, i, Space.Shared, written!, to, i.Count, AccessKind.Write);
        }

        if (target == null)
        {
            if (source != null && warp.Block.Grid.Options.CountMemory)
            {
                // The interpreter counts the read again.
                LaunchCounters counters = warp.Block.Grid.Counters;
                counters.GlobalSectorsRead -= read!.Sectors;
                counters.GlobalBytesRead -= read.Lanes * i.Count;
            }

            MemoryInstructions.CopyAsync(warp, i, mask);
            return;
        }

        AsyncCopy copy = warp.Copies.New(warp, i, mask);
        copy.Pattern = written;
        copy.First = (int)(target - warp.Block.Shared);
        ref uint offsets = ref MemoryMarshal.GetArrayDataReference(written!.Offsets);
        ref uint destinations = ref Unsafe.As<int, uint>(ref MemoryMarshal.GetArrayDataReference(copy.Destination));
        Vector512<uint> first = Vector512.Create((uint)copy.First);
        (Vector512.LoadUnsafe(ref offsets) + first).StoreUnsafe(ref destinations);
        (Vector512.LoadUnsafe(ref offsets, 16) + first).StoreUnsafe(ref destinations, 16);
        if (i.Count == 16)
        {
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            {
                int lane = BitOperations.TrailingZeroCount(lanes);
                Vector128.Load(source + read!.Offsets[lane]).Store(copy.Bytes + (16 * lane));
            }
        }
        else
        {
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            {
                int lane = BitOperations.TrailingZeroCount(lanes);
                Unsafe.CopyBlockUnaligned(copy.Bytes + (16 * lane), source + read!.Offsets[lane], (uint)i.Count);
            }
        }

        warp.Copies.Issue(warp, copy);
    }
}
