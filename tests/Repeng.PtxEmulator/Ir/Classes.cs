using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

/// <summary>Which class an instruction counts for.</summary>
internal static class Classes
{
    public static InstructionClass Of(Instruction i) => i.Op switch
    {
        Op.Rcp or Op.Sqrt or Op.Rsqrt or Op.Sin or Op.Cos or Op.Lg2 or Op.Ex2 or Op.Tanh => InstructionClass.Special,
        Op.Div when i.Type.IsFloat() => InstructionClass.Special,
        Op.Cvt or Op.CvtPack => InstructionClass.Convert,
        Op.Mov or Op.Pack or Op.Unpack or Op.Cvta or Op.ReadSpecial or Op.Selp or Op.Slct => InstructionClass.Move,
        Op.Setp or Op.Set or Op.Testp or Op.Isspacep => InstructionClass.Predicate,
        Op.Bra or Op.Brx or Op.Exit or Op.Trap => InstructionClass.Branch,
        Op.Bar => InstructionClass.Barrier,
        Op.Shfl or Op.Vote or Op.Match or Op.Redux or Op.Elect or Op.ActiveMask or Op.WarpSync => InstructionClass.Warp,
        Op.Mma => InstructionClass.TensorCore,
        Op.LdMatrix => InstructionClass.SharedLoad,
        Op.StMatrix => InstructionClass.SharedStore,
        Op.MovMatrix => InstructionClass.Warp,
        Op.CpAsync or Op.CpAsyncCommit or Op.CpAsyncWait => InstructionClass.AsyncCopy,
        Op.Atom or Op.Red => InstructionClass.Atomic,
        Op.Ld => i.Space switch
        {
            Space.Param => InstructionClass.ParamLoad,
            Space.Constant => InstructionClass.ParamLoad,
            Space.Shared => InstructionClass.SharedLoad,
            Space.Local => InstructionClass.LocalMemory,
            _ => InstructionClass.GlobalLoad,
        },
        Op.St => i.Space switch
        {
            Space.Shared => InstructionClass.SharedStore,
            Space.Local => InstructionClass.LocalMemory,
            _ => InstructionClass.GlobalStore,
        },
        Op.Prefetch or Op.Membar or Op.NanoSleep => InstructionClass.Other,
        _ when i.Type == PtxType.Pred => InstructionClass.Predicate,
        _ => i.Type switch
        {
            PtxType.F32 or PtxType.TF32 => InstructionClass.Float32,
            PtxType.F64 => InstructionClass.Float64,
            PtxType.F16 or PtxType.F16x2 or PtxType.BF16 or PtxType.BF16x2 => InstructionClass.Float16,
            _ => InstructionClass.Integer,
        },
    };
}
