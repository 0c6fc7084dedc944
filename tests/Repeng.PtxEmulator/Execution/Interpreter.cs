using System.Numerics;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Execution;

/// <summary>Executes instruction after instruction, lane after lane. Slow and plain: the oracle of the compiler, which also calls it for what it has no faster code for.</summary>
internal sealed class Interpreter : IExecutor
{
    public static readonly Interpreter Instance = new();

    public void Run(Warp warp, Chunk chunk, uint mask)
    {
        foreach (Instruction i in chunk.Body)
            Step(warp, i, mask);
    }

    /// <summary>One instruction for the lanes of a mask; its guard is looked at here.</summary>
    public static void Step(Warp warp, Instruction i, uint mask)
    {
        mask = warp.Guarded(i, mask);
        if (i.MaybeUnset.Length > 0)
            CheckDefined(warp, i, mask);
        if (mask != 0)
            Execute(warp, i, mask);
        if (warp.Defined.Length > 0)
            Define(warp, i, mask);
    }

    /// <summary>Refuses a register that a lane never wrote.</summary>
    public static void CheckDefined(Warp warp, Instruction i, uint mask)
    {
        if (!warp.Block.Grid.Options.CheckInitialization)
            return;
        IReadOnlyDictionary<Register, int> watched = warp.Block.Grid.Kernel.Watched;
        foreach (Register register in i.MaybeUnset)
        {
            uint unset = mask & ~warp.Defined[watched[register]];
            if (unset != 0)
                throw new UninitializedReadException($"register {register.Name} is read before anything was written to it", Faults.Site(warp, i, unset), 0);
        }
    }

    public static void Define(Warp warp, Instruction i, uint mask)
    {
        IReadOnlyDictionary<Register, int> watched = warp.Block.Grid.Kernel.Watched;
        foreach (Value destination in i.Destinations)
            if (destination.Register is not null && watched.TryGetValue(destination.Register, out int at))
                warp.Defined[at] |= mask;
    }

    private static void Execute(Warp warp, Instruction i, uint mask)
    {
        switch (i.Op)
        {
            case Op.Ld:
                MemoryInstructions.Load(warp, i, mask);
                return;
            case Op.St:
                MemoryInstructions.Store(warp, i, mask);
                return;
            case Op.Atom or Op.Red:
                MemoryInstructions.Atomic(warp, i, mask);
                return;
            case Op.CpAsync:
                MemoryInstructions.CopyAsync(warp, i, mask);
                return;
            case Op.CpAsyncCommit:
                warp.Copies.Commit(mask);
                return;
            case Op.CpAsyncWait:
                warp.Copies.Complete(warp, mask, i.Flag ? -1 : (int)i.Sources[0].Bits);
                return;
            case Op.Prefetch:
                return;
            case Op.LdMatrix:
                MatrixInstructions.LoadMatrix(warp, i, mask);
                return;
            case Op.StMatrix:
                MatrixInstructions.StoreMatrix(warp, i, mask);
                return;
            case Op.MovMatrix:
                MatrixInstructions.Transpose(warp, i, mask);
                return;
            case Op.Mma:
                MatrixInstructions.Multiply(warp, i, mask);
                return;
            case Op.Shfl or Op.Vote or Op.Match or Op.Redux or Op.Elect or Op.ActiveMask or Op.WarpSync:
                WarpInstructions.Execute(warp, i, mask);
                return;
            case Op.Membar:
                MemoryInstructions.Fence(warp, i);
                return;
            case Op.NanoSleep:
                warp.Yield = true;
                return;
        }

        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            Lane(warp, i, BitOperations.TrailingZeroCount(lanes));
    }

    private static void Lane(Warp warp, Instruction i, int lane)
    {
        Value[] s = i.Sources, d = i.Destinations;
        ulong a = s.Length > 0 ? warp.Read(s[0], lane) : 0, b = s.Length > 1 ? warp.Read(s[1], lane) : 0;
        ulong c = s.Length > 2 ? warp.Read(s[2], lane) : 0;
        switch (i.Op)
        {
            case Op.Setp when d.Length > 1:
                // Of halves each has its predicate; else the second is the first's opposite.
                bool halves = i.SourceType.IsPacked(), third = (c & 1) != 0;
                PtxType compared = halves ? i.SourceType.Half() : i.SourceType;
                bool one = Scalar.Compares(i, compared, halves ? a & 0xffff : a, halves ? b & 0xffff : b), other = halves ? Scalar.Compares(i, compared, a >> 16 & 0xffff, b >> 16 & 0xffff) : !one;
                warp.Write(d[0], lane, Combine(i.Combine, one, third));
                warp.Write(d[1], lane, Combine(i.Combine, other, third));
                return;
            case Op.Lop3 when d.Length > 1:
                ulong logic = Scalar.Evaluate(i, a, b, c, s[3].Bits);
                bool with = (warp.Read(s[4], lane) & 1) != 0;
                warp.Write(d[0], lane, logic);
                warp.Write(d[1], lane, Combine(i.Combine, logic != 0, with));
                return;
            case Op.AddCC or Op.SubCC or Op.MadCC or Op.AddC or Op.SubC or Op.MadC:
                bool carries = i.Op is Op.AddC or Op.SubC or Op.MadC;
                ulong carryIn = carries ? warp.Read(s[^1], lane) : 0;
                ulong sum = Scalar.WithCarry(i, a, b, i.Op is Op.MadCC or Op.MadC ? c : 0, carryIn, out ulong carryOut);
                warp.Write(d[0], lane, sum);
                if (d.Length > 1)
                    warp.Write(d[1], lane, carryOut);
                return;
            case Op.Pack:
                int partBits = i.SourceType.Size() * 8;
                ulong packed = 0;
                for (int k = 0; k < s.Length; k++)
                    packed |= (warp.Read(s[k], lane) & (ulong.MaxValue >> (64 - partBits))) << (k * partBits);
                warp.Write(d[0], lane, packed);
                return;
            case Op.Unpack:
                int bits = i.SourceType.Size() * 8;
                for (int k = 0; k < d.Length; k++)
                    warp.Write(d[k], lane, a >> (k * bits) & (ulong.MaxValue >> (64 - bits)));
                return;
            case Op.Cvta:
                warp.Write(d[0], lane, ConvertAddress(i, a));
                return;
            case Op.Isspacep:
                warp.Write(d[0], lane, MemoryUnit.Resolve(Space.Generic, ref a) == i.Space ? 1ul : 0);
                return;
            case Op.ReadSpecial:
                ulong time = i.Mode == Mode.Inc ? (ulong)warp.Block.Grid.Issued : (ulong)(Environment.TickCount64 * 1_000_000);
                warp.Write(d[0], lane, i.Flag ? time >> 32 : time);
                return;
            default:
                warp.Write(d[0], lane, Scalar.Evaluate(i, a, b, c, s.Length > 3 ? warp.Read(s[3], lane) : 0));
                return;
        }
    }

    private static ulong Combine(Mode mode, bool a, bool b) => mode switch { Mode.And => a & b, Mode.Or => a | b, Mode.Xor => a ^ b, _ => a } ? 1ul : 0;

    private static ulong ConvertAddress(Instruction i, ulong address)
    {
        ulong window = i.Space switch { Space.Shared => Memory.DeviceMemory.SharedWindow, Space.Local => Memory.DeviceMemory.LocalWindow, _ => 0 };
        return i.Flag ? address - window : address + window;
    }
}
