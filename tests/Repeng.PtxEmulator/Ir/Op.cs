using Repeng.PtxEmulator.Compilation;
using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

/// <summary>What an instruction does; its types, rounding and flags stand beside it.</summary>
internal enum Op
{
    Add, Sub, Mul, Mad, Fma, Mul24, Mad24, Sad, Div, Rem, Abs, Neg, Min, Max,
    AddCC, AddC, SubCC, SubC, MadCC, MadC,
    Popc, Clz, Bfind, Brev, Bfe, Bfi, Dp4a, Dp2a, Szext, Bmsk, Fns,
    And, Or, Xor, Not, Cnot, Shl, Shr, Shf, Prmt, Lop3,
    Set, Setp, Selp, Slct, Testp, Copysign,
    Rcp, Sqrt, Rsqrt, Sin, Cos, Lg2, Ex2, Tanh,
    Mov, Pack, Unpack, Cvt, CvtPack, Cvta, Isspacep, ReadSpecial,
    Ld, St, Prefetch, Atom, Red, CpAsync, CpAsyncCommit, CpAsyncWait, LdMatrix, StMatrix, MovMatrix,
    Mma, Shfl, Vote, Match, Redux, Elect, ActiveMask, WarpSync, Membar, NanoSleep,
    Bar, Bra, Brx, Exit, Trap,
}

internal enum Rounding { None, Nearest, NearestAway, Zero, Down, Up, IntegerNearest, IntegerZero, IntegerDown, IntegerUp }

internal enum Compare { None, Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan }

internal enum Part { None, Lo, Hi, Wide }

/// <summary>The second word of atom, red, vote, match, redux, shfl, bar, membar, testp, bfind: what exactly.</summary>
internal enum Mode
{
    None,
    Add, Min, Max, Inc, Dec, And, Or, Xor, Exch, Cas,
    All, Any, Uni, Ballot,
    Up, Down, Bfly, Idx,
    Sync, Arrive, RedPopc, RedAnd, RedOr,
    Finite, Infinite, Number, NotANumber, Normal, Subnormal,
    Clamp, Wrap,
    F4e, B4e, Rc8, Ecl, Ecr, Rc16,
}

/// <summary>Ordering of a memory access or fence.</summary>
internal enum Semantics { Weak, Relaxed, Acquire, Release, AcquireRelease, Volatile }

/// <summary>A register of a kernel after inlining. Values of 32 lanes stand side by side in the frame: a predicate is one word of bits.</summary>
internal sealed class Register(string name, PtxType type, int width)
{
    public string Name { get; } = name;

    public PtxType Type { get; } = type;

    /// <summary>Bits a lane: 1, 16, 32 or 64.</summary>
    public int Width { get; } = width;

    /// <summary>Bytes from the frame's start.</summary>
    public int Offset { get; set; }

    public int FrameBytes => Width == 1 ? 4 : Width * 4;

    public static int WidthOf(PtxType type) => type == PtxType.Pred ? 1 : Math.Max(16, type.Size() * 8);

    public override string ToString() => Name;
}

internal enum ValueKind { Sink, Register, Immediate }

internal readonly record struct Value(ValueKind Kind, Register? Register, ulong Bits, bool Negated)
{
    public static Value Of(Register register, bool negated = false) => new(ValueKind.Register, register, 0, negated);

    public static Value Of(ulong bits) => new(ValueKind.Immediate, null, bits, false);

    public bool IsSink => Kind == ValueKind.Sink;
}

/// <summary>A decoded instruction.</summary>
internal sealed class Instruction
{
    public Op Op { get; set; }

    public PtxType Type { get; set; }

    /// <summary>The type of the sources where it differs: cvt, set, setp, mma's A, atom's none.</summary>
    public PtxType SourceType { get; set; }

    /// <summary>The type of mma's B.</summary>
    public PtxType SecondType { get; set; }

    /// <summary>The type of mma's C, where it differs from D.</summary>
    public PtxType ThirdType { get; set; }

    public Rounding Rounding { get; set; }

    public bool Ftz { get; set; }

    public bool Saturate { get; set; }

    public bool Approximate { get; set; }

    public bool Relu { get; set; }

    /// <summary>min and max give NaN when an operand is NaN.</summary>
    public bool NanWins { get; set; }

    public bool XorSignAbs { get; set; }

    public bool Transposed { get; set; }

    /// <summary>.shiftamt of bfind, .cc of addc and its like, .read of nothing: the one flag an op has.</summary>
    public bool Flag { get; set; }

    public Part Part { get; set; }

    public Compare Compare { get; set; }

    public Mode Mode { get; set; }

    /// <summary>and, or, xor with a third predicate of set and setp.</summary>
    public Mode Combine { get; set; }

    public Semantics Semantics { get; set; }

    public Space Space { get; set; }

    /// <summary>Elements of a vector access; matrices of ldmatrix; bytes of cp.async.</summary>
    public int Count { get; set; } = 1;

    public (int M, int N, int K) Shape { get; set; }

    public Value[] Destinations { get; set; } = [];

    public Value[] Sources { get; set; } = [];

    /// <summary>Base of the address; an immediate where the address is a constant.</summary>
    public Value Address { get; set; }

    public long Offset { get; set; }

    /// <summary>The second address of cp.async: the source in global memory.</summary>
    public Value Address2 { get; set; }

    public long Offset2 { get; set; }

    public Register? Guard { get; set; }

    public bool GuardNegated { get; set; }

    /// <summary>Labels of a branch, resolved to chunks when the kernel is cut.</summary>
    public object[] Labels { get; set; } = [];

    public string Text { get; init; } = "";

    public int Line { get; init; }

    public SourcePlace Source { get; init; }

    public InstructionClass Class { get; set; }

    /// <summary>Place in the kernel's list of instructions.</summary>
    public int Index { get; set; }

    /// <summary>Source registers that may be read before they are written on some path.</summary>
    public Register[] MaybeUnset { get; set; } = [];

    /// <summary>Access patterns that the compiler's memory code remembers; cp.async has two.</summary>
    public AccessPattern?[]? Patterns;

    public AccessPattern?[]? Patterns2;

    /// <summary>What else compiled code keeps with the instruction.</summary>
    public object? Prepared { get; set; }

    public override string ToString() => Text;
}
