using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Repeng.PtxEmulator.Compilation;
using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

/// <summary>A cp.async under way: what its lanes read, and where it goes.</summary>
internal sealed unsafe class AsyncCopy
{
    public AsyncCopy() => Bytes = (byte*)NativeMemory.Alloc(16 * Execution.Warp.Lanes);

    ~AsyncCopy() => NativeMemory.Free(Bytes);

    /// <summary>Lanes whose bytes have not arrived.</summary>
    public uint Mask { get; set; }

    /// <summary>The group that the lanes will commit it to.</summary>
    public int Group { get; set; }

    public int[] Destination { get; } = new int[Execution.Warp.Lanes];

    /// <summary>Bytes a lane: 4, 8 or 16.</summary>
    public int Size { get; set; }

    /// <summary>16 bytes a lane, read from global memory when the copy was issued.</summary>
    public byte* Bytes { get; }

    /// <summary>Where all lanes of the mask write, from <see cref="First"/>, when compiled code issued the copy.</summary>
    public AccessPattern? Pattern { get; set; }

    public int First { get; set; }

    public Instruction Instruction { get; set; } = null!;

    public int Warp { get; set; }

    /// <summary>The lane that writes to a range of shared memory, −1 when none does.</summary>
    public int LaneAt(int address, int size)
    {
        for (uint lanes = Mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            if (Destination[lane] < address + size && address < Destination[lane] + Size)
                return lane;
        }

        return -1;
    }
}

/// <summary>The cp.async groups of a warp's lanes. Bytes arrive when the lane waits for their group, no sooner.</summary>
internal sealed unsafe class AsyncCopies
{
    private readonly List<AsyncCopy> _copies = [];
    private readonly Stack<AsyncCopy> _spare = new();
    private readonly int[] _groups = new int[Warp.Lanes];

    /// <summary>All lanes have committed as many groups.</summary>
    private bool _together = true;

    public bool Pending => _copies.Count > 0;

    public void Clear()
    {
        foreach (AsyncCopy copy in _copies)
            _spare.Push(copy);
        _copies.Clear();
        Array.Clear(_groups);
        _together = true;
    }

    public AsyncCopy New(Warp warp, Instruction i, uint mask)
    {
        AsyncCopy copy = _spare.Count > 0 ? _spare.Pop() : new AsyncCopy();
        copy.Mask = mask;
        copy.Size = i.Count;
        copy.Instruction = i;
        copy.Warp = warp.Index;
        copy.Pattern = null;
        return copy;
    }

    public void Issue(Warp warp, AsyncCopy copy)
    {
        if (_together)
        {
            copy.Group = _groups[0];
            _copies.Add(copy);
            warp.Block.Begin(copy);
            return;
        }

        // Lanes that have committed a different number of groups go separate ways.
        for (uint left = copy.Mask; left != 0;)
        {
            int group = _groups[BitOperations.TrailingZeroCount(left)];
            uint same = 0;
            for (uint lanes = left; lanes != 0; lanes &= lanes - 1)
                if (_groups[BitOperations.TrailingZeroCount(lanes)] == group)
                    same |= lanes & (uint)-(int)lanes;
            AsyncCopy part = copy;
            if (same != copy.Mask)
            {
                part = New(warp, copy.Instruction, same);
                copy.Destination.CopyTo(part.Destination, 0);
                NativeMemory.Copy(copy.Bytes, part.Bytes, 16 * Warp.Lanes);
            }

            part.Group = group;
            _copies.Add(part);
            warp.Block.Begin(part);
            left &= ~same;
        }
    }

    public void Commit(uint mask)
    {
        _together &= mask == uint.MaxValue;
        for (; mask != 0; mask &= mask - 1)
            _groups[BitOperations.TrailingZeroCount(mask)]++;
    }

    /// <summary>Lets arrive all but the <paramref name="left"/> latest groups of the lanes; negative for everything, committed or not.</summary>
    public void Complete(Warp warp, uint mask, int left)
    {
        int kept = 0;
        for (int k = 0; k < _copies.Count; k++)
        {
            AsyncCopy copy = _copies[k];
            uint arrives = 0;
            if (left < 0 || _together)
            {
                arrives = left < 0 || copy.Group < _groups[0] - left ? mask & copy.Mask : 0;
            }
            else
            {
                for (uint lanes = mask & copy.Mask; lanes != 0; lanes &= lanes - 1)
                    if (copy.Group < _groups[BitOperations.TrailingZeroCount(lanes)] - left)
                        arrives |= lanes & (uint)-(int)lanes;
            }

            if (copy.Pattern is { } pattern && arrives == pattern.Mask)
                Arrive(warp, copy, pattern);
            else
                Arrive(warp, copy, arrives);
            copy.Mask &= ~arrives;
            if (copy.Mask != 0)
            {
                _copies[kept++] = copy;
            }
            else
            {
                warp.Block.InFlight.Remove(copy);
                _spare.Push(copy);
            }
        }

        _copies.RemoveRange(kept, _copies.Count - kept);
    }

    /// <summary>All lanes at once.</summary>
    private static void Arrive(Warp warp, AsyncCopy copy, AccessPattern pattern)
    {
        Block block = warp.Block;
        byte* to = block.Shared + copy.First;
        uint[] offsets = pattern.Offsets;
        for (uint lanes = pattern.Mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            if (copy.Size == 16)
                Vector128.Load(copy.Bytes + (16 * lane)).Store(to + offsets[lane]);
            else
                NativeMemory.Copy(copy.Bytes + (16 * lane), to + offsets[lane], (nuint)copy.Size);
            block.LaneRaces?.Arrived(warp, lane, copy.First + (int)offsets[lane], copy.Size);
        }

        block.Arrived(copy, pattern);
        // The write counts as of now: others need a barrier after this wait.
        block.SharedRaces?.Note(pattern, copy.First, write: true, (uint)warp.Index, warp.Clock, block.LastFullBarrier, all: true);
    }

    private static void Arrive(Warp warp, AsyncCopy copy, uint arrives)
    {
        Block block = warp.Block;
        while (arrives != 0)
        {
            // Neighbouring lanes most often write neighbouring bytes.
            int first = BitOperations.TrailingZeroCount(arrives), at = copy.Destination[first], bytes = 0;
            for (int lane = first; lane < Warp.Lanes && (arrives >> lane & 1) != 0 && copy.Destination[lane] == at + bytes; lane++)
            {
                NativeMemory.Copy(copy.Bytes + (16 * lane), block.Shared + at + bytes, (nuint)copy.Size);
                bytes += copy.Size;
                arrives &= ~(1u << lane);
            }

            if (block.LaneRaces is { } lanes)
                for (int done = 0; done < bytes; done += copy.Size)
                    lanes.Arrived(warp, first + (done / copy.Size), at + done, copy.Size);
            block.SharedWritten!.Set(at, bytes);
            block.CopyPending!.ClearRange(at, bytes);
            // The write counts as of now: others need a barrier after this wait.
            block.SharedRaces?.Write(at, bytes, (uint)warp.Index, warp.Clock, block.LastFullBarrier);
        }
    }
}
