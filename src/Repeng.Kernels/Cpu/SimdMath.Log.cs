using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

internal static unsafe partial class SimdMath
{
    /// <summary>
    /// ln x within 1 ulp, subnormal x included; ln 0 = −∞, ln +∞ = +∞, x &lt; 0 and NaN give NaN.
    /// x = 2ᵉ·(1 + f) with 1 + f in [√½, √2), ln(1 + f) = f − f²/2 + f³·P(f).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Log(Vector256<float> x)
    {
        Vector256<float> subnormal = Vector256.LessThan(x, Vector256.Create(1.17549435e-38f));
        Vector256<float> scaled = Vector256.ConditionalSelect(subnormal, x * 8388608f, x);
        Vector256<int> shift = subnormal.AsInt32() & Vector256.Create(-23);

        // Subtracting the bits of √½ puts the borders between exponents at √½·2ᵉ.
        Vector256<int> sqrtHalf = Vector256.Create(0x3F3504F3);
        Vector256<int> offset = scaled.AsInt32() - sqrtHalf;
        Vector256<int> exponent = Vector256.ShiftRightArithmetic(offset, 23);
        Vector256<float> f = ((offset & Vector256.Create(0x007FFFFF)) + sqrtHalf).AsSingle() - Vector256<float>.One;
        Vector256<float> e = Vector256.ConvertToSingle(exponent + shift);

        Vector256<float> p = Vector256.Create(-0.0763450861f);
        p = MulAdd(p, f, Vector256.Create(0.12761578f));
        p = MulAdd(p, f, Vector256.Create(-0.131601781f));
        p = MulAdd(p, f, Vector256.Create(0.142017573f));
        p = MulAdd(p, f, Vector256.Create(-0.166233584f));
        p = MulAdd(p, f, Vector256.Create(0.200012267f));
        p = MulAdd(p, f, Vector256.Create(-0.250008196f));
        p = MulAdd(p, f, Vector256.Create(0.333333313f));

        Vector256<float> square = f * f;
        Vector256<float> low = MulAdd(p, square * f, e * 1.42860677e-6f);
        low = MulAdd(square, Vector256.Create(-0.5f), low);
        Vector256<float> result = MulAdd(e, Vector256.Create(0.693145752f), f + low);

        // What is not a positive finite number: 0 → −∞, negative → NaN, +∞ and NaN stay.
        Vector256<float> infinity = Vector256.Create(float.PositiveInfinity);
        result = Vector256.ConditionalSelect(Vector256.Equals(x, Vector256<float>.Zero), -infinity, result);
        result = Vector256.ConditionalSelect(Vector256.LessThan(x, Vector256<float>.Zero), Vector256.Create(float.NaN), result);
        return Vector256.ConditionalSelect(Vector256.LessThan(x, infinity), result, x);
    }

    /// <summary>ln(1 + x) within 2 ulp also near 0; −∞ at −1. What rounding 1 + x loses is added back to first order.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Log1p(Vector256<float> x)
    {
        Vector256<float> one = Vector256<float>.One;
        Vector256<float> u = one + x;
        Vector256<float> part = u - one;
        Vector256<float> lost = (one - (u - part)) + (x - part);
        Vector256<float> log = Log(u);
        Vector256<float> result = log + (lost / u);
        // At u = 0 or ∞ the correction is not a number; at u = 1 the answer is x itself, sign of zero included.
        Vector256<float> ordinary = Vector256.GreaterThan(u, Vector256<float>.Zero) & Vector256.LessThan(u, Vector256.Create(float.PositiveInfinity));
        result = Vector256.ConditionalSelect(ordinary, result, log);
        return Vector256.ConditionalSelect(Vector256.Equals(u, one), x, result);
    }

    /// <summary>ln σ(x) = min(x, 0) − ln(1 + e^−|x|).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> LogSigmoid(Vector256<float> x)
    {
        Vector256<float> low = Vector256.ConditionalSelect(Vector256.GreaterThan(x, Vector256<float>.Zero), Vector256<float>.Zero, x);
        return low - Log1p(Exp(-Vector256.Abs(x)));
    }
}
