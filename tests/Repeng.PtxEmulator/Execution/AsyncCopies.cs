using System.Numerics;
using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

/// <summary>A cp.async of one lane under way: where its bytes go.</summary>
internal sealed class AsyncCopy
{
    public required int Lane { get; init; }

    public required int Group { get; init; }

    public required int Destination { get; init; }

    /// <summary>What was read from global memory when the copy was issued, filled up with zeros.</summary>
    public required byte[] Bytes { get; init; }

    public required Instruction Instruction { get; init; }

    public required int Warp { get; init; }
}

/// <summary>The cp.async groups of a warp's lanes. Bytes arrive when the lane waits for their group, no sooner.</summary>
internal sealed unsafe class AsyncCopies
{
    private readonly List<AsyncCopy> _copies = [];
    private readonly int[] _groups = new int[Warp.Lanes];

    public bool Pending => _copies.Count > 0;

    public void Clear()
    {
        _copies.Clear();
        Array.Clear(_groups);
    }

    public void Issue(Warp warp, Instruction i, int lane, int destination, byte[] bytes)
    {
        var copy = new AsyncCopy { Lane = lane, Group = _groups[lane], Destination = destination, Bytes = bytes, Instruction = i, Warp = warp.Index };
        _copies.Add(copy);
        warp.Block.Begin(copy);
    }

    public void Commit(uint mask)
    {
        for (; mask != 0; mask &= mask - 1)
            _groups[BitOperations.TrailingZeroCount(mask)]++;
    }

    /// <summary>Lets arrive all but the <paramref name="left"/> latest groups of the lanes; negative for everything, committed or not.</summary>
    public void Complete(Warp warp, uint mask, int left)
    {
        Block block = warp.Block;
        int kept = 0;
        for (int k = 0; k < _copies.Count; k++)
        {
            AsyncCopy copy = _copies[k];
            bool arrives = (mask >> copy.Lane & 1) != 0 && (left < 0 || copy.Group < _groups[copy.Lane] - left);
            if (!arrives)
            {
                _copies[kept++] = copy;
                continue;
            }

            copy.Bytes.AsSpan().CopyTo(new Span<byte>(block.Shared + copy.Destination, copy.Bytes.Length));
            block.SharedWritten!.Set(copy.Destination, copy.Bytes.Length);
            // The write counts as of now: others need a barrier after this wait.
            if (block.SharedRaces is { } races)
                for (int b = 0; b < copy.Bytes.Length; b += 4)
                    races.Access((copy.Destination + b) / 4, 15, write: true, strong: false, (uint)warp.Index, warp.Clock, block.LastFullBarrier);
            block.Finish(copy);
        }

        _copies.RemoveRange(kept, _copies.Count - kept);
    }
}
