using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

internal static unsafe partial class SimdMath
{
    private const float InverseSqrtTwoPi = 0.398942280f;
    private const float SqrtTwoOverPi = 0.797884561f;
    private const float GeluCubic = 0.044715f;

    /// <summary>tanh x within 3e-7 relative error, −0 at −0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Tanh(Vector256<float> x) => Tanh<Vector256<float>, Simd256>(x) | (x & Vector256.Create(-0f));

    /// <summary>σ(x) = 1/(1 + e⁻ˣ), and 1 − σ(x) = σ(−x) with it. From e^−|x|, so that neither overflows and the smaller keeps its relative accuracy.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Sigmoid(Vector256<float> x, out Vector256<float> complement)
    {
        Vector256<float> e = Exp(-Vector256.Abs(x));
        Vector256<float> sum = Vector256<float>.One + e;
        Vector256<float> larger = Vector256<float>.One / sum, smaller = e / sum;
        Vector256<float> negative = Vector256.LessThan(x, Vector256<float>.Zero);
        complement = Vector256.ConditionalSelect(negative, larger, smaller);
        return Vector256.ConditionalSelect(negative, smaller, larger);
    }

    /// <summary>σ(x), the same bits as <see cref="Sigmoid(Vector256{float}, out Vector256{float})"/> with one division.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Sigmoid(Vector256<float> x)
    {
        Vector256<float> e = Exp(-Vector256.Abs(x));
        Vector256<float> numerator = Vector256.ConditionalSelect(Vector256.LessThan(x, Vector256<float>.Zero), e, Vector256<float>.One);
        return numerator / (Vector256<float>.One + e);
    }

    /// <summary>x·σ(x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Silu(Vector256<float> x) => x * Sigmoid(x);

    /// <summary>x·σ(x) and its derivative σ·(1 + x·(1 − σ)).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Silu(Vector256<float> x, out Vector256<float> derivative)
    {
        Vector256<float> sigmoid = Sigmoid(x, out Vector256<float> complement);
        derivative = sigmoid * MulAdd(x, complement, Vector256<float>.One);
        return x * sigmoid;
    }

    /// <summary>
    /// The lower tail Φ(−t) of the normal distribution for t ≥ 0, within a few ulp at any t, and with it e^(−t²/2):
    /// Φ(−t) = e^(−t²/2)·P(s)/(t + 7/2) with s = (t − 7/2)/(t + 7/2).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> NormalTail(Vector256<float> t, out Vector256<float> gaussian)
    {
        // Past 15 both are below the smallest subnormal number; the bound keeps t² and ∞ harmless.
        Vector256<float> bound = Vector256.Create(15f);
        t = Vector256.ConditionalSelect(Vector256.GreaterThan(t, bound), bound, t);
        // The rounding error of t² would grow by the size of the exponent: it is carried along.
        Vector256<float> square = t * t;
        Vector256<float> lost = MulAdd(t, t, -square);
        gaussian = Exp(square * -0.5f);
        gaussian = MulAdd(gaussian * lost, Vector256.Create(-0.5f), gaussian);

        Vector256<float> center = Vector256.Create(3.5f);
        Vector256<float> inverse = Vector256<float>.One / (t + center);
        Vector256<float> s = (t - center) * inverse;
        Vector256<float> p = Vector256.Create(0.000110688197f);
        p = MulAdd(p, s, Vector256.Create(0.000421896344f));
        p = MulAdd(p, s, Vector256.Create(-0.000494942826f));
        p = MulAdd(p, s, Vector256.Create(-0.00317530963f));
        p = MulAdd(p, s, Vector256.Create(0.0064931158f));
        p = MulAdd(p, s, Vector256.Create(0.0174063779f));
        p = MulAdd(p, s, Vector256.Create(-0.116053037f));
        p = MulAdd(p, s, Vector256.Create(0.315425038f));
        p = MulAdd(p, s, Vector256.Create(-0.565561771f));
        p = MulAdd(p, s, Vector256.Create(0.744416058f));
        return gaussian * (p * inverse);
    }

    /// <summary>Φ(x), the normal distribution function, with its relative accuracy kept for negative x.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> NormalCdf(Vector256<float> x, out Vector256<float> gaussian)
    {
        Vector256<float> tail = NormalTail(Vector256.Abs(x), out gaussian);
        return Vector256.ConditionalSelect(Vector256.LessThan(x, Vector256<float>.Zero), tail, Vector256<float>.One - tail);
    }

    /// <summary>x·Φ(x) and its derivative Φ(x) + x·φ(x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Gelu(Vector256<float> x, out Vector256<float> derivative)
    {
        Vector256<float> cdf = NormalCdf(x, out Vector256<float> gaussian);
        derivative = MulAdd(x * InverseSqrtTwoPi, gaussian, cdf);
        return x * cdf;
    }

    /// <summary>½x(1 + tanh u) = x·σ(2u), u = √(2/π)(x + 0.044715x³).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> GeluTanh(Vector256<float> x) => x * Sigmoid(GeluTanhArgument(x));

    /// <summary>x·σ(2u) and its derivative σ(2u) + x·σ(2u)·σ(−2u)·2u′.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> GeluTanh(Vector256<float> x, out Vector256<float> derivative)
    {
        Vector256<float> sigmoid = Sigmoid(GeluTanhArgument(x), out Vector256<float> complement);
        Vector256<float> slope = MulAdd(x * x, Vector256.Create(6 * SqrtTwoOverPi * GeluCubic), Vector256.Create(2 * SqrtTwoOverPi));
        // At large |x| the product of both sigmoids is 0 and must not meet an infinite slope.
        Vector256<float> both = sigmoid * complement;
        Vector256<float> bend = Vector256.ConditionalSelect(Vector256.Equals(both, Vector256<float>.Zero), Vector256<float>.Zero, both * x * slope);
        derivative = sigmoid + bend;
        return x * sigmoid;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> GeluTanhArgument(Vector256<float> x) =>
        x * MulAdd(x * x, Vector256.Create(2 * SqrtTwoOverPi * GeluCubic), Vector256.Create(2 * SqrtTwoOverPi));
}
