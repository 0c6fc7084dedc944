using System.Numerics;
using System.Runtime.InteropServices;
using Repeng.PtxEmulator.Compilation;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;

namespace Repeng.PtxEmulator.Execution;

/// <summary>A block of threads: its warps, shared memory and barriers. The object is used for one block after the other.</summary>
internal sealed unsafe class Block : IDisposable
{
    private const int BarrierCount = 16;

    /// <summary>What has arrived at one of the 16 barriers.</summary>
    private struct Barrier
    {
        public uint Waiting;
        public uint Arrived;
        public int Threads;
        public int Expected;
        public int True;
        public Instruction? First;
    }

    private readonly Barrier[] _barriers = new Barrier[BarrierCount];
    private readonly uint[] _joined = new uint[Warp.Lanes];
    private int _live;

    public Block(Grid grid)
    {
        Grid = grid;
        int threads = grid.BlockSize.X * grid.BlockSize.Y * grid.BlockSize.Z;
        SharedBytes = grid.Kernel.SharedLayoutBytes + grid.DynamicShared;
        if (SharedBytes > 0)
        {
            Shared = (byte*)NativeMemory.AlignedAlloc((nuint)SharedBytes + 64, 128);
            NativeMemory.Fill(Shared, (nuint)SharedBytes, 0xff);
            SharedWritten = new ByteBits(SharedBytes);
            if (grid.Options.CheckSharedRaces)
                SharedRaces = new SharedRaces(SharedBytes);
            if (grid.Options.CheckLaneRaces)
                LaneRaces = new LaneShadow(SharedBytes);
        }

        Warps = new Warp[(threads + Warp.Lanes - 1) / Warp.Lanes];
        for (int w = 0; w < Warps.Length; w++)
            Warps[w] = new Warp(this, w, grid.Kernel);
    }

    public Grid Grid { get; }

    public Warp[] Warps { get; }

    public int Index { get; private set; }

    public (int X, int Y, int Z) At { get; private set; }

    public byte* Shared { get; }

    public long SharedBytes { get; }

    public ByteBits? SharedWritten { get; }

    public SharedRaces? SharedRaces { get; }

    public LaneShadow? LaneRaces { get; }

    /// <summary>Bytes of shared memory that cp.async will still write.</summary>
    public List<AsyncCopy> InFlight { get; } = [];

    /// <summary>The bytes of <see cref="InFlight"/>; null until the first cp.async.</summary>
    public ByteBits? CopyPending { get; private set; }

    public bool CopiesInFlight => InFlight.Count > 0;

    /// <summary>Notes the bytes of a copy as under way.</summary>
    public void Begin(AsyncCopy copy)
    {
        InFlight.Add(copy);
        CopyPending ??= new ByteBits(SharedBytes);
        if (copy.Pattern?.Bits is { } bits)
        {
            CopyPending.SetAll(copy.First, bits);
            return;
        }

        for (uint lanes = copy.Mask; lanes != 0; lanes &= lanes - 1)
            CopyPending.SetFew(copy.Destination[BitOperations.TrailingZeroCount(lanes)], copy.Size);
    }

    /// <summary>Notes the bytes of a copy of all its lanes as arrived. They were marked as written when the copy was issued.</summary>
    public void Arrived(AsyncCopy copy, AccessPattern pattern)
    {
        if (pattern.Bits is { } bits)
        {
            CopyPending!.ClearAll(copy.First, bits);
            return;
        }

        foreach (Run run in pattern.Runs)
            CopyPending!.ClearRange(copy.First + run.Offset, run.Bytes);
    }

    /// <summary>Order among the blocks of the grid, for races in global memory.</summary>
    public ActorClock Clock { get; } = new();

    /// <summary>Counts barriers; stamps accesses to shared memory.</summary>
    public uint Tick { get; private set; } = 1;

    /// <summary>Accesses stamped before this tick are ordered before everything now: the last barrier of the whole block.</summary>
    public uint LastFullBarrier { get; private set; } = 1;

    public bool Done => _live == 0;

    public void Start(int index)
    {
        Index = index;
        (int nx, int ny, _) = Grid.Size;
        At = (index % nx, index / nx % ny, index / (nx * ny));
        if (Tick > RaceShadow.LastTick - 1_000_000)
        {
            SharedRaces?.Clear();
            Tick = 0;
        }

        Tick++;
        LastFullBarrier = Tick;
        SharedRaces?.Forget();
        SharedWritten?.Clear();
        InFlight.Clear();
        CopyPending?.Clear();
        Array.Clear(_barriers);
        Clock.Now = Grid.FirstTick;
        Clock.Seen = null;
        _live = Warps.Length;
        int threads = Grid.BlockSize.X * Grid.BlockSize.Y * Grid.BlockSize.Z;
        for (int w = 0; w < Warps.Length; w++)
            Warps[w].Start(threads - (w * Warp.Lanes));
    }

    /// <summary>Gives every warp that can run a slice. False when none could.</summary>
    public bool Step(int budget)
    {
        bool ran = false;
        foreach (Warp warp in Warps)
        {
            if (warp.State != WarpState.Ready)
                continue;
            ran = true;
            warp.Run(budget);
        }

        return ran;
    }

    /// <summary>All warps that are left wait: says at what.</summary>
    public Exception Deadlock()
    {
        Warp warp = Warps.First(w => w.State == WarpState.AtBarrier);
        string waits = string.Join("; ", Warps.Where(w => w.State == WarpState.AtBarrier)
            .GroupBy(w => (w.Barrier, w.BarrierInstruction!.Line))
            .Select(g => $"warps {string.Join(",", g.Select(w => w.Index))} at barrier {g.Key.Barrier} (PTX line {g.Key.Line}, {_barriers[g.Key.Barrier].Threads} of {Expected(ref _barriers[g.Key.Barrier])} threads)"));
        return new DeadlockException($"no warp of the block can go on: {waits}", Faults.Site(warp, warp.BarrierInstruction!, warp.Running));
    }

    private int Expected(ref Barrier barrier) => barrier.Expected > 0 ? barrier.Expected : Warps.Where(w => w.State != WarpState.Done).Sum(w => Warp.Lanes);

    /// <summary>A warp comes to a barrier. False when it has to wait.</summary>
    public bool Arrive(Warp warp, Instruction i, uint taken, uint active)
    {
        Grid.Counters.Barriers++;
        if (taken != warp.Running)
            throw new DivergentBarrierException($"only lanes {taken:x8} of the running lanes {warp.Running:x8} reach the barrier", Faults.Site(warp, i, warp.Running & ~taken));
        if (i.Mode != Mode.Arrive)
            warp.NextStretch();
        int lane = BitOperations.TrailingZeroCount(taken);
        ulong number = warp.Read(i.Sources[0], lane);
        if (number >= BarrierCount)
            throw new DivergentBarrierException($"barrier {number} where 0 to 15 are", Faults.Site(warp, i, taken));
        int expected = 0;
        if (!i.Sources[1].IsSink)
        {
            expected = (int)warp.Read(i.Sources[1], lane);
            if (expected <= 0 || expected % Warp.Lanes != 0 || expected > Warps.Length * Warp.Lanes)
                throw new DivergentBarrierException($"a barrier of {expected} threads in a block of {Warps.Length} warps", Faults.Site(warp, i, taken));
        }

        ref Barrier barrier = ref _barriers[number];
        uint bit = 1u << warp.Index;
        if (barrier.First is not null && barrier.Expected != expected)
            throw new DivergentBarrierException($"barrier {number} is met with {expected} threads here and {barrier.Expected} at PTX line {barrier.First.Line}", Faults.Site(warp, i, taken));
        barrier.First ??= i;
        barrier.Expected = expected;
        barrier.Threads += Warp.Lanes;
        barrier.Arrived |= bit;
        if (i.Mode is Mode.RedPopc or Mode.RedAnd or Mode.RedOr)
        {
            for (uint lanes = taken; lanes != 0; lanes &= lanes - 1)
                barrier.True += (int)warp.Read(i.Sources[2], BitOperations.TrailingZeroCount(lanes)) & 1;
        }

        if (i.Mode != Mode.Arrive)
        {
            barrier.Waiting |= bit;
            warp.State = WarpState.AtBarrier;
            warp.Barrier = (int)number;
            warp.BarrierInstruction = i;
        }

        TryComplete((int)number);
        return warp.State == WarpState.Ready;
    }

    private void TryComplete(int number)
    {
        ref Barrier barrier = ref _barriers[number];
        if (barrier.First is null || barrier.Threads < Expected(ref barrier))
            return;
        Tick++;
        bool full = true;
        foreach (Warp warp in Warps)
            full &= warp.State == WarpState.Done || (barrier.Arrived >> warp.Index & 1) != 0;
        // Before clocks change: what is still to be noted was done under the old ones.
        if (full)
            SharedRaces?.Forget();
        else
            SharedRaces?.Settle();
        if (full)
            LastFullBarrier = Tick;
        Array.Clear(_joined);
        int threads = 0;
        for (uint bits = barrier.Arrived; bits != 0; bits &= bits - 1)
        {
            Warp warp = Warps[BitOperations.TrailingZeroCount(bits)];
            threads += BitOperations.PopCount(warp.Running);
            if (warp.Clock.Seen is { } seen)
                for (int k = 0; k < _joined.Length; k++)
                    _joined[k] = Math.Max(_joined[k], seen[k]);
            _joined[warp.Index] = Math.Max(_joined[warp.Index], warp.Clock.Now);
        }

        for (uint bits = barrier.Waiting; bits != 0; bits &= bits - 1)
        {
            Warp warp = Warps[BitOperations.TrailingZeroCount(bits)];
            warp.Clock.Join(_joined, Warp.Lanes);
            warp.State = WarpState.Ready;
            Instruction i = warp.BarrierInstruction!;
            if (i.Destinations.Length == 0)
                continue;
            ulong result = i.Mode switch { Mode.RedPopc => (ulong)barrier.True, Mode.RedAnd => barrier.True == threads ? 1ul : 0, _ => barrier.True > 0 ? 1ul : 0 };
            for (uint lanes = warp.Running; lanes != 0; lanes &= lanes - 1)
                warp.Write(i.Destinations[0], BitOperations.TrailingZeroCount(lanes), result);
        }

        for (uint bits = barrier.Arrived; bits != 0; bits &= bits - 1)
            Warps[BitOperations.TrailingZeroCount(bits)].Clock.Now = Tick;
        barrier = default;
    }

    public void WarpEnded(Warp warp)
    {
        _live--;
        for (int b = 0; b < BarrierCount; b++)
            if (_barriers[b].First is not null && _barriers[b].Expected == 0)
                TryComplete(b);
    }

    public void Dispose()
    {
        foreach (Warp warp in Warps)
            warp.Dispose();
        NativeMemory.AlignedFree(Shared);
        SharedWritten?.Dispose();
        SharedRaces?.Dispose();
        LaneRaces?.Dispose();
        CopyPending?.Dispose();
    }
}
