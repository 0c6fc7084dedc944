using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <summary>Loops over one row of fp32 elements of any length; sums run in a fixed order that depends on the length alone.</summary>
internal static unsafe class RowMath<V, S>
    where V : struct
    where S : struct, ISimd<V>
{
    /// <summary>Σ a·b.</summary>
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

    /// <summary>Σ a.</summary>
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
