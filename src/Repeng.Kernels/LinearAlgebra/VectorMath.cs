using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>Loops over vectors of doubles. Sums run in eight fixed lanes, so they do not depend on the width of the hardware.</summary>
internal static unsafe class VectorMath
{
    /// <summary>Σ a[i]·b[i].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static double Dot(double* a, double* b, int n)
    {
        Vector256<double> low = default, high = default;
        int i = 0;
        for (; i + 8 <= n; i += 8)
        {
            low = Vector256.FusedMultiplyAdd(Vector256.Load(a + i), Vector256.Load(b + i), low);
            high = Vector256.FusedMultiplyAdd(Vector256.Load(a + i + 4), Vector256.Load(b + i + 4), high);
        }
        double sum = Vector256.Sum(low + high);
        for (; i < n; i++)
            sum = Math.FusedMultiplyAdd(a[i], b[i], sum);
        return sum;
    }

    /// <summary>√(Σ a[i]²); elements must be far from overflow.</summary>
    public static double Norm(double* a, int n) => Math.Sqrt(Dot(a, a, n));

    /// <summary>y[i] += factor·x[i].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Add(double* y, double factor, double* x, int n)
    {
        Vector256<double> wide = Vector256.Create(factor);
        int i = 0;
        for (; i + 8 <= n; i += 8)
        {
            Vector256.FusedMultiplyAdd(wide, Vector256.Load(x + i), Vector256.Load(y + i)).Store(y + i);
            Vector256.FusedMultiplyAdd(wide, Vector256.Load(x + i + 4), Vector256.Load(y + i + 4)).Store(y + i + 4);
        }
        for (; i < n; i++)
            y[i] = Math.FusedMultiplyAdd(factor, x[i], y[i]);
    }

    /// <summary>y[i] += f·x[i] + g·z[i].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void AddTwo(double* y, double f, double* x, double g, double* z, int n)
    {
        Vector256<double> wideF = Vector256.Create(f), wideG = Vector256.Create(g);
        int i = 0;
        for (; i + 4 <= n; i += 4)
        {
            Vector256<double> sum = Vector256.FusedMultiplyAdd(wideF, Vector256.Load(x + i), Vector256.Load(y + i));
            Vector256.FusedMultiplyAdd(wideG, Vector256.Load(z + i), sum).Store(y + i);
        }
        for (; i < n; i++)
            y[i] = Math.FusedMultiplyAdd(g, z[i], Math.FusedMultiplyAdd(f, x[i], y[i]));
    }

    /// <summary>a[i] *= factor.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Scale(double* a, double factor, int n)
    {
        for (int i = 0; i < n; i++)
            a[i] *= factor;
    }

    /// <summary>(a, b) becomes (c·a − s·b, s·a + c·b).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Rotate(double* a, double* b, double c, double s, int n)
    {
        Vector256<double> cos = Vector256.Create(c), sin = Vector256.Create(s);
        int i = 0;
        for (; i + 4 <= n; i += 4)
        {
            Vector256<double> x = Vector256.Load(a + i), y = Vector256.Load(b + i);
            Vector256.FusedMultiplyAdd(cos, x, -(sin * y)).Store(a + i);
            Vector256.FusedMultiplyAdd(sin, x, cos * y).Store(b + i);
        }
        for (; i < n; i++)
        {
            double x = a[i], y = b[i];
            a[i] = Math.FusedMultiplyAdd(c, x, -(s * y));
            b[i] = Math.FusedMultiplyAdd(s, x, c * y);
        }
    }

    /// <summary>Uniform numbers in [−1, 1), a pure function of the stream.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Random(double* a, int n, ulong stream)
    {
        for (int i = 0; i < n; i++)
            a[i] = 2.0 * Philox.Uniform(Seed, stream, (ulong)i) - 1;
    }

    private const ulong Seed = 0x5EED_0F_1A;

    /// <summary>
    /// −1 where a vector must change its sign for its largest-magnitude element to be positive, else 1. Of elements within
    /// 10⁻⁶ of the largest the first decides, so that rounding does not choose in a vector such as (1, −1)/√2.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static double Sign(double* a, int n)
    {
        double largest = 0;
        for (int i = 0; i < n; i++)
            largest = Math.Max(largest, Math.Abs(a[i]));
        for (int i = 0; i < n; i++)
            if (Math.Abs(a[i]) >= (1 - 1e-6) * largest)
                return a[i] < 0 ? -1 : 1;
        return 1;
    }
}
