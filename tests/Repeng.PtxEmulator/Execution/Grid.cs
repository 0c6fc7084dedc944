using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;

namespace Repeng.PtxEmulator.Execution;

/// <summary>Runs the body of a chunk for the lanes of a mask.</summary>
internal interface IExecutor
{
    void Run(Warp warp, Chunk chunk, uint mask);
}

/// <summary>One launch.</summary>
internal sealed class Grid
{
    /// <summary>Instructions that a warp issues before another warp has its turn; blocks that wait for each other need it.</summary>
    private const int Slice = 20_000;

    private readonly long[] _passes;
    private readonly long[] _lanes;
    private readonly Dictionary<ulong, uint[]> _released = [];
    private long _issued;
    private uint _tick;

    public Grid(Kernel kernel, DeviceMemory memory, byte[] parameters, (int X, int Y, int Z) size, (int X, int Y, int Z) blockSize, long dynamicShared, EmulatorOptions options, IExecutor executor, long number, uint firstTick)
    {
        Kernel = kernel;
        Memory = memory;
        Parameters = GC.AllocateUninitializedArray<byte>(Math.Max(1, parameters.Length), pinned: true);
        parameters.CopyTo(Parameters, 0);
        Size = size;
        BlockSize = blockSize;
        DynamicShared = dynamicShared;
        Options = options;
        Executor = executor;
        Number = number;
        FirstTick = _tick = firstTick;
        SharedRanges = [.. kernel.SharedVariables.Select(v => (v.Offset, v.Offset + v.Size)), .. dynamicShared > 0 ? [(kernel.SharedLayoutBytes, kernel.SharedLayoutBytes + dynamicShared)] : Array.Empty<(long, long)>()];
        _passes = new long[kernel.Chunks.Length];
        _lanes = new long[kernel.Chunks.Length];
    }

    public Kernel Kernel { get; }

    public DeviceMemory Memory { get; }

    /// <summary>Pinned.</summary>
    public byte[] Parameters { get; }

    /// <summary>Starts and ends of the variables in shared memory, the dynamic one last.</summary>
    public (long Start, long End)[] SharedRanges { get; }

    public (int X, int Y, int Z) Size { get; }

    public (int X, int Y, int Z) BlockSize { get; }

    public long DynamicShared { get; }

    public EmulatorOptions Options { get; }

    public IExecutor Executor { get; }

    public long Number { get; }

    /// <summary>Accesses stamped before belong to earlier launches.</summary>
    public uint FirstTick { get; }

    public uint LastTick => _tick;

    /// <summary>Warp instructions so far: what %clock shows.</summary>
    public long Issued => _issued;

    public LaunchCounters Counters { get; } = new();

    public int Blocks => Size.X * Size.Y * Size.Z;

    public void Count(Chunk chunk, uint mask)
    {
        _passes[chunk.Index]++;
        _lanes[chunk.Index] += System.Numerics.BitOperations.PopCount(mask);
        _issued += chunk.Count;
    }

    public void Run(bool cooperative)
    {
        try
        {
            if (cooperative)
                RunTogether();
            else
                RunInOrder();
        }
        finally
        {
            Sum();
        }
    }

    private void RunInOrder()
    {
        using var block = new Block(this);
        for (int index = 0; index < Blocks; index++)
        {
            block.Start(index);
            while (!block.Done)
            {
                if (!block.Step(Slice))
                    throw block.Deadlock();
                CheckLimit(block);
            }
        }
    }

    private void RunTogether()
    {
        var blocks = new Block[Blocks];
        try
        {
            for (int b = 0; b < blocks.Length; b++)
            {
                blocks[b] = new Block(this);
                blocks[b].Start(b);
            }

            while (true)
            {
                bool ran = false, left = false;
                foreach (Block block in blocks)
                {
                    if (block.Done)
                        continue;
                    ran |= block.Step(Slice);
                    left |= !block.Done;
                    CheckLimit(block);
                }

                if (!left)
                    return;
                if (!ran)
                    throw blocks.First(b => !b.Done).Deadlock();
            }
        }
        finally
        {
            foreach (Block block in blocks)
                block?.Dispose();
        }
    }

    private void CheckLimit(Block block)
    {
        if (_issued <= Options.InstructionLimit)
            return;
        Warp? warp = block.Warps.FirstOrDefault(w => w.State != WarpState.Done) ?? block.Warps[0];
        throw new InstructionLimitException($"{_issued} warp instructions issued where {Options.InstructionLimit} are allowed: a loop without end?", Faults.Site(warp, Kernel.Instructions[0], warp.Running));
    }

    private void Sum()
    {
        for (int c = 0; c < _passes.Length; c++)
        {
            Chunk chunk = Kernel.Chunks[c];
            for (int k = 0; k < chunk.Classes.Length; k++)
                Counters.ByClass[k] += _passes[c] * chunk.Classes[k];
            Counters.WarpInstructions += _passes[c] * chunk.Count;
            Counters.LaneInstructions += _lanes[c] * chunk.Count;
        }
    }

    /// <summary>A block publishes what it did (a fence before, or a releasing access); later accesses of it carry a new tick.</summary>
    public uint[] Release(Block block)
    {
        var clock = new uint[Blocks];
        block.Clock.Seen?.CopyTo(clock, 0);
        clock[block.Index] = block.Clock.Now;
        block.Clock.Now = ++_tick;
        return clock;
    }

    /// <summary>What the writers of a synchronising address had published.</summary>
    public uint[]? Published(ulong address) => _released.GetValueOrDefault(address);

    public void Publish(ulong address, uint[] clock)
    {
        if (!_released.TryGetValue(address, out uint[]? have))
        {
            _released[address] = (uint[])clock.Clone();
            return;
        }

        for (int k = 0; k < have.Length; k++)
            have[k] = Math.Max(have[k], clock[k]);
    }
}
