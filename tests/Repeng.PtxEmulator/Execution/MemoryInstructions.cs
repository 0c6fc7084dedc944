using System.Numerics;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Execution;

/// <summary>Loads, stores, atomics, cp.async and fences, lane by lane.</summary>
internal static unsafe class MemoryInstructions
{
    public static ulong ReadBytes(byte* at, int size) => size switch { 1 => *at, 2 => *(ushort*)at, 4 => *(uint*)at, _ => *(ulong*)at };

    public static void WriteBytes(byte* at, int size, ulong bits)
    {
        switch (size)
        {
            case 1:
                *at = (byte)bits;
                break;
            case 2:
                *(ushort*)at = (ushort)bits;
                break;
            case 4:
                *(uint*)at = (uint)bits;
                break;
            default:
                *(ulong*)at = bits;
                break;
        }
    }

    public static void Load(Warp warp, Instruction i, uint mask)
    {
        int element = i.Type.Size(), size = element * i.Count;
        Span<ulong> addresses = stackalloc ulong[Warp.Lanes];
        bool strong = i.Semantics != Semantics.Weak;
        ulong* values = stackalloc ulong[i.Count];
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ulong address = addresses[lane] = MemoryUnit.AddressOf(warp, i.Address, i.Offset, lane);
            byte* at = MemoryUnit.Access(warp, i, lane, i.Space, address, size, AccessKind.Read, strong);
            if (strong)
                Synchronise(warp, i, address, write: false);
            for (int k = 0; k < i.Count; k++)
                values[k] = ReadBytes(at + (k * element), element);
            for (int k = 0; k < i.Count; k++)
                // A register wider than the type takes the value extended as the type says.
                warp.Write(i.Destinations[k], lane, i.Type.IsSigned() ? (ulong)Scalar.Extend(values[k], i.Type) : values[k]);
        }

        CheckLanes(warp, i, i.Space, addresses, mask, size, AccessKind.Read);
        Count(warp, i, addresses, mask, size, write: false);
    }

    public static void Store(Warp warp, Instruction i, uint mask)
    {
        int element = i.Type.Size(), size = element * i.Count;
        Span<ulong> addresses = stackalloc ulong[Warp.Lanes];
        bool strong = i.Semantics != Semantics.Weak;
        nint* places = stackalloc nint[Warp.Lanes];
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ulong address = addresses[lane] = MemoryUnit.AddressOf(warp, i.Address, i.Offset, lane);
            byte* at = MemoryUnit.Access(warp, i, lane, i.Space, address, size, AccessKind.Write, strong);
            if (strong)
                Synchronise(warp, i, address, write: true);
            places[lane] = (nint)at;
            for (int k = 0; k < i.Count; k++)
                WriteBytes(at + (k * element), element, warp.Read(i.Sources[k], lane));
        }

        // Two lanes of one instruction at the same place with different values: which one stays is undefined.
        for (uint lanes = strong ? 0 : mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            for (int k = 0; k < i.Count; k++)
                if (ReadBytes((byte*)places[lane] + (k * element), element) != (warp.Read(i.Sources[k], lane) & (ulong.MaxValue >> (64 - (8 * element)))))
                    SameInstruction(warp, i, lane, addresses[lane]);
        }

        CheckLanes(warp, i, i.Space, addresses, mask, size, AccessKind.Write);
        Count(warp, i, addresses, mask, size, write: true);
    }

    public static void SameInstruction(Warp warp, Instruction i, int lane, ulong address)
    {
        ulong inside = address;
        string what = $"two lanes of one instruction write different values to 0x{address:x}";
        if (MemoryUnit.Resolve(i.Space, ref inside) == Space.Shared)
            throw new SharedRaceException($"{what}: {MemoryUnit.DescribeShared(warp, inside)}", Faults.Site(warp, i, 1u << lane), address);
        throw new GlobalRaceException($"{what}: {warp.Block.Grid.Memory.Describe(inside)}", Faults.Site(warp, i, 1u << lane), address);
    }

    /// <summary>Looks for races between the lanes of an access, as far as it goes to shared memory.</summary>
    public static void CheckLanes(Warp warp, Instruction i, Space space, ReadOnlySpan<ulong> addresses, uint mask, int size, AccessKind kind)
    {
        if (warp.Block.LaneRaces is not { } races)
            return;
        Span<ulong> within = stackalloc ulong[Warp.Lanes];
        uint shared = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            within[lane] = addresses[lane];
            if (MemoryUnit.Resolve(space, ref within[lane]) == Space.Shared)
                shared |= 1u << lane;
        }
        if (shared != 0)
            races.Access(warp, i, within, shared, size, kind);
    }

    /// <summary>Counts one access of a warp; generic ones by where the first lane goes.</summary>
    public static void Count(Warp warp, Instruction i, ReadOnlySpan<ulong> addresses, uint mask, int size, bool write)
    {
        Grid grid = warp.Block.Grid;
        if (!grid.Options.CountMemory || mask == 0)
            return;
        ulong first = addresses[BitOperations.TrailingZeroCount(mask)];
        Count(warp, MemoryUnit.Resolve(i.Space, ref first), addresses, mask, size, write);
    }

    public static void Count(Warp warp, Space space, ReadOnlySpan<ulong> addresses, uint mask, int size, bool write)
    {
        LaunchCounters counters = warp.Block.Grid.Counters;
        if (space == Space.Global)
        {
            int sectors = MemoryCounts.Sectors(addresses, mask, size), bytes = BitOperations.PopCount(mask) * size;
            if (write)
            {
                counters.GlobalSectorsWritten += sectors;
                counters.GlobalBytesWritten += bytes;
            }
            else
            {
                counters.GlobalSectorsRead += sectors;
                counters.GlobalBytesRead += bytes;
            }
        }
        else if (space == Space.Shared)
        {
            (int phases, int ways) = MemoryCounts.Banks(addresses, mask, size);
            counters.SharedPhases += phases;
            counters.SharedWays += ways;
        }
    }

    public static void Atomic(Warp warp, Instruction i, uint mask)
    {
        int size = i.Type.Size();
        Span<ulong> addresses = stackalloc ulong[Warp.Lanes];
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ulong address = addresses[lane] = MemoryUnit.AddressOf(warp, i.Address, i.Offset, lane);
            // An atomic of the block's scope orders nothing between blocks: there it is a plain access.
            byte* at = MemoryUnit.Access(warp, i, lane, i.Space, address, size, AccessKind.Atomic, strong: !i.Flag || InShared(i, address));
            Synchronise(warp, i, address, write: true);
            ulong old = ReadBytes(at, size), a = warp.Read(i.Sources[0], lane);
            WriteBytes(at, size, Atomics.Apply(i.Mode, i.Type, old, a, i.Sources.Length > 1 ? warp.Read(i.Sources[1], lane) : 0));
            if (i.Destinations.Length > 0)
                warp.Write(i.Destinations[0], lane, old);
        }

        CheckLanes(warp, i, i.Space, addresses, mask, size, AccessKind.Atomic);
        Count(warp, i, addresses, mask, size, write: true);
    }

    private static bool InShared(Instruction i, ulong address) => MemoryUnit.Resolve(i.Space, ref address) == Space.Shared;

    /// <summary>A volatile or atomic access to global memory may carry order from block to block.</summary>
    private static void Synchronise(Warp warp, Instruction i, ulong address, bool write)
    {
        if (MemoryUnit.Resolve(i.Space, ref address) != Space.Global)
            return;
        Block block = warp.Block;
        Grid grid = block.Grid;
        if (grid.Blocks == 1 || !grid.Options.CheckGlobalRaces)
            return;
        if (i.Op != Op.St && grid.Published(address) is { } seen)
        {
            if (i.Semantics is Semantics.Acquire or Semantics.AcquireRelease)
                block.Clock.Join(seen, grid.Blocks);
            else
                warp.PendingAcquire = Later(warp.PendingAcquire, seen);
        }

        if (!write)
            return;
        if (i.Semantics is Semantics.Release or Semantics.AcquireRelease)
            grid.Publish(address, grid.Release(block));
        else if (warp.Released is { } released)
            grid.Publish(address, released);
    }

    private static uint[] Later(uint[]? a, uint[] b)
    {
        if (a is null)
            return (uint[])b.Clone();
        for (int k = 0; k < a.Length; k++)
            a[k] = Math.Max(a[k], b[k]);
        return a;
    }

    public static void Fence(Warp warp, Instruction i)
    {
        Grid grid = warp.Block.Grid;
        if (i.Flag || grid.Blocks == 1 || !grid.Options.CheckGlobalRaces)
            return;
        if (warp.PendingAcquire is { } pending)
        {
            warp.Block.Clock.Join(pending, grid.Blocks);
            warp.PendingAcquire = null;
        }

        warp.Released = grid.Release(warp.Block);
    }

    public static void CopyAsync(Warp warp, Instruction i, uint mask)
    {
        Span<ulong> sources = stackalloc ulong[Warp.Lanes];
        Span<ulong> destinations = stackalloc ulong[Warp.Lanes];
        uint reading = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ulong to = destinations[lane] = MemoryUnit.AddressOf(warp, i.Address, i.Offset, lane), from = sources[lane] = MemoryUnit.AddressOf(warp, i.Address2, i.Offset2, lane);
            int read = i.Sources.Length > 0 ? (int)Math.Min(warp.Read(i.Sources[0], lane), (ulong)i.Count) : i.Count;
            AsyncCopy copy = warp.Copies.New(warp, i, 1u << lane);
            var bytes = new Span<byte>(copy.Bytes + (16 * lane), i.Count);
            bytes.Clear();
            if ((from & (ulong)(i.Count - 1)) != 0)
                throw new MisalignedAccessException($"cp.async of {i.Count} bytes from 0x{from:x}, which is no multiple of {i.Count}", Faults.Site(warp, i, 1u << lane), from);
            // A source size that is no power of two is read in pieces that are.
            for (int done = 0; done < read;)
            {
                int piece = 1 << BitOperations.Log2((uint)(read - done));
                new Span<byte>(MemoryUnit.Access(warp, i, lane, Space.Global, from + (ulong)done, piece, AccessKind.Read), piece).CopyTo(bytes[done..]);
                done += piece;
            }

            if (read > 0)
                reading |= 1u << lane;
            MemoryUnit.Access(warp, i, lane, Space.Shared, to, i.Count, AccessKind.Write);
            copy.Destination[lane] = (int)to;
            warp.Copies.Issue(warp, copy);
        }

        CheckLanes(warp, i, Space.Shared, destinations, mask, i.Count, AccessKind.Write);
        if (!warp.Block.Grid.Options.CountMemory)
            return;
        if (reading != 0)
            Count(warp, Space.Global, sources, reading, i.Count, write: false);
        Count(warp, Space.Shared, destinations, mask, i.Count, write: true);
    }
}
