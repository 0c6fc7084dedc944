using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

/// <summary>What atom and red leave in memory (PTX ISA, 9.7.13).</summary>
internal static class Atomics
{
    public static ulong Apply(Mode mode, PtxType type, ulong old, ulong a, ulong b)
    {
        long x = Scalar.Extend(old, type), y = Scalar.Extend(a, type);
        bool signed = type.IsSigned();
        switch (mode)
        {
            case Mode.Add when type.IsFloat():
                // Float atomics in global memory flush subnormals in fp32; .noftz types do not.
                return Scalar.Evaluate(new Instruction { Op = Op.Add, Type = type, Rounding = Rounding.Nearest }, old, a);
            case Mode.Add:
                return (ulong)(x + y);
            case Mode.Min:
                return (signed ? x < y : (ulong)x < (ulong)y) ? old : a;
            case Mode.Max:
                return (signed ? x > y : (ulong)x > (ulong)y) ? old : a;
            case Mode.Inc:
                return (uint)old >= (uint)a ? 0 : old + 1;
            case Mode.Dec:
                return (uint)old == 0 || (uint)old > (uint)a ? a : old - 1;
            case Mode.And:
                return old & a;
            case Mode.Or:
                return old | a;
            case Mode.Xor:
                return old ^ a;
            case Mode.Exch:
                return a;
            case Mode.Cas:
                return (ulong)x == (ulong)y ? b : old;
            default:
                throw new NotSupportedException($"{mode} of {type}");
        }
    }
}
