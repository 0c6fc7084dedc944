using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// The register tiles of <see cref="GemmTiles"/> for a left operand that lies in rows: element (row, k) at a[row·rowA + k],
/// rows beyond lastRow repeat it (their results are dropped by the caller). The same chains, so the same bits.
/// </summary>
internal static unsafe class GemmRowTiles
{
    /// <summary>8×8 for 128-bit units: 16 accumulators of NEON's 32 registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Tile8x8(float* a, nint rowA, int lastRow, float* b, nint depth, float* c, nint rowC, bool add)
    {
        float* a1 = a + Math.Min(1, lastRow) * rowA;
        float* a2 = a + Math.Min(2, lastRow) * rowA;
        float* a3 = a + Math.Min(3, lastRow) * rowA;
        float* a4 = a + Math.Min(4, lastRow) * rowA;
        float* a5 = a + Math.Min(5, lastRow) * rowA;
        float* a6 = a + Math.Min(6, lastRow) * rowA;
        float* a7 = a + Math.Min(7, lastRow) * rowA;
        Vector128<float> c00 = Vector128<float>.Zero, c01 = Vector128<float>.Zero;
        Vector128<float> c10 = Vector128<float>.Zero, c11 = Vector128<float>.Zero;
        Vector128<float> c20 = Vector128<float>.Zero, c21 = Vector128<float>.Zero;
        Vector128<float> c30 = Vector128<float>.Zero, c31 = Vector128<float>.Zero;
        Vector128<float> c40 = Vector128<float>.Zero, c41 = Vector128<float>.Zero;
        Vector128<float> c50 = Vector128<float>.Zero, c51 = Vector128<float>.Zero;
        Vector128<float> c60 = Vector128<float>.Zero, c61 = Vector128<float>.Zero;
        Vector128<float> c70 = Vector128<float>.Zero, c71 = Vector128<float>.Zero;
        for (nint k = 0; k < depth; k++, b += 8)
        {
            Vector128<float> b0 = Vector128.Load(b), b1 = Vector128.Load(b + 4);
            Vector128<float> x = Vector128.Create(a[k]);
            c00 = Vector128.FusedMultiplyAdd(x, b0, c00);
            c01 = Vector128.FusedMultiplyAdd(x, b1, c01);
            x = Vector128.Create(a1[k]);
            c10 = Vector128.FusedMultiplyAdd(x, b0, c10);
            c11 = Vector128.FusedMultiplyAdd(x, b1, c11);
            x = Vector128.Create(a2[k]);
            c20 = Vector128.FusedMultiplyAdd(x, b0, c20);
            c21 = Vector128.FusedMultiplyAdd(x, b1, c21);
            x = Vector128.Create(a3[k]);
            c30 = Vector128.FusedMultiplyAdd(x, b0, c30);
            c31 = Vector128.FusedMultiplyAdd(x, b1, c31);
            x = Vector128.Create(a4[k]);
            c40 = Vector128.FusedMultiplyAdd(x, b0, c40);
            c41 = Vector128.FusedMultiplyAdd(x, b1, c41);
            x = Vector128.Create(a5[k]);
            c50 = Vector128.FusedMultiplyAdd(x, b0, c50);
            c51 = Vector128.FusedMultiplyAdd(x, b1, c51);
            x = Vector128.Create(a6[k]);
            c60 = Vector128.FusedMultiplyAdd(x, b0, c60);
            c61 = Vector128.FusedMultiplyAdd(x, b1, c61);
            x = Vector128.Create(a7[k]);
            c70 = Vector128.FusedMultiplyAdd(x, b0, c70);
            c71 = Vector128.FusedMultiplyAdd(x, b1, c71);
        }
        if (add)
        {
            c00 += Vector128.Load(c);
            c01 += Vector128.Load(c + 4);
            c10 += Vector128.Load(c + rowC);
            c11 += Vector128.Load(c + rowC + 4);
            c20 += Vector128.Load(c + 2 * rowC);
            c21 += Vector128.Load(c + 2 * rowC + 4);
            c30 += Vector128.Load(c + 3 * rowC);
            c31 += Vector128.Load(c + 3 * rowC + 4);
            c40 += Vector128.Load(c + 4 * rowC);
            c41 += Vector128.Load(c + 4 * rowC + 4);
            c50 += Vector128.Load(c + 5 * rowC);
            c51 += Vector128.Load(c + 5 * rowC + 4);
            c60 += Vector128.Load(c + 6 * rowC);
            c61 += Vector128.Load(c + 6 * rowC + 4);
            c70 += Vector128.Load(c + 7 * rowC);
            c71 += Vector128.Load(c + 7 * rowC + 4);
        }
        c00.Store(c);
        c01.Store(c + 4);
        c10.Store(c + rowC);
        c11.Store(c + rowC + 4);
        c20.Store(c + 2 * rowC);
        c21.Store(c + 2 * rowC + 4);
        c30.Store(c + 3 * rowC);
        c31.Store(c + 3 * rowC + 4);
        c40.Store(c + 4 * rowC);
        c41.Store(c + 4 * rowC + 4);
        c50.Store(c + 5 * rowC);
        c51.Store(c + 5 * rowC + 4);
        c60.Store(c + 6 * rowC);
        c61.Store(c + 6 * rowC + 4);
        c70.Store(c + 7 * rowC);
        c71.Store(c + 7 * rowC + 4);
    }

    /// <summary>6×16 for AVX2: 12 accumulators, two loads of b and one broadcast fill the 16 registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Tile6x16(float* a, nint rowA, int lastRow, float* b, nint depth, float* c, nint rowC, bool add)
    {
        float* a1 = a + Math.Min(1, lastRow) * rowA;
        float* a2 = a + Math.Min(2, lastRow) * rowA;
        float* a3 = a + Math.Min(3, lastRow) * rowA;
        float* a4 = a + Math.Min(4, lastRow) * rowA;
        float* a5 = a + Math.Min(5, lastRow) * rowA;
        Vector256<float> c00 = Vector256<float>.Zero, c01 = Vector256<float>.Zero;
        Vector256<float> c10 = Vector256<float>.Zero, c11 = Vector256<float>.Zero;
        Vector256<float> c20 = Vector256<float>.Zero, c21 = Vector256<float>.Zero;
        Vector256<float> c30 = Vector256<float>.Zero, c31 = Vector256<float>.Zero;
        Vector256<float> c40 = Vector256<float>.Zero, c41 = Vector256<float>.Zero;
        Vector256<float> c50 = Vector256<float>.Zero, c51 = Vector256<float>.Zero;
        for (nint k = 0; k < depth; k++, b += 16)
        {
            Vector256<float> b0 = Vector256.Load(b), b1 = Vector256.Load(b + 8);
            Vector256<float> x = Vector256.Create(a[k]);
            c00 = Vector256.FusedMultiplyAdd(x, b0, c00);
            c01 = Vector256.FusedMultiplyAdd(x, b1, c01);
            x = Vector256.Create(a1[k]);
            c10 = Vector256.FusedMultiplyAdd(x, b0, c10);
            c11 = Vector256.FusedMultiplyAdd(x, b1, c11);
            x = Vector256.Create(a2[k]);
            c20 = Vector256.FusedMultiplyAdd(x, b0, c20);
            c21 = Vector256.FusedMultiplyAdd(x, b1, c21);
            x = Vector256.Create(a3[k]);
            c30 = Vector256.FusedMultiplyAdd(x, b0, c30);
            c31 = Vector256.FusedMultiplyAdd(x, b1, c31);
            x = Vector256.Create(a4[k]);
            c40 = Vector256.FusedMultiplyAdd(x, b0, c40);
            c41 = Vector256.FusedMultiplyAdd(x, b1, c41);
            x = Vector256.Create(a5[k]);
            c50 = Vector256.FusedMultiplyAdd(x, b0, c50);
            c51 = Vector256.FusedMultiplyAdd(x, b1, c51);
        }
        if (add)
        {
            c00 += Vector256.Load(c);
            c01 += Vector256.Load(c + 8);
            c10 += Vector256.Load(c + rowC);
            c11 += Vector256.Load(c + rowC + 8);
            c20 += Vector256.Load(c + 2 * rowC);
            c21 += Vector256.Load(c + 2 * rowC + 8);
            c30 += Vector256.Load(c + 3 * rowC);
            c31 += Vector256.Load(c + 3 * rowC + 8);
            c40 += Vector256.Load(c + 4 * rowC);
            c41 += Vector256.Load(c + 4 * rowC + 8);
            c50 += Vector256.Load(c + 5 * rowC);
            c51 += Vector256.Load(c + 5 * rowC + 8);
        }
        c00.Store(c);
        c01.Store(c + 8);
        c10.Store(c + rowC);
        c11.Store(c + rowC + 8);
        c20.Store(c + 2 * rowC);
        c21.Store(c + 2 * rowC + 8);
        c30.Store(c + 3 * rowC);
        c31.Store(c + 3 * rowC + 8);
        c40.Store(c + 4 * rowC);
        c41.Store(c + 4 * rowC + 8);
        c50.Store(c + 5 * rowC);
        c51.Store(c + 5 * rowC + 8);
    }

    /// <summary>12×32 for AVX-512: 24 accumulators of 32 registers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Tile12x32(float* a, nint rowA, int lastRow, float* b, nint depth, float* c, nint rowC, bool add)
    {
        float* a1 = a + Math.Min(1, lastRow) * rowA;
        float* a2 = a + Math.Min(2, lastRow) * rowA;
        float* a3 = a + Math.Min(3, lastRow) * rowA;
        float* a4 = a + Math.Min(4, lastRow) * rowA;
        float* a5 = a + Math.Min(5, lastRow) * rowA;
        float* a6 = a + Math.Min(6, lastRow) * rowA;
        float* a7 = a + Math.Min(7, lastRow) * rowA;
        float* a8 = a + Math.Min(8, lastRow) * rowA;
        float* a9 = a + Math.Min(9, lastRow) * rowA;
        float* a10 = a + Math.Min(10, lastRow) * rowA;
        float* a11 = a + Math.Min(11, lastRow) * rowA;
        Vector512<float> c00 = Vector512<float>.Zero, c01 = Vector512<float>.Zero;
        Vector512<float> c10 = Vector512<float>.Zero, c11 = Vector512<float>.Zero;
        Vector512<float> c20 = Vector512<float>.Zero, c21 = Vector512<float>.Zero;
        Vector512<float> c30 = Vector512<float>.Zero, c31 = Vector512<float>.Zero;
        Vector512<float> c40 = Vector512<float>.Zero, c41 = Vector512<float>.Zero;
        Vector512<float> c50 = Vector512<float>.Zero, c51 = Vector512<float>.Zero;
        Vector512<float> c60 = Vector512<float>.Zero, c61 = Vector512<float>.Zero;
        Vector512<float> c70 = Vector512<float>.Zero, c71 = Vector512<float>.Zero;
        Vector512<float> c80 = Vector512<float>.Zero, c81 = Vector512<float>.Zero;
        Vector512<float> c90 = Vector512<float>.Zero, c91 = Vector512<float>.Zero;
        Vector512<float> c100 = Vector512<float>.Zero, c101 = Vector512<float>.Zero;
        Vector512<float> c110 = Vector512<float>.Zero, c111 = Vector512<float>.Zero;
        for (nint k = 0; k < depth; k++, b += 32)
        {
            Vector512<float> b0 = Vector512.Load(b), b1 = Vector512.Load(b + 16);
            Vector512<float> x = Vector512.Create(a[k]);
            c00 = Vector512.FusedMultiplyAdd(x, b0, c00);
            c01 = Vector512.FusedMultiplyAdd(x, b1, c01);
            x = Vector512.Create(a1[k]);
            c10 = Vector512.FusedMultiplyAdd(x, b0, c10);
            c11 = Vector512.FusedMultiplyAdd(x, b1, c11);
            x = Vector512.Create(a2[k]);
            c20 = Vector512.FusedMultiplyAdd(x, b0, c20);
            c21 = Vector512.FusedMultiplyAdd(x, b1, c21);
            x = Vector512.Create(a3[k]);
            c30 = Vector512.FusedMultiplyAdd(x, b0, c30);
            c31 = Vector512.FusedMultiplyAdd(x, b1, c31);
            x = Vector512.Create(a4[k]);
            c40 = Vector512.FusedMultiplyAdd(x, b0, c40);
            c41 = Vector512.FusedMultiplyAdd(x, b1, c41);
            x = Vector512.Create(a5[k]);
            c50 = Vector512.FusedMultiplyAdd(x, b0, c50);
            c51 = Vector512.FusedMultiplyAdd(x, b1, c51);
            x = Vector512.Create(a6[k]);
            c60 = Vector512.FusedMultiplyAdd(x, b0, c60);
            c61 = Vector512.FusedMultiplyAdd(x, b1, c61);
            x = Vector512.Create(a7[k]);
            c70 = Vector512.FusedMultiplyAdd(x, b0, c70);
            c71 = Vector512.FusedMultiplyAdd(x, b1, c71);
            x = Vector512.Create(a8[k]);
            c80 = Vector512.FusedMultiplyAdd(x, b0, c80);
            c81 = Vector512.FusedMultiplyAdd(x, b1, c81);
            x = Vector512.Create(a9[k]);
            c90 = Vector512.FusedMultiplyAdd(x, b0, c90);
            c91 = Vector512.FusedMultiplyAdd(x, b1, c91);
            x = Vector512.Create(a10[k]);
            c100 = Vector512.FusedMultiplyAdd(x, b0, c100);
            c101 = Vector512.FusedMultiplyAdd(x, b1, c101);
            x = Vector512.Create(a11[k]);
            c110 = Vector512.FusedMultiplyAdd(x, b0, c110);
            c111 = Vector512.FusedMultiplyAdd(x, b1, c111);
        }
        if (add)
        {
            c00 += Vector512.Load(c);
            c01 += Vector512.Load(c + 16);
            c10 += Vector512.Load(c + rowC);
            c11 += Vector512.Load(c + rowC + 16);
            c20 += Vector512.Load(c + 2 * rowC);
            c21 += Vector512.Load(c + 2 * rowC + 16);
            c30 += Vector512.Load(c + 3 * rowC);
            c31 += Vector512.Load(c + 3 * rowC + 16);
            c40 += Vector512.Load(c + 4 * rowC);
            c41 += Vector512.Load(c + 4 * rowC + 16);
            c50 += Vector512.Load(c + 5 * rowC);
            c51 += Vector512.Load(c + 5 * rowC + 16);
            c60 += Vector512.Load(c + 6 * rowC);
            c61 += Vector512.Load(c + 6 * rowC + 16);
            c70 += Vector512.Load(c + 7 * rowC);
            c71 += Vector512.Load(c + 7 * rowC + 16);
            c80 += Vector512.Load(c + 8 * rowC);
            c81 += Vector512.Load(c + 8 * rowC + 16);
            c90 += Vector512.Load(c + 9 * rowC);
            c91 += Vector512.Load(c + 9 * rowC + 16);
            c100 += Vector512.Load(c + 10 * rowC);
            c101 += Vector512.Load(c + 10 * rowC + 16);
            c110 += Vector512.Load(c + 11 * rowC);
            c111 += Vector512.Load(c + 11 * rowC + 16);
        }
        c00.Store(c);
        c01.Store(c + 16);
        c10.Store(c + rowC);
        c11.Store(c + rowC + 16);
        c20.Store(c + 2 * rowC);
        c21.Store(c + 2 * rowC + 16);
        c30.Store(c + 3 * rowC);
        c31.Store(c + 3 * rowC + 16);
        c40.Store(c + 4 * rowC);
        c41.Store(c + 4 * rowC + 16);
        c50.Store(c + 5 * rowC);
        c51.Store(c + 5 * rowC + 16);
        c60.Store(c + 6 * rowC);
        c61.Store(c + 6 * rowC + 16);
        c70.Store(c + 7 * rowC);
        c71.Store(c + 7 * rowC + 16);
        c80.Store(c + 8 * rowC);
        c81.Store(c + 8 * rowC + 16);
        c90.Store(c + 9 * rowC);
        c91.Store(c + 9 * rowC + 16);
        c100.Store(c + 10 * rowC);
        c101.Store(c + 10 * rowC + 16);
        c110.Store(c + 11 * rowC);
        c111.Store(c + 11 * rowC + 16);
    }
}
