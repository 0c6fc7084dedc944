using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <summary>Loops over one row of fp32 elements of any length; sums run in a fixed order that depends on the length alone.</summary>
internal static unsafe class RowMath<V, S>
    where V : struct
    where S : struct, ISimd<V>
{
    /// <summary>Σ a·b.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static float Dot(float* a, float* b, int n)
    {
        V s0 = default, s1 = default, s2 = default, s3 = default;
        int i = 0;
        for (; i + 4 * S.Width <= n; i += 4 * S.Width)
        {
            s0 = S.Fma(S.Load(a + i), S.Load(b + i), s0);
            s1 = S.Fma(S.Load(a + i + S.Width), S.Load(b + i + S.Width), s1);
            s2 = S.Fma(S.Load(a + i + 2 * S.Width), S.Load(b + i + 2 * S.Width), s2);
            s3 = S.Fma(S.Load(a + i + 3 * S.Width), S.Load(b + i + 3 * S.Width), s3);
        }
        for (; i + S.Width <= n; i += S.Width)
            s0 = S.Fma(S.Load(a + i), S.Load(b + i), s0);
        float sum = S.Sum(S.Add(S.Add(s0, s1), S.Add(s2, s3)));
        for (; i < n; i++)
            sum = MathF.FusedMultiplyAdd(a[i], b[i], sum);
        return sum;
    }

    /// <summary>sums[n] = Σ a·b_n for four rows b_n that stand stride elements apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void DotFour(float* sums, float* a, float* b, nint stride, int n)
    {
        V s0 = default, s1 = default, s2 = default, s3 = default;
        float* third = b + 2 * stride;
        int i = 0;
        for (; i + S.Width <= n; i += S.Width)
        {
            V x = S.Load(a + i);
            s0 = S.Fma(x, S.Load(b + i), s0);
            s1 = S.Fma(x, S.Load(b + stride + i), s1);
            s2 = S.Fma(x, S.Load(third + i), s2);
            s3 = S.Fma(x, S.Load(third + stride + i), s3);
        }
        float t0 = S.Sum(s0), t1 = S.Sum(s1), t2 = S.Sum(s2), t3 = S.Sum(s3);
        for (; i < n; i++)
        {
            t0 = MathF.FusedMultiplyAdd(a[i], b[i], t0);
            t1 = MathF.FusedMultiplyAdd(a[i], b[stride + i], t1);
            t2 = MathF.FusedMultiplyAdd(a[i], third[i], t2);
            t3 = MathF.FusedMultiplyAdd(a[i], third[stride + i], t3);
        }
        sums[0] = t0;
        sums[1] = t1;
        sums[2] = t2;
        sums[3] = t3;
    }

    /// <summary>dst += Σ weights[n]·src_n over four rows src_n that stand stride elements apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void AddFour(float* dst, float* weights, float* src, nint stride, int n)
    {
        V w0 = S.Set(weights[0]), w1 = S.Set(weights[1]), w2 = S.Set(weights[2]), w3 = S.Set(weights[3]);
        float* third = src + 2 * stride;
        int i = 0;
        for (; i + S.Width <= n; i += S.Width)
        {
            V sum = S.Fma(w0, S.Load(src + i), S.Load(dst + i));
            sum = S.Fma(w1, S.Load(src + stride + i), sum);
            sum = S.Fma(w2, S.Load(third + i), sum);
            S.Store(S.Fma(w3, S.Load(third + stride + i), sum), dst + i);
        }
        for (; i < n; i++)
        {
            float sum = MathF.FusedMultiplyAdd(weights[0], src[i], dst[i]);
            sum = MathF.FusedMultiplyAdd(weights[1], src[stride + i], sum);
            sum = MathF.FusedMultiplyAdd(weights[2], third[i], sum);
            dst[i] = MathF.FusedMultiplyAdd(weights[3], third[stride + i], sum);
        }
    }

    /// <summary>dst += src · factor.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void AddScaled(float* dst, float* src, float factor, int n)
    {
        V f = S.Set(factor);
        int i = 0;
        for (; i + S.Width <= n; i += S.Width)
            S.Store(S.Fma(f, S.Load(src + i), S.Load(dst + i)), dst + i);
        for (; i < n; i++)
            dst[i] = MathF.FusedMultiplyAdd(factor, src[i], dst[i]);
    }

    /// <summary>Σ a.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static float Sum(float* a, int n)
    {
        V s0 = default, s1 = default;
        int i = 0;
        for (; i + 2 * S.Width <= n; i += 2 * S.Width)
        {
            s0 = S.Add(S.Load(a + i), s0);
            s1 = S.Add(S.Load(a + i + S.Width), s1);
        }
        for (; i + S.Width <= n; i += S.Width)
            s0 = S.Add(S.Load(a + i), s0);
        float sum = S.Sum(S.Add(s0, s1));
        for (; i < n; i++)
            sum += a[i];
        return sum;
    }

    /// <summary>Σ (a − center)².</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static float SumSquares(float* a, float center, int n)
    {
        V s0 = default, s1 = default, middle = S.Set(center);
        int i = 0;
        for (; i + 2 * S.Width <= n; i += 2 * S.Width)
        {
            V d0 = S.Sub(S.Load(a + i), middle), d1 = S.Sub(S.Load(a + i + S.Width), middle);
            s0 = S.Fma(d0, d0, s0);
            s1 = S.Fma(d1, d1, s1);
        }
        for (; i + S.Width <= n; i += S.Width)
        {
            V d = S.Sub(S.Load(a + i), middle);
            s0 = S.Fma(d, d, s0);
        }
        float sum = S.Sum(S.Add(s0, s1));
        for (; i < n; i++)
            sum = MathF.FusedMultiplyAdd(a[i] - center, a[i] - center, sum);
        return sum;
    }

    /// <summary>dst = src · factor; dst may be src.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Scale(float* dst, float* src, float factor, int n)
    {
        V f = S.Set(factor);
        int i = 0;
        for (; i + S.Width <= n; i += S.Width)
            S.Store(S.Mul(S.Load(src + i), f), dst + i);
        for (; i < n; i++)
            dst[i] = src[i] * factor;
    }

    /// <summary>dst += src.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Add(float* dst, float* src, int n)
    {
        int i = 0;
        for (; i + S.Width <= n; i += S.Width)
            S.Store(S.Add(S.Load(dst + i), S.Load(src + i)), dst + i);
        for (; i < n; i++)
            dst[i] += src[i];
    }

    /// <summary>dst = src, then zeros up to <paramref name="padded"/> elements.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void CopyPadded(float* dst, float* src, int n, int padded)
    {
        int i = 0;
        for (; i + S.Width <= n; i += S.Width)
            S.Store(S.Load(src + i), dst + i);
        for (; i < n; i++)
            dst[i] = src[i];
        for (; i < padded; i++)
            dst[i] = 0;
    }
}
