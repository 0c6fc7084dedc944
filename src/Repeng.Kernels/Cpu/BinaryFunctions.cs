using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

/// <summary>A function of two variables on eight lanes.</summary>
internal interface IBinaryFunction
{
    static abstract V Value(V a, V b);
}

internal readonly struct AddFunction : IBinaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V a, V b) => a + b;
}

internal readonly struct SubtractFunction : IBinaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V a, V b) => a - b;
}

internal readonly struct MultiplyFunction : IBinaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V a, V b) => a * b;
}

internal readonly struct DivideFunction : IBinaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V a, V b) => a / b;
}

internal readonly struct FirstFunction : IBinaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V a, V b) => a;
}

internal readonly struct SecondFunction : IBinaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V a, V b) => b;
}

/// <summary>Whether a kernel overwrites its output or adds to it; a type, so that the compiler drops the other branch.</summary>
internal interface IStoreMode
{
    static abstract bool Accumulates { get; }
}

internal readonly struct Overwrite : IStoreMode
{
    public static bool Accumulates => false;
}

internal readonly struct Accumulate : IStoreMode
{
    public static bool Accumulates => true;
}

/// <summary>What an element adds to the gradient by the second operand: a function of the upstream gradient and both operands.</summary>
internal interface IGradientTerm
{
    static abstract V Term(V dy, V a, V b);
}

internal readonly struct AddTerm : IGradientTerm
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Term(V dy, V a, V b) => dy;
}

internal readonly struct SubtractTerm : IGradientTerm
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Term(V dy, V a, V b) => -dy;
}

internal readonly struct MultiplyTerm : IGradientTerm
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Term(V dy, V a, V b) => dy * a;
}

internal readonly struct DivideTerm : IGradientTerm
{
    // Two divisions: b² would leave the range of fp32 long before the quotient does.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Term(V dy, V a, V b) => -(dy * (a / b) / b);
}
