using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Product of two small fp32 tiles that lie in cache, register-blocked 6 rows × 2 vectors: twelve accumulators
/// hide the latency of two multiply-add units and leave registers for both operands. Every element of the result is
/// summed over the depth in ascending order, whatever the block it falls in.
/// </summary>
internal static unsafe class TileProduct<V, S>
    where V : struct
    where S : struct, ISimd<V>
{
    /// <summary>Columns are a multiple of this.</summary>
    internal static int Panel => 2 * S.Width;

    /// <summary>n rounded up to whole panels.</summary>
    internal static int Padded(int n) => (n + Panel - 1) / Panel * Panel;

    /// <summary>
    /// c[i·ldc + j] = (accumulate ? c : 0) + Σ_t a[i·aRow + t·aDepth] · b[t·ldb + j] for i &lt; rows, j &lt; cols, t &lt; depth.
    /// The strides of a are free, which takes a transposed operand as it is.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Run(float* c, nint ldc, float* a, nint aRow, nint aDepth, float* b, nint ldb, int rows, int cols, int depth, bool accumulate)
    {
        for (int j = 0; j < cols; j += Panel)
        {
            int i = 0;
            for (; i + 6 <= rows; i += 6)
                Block6(c + i * ldc + j, ldc, a + i * aRow, aRow, aDepth, b + j, ldb, depth, accumulate);
            if (i + 4 <= rows)
            {
                Block4(c + i * ldc + j, ldc, a + i * aRow, aRow, aDepth, b + j, ldb, depth, accumulate);
                i += 4;
            }
            if (i + 2 <= rows)
            {
                Block2(c + i * ldc + j, ldc, a + i * aRow, aRow, aDepth, b + j, ldb, depth, accumulate);
                i += 2;
            }
            if (i < rows)
                Block1(c + i * ldc + j, a + i * aRow, aDepth, b + j, ldb, depth, accumulate);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Block6(float* c, nint ldc, float* a, nint aRow, nint aDepth, float* b, nint ldb, int depth, bool accumulate)
    {
        V c00 = default, c01 = default, c10 = default, c11 = default, c20 = default, c21 = default;
        V c30 = default, c31 = default, c40 = default, c41 = default, c50 = default, c51 = default;
        if (accumulate)
        {
            c00 = S.Load(c); c01 = S.Load(c + S.Width);
            c10 = S.Load(c + ldc); c11 = S.Load(c + ldc + S.Width);
            c20 = S.Load(c + 2 * ldc); c21 = S.Load(c + 2 * ldc + S.Width);
            c30 = S.Load(c + 3 * ldc); c31 = S.Load(c + 3 * ldc + S.Width);
            c40 = S.Load(c + 4 * ldc); c41 = S.Load(c + 4 * ldc + S.Width);
            c50 = S.Load(c + 5 * ldc); c51 = S.Load(c + 5 * ldc + S.Width);
        }
        float* lower = a + 3 * aRow;
        nint twice = 2 * aRow;
        for (int t = 0; t < depth; t++)
        {
            V b0 = S.Load(b), b1 = S.Load(b + S.Width);
            V x = S.Set(*a);
            c00 = S.Fma(x, b0, c00); c01 = S.Fma(x, b1, c01);
            x = S.Set(a[aRow]);
            c10 = S.Fma(x, b0, c10); c11 = S.Fma(x, b1, c11);
            x = S.Set(a[twice]);
            c20 = S.Fma(x, b0, c20); c21 = S.Fma(x, b1, c21);
            x = S.Set(*lower);
            c30 = S.Fma(x, b0, c30); c31 = S.Fma(x, b1, c31);
            x = S.Set(lower[aRow]);
            c40 = S.Fma(x, b0, c40); c41 = S.Fma(x, b1, c41);
            x = S.Set(lower[twice]);
            c50 = S.Fma(x, b0, c50); c51 = S.Fma(x, b1, c51);
            a += aDepth;
            lower += aDepth;
            b += ldb;
        }
        S.Store(c00, c); S.Store(c01, c + S.Width);
        S.Store(c10, c + ldc); S.Store(c11, c + ldc + S.Width);
        S.Store(c20, c + 2 * ldc); S.Store(c21, c + 2 * ldc + S.Width);
        S.Store(c30, c + 3 * ldc); S.Store(c31, c + 3 * ldc + S.Width);
        S.Store(c40, c + 4 * ldc); S.Store(c41, c + 4 * ldc + S.Width);
        S.Store(c50, c + 5 * ldc); S.Store(c51, c + 5 * ldc + S.Width);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Block4(float* c, nint ldc, float* a, nint aRow, nint aDepth, float* b, nint ldb, int depth, bool accumulate)
    {
        V c00 = default, c01 = default, c10 = default, c11 = default, c20 = default, c21 = default, c30 = default, c31 = default;
        if (accumulate)
        {
            c00 = S.Load(c); c01 = S.Load(c + S.Width);
            c10 = S.Load(c + ldc); c11 = S.Load(c + ldc + S.Width);
            c20 = S.Load(c + 2 * ldc); c21 = S.Load(c + 2 * ldc + S.Width);
            c30 = S.Load(c + 3 * ldc); c31 = S.Load(c + 3 * ldc + S.Width);
        }
        float* lower = a + 2 * aRow;
        for (int t = 0; t < depth; t++)
        {
            V b0 = S.Load(b), b1 = S.Load(b + S.Width);
            V x = S.Set(*a);
            c00 = S.Fma(x, b0, c00); c01 = S.Fma(x, b1, c01);
            x = S.Set(a[aRow]);
            c10 = S.Fma(x, b0, c10); c11 = S.Fma(x, b1, c11);
            x = S.Set(*lower);
            c20 = S.Fma(x, b0, c20); c21 = S.Fma(x, b1, c21);
            x = S.Set(lower[aRow]);
            c30 = S.Fma(x, b0, c30); c31 = S.Fma(x, b1, c31);
            a += aDepth;
            lower += aDepth;
            b += ldb;
        }
        S.Store(c00, c); S.Store(c01, c + S.Width);
        S.Store(c10, c + ldc); S.Store(c11, c + ldc + S.Width);
        S.Store(c20, c + 2 * ldc); S.Store(c21, c + 2 * ldc + S.Width);
        S.Store(c30, c + 3 * ldc); S.Store(c31, c + 3 * ldc + S.Width);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Block2(float* c, nint ldc, float* a, nint aRow, nint aDepth, float* b, nint ldb, int depth, bool accumulate)
    {
        V c00 = default, c01 = default, c10 = default, c11 = default;
        if (accumulate)
        {
            c00 = S.Load(c); c01 = S.Load(c + S.Width);
            c10 = S.Load(c + ldc); c11 = S.Load(c + ldc + S.Width);
        }
        for (int t = 0; t < depth; t++)
        {
            V b0 = S.Load(b), b1 = S.Load(b + S.Width);
            V x = S.Set(*a), y = S.Set(a[aRow]);
            c00 = S.Fma(x, b0, c00); c01 = S.Fma(x, b1, c01);
            c10 = S.Fma(y, b0, c10); c11 = S.Fma(y, b1, c11);
            a += aDepth;
            b += ldb;
        }
        S.Store(c00, c); S.Store(c01, c + S.Width);
        S.Store(c10, c + ldc); S.Store(c11, c + ldc + S.Width);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Block1(float* c, float* a, nint aDepth, float* b, nint ldb, int depth, bool accumulate)
    {
        V c0 = default, c1 = default;
        if (accumulate)
        {
            c0 = S.Load(c); c1 = S.Load(c + S.Width);
        }
        for (int t = 0; t < depth; t++)
        {
            V x = S.Set(*a);
            c0 = S.Fma(x, S.Load(b), c0);
            c1 = S.Fma(x, S.Load(b + S.Width), c1);
            a += aDepth;
            b += ldb;
        }
        S.Store(c0, c); S.Store(c1, c + S.Width);
    }
}
