// Functions that the CUDA toolkit's libdevice would give, written out so that no SDK is needed. Each keeps the relative
// error that its comment says; infinities, zeros and NaN come out as in C's math library. fp32 functions follow the same
// polynomials as the CPU's SimdMath.
#pragma once
#include "common.cuh"

/// 2^n for n in [-126, 127], by the exponent's bits.
__device__ __forceinline__ float power_of_two(int n) { return float_of((n + 127) << 23); }

/// eˣ within 2e-7, subnormal results included: 2ⁿ·eʳ, n = round(x / ln 2), eʳ by the minimax polynomial of Moshier's Cephes (expf).
__device__ __forceinline__ float exp_of(float x)
{
    x = x < -110.0f ? -110.0f : x;
    x = x > 90.0f ? 90.0f : x;
    const float rounding = 12582912.0f; // 1.5·2²³: adding it rounds to a whole number
    float biased = fma(x, 1.44269504088896341f, rounding);
    float n = biased - rounding;
    float r = fma(n, -0.693359375f, x);
    r = fma(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fma(p, r, 1.3981999507e-3f);
    p = fma(p, r, 8.3334519073e-3f);
    p = fma(p, r, 4.1665795894e-2f);
    p = fma(p, r, 1.6666665459e-1f);
    p = fma(p, r, 5.0000001201e-1f);
    p = fma(p, r * r, r);
    p = p + 1.0f;
    // In two factors, since n reaches from −159 to 130.
    int whole = bits_of(biased) - 0x4B400000, half = whole >> 1;
    return p * power_of_two(half) * power_of_two(whole - half);
}

/// 2ˣ by the special function unit, within 2⁻²²; results below 2⁻¹²⁶ become 0.
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// tanh x within 2e-7 of the truth (not of its size), by the special function unit.
__device__ __forceinline__ float tanh_fast(float x)
{
    float inverse, sum = exp2_fast(2.88539008f * x) + 1.0f;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(sum));
    return fma(-2.0f, inverse, 1.0f);
}

/// ln x within 1 ulp, subnormal x included: x = 2ᵉ·(1 + f) with 1 + f in [√½, √2).
__device__ __forceinline__ float log_of(float x)
{
    bool subnormal = x < 1.17549435e-38f;
    float scaled = subnormal ? x * 8388608.0f : x;
    int offset = bits_of(scaled) - 0x3F3504F3;
    int exponent = (offset >> 23) + (subnormal ? -23 : 0);
    float f = float_of((offset & 0x007FFFFF) + 0x3F3504F3) - 1.0f;
    float e = (float)exponent;
    float p = -0.0763450861f;
    p = fma(p, f, 0.12761578f);
    p = fma(p, f, -0.131601781f);
    p = fma(p, f, 0.142017573f);
    p = fma(p, f, -0.166233584f);
    p = fma(p, f, 0.200012267f);
    p = fma(p, f, -0.250008196f);
    p = fma(p, f, 0.333333313f);
    float square = f * f;
    float low = fma(p, square * f, e * 1.42860677e-6f);
    low = fma(square, -0.5f, low);
    float result = fma(e, 0.693145752f, f + low);
    result = x == 0.0f ? -positive_infinity() : result;
    result = x < 0.0f ? not_a_number() : result;
    return x < positive_infinity() ? result : x;
}

/// ln(1 + x) within 2 ulp also near 0: what rounding 1 + x loses is added back to first order.
__device__ __forceinline__ float log1p_of(float x)
{
    float u = 1.0f + x, part = u - 1.0f;
    float lost = (1.0f - (u - part)) + (x - part);
    float log = log_of(u), result = log + lost / u;
    result = u > 0.0f && u < positive_infinity() ? result : log;
    return u == 1.0f ? x : result;
}

/// tanh x within 3e-7: below 0.625 the odd polynomial of Cephes (tanhf), above 1 − 2/(e²ˣ + 1).
__device__ __forceinline__ float tanh_of(float x)
{
    float z = x * x, p = -5.70498872745e-3f;
    p = fma(p, z, 2.06390887954e-2f);
    p = fma(p, z, -5.37397155531e-2f);
    p = fma(p, z, 1.33314422036e-1f);
    p = fma(p, z, -3.33332819422e-1f);
    float near = fma(p * z, x, x), size = absolute(x);
    float far = 1.0f - 2.0f / (exp_of(2.0f * size) + 1.0f);
    far = x < 0.0f ? -far : far;
    return size <= 0.625f ? near : far;
}

/// σ(x) = 1/(1 + e⁻ˣ) and 1 − σ(x), from e^−|x|, so that neither overflows and the smaller keeps its relative accuracy.
__device__ __forceinline__ float sigmoid_of(float x, float &complement)
{
    float e = exp_of(-absolute(x)), sum = 1.0f + e;
    float most = 1.0f / sum, least = e / sum;
    complement = x < 0.0f ? most : least;
    return x < 0.0f ? least : most;
}
__device__ __forceinline__ float sigmoid_of(float x)
{
    float e = exp_of(-absolute(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

/// The lower tail Φ(−t) of the normal distribution for t ≥ 0 within a few ulp, and e^(−t²/2):
/// Φ(−t) = e^(−t²/2)·P(s)/(t + 7/2) with s = (t − 7/2)/(t + 7/2).
__device__ __forceinline__ float normal_tail(float t, float &gaussian)
{
    t = t > 15.0f ? 15.0f : t;
    // The rounding error of t² would grow by the size of the exponent: it is carried along.
    float square = t * t, lost = fma(t, t, -square);
    gaussian = exp_of(square * -0.5f);
    gaussian = fma(gaussian * lost, -0.5f, gaussian);
    float inverse = 1.0f / (t + 3.5f), s = (t - 3.5f) * inverse;
    float p = 0.000110688197f;
    p = fma(p, s, 0.000421896344f);
    p = fma(p, s, -0.000494942826f);
    p = fma(p, s, -0.00317530963f);
    p = fma(p, s, 0.0064931158f);
    p = fma(p, s, 0.0174063779f);
    p = fma(p, s, -0.116053037f);
    p = fma(p, s, 0.315425038f);
    p = fma(p, s, -0.565561771f);
    p = fma(p, s, 0.744416058f);
    return gaussian * (p * inverse);
}

/// Φ(x), and e^(−x²/2).
__device__ __forceinline__ float normal_cdf(float x, float &gaussian)
{
    float tail = normal_tail(absolute(x), gaussian);
    return x < 0.0f ? tail : 1.0f - tail;
}

/// eˣ in double within 2 ulp: Taylor's polynomial of degree 13 on |r| ≤ ln 2 / 2.
__device__ __forceinline__ double exp_of(double x)
{
    x = x < -750.0 ? -750.0 : x;
    x = x > 720.0 ? 720.0 : x;
    const double rounding = 6755399441055744.0; // 1.5·2⁵²
    double biased = fma(x, 1.4426950408889634, rounding), n = biased - rounding;
    double r = fma(n, -0.6931471803691238, x);
    r = fma(n, -1.9082149292705877e-10, r);
    double p = 1.0 / 6227020800.0;
    p = fma(p, r, 1.0 / 479001600.0);
    p = fma(p, r, 1.0 / 39916800.0);
    p = fma(p, r, 1.0 / 3628800.0);
    p = fma(p, r, 1.0 / 362880.0);
    p = fma(p, r, 1.0 / 40320.0);
    p = fma(p, r, 1.0 / 5040.0);
    p = fma(p, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    int whole = (int)(bits_of(biased) - 0x4338000000000000LL), half = whole >> 1;
    return p * double_of((i64)(half + 1023) << 52) * double_of((i64)(whole - half + 1023) << 52);
}

/// ln x in double within 2 ulp for normal x > 0 (fp32 values widened are): 2·atanh(s), s = (m − 1)/(m + 1), m in [√½, √2).
__device__ __forceinline__ double log_of(double x)
{
    i64 offset = bits_of(x) - 0x3FE6A09E667F3BCDLL;
    double e = (double)(int)(offset >> 52);
    double m = double_of((offset & 0x000FFFFFFFFFFFFFLL) + 0x3FE6A09E667F3BCDLL);
    double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 1.0 / 23.0;
    p = fma(p, z, 1.0 / 21.0);
    p = fma(p, z, 1.0 / 19.0);
    p = fma(p, z, 1.0 / 17.0);
    p = fma(p, z, 1.0 / 15.0);
    p = fma(p, z, 1.0 / 13.0);
    p = fma(p, z, 1.0 / 11.0);
    p = fma(p, z, 1.0 / 9.0);
    p = fma(p, z, 1.0 / 7.0);
    p = fma(p, z, 1.0 / 5.0);
    p = fma(p, z, 1.0 / 3.0);
    double tail = 2.0 * s * z * p;
    return fma(e, 0.6931471803691238, fma(e, 1.9082149292705877e-10, tail) + 2.0 * s);
}

/// xᵖ as C's pow on fp32 arguments, computed in double: e^(p·ln x) in fp32 would lose as many digits as the exponent has.
__device__ __forceinline__ float power_of(float x, float p)
{
    if (p == 0.0f || x == 1.0f)
        return 1.0f;
    if (x != x || p != p)
        return x + p;
    float size = absolute(x), infinity = positive_infinity();
    // Every fp32 from 2²⁴ on is an even number.
    bool whole = true, odd = false;
    if (absolute(p) < 16777216.0f)
    {
        int integer = (int)p;
        whole = (float)integer == p;
        odd = whole && (integer & 1) != 0;
    }
    float result;
    if (size == 0.0f)
        result = p > 0.0f ? 0.0f : infinity;
    else if (size == infinity)
        result = p > 0.0f ? infinity : 0.0f;
    else if (absolute(p) == infinity)
        result = size == 1.0f ? 1.0f : (size > 1.0f) == (p > 0.0f) ? infinity : 0.0f;
    else
        result = (float)exp_of((double)p * log_of((double)size));
    bool negative = bits_of(x) < 0;
    if (negative && size != 0.0f && size != infinity && !whole)
        return not_a_number();
    return negative && odd ? -result : result;
}
