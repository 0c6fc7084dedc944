using System.Numerics;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Repeng.PtxEmulator.Execution;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Compilation;

/// <summary>
/// Loads and stores of a whole warp. What is usual (one allocation, in bounds, written, not raced for) is checked for all lanes at once; everything else goes to
/// the interpreter, which finds the lane at fault or does it lane by lane.
/// </summary>
internal static unsafe class MemoryVector
{
    /// <summary>Addresses of the lanes; inactive ones take an active lane's.</summary>
    private static void Addresses(byte* frame, Instruction i, in Value address, long offset, ulong* addresses, uint mask)
    {
        if (address.Kind == ValueKind.Immediate)
        {
            Vector512<ulong> same = Vector512.Create(address.Bits + (ulong)offset);
            for (int k = 0; k < 32; k += 8)
                same.Store(addresses + k);
            return;
        }

        byte* register = frame + address.Register!.Offset;
        Vector512<ulong> add = Vector512.Create((ulong)offset);
        if (address.Register.Width == 64)
        {
            for (int k = 0; k < 32; k += 8)
                (Vector512.Load((ulong*)register + k) + add).Store(addresses + k);
        }
        else
        {
            for (int k = 0; k < 32; k++)
                addresses[k] = ((uint*)register)[k] + (ulong)offset;
        }

        if (mask == uint.MaxValue)
            return;
        ulong active = addresses[BitOperations.TrailingZeroCount(mask)];
        for (uint lanes = ~mask; lanes != 0; lanes &= lanes - 1)
            addresses[BitOperations.TrailingZeroCount(lanes)] = active;
    }

    /// <summary>Checks, notes and counts an access. Gives the host address of the lowest lane's bytes and fills the offsets of all; null when the interpreter must look.</summary>
    public static byte* Prepare(Warp warp, Instruction i, Space space, ulong* addresses, uint mask, int size, AccessKind kind, uint* offsets, ref AccessPattern?[]? cache, out AccessPattern? pattern)
    {
        pattern = null;
        Vector512<ulong> low = Vector512.Load(addresses), high = low, bits = low;
        for (int k = 8; k < 32; k += 8)
        {
            Vector512<ulong> v = Vector512.Load(addresses + k);
            low = Vector512.Min(low, v);
            high = Vector512.Max(high, v);
            bits |= v;
        }

        ulong least = low[0], most = high[0], any = bits[0];
        for (int k = 1; k < 8; k++)
        {
            least = Math.Min(least, low[k]);
            most = Math.Max(most, high[k]);
            any |= bits[k];
        }

        if ((any & (ulong)(size - 1)) != 0 || most - least > int.MaxValue)
            return null;
        ulong inside = least;
        Space given = space;
        if (space == Space.Generic)
        {
            space = MemoryUnit.Resolve(space, ref inside);
            ulong top = most;
            if (MemoryUnit.Resolve(Space.Generic, ref top) != space)
                return null;
        }

        for (int k = 0; k < 32; k++)
            offsets[k] = (uint)(addresses[k] - least);
        long span = (long)(most - least) + size;
        byte* at = space switch
        {
            Space.Global or Space.Constant => Global(warp, i, inside, span, mask, size, kind, offsets, ref cache, out pattern),
            Space.Shared => Shared(warp, i, inside, span, mask, size, kind, offsets, ref cache, out pattern),
            _ => null,
        };
        if (at != null && space == Space.Shared)
            MemoryInstructions.CheckLanes(warp, i, given, new ReadOnlySpan<ulong>(addresses, 32), mask, size, kind);
        if (at == null || !warp.Block.Grid.Options.CountMemory)
            return at;
        LaunchCounters counters = warp.Block.Grid.Counters;
        if (space == Space.Shared)
        {
            counters.SharedPhases += pattern!.Phases;
            counters.SharedWays += pattern.Ways;
        }
        else if (space == Space.Global && kind == AccessKind.Read)
        {
            counters.GlobalSectorsRead += pattern!.Sectors;
            counters.GlobalBytesRead += pattern.Lanes * size;
        }
        else if (space == Space.Global)
        {
            counters.GlobalSectorsWritten += pattern!.Sectors;
            counters.GlobalBytesWritten += pattern.Lanes * size;
        }

        return at;
    }

    private static byte* Global(Warp warp, Instruction i, ulong address, long span, uint mask, int size, AccessKind kind, uint* offsets, ref AccessPattern?[]? cache, out AccessPattern? pattern)
    {
        pattern = null;
        Block block = warp.Block;
        Grid grid = block.Grid;
        Allocation? allocation = grid.Memory.Find(address);
        if (allocation is null || allocation.Freed || address < allocation.Address || (long)(address - allocation.Address) + span > allocation.Size || (kind != AccessKind.Read && allocation.ReadOnly))
            return null;
        long first = (long)(address - allocation.Address);
        pattern = AccessPattern.Of(ref cache, new ReadOnlySpan<uint>(offsets, 32), mask, (uint)(address & 31), size);
        if (kind == AccessKind.Write && pattern.Collides)
            return null;
        ByteBits? written = allocation.Written;
        if (kind == AccessKind.Read && written is not null && grid.Options.CheckInitialization && !AllWritten(written, first, pattern))
            return null;
        if (grid.Options.CheckGlobalRaces && !allocation.ReadOnly
            && !Ordered(MemoryUnit.RacesOf(allocation), first, size, kind, (uint)block.Index, block.Clock, grid.FirstTick, pattern))
            return null;
        if (kind == AccessKind.Write && written is not null)
            foreach (Run run in pattern.Runs)
                written.Set(first + run.Offset, run.Bytes);
        return allocation.Host + first;
    }

    private static byte* Shared(Warp warp, Instruction i, ulong address, long span, uint mask, int size, AccessKind kind, uint* offsets, ref AccessPattern?[]? cache, out AccessPattern? pattern)
    {
        pattern = null;
        Block block = warp.Block;
        Grid grid = block.Grid;
        if (!MemoryUnit.InShared(grid, address, (int)span))
            return null;
        long first = (long)address;
        pattern = AccessPattern.Of(ref cache, new ReadOnlySpan<uint>(offsets, 32), mask, (uint)(address & 31), size);
        if (kind == AccessKind.Write && pattern.Collides)
            return null;
        if (block.CopiesInFlight)
            foreach (Run run in pattern.Runs)
                for (int b = 0; b < run.Bytes; b += 16)
                    if (block.CopyPending!.Any(first + run.Offset + b, Math.Min(16, run.Bytes - b)))
                        return null;
        ByteBits written = block.SharedWritten!;
        if (kind == AccessKind.Read && grid.Options.CheckInitialization && !AllWritten(written, first, pattern))
            return null;
        if (block.SharedRaces is { } races && !Ordered(races, first, size, kind, (uint)warp.Index, warp.Clock, block.LastFullBarrier, pattern))
            return null;
        if (kind == AccessKind.Write)
            foreach (Run run in pattern.Runs)
                written.Set(first + run.Offset, run.Bytes);
        return block.Shared + address;
    }

    private static bool AllWritten(ByteBits written, long first, AccessPattern pattern)
    {
        // Most often everything in between is written too.
        if (pattern.Span <= 2048 && written.Test(first, (int)pattern.Span))
            return true;
        foreach (Run run in pattern.Runs)
            if (!written.Test(first + run.Offset, run.Bytes))
                return false;
        return true;
    }

    private static bool Ordered(RaceShadow races, long first, int size, AccessKind kind, uint actor, ActorClock clock, uint start, AccessPattern pattern)
    {
        foreach (Run run in pattern.Runs)
        {
            long at = first + run.Offset;
            if ((at & 3) == 0 && (run.Bytes & 3) == 0
                && (kind == AccessKind.Read ? races.ReadWords(at >> 2, run.Bytes >> 2, actor, clock, start) : races.WriteWords(at >> 2, run.Bytes >> 2, actor, clock, start)))
                continue;
            for (long b = at; b < at + run.Bytes;)
            {
                int inWord = (int)(b & 3), take = (int)Math.Min(4 - inWord, at + run.Bytes - b);
                if (races.Access(b >> 2, ((1u << take) - 1) << inWord, kind != AccessKind.Read, false, actor, clock, start) >= 0)
                    return false;
                b += take;
            }
        }

        return true;
    }

    public static void Load(Warp warp, Instruction i, byte* frame, uint mask)
    {
        if (i.Space == Space.Param && i.Address.Kind == ValueKind.Immediate && mask == uint.MaxValue)
        {
            LoadParameter(warp, i, frame);
            return;
        }

        int element = i.Type.Size(), size = element * i.Count;
        ulong* addresses = stackalloc ulong[32];
        uint* offsets = stackalloc uint[32];
        if (i.Semantics != Semantics.Weak || i.Space is Space.Local or Space.Param)
        {
            MemoryInstructions.Load(warp, i, mask);
            return;
        }

        Addresses(frame, i, i.Address, i.Offset, addresses, mask);
        byte* at = Prepare(warp, i, i.Space, addresses, mask, size, AccessKind.Read, offsets, ref i.Patterns, out AccessPattern? pattern);
        if (at == null)
        {
            MemoryInstructions.Load(warp, i, mask);
            return;
        }

        bool signed = i.Type.IsSigned();
        for (int k = 0; k < i.Count; k++)
        {
            Register? to = i.Destinations[k].Register;
            if (to is null)
                continue;
            byte* register = frame + to.Offset, from = at + (k * element);
            if (element == 4 && to.Width == 32)
            {
                uint* d = (uint*)register;
                if (pattern!.Contiguous && i.Count == 1)
                {
                    Vector512.Load((uint*)from).Store(d);
                    Vector512.Load((uint*)from + 16).Store(d + 16);
                }
                else if (pattern.Uniform)
                {
                    Vector512<uint> v = Vector512.Create(*(uint*)from);
                    v.Store(d);
                    v.Store(d + 16);
                }
                else if (mask == uint.MaxValue)
                {
                    for (int lane = 0; lane < 32; lane++)
                        d[lane] = *(uint*)(from + offsets[lane]);
                }
                else
                {
                    for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                    {
                        int lane = BitOperations.TrailingZeroCount(lanes);
                        d[lane] = *(uint*)(from + offsets[lane]);
                    }
                }
            }
            else
            {
                for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                {
                    int lane = BitOperations.TrailingZeroCount(lanes);
                    ulong bits = MemoryInstructions.ReadBytes(from + offsets[lane], element);
                    if (signed)
                        bits = (ulong)Scalar.Extend(bits, i.Type);
                    switch (to.Width)
                    {
                        case 16:
                            ((ushort*)register)[lane] = (ushort)bits;
                            break;
                        case 32:
                            ((uint*)register)[lane] = (uint)bits;
                            break;
                        default:
                            ((ulong*)register)[lane] = bits;
                            break;
                    }
                }
            }
        }
    }

    private static void LoadParameter(Warp warp, Instruction i, byte* frame)
    {
        int element = i.Type.Size();
        byte* at = MemoryUnit.Access(warp, i, 0, Space.Param, i.Address.Bits + (ulong)i.Offset, element * i.Count, AccessKind.Read);
        for (int k = 0; k < i.Count; k++)
        {
            ulong bits = MemoryInstructions.ReadBytes(at + (k * element), element);
            if (i.Type.IsSigned())
                bits = (ulong)Scalar.Extend(bits, i.Type);
            if (i.Destinations[k].Register is not { } to)
                continue;
            byte* register = frame + to.Offset;
            switch (to.Width)
            {
                case 16:
                    new Span<ushort>(register, 32).Fill((ushort)bits);
                    break;
                case 32:
                    new Span<uint>(register, 32).Fill((uint)bits);
                    break;
                default:
                    new Span<ulong>(register, 32).Fill(bits);
                    break;
            }
        }
    }

    public static void Store(Warp warp, Instruction i, byte* frame, uint mask)
    {
        int element = i.Type.Size(), size = element * i.Count;
        ulong* addresses = stackalloc ulong[32];
        uint* offsets = stackalloc uint[32];
        if (i.Semantics != Semantics.Weak || i.Space is Space.Local or Space.Param)
        {
            MemoryInstructions.Store(warp, i, mask);
            return;
        }

        Addresses(frame, i, i.Address, i.Offset, addresses, mask);
        byte* at = Prepare(warp, i, i.Space, addresses, mask, size, AccessKind.Write, offsets, ref i.Patterns, out AccessPattern? pattern);
        if (at == null)
        {
            MemoryInstructions.Store(warp, i, mask);
            return;
        }

        for (int k = 0; k < i.Count; k++)
        {
            byte* to = at + (k * element);
            if (i.Sources[k].Register is not { } from)
            {
                for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                    MemoryInstructions.WriteBytes(to + offsets[BitOperations.TrailingZeroCount(lanes)], element, i.Sources[k].Bits);
                continue;
            }

            byte* register = frame + from.Offset;
            if (element == 4 && from.Width == 32 && pattern!.Contiguous && i.Count == 1)
            {
                Vector512.Load((uint*)register).Store((uint*)to);
                Vector512.Load((uint*)register + 16).Store((uint*)to + 16);
                continue;
            }

            int width = from.Width / 8;
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            {
                int lane = BitOperations.TrailingZeroCount(lanes);
                MemoryInstructions.WriteBytes(to + offsets[lane], element, MemoryInstructions.ReadBytes(register + (lane * width), width));
            }
        }
    }

    /// <summary>ldmatrix: rows of 16 bytes at the addresses of the first 8, 16 or 32 lanes.</summary>
    public static void LoadMatrix(Warp warp, Instruction i, byte* frame, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        uint* offsets = stackalloc uint[32];
        uint rows = i.Count == 4 ? uint.MaxValue : (1u << (8 * i.Count)) - 1;
        byte* at = null;
        if (mask == uint.MaxValue && i.Space == Space.Shared)
        {
            Addresses(frame, i, i.Address, i.Offset, addresses, rows);
            at = Prepare(warp, i, Space.Shared, addresses, rows, 16, AccessKind.Read, offsets, ref i.Patterns, out _);
        }

        if (at == null)
        {
            MatrixInstructions.LoadMatrix(warp, i, mask);
            return;
        }

        for (int matrix = 0; matrix < i.Count; matrix++)
        {
            if (i.Destinations[matrix].Register is not { } register)
                continue;
            uint* d = (uint*)(frame + register.Offset);
            uint* of = offsets + (8 * matrix);
            if (!i.Transposed)
            {
                for (int row = 0; row < 8; row++)
                    Vector128.Load((uint*)(at + of[row])).Store(d + (4 * row));
                continue;
            }

            if (Sse2.IsSupported)
            {
                Transpose(at, of, d);
                continue;
            }

            for (int lane = 0; lane < 32; lane++)
            {
                int column = 2 * (lane & 3), row = 2 * (lane >> 2);
                d[lane] = *(ushort*)(at + of[column] + row) | ((uint)*(ushort*)(at + of[column + 1] + row) << 16);
            }
        }
    }

    /// <summary>Eight rows of eight 16-bit elements by columns: column c goes to lanes 4c to 4c + 3.</summary>
    private static void Transpose(byte* at, uint* of, uint* d)
    {
        Vector128<ushort> r0 = Vector128.Load((ushort*)(at + of[0])), r1 = Vector128.Load((ushort*)(at + of[1])), r2 = Vector128.Load((ushort*)(at + of[2])), r3 = Vector128.Load((ushort*)(at + of[3]));
        Vector128<ushort> r4 = Vector128.Load((ushort*)(at + of[4])), r5 = Vector128.Load((ushort*)(at + of[5])), r6 = Vector128.Load((ushort*)(at + of[6])), r7 = Vector128.Load((ushort*)(at + of[7]));
        // Pairs of rows, then fours of rows, then whole columns.
        Four(Sse2.UnpackLow(r0, r1).AsUInt32(), Sse2.UnpackLow(r2, r3).AsUInt32(), Sse2.UnpackLow(r4, r5).AsUInt32(), Sse2.UnpackLow(r6, r7).AsUInt32(), d);
        Four(Sse2.UnpackHigh(r0, r1).AsUInt32(), Sse2.UnpackHigh(r2, r3).AsUInt32(), Sse2.UnpackHigh(r4, r5).AsUInt32(), Sse2.UnpackHigh(r6, r7).AsUInt32(), d + 16);

        static void Four(Vector128<uint> p01, Vector128<uint> p23, Vector128<uint> p45, Vector128<uint> p67, uint* to)
        {
            Vector128<ulong> low0 = Sse2.UnpackLow(p01, p23).AsUInt64(), low4 = Sse2.UnpackLow(p45, p67).AsUInt64(), high0 = Sse2.UnpackHigh(p01, p23).AsUInt64(), high4 = Sse2.UnpackHigh(p45, p67).AsUInt64();
            Sse2.UnpackLow(low0, low4).AsUInt32().Store(to);
            Sse2.UnpackHigh(low0, low4).AsUInt32().Store(to + 4);
            Sse2.UnpackLow(high0, high4).AsUInt32().Store(to + 8);
            Sse2.UnpackHigh(high0, high4).AsUInt32().Store(to + 12);
        }
    }

    /// <summary>cp.async of a warp: bytes are read now and arrive at the wait.</summary>
    public static void CopyAsync(Warp warp, Instruction i, byte* frame, uint mask)
    {
        if (i.Sources.Length > 0)
        {
            MemoryInstructions.CopyAsync(warp, i, mask);
            return;
        }

        ulong* from = stackalloc ulong[32], to = stackalloc ulong[32];
        uint* fromOffsets = stackalloc uint[32], toOffsets = stackalloc uint[32];
        Addresses(frame, i, i.Address, i.Offset, to, mask);
        Addresses(frame, i, i.Address2, i.Offset2, from, mask);
        LaunchCounters counters = warp.Block.Grid.Counters;
        byte* source = Prepare(warp, i, Space.Global, from, mask, i.Count, AccessKind.Read, fromOffsets, ref i.Patterns, out AccessPattern? read);
        byte* target = source == null ? null : Prepare(warp, i, Space.Shared, to, mask, i.Count, AccessKind.Write, toOffsets, ref i.Patterns2, out _);
        if (target == null)
        {
            if (source != null && warp.Block.Grid.Options.CountMemory)
            {
                // The interpreter counts the read again.
                counters.GlobalSectorsRead -= read!.Sectors;
                counters.GlobalBytesRead -= read.Lanes * i.Count;
            }

            MemoryInstructions.CopyAsync(warp, i, mask);
            return;
        }

        AsyncCopy copy = warp.Copies.New(warp, i, mask);
        int first = (int)(target - warp.Block.Shared);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            copy.Destination[lane] = first + (int)toOffsets[lane];
            System.Runtime.CompilerServices.Unsafe.CopyBlockUnaligned(copy.Bytes + (16 * lane), source + fromOffsets[lane], (uint)i.Count);
        }

        warp.Copies.Issue(warp, copy);
    }
}
