using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

/// <summary>A function of one variable on eight lanes with its derivative; p is the op's parameter. The derivative reads x or y = f(x), as <see cref="UnaryOps.BackwardReadsOutput"/> tells.</summary>
internal interface IUnaryFunction
{
    static abstract V Value(V x, V p);

    static abstract V Derivative(V x, V y, V p);
}

/// <summary>A function that gates another operand; value and derivative share their work.</summary>
internal interface IGateFunction : IUnaryFunction
{
    /// <summary>f(x), the same bits as Value, and f′(x).</summary>
    static abstract V Both(V x, out V derivative);
}

internal readonly struct ScaleFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => x * p;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => p;
}

internal readonly struct OffsetFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => x + p;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => V.One;
}

internal readonly struct ExpFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.Exp(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => y;
}

internal readonly struct LogFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.Log(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => V.One / x;
}

internal readonly struct Log1pFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.Log1p(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => V.One / (V.One + x);
}

internal readonly struct SqrtFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => Vector256.Sqrt(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => Vector256.Create(0.5f) / y;
}

internal readonly struct SquareFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => x * x;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => x + x;
}

internal readonly unsafe struct PowerFunction : IUnaryFunction
{
    public static V Value(V x, V p) => Power(x, p.ToScalar());

    public static V Derivative(V x, V y, V p)
    {
        // p = 0 is a constant: its slope is 0 at x = 0 too, where p·xᵖ⁻¹ would be 0·∞.
        float exponent = p.ToScalar();
        return exponent == 0 ? V.Zero : p * Power(x, exponent - 1);
    }

    // Lane by lane in double: e^(p·ln x) in fp32 would lose as many digits as the exponent has.
    private static V Power(V x, float exponent)
    {
        float* lanes = (float*)&x;
        for (int i = 0; i < SimdMath.Lanes; i++)
            lanes[i] = (float)Math.Pow(lanes[i], exponent);
        return x;
    }
}

internal readonly struct ReciprocalFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => V.One / x;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => -(y * y);
}

internal readonly struct AbsFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => Vector256.Abs(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) =>
        (Vector256.GreaterThan(x, V.Zero) & V.One) - (Vector256.LessThan(x, V.Zero) & V.One);
}

internal readonly struct ReluFunction : IUnaryFunction
{
    // NaN is not below 0 and passes.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => Vector256.ConditionalSelect(Vector256.LessThan(x, V.Zero), V.Zero, x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => Vector256.GreaterThan(x, V.Zero) & V.One;
}

internal readonly struct MinFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => Vector256.ConditionalSelect(Vector256.GreaterThan(x, p), p, x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => Vector256.LessThanOrEqual(x, p) & V.One;
}

internal readonly struct MaxFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => Vector256.ConditionalSelect(Vector256.LessThan(x, p), p, x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => Vector256.GreaterThanOrEqual(x, p) & V.One;
}

internal readonly struct TanhFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.Tanh(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => (V.One - y) * (V.One + y);
}

internal readonly struct SoftCapFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => p * SimdMath.Tanh(x / p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p)
    {
        V tanh = y / p;
        return (V.One - tanh) * (V.One + tanh);
    }
}

internal readonly struct SigmoidFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.Sigmoid(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => y * (V.One - y);
}

internal readonly struct LogSigmoidFunction : IUnaryFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.LogSigmoid(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p) => SimdMath.Sigmoid(-x);
}

internal readonly struct SiluFunction : IGateFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.Silu(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p)
    {
        SimdMath.Silu(x, out V derivative);
        return derivative;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Both(V x, out V derivative) => SimdMath.Silu(x, out derivative);
}

internal readonly struct GeluFunction : IGateFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.Gelu(x, out _);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p)
    {
        SimdMath.Gelu(x, out V derivative);
        return derivative;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Both(V x, out V derivative) => SimdMath.Gelu(x, out derivative);
}

internal readonly struct GeluTanhFunction : IGateFunction
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Value(V x, V p) => SimdMath.GeluTanh(x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Derivative(V x, V y, V p)
    {
        SimdMath.GeluTanh(x, out V derivative);
        return derivative;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Both(V x, out V derivative) => SimdMath.GeluTanh(x, out derivative);
}
