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

    /// <summary>σ(x) = 1/(1 + e⁻ˣ), from e^−|x| so that neither side overflows and the small tail keeps its relative accuracy.</summary>
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

    /// <summary>d/dx x·σ(x) = σ·(1 + x·(1 − σ)), with 1 − σ(x) taken as σ(−x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> SiluDerivative(Vector256<float> x)
    {
        Vector256<float> e = Exp(-Vector256.Abs(x));
        Vector256<float> inverse = Vector256<float>.One / (Vector256<float>.One + e);
        Vector256<float> tail = e * inverse;
        Vector256<float> negative = Vector256.LessThan(x, Vector256<float>.Zero);
        Vector256<float> sigmoid = Vector256.ConditionalSelect(negative, tail, inverse);
        Vector256<float> complement = Vector256.ConditionalSelect(negative, inverse, tail);
        return sigmoid * MulAdd(x, complement, Vector256<float>.One);
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

    /// <summary>x·Φ(x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Gelu(Vector256<float> x) => x * NormalCdf(x, out _);

    /// <summary>Φ(x) + x·φ(x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> GeluDerivative(Vector256<float> x)
    {
        Vector256<float> cdf = NormalCdf(x, out Vector256<float> gaussian);
        return MulAdd(x * InverseSqrtTwoPi, gaussian, cdf);
    }

    /// <summary>½x(1 + tanh u) = x·σ(2u), u = √(2/π)(x + 0.044715x³).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> GeluTanh(Vector256<float> x) => x * Sigmoid(GeluTanhArgument(x));

    /// <summary>σ(2u) + x·σ(2u)·σ(−2u)·2u′.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> GeluTanhDerivative(Vector256<float> x)
    {
        Vector256<float> twice = GeluTanhArgument(x);
        Vector256<float> e = Exp(-Vector256.Abs(twice));
        Vector256<float> inverse = Vector256<float>.One / (Vector256<float>.One + e);
        Vector256<float> tail = e * inverse;
        Vector256<float> sigmoid = Vector256.ConditionalSelect(Vector256.LessThan(twice, Vector256<float>.Zero), tail, inverse);
        Vector256<float> slope = MulAdd(x * x, Vector256.Create(6 * SqrtTwoOverPi * GeluCubic), Vector256.Create(2 * SqrtTwoOverPi));
        // The tail is multiplied in first: at large |x| it is 0 and must not meet an infinite x·slope.
        Vector256<float> bend = tail * inverse * x * slope;
        return sigmoid + Vector256.ConditionalSelect(Vector256.Equals(tail, Vector256<float>.Zero), Vector256<float>.Zero, bend);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> GeluTanhArgument(Vector256<float> x) =>
        x * MulAdd(x * x, Vector256.Create(2 * SqrtTwoOverPi * GeluCubic), Vector256.Create(2 * SqrtTwoOverPi));
}
