using System.Runtime.InteropServices;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Execution;

internal enum WarpState { Ready, AtBarrier, Done }

/// <summary>Lanes that run together: at <see cref="Pc"/>, until they reach <see cref="Reconverge"/>.</summary>
internal struct Path
{
    public int Pc;
    public int Reconverge;
    public uint Mask;
}

/// <summary>32 threads: their registers, their place in the code, what they wait for. Everything stands in memory, so that a warp can stop and go on at any chunk.</summary>
internal sealed unsafe class Warp : IDisposable
{
    public const int Lanes = 32;

    private readonly Kernel _kernel;
    private readonly void* _memory;
    private readonly Path[] _paths = new Path[2 * Lanes + 2];
    private readonly Dictionary<string, Register> _changing = new(StringComparer.Ordinal);
    private int _depth;
    private Grid? _grid;

    public Warp(Block block, int index, Kernel kernel)
    {
        Block = block;
        Index = index;
        _kernel = kernel;
        int frame = ScratchOffset(kernel);
        _memory = NativeMemory.AlignedAlloc((nuint)(frame + ScratchBytes), 64);
        Frame = (byte*)_memory;
        NativeMemory.Fill(Frame, (nuint)frame, 0xff);
        LocalBytes = kernel.LocalBytes;
        if (LocalBytes > 16)
        {
            Local = (byte*)NativeMemory.AllocZeroed((nuint)(LocalBytes * Lanes));
            LocalWritten = new ByteBits(LocalBytes * Lanes);
        }

        Defined = new uint[kernel.Watched.Count];
    }

    /// <summary>Behind the registers: room for results that compiled code blends by a mask, two of 64 bits.</summary>
    private const int ScratchBytes = 1024;

    public static int ScratchOffset(Kernel kernel) => (kernel.FrameBytes + 63) / 64 * 64;

    public Block Block { get; }

    public int Index { get; }

    public byte* Frame { get; }

    public byte* Local { get; }

    public ByteBits? LocalWritten { get; }

    public int LocalBytes { get; }

    /// <summary>Lanes that exist: a block's last warp may have fewer than 32.</summary>
    public uint Full { get; private set; }

    public uint Exited { get; set; }

    public uint Running => Full & ~Exited;

    /// <summary>Lanes that execute the current instruction or chunk.</summary>
    public uint Active { get; private set; }

    public WarpState State { get; set; }

    /// <summary>Order among the warps of the block, for races in shared memory.</summary>
    public ActorClock Clock { get; } = new();

    /// <summary>The stretch since the last barrier of its lanes, for races between them.</summary>
    public uint Stretch { get; private set; }

    public void NextStretch()
    {
        if (Block.LaneRaces is { } races)
            Stretch = races.NextStretch();
    }

    /// <summary>What fences and acquiring accesses of this warp may make visible to the block, by block.</summary>
    public uint[]? PendingAcquire { get; set; }

    public uint[]? Released { get; set; }

    /// <summary>Lanes that have written each watched register.</summary>
    public uint[] Defined { get; }

    public AsyncCopies Copies { get; } = new();

    /// <summary>The barrier that the warp waits at, and the instruction, for bar.red and for messages.</summary>
    public int Barrier { get; set; }

    public Instruction? BarrierInstruction { get; set; }

    public bool Yield { get; set; }

    /// <summary>Makes the warp ready for a block's first instruction.</summary>
    public void Start(int threads)
    {
        Full = threads >= Lanes ? uint.MaxValue : (1u << threads) - 1;
        Exited = 0;
        State = WarpState.Ready;
        _depth = 0;
        _paths[0] = new Path { Pc = 0, Reconverge = -1, Mask = Full };
        Array.Clear(Defined);
        LocalWritten?.Clear();
        Copies.Clear();
        PendingAcquire = Released = null;
        Clock.Now = Block.Tick;
        Clock.Seen = null;
        NextStretch();
        bool first = _grid != Block.Grid;
        _grid = Block.Grid;
        foreach ((string name, Register register) in first ? _kernel.Specials : _changing)
        {
            // The block's own are the same in every lane.
            bool uniform = name.StartsWith("%ctaid", StringComparison.Ordinal) || name == "%smid";
            if (first && uniform)
                _changing[name] = register;
            if (uniform)
                new Span<uint>(Frame + register.Offset, Lanes).Fill((uint)Special(name, 0));
            else
                for (int lane = 0; lane < Lanes; lane++)
                    Write(register, lane, Special(name, lane));
        }
    }

    private ulong Special(string name, int lane)
    {
        Grid grid = Block.Grid;
        int thread = (Index * Lanes) + lane;
        (int x, int y, int z) = ThreadOf(lane);
        return name switch
        {
            "%tid.x" => (ulong)x,
            "%tid.y" => (ulong)y,
            "%tid.z" => (ulong)z,
            "%ntid.x" => (ulong)grid.BlockSize.X,
            "%ntid.y" => (ulong)grid.BlockSize.Y,
            "%ntid.z" => (ulong)grid.BlockSize.Z,
            "%ctaid.x" => (ulong)Block.At.X,
            "%ctaid.y" => (ulong)Block.At.Y,
            "%ctaid.z" => (ulong)Block.At.Z,
            "%nctaid.x" => (ulong)grid.Size.X,
            "%nctaid.y" => (ulong)grid.Size.Y,
            "%nctaid.z" => (ulong)grid.Size.Z,
            "%laneid" => (ulong)lane,
            "%warpid" => (ulong)Index,
            "%nwarpid" => (ulong)Block.Warps.Length,
            "%smid" => (ulong)(Block.Index % 108),
            "%nsmid" => 108,
            "%gridid" => (ulong)grid.Number,
            "%lanemask_eq" => 1ul << lane,
            "%lanemask_lt" => (1ul << lane) - 1,
            "%lanemask_le" => (2ul << lane) - 1,
            "%lanemask_gt" => 0xffff_ffff & ~((2ul << lane) - 1),
            "%lanemask_ge" => 0xffff_ffff & ~((1ul << lane) - 1),
            "%total_smem_size" => (ulong)(_kernel.SharedStaticBytes + grid.DynamicShared),
            "%dynamic_smem_size" => (ulong)grid.DynamicShared,
            _ => throw new NotSupportedException(name + thread),
        };
    }

    /// <summary>Thread index of a lane.</summary>
    public (int X, int Y, int Z) ThreadOf(int lane)
    {
        (int nx, int ny, _) = Block.Grid.BlockSize;
        int thread = (Index * Lanes) + lane;
        return (thread % nx, thread / nx % ny, thread / (nx * ny));
    }

    public ulong Read(in Value value, int lane)
    {
        if (value.Kind != ValueKind.Register)
            return value.Bits;
        ulong bits = Read(value.Register!, lane);
        return value.Negated ? bits ^ 1 : bits;
    }

    public ulong Read(Register register, int lane)
    {
        byte* at = Frame + register.Offset;
        return register.Width switch
        {
            32 => ((uint*)at)[lane],
            64 => ((ulong*)at)[lane],
            16 => ((ushort*)at)[lane],
            _ => *(uint*)at >> lane & 1,
        };
    }

    public void Write(in Value value, int lane, ulong bits)
    {
        if (value.Kind == ValueKind.Register)
            Write(value.Register!, lane, bits);
    }

    public void Write(Register register, int lane, ulong bits)
    {
        byte* at = Frame + register.Offset;
        switch (register.Width)
        {
            case 32:
                ((uint*)at)[lane] = (uint)bits;
                break;
            case 64:
                ((ulong*)at)[lane] = bits;
                break;
            case 16:
                ((ushort*)at)[lane] = (ushort)bits;
                break;
            default:
                uint bit = 1u << lane;
                *(uint*)at = (bits & 1) != 0 ? *(uint*)at | bit : *(uint*)at & ~bit;
                break;
        }
    }

    /// <summary>All 32 bits of a predicate.</summary>
    public uint Predicate(Register register) => *(uint*)(Frame + register.Offset);

    /// <summary>Lanes of a mask whose guard holds.</summary>
    public uint Guarded(Instruction i, uint mask)
        => i.Guard is null ? mask : mask & (i.GuardNegated ? ~Predicate(i.Guard) : Predicate(i.Guard));

    /// <summary>Runs until the warp waits, ends, or has issued about <paramref name="budget"/> instructions.</summary>
    public void Run(int budget)
    {
        Grid grid = Block.Grid;
        Chunk[] chunks = _kernel.Chunks;
        Yield = false;
        while (budget > 0)
        {
            if (_depth < 0)
            {
                Finish();
                return;
            }

            ref Path path = ref _paths[_depth];
            uint mask = path.Mask & ~Exited;
            if (mask == 0 || path.Pc == path.Reconverge)
            {
                _depth--;
                continue;
            }

            Chunk chunk = chunks[path.Pc];
            Active = mask;
            grid.Count(chunk, mask);
            budget -= chunk.Count;
            grid.Executor.Run(this, chunk, mask);
            Instruction? last = chunk.Last;
            if (last is null)
            {
                path.Pc = chunk.Next;
            }
            else if (!End(chunk, last, ref path, mask))
            {
                return;
            }

            if (Yield)
                return;
        }
    }

    private void Finish()
    {
        State = WarpState.Done;
        if (Copies.Pending)
            Copies.Complete(this, uint.MaxValue, 0);
        Block.WarpEnded(this);
    }

    /// <summary>The instruction that ends a chunk. False when the warp has to wait.</summary>
    private bool End(Chunk chunk, Instruction last, ref Path path, uint mask)
    {
        if (last.MaybeUnset.Length > 0)
            Interpreter.CheckDefined(this, last, mask);
        uint taken = Guarded(last, mask);
        switch (last.Op)
        {
            case Op.Bra:
                Branch(chunk, ref path, mask, taken, chunk.Targets[0]);
                return true;
            case Op.Brx:
                IndexedBranch(chunk, last, ref path, mask, taken);
                return true;
            case Op.Exit:
                Exited |= taken;
                path.Pc = chunk.Next;
                return true;
            case Op.Trap:
                path.Pc = chunk.Next;
                return taken == 0 ? true : throw new TrapException(last.Text.StartsWith("assertion", StringComparison.Ordinal) ? last.Text : "the kernel trapped", Faults.Site(this, last, taken));
            default:
                path.Pc = chunk.Next;
                return taken == 0 || Block.Arrive(this, last, taken, mask);
        }
    }

    private void Branch(Chunk chunk, ref Path path, uint mask, uint taken, int target)
    {
        uint rest = mask & ~taken;
        if (rest == 0)
        {
            path.Pc = target;
            return;
        }

        if (taken == 0)
        {
            path.Pc = chunk.Next;
            return;
        }

        Block.Grid.Counters.DivergentBranches++;
        int meet = Meet(chunk, ref path);
        Push(chunk.Next, meet, rest);
        Push(target, meet, taken);
    }

    /// <summary>Leaves the current path at the place where lanes meet again, or drops it when that is its end anyway.</summary>
    private int Meet(Chunk chunk, ref Path path)
    {
        int meet = chunk.Reconverge;
        if (meet == path.Reconverge)
            _depth--;
        else
            path.Pc = meet;
        return meet;
    }

    private void Push(int pc, int meet, uint mask)
    {
        if (pc == meet)
            return;
        if (_depth + 1 == _paths.Length)
            throw new InvalidOperationException($"{_paths.Length} nested paths in a warp");
        _paths[++_depth] = new Path { Pc = pc, Reconverge = meet, Mask = mask };
    }

    private void IndexedBranch(Chunk chunk, Instruction last, ref Path path, uint mask, uint taken)
    {
        // Lanes by target; those whose guard does not hold fall through.
        var groups = new List<(int Target, uint Mask)>();
        if ((mask & ~taken) != 0)
            groups.Add((chunk.Next, mask & ~taken));
        for (uint left = taken; left != 0;)
        {
            int lane = System.Numerics.BitOperations.TrailingZeroCount(left);
            ulong index = Read(last.Sources[0], lane);
            if (index >= (ulong)chunk.Targets.Length)
                throw new OutOfBoundsException($"brx.idx {index} where {chunk.Targets.Length} targets are", Faults.Site(this, last, 1u << lane), 0);
            uint same = 0;
            for (uint bits = left; bits != 0; bits &= bits - 1)
                if (Read(last.Sources[0], System.Numerics.BitOperations.TrailingZeroCount(bits)) == index)
                    same |= bits & (uint)-(int)bits;
            groups.Add((chunk.Targets[index], same));
            left &= ~same;
        }

        if (groups.Count == 1)
        {
            path.Pc = groups[0].Target;
            return;
        }

        Block.Grid.Counters.DivergentBranches++;
        int meet = Meet(chunk, ref path);
        foreach ((int target, uint lanes) in groups)
            Push(target, meet, lanes);
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        NativeMemory.Free(Local);
        LocalWritten?.Dispose();
    }
}
