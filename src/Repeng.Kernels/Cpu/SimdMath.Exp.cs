using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

/// <summary>Elementary functions over SIMD vectors; every width and the scalar form give the same bits per element.</summary>
internal static partial class SimdMath
{
    internal const float Log2E = 1.44269504088896341f;

    // ln 2 in two parts: the first has few bits, so that n·Ln2High is exact.
    private const float Ln2High = 0.693359375f;
    private const float Ln2Low = -2.12194440e-4f;

    // Beyond these the result is 0 or ∞ whatever the argument.
    private const float ExpLowest = -110f;
    private const float ExpHighest = 90f;

    /// <summary>eˣ within 2e-7 relative error; 0 for −∞, ∞ above 88.7, subnormal results included, NaN stays NaN.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<float> Exp(Vector512<float> x) => Exp<Vector512<float>, Simd512>(x);

    /// <inheritdoc cref="Exp(Vector512{float})"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector256<float> Exp(Vector256<float> x) => Exp<Vector256<float>, Simd256>(x);

    /// <inheritdoc cref="Exp(Vector512{float})"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector128<float> Exp(Vector128<float> x) => Exp<Vector128<float>, Simd128>(x);

    /// <inheritdoc cref="Exp(Vector512{float})"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static float Exp(float x) => Exp(Vector128.Create(x)).ToScalar();

    /// <summary>
    /// eˣ = 2ⁿ·eʳ with n = round(x / ln 2) and |r| ≤ ln 2 / 2; eʳ by the minimax polynomial of Moshier's Cephes (expf).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static V Exp<V, S>(V x)
        where V : struct
        where S : struct, ISimd<V>
    {
        x = S.Min(S.Set(ExpHighest), S.Max(S.Set(ExpLowest), x));
        V biased = S.Fma(x, S.Set(Log2E), S.Set(SimdBits.RoundingBias));
        V n = S.Sub(biased, S.Set(SimdBits.RoundingBias));
        V r = S.Fma(n, S.Set(-Ln2High), x);
        r = S.Fma(n, S.Set(-Ln2Low), r);
        V p = S.Set(1.9875691500e-4f);
        p = S.Fma(p, r, S.Set(1.3981999507e-3f));
        p = S.Fma(p, r, S.Set(8.3334519073e-3f));
        p = S.Fma(p, r, S.Set(4.1665795894e-2f));
        p = S.Fma(p, r, S.Set(1.6666665459e-1f));
        p = S.Fma(p, r, S.Set(5.0000001201e-1f));
        p = S.Fma(p, S.Mul(r, r), r);
        p = S.Add(p, S.Set(1f));
        return S.ScaleByPowerOfTwo(p, biased);
    }

    /// <summary>
    /// 2ˣ within 2e-7 relative error where the result is a normal number; results below 2⁻¹²⁶ become 0, x above 127 counts as 127.
    /// Cheaper than <see cref="Exp(Vector512{float})"/> for the softmax, whose terms lie in [0, 1]. NaN stays NaN.
    /// 2ʳ for |r| ≤ ½ is 1 + r·P(r), P the interpolation of (2ʳ − 1) / r at Chebyshev nodes, 1e-8 off at most.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static V Exp2Flushed<V, S>(V x)
        where V : struct
        where S : struct, ISimd<V>
    {
        x = S.Min(S.Set(127f), S.Max(S.Set(-127f), x));
        // The low bits of the sum are n + 127, the exponent field of 2ⁿ; n = −127 gives field 0, which reads as 0.
        V biased = S.Add(x, S.Set(SimdBits.RoundingBias + 127));
        V r = S.Sub(x, S.Sub(biased, S.Set(SimdBits.RoundingBias + 127)));
        V p = S.Set(1.54531634e-4f);
        p = S.Fma(p, r, S.Set(1.33908633e-3f));
        p = S.Fma(p, r, S.Set(9.61808302e-3f));
        p = S.Fma(p, r, S.Set(5.55035695e-2f));
        p = S.Fma(p, r, S.Set(2.40226507e-1f));
        p = S.Fma(p, r, S.Set(6.93147182e-1f));
        p = S.Fma(p, r, S.Set(1f));
        return S.Mul(p, S.ExponentFromLowBits(biased));
    }
}
