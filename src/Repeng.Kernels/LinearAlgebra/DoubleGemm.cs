using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// Matrix product in double on one thread: both operands are packed into panels that stay in cache (fp32 is widened
/// on the way), and a 4×8 register tile runs over them. The order of the sums depends on the sizes alone.
/// </summary>
internal static unsafe class DoubleGemm
{
    private const int TileRows = 4;
    private const int TileColumns = 8;

    // A panel of B (Depth × 8 doubles, 16 KiB) stays in L1, the packed block of A (192 KiB) in L2.
    private const int Depth = 256;
    private const int BlockRows = 96;
    private const int BlockColumns = 512;

    /// <summary>Doubles of scratch that <see cref="Multiply"/> needs, whatever the sizes.</summary>
    public const int ScratchLength = Depth * (BlockRows + BlockColumns);

    /// <summary>
    /// c = alpha·a·b, or c += alpha·a·b with accumulate; c [m, n] row-major with distance ldc between rows,
    /// a [m, k], b [k, n]. scratch holds <see cref="ScratchLength"/> doubles, aligned to 32 bytes.
    /// </summary>
    public static void Multiply(double* c, long ldc, MatrixOperand a, MatrixOperand b, int m, int n, int k, double alpha, bool accumulate, double* scratch)
    {
        if (k == 0)
        {
            for (int i = 0; i < m && !accumulate; i++)
                new Span<double>(c + i * ldc, n).Clear();
            return;
        }
        double* packedA = scratch;
        double* packedB = scratch + Depth * BlockRows;
        for (int column = 0; column < n; column += BlockColumns)
        {
            int columns = Math.Min(BlockColumns, n - column);
            for (int deep = 0; deep < k; deep += Depth)
            {
                int depth = Math.Min(Depth, k - deep);
                bool add = accumulate || deep > 0;
                Pack(packedB, b.At(deep, column), columns, depth, TileColumns, lanesAreColumns: true, 1);
                for (int row = 0; row < m; row += BlockRows)
                {
                    int rows = Math.Min(BlockRows, m - row);
                    Pack(packedA, a.At(row, deep), rows, depth, TileRows, lanesAreColumns: false, alpha);
                    MultiplyPacked(c + row * ldc + column, ldc, packedA, packedB, rows, columns, depth, add);
                }
            }
        }
    }

    private static void MultiplyPacked(double* c, long ldc, double* packedA, double* packedB, int rows, int columns, int depth, bool add)
    {
        double* edge = stackalloc double[TileRows * TileColumns];
        for (int j = 0; j < columns; j += TileColumns)
        {
            double* panelB = packedB + (long)j * depth;
            int width = Math.Min(TileColumns, columns - j);
            for (int i = 0; i < rows; i += TileRows)
            {
                double* panelA = packedA + (long)i * depth;
                int height = Math.Min(TileRows, rows - i);
                double* to = c + i * ldc + j;
                if (height == TileRows && width == TileColumns)
                {
                    Tile(to, ldc, panelA, panelB, depth, add);
                    continue;
                }
                Tile(edge, TileColumns, panelA, panelB, depth, false);
                for (int y = 0; y < height; y++)
                    for (int x = 0; x < width; x++)
                        to[y * ldc + x] = (add ? to[y * ldc + x] : 0) + edge[y * TileColumns + x];
            }
        }
    }

    private static void Tile(double* c, long ldc, double* a, double* b, int depth, bool add)
    {
        Vector256<double> c00 = default, c01 = default, c10 = default, c11 = default;
        Vector256<double> c20 = default, c21 = default, c30 = default, c31 = default;
        double* end = a + depth * TileRows;
        for (; a < end; a += TileRows, b += TileColumns)
        {
            Vector256<double> b0 = Vector256.Load(b), b1 = Vector256.Load(b + 4);
            Vector256<double> lane = Vector256.Create(a[0]);
            c00 = Vector256.FusedMultiplyAdd(lane, b0, c00);
            c01 = Vector256.FusedMultiplyAdd(lane, b1, c01);
            lane = Vector256.Create(a[1]);
            c10 = Vector256.FusedMultiplyAdd(lane, b0, c10);
            c11 = Vector256.FusedMultiplyAdd(lane, b1, c11);
            lane = Vector256.Create(a[2]);
            c20 = Vector256.FusedMultiplyAdd(lane, b0, c20);
            c21 = Vector256.FusedMultiplyAdd(lane, b1, c21);
            lane = Vector256.Create(a[3]);
            c30 = Vector256.FusedMultiplyAdd(lane, b0, c30);
            c31 = Vector256.FusedMultiplyAdd(lane, b1, c31);
        }
        StoreRow(c, c00, c01, add);
        StoreRow(c + ldc, c10, c11, add);
        StoreRow(c + 2 * ldc, c20, c21, add);
        StoreRow(c + 3 * ldc, c30, c31, add);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreRow(double* to, Vector256<double> low, Vector256<double> high, bool add)
    {
        if (add)
        {
            low += Vector256.Load(to);
            high += Vector256.Load(to + 4);
        }
        low.Store(to);
        high.Store(to + 4);
    }

    /// <summary>
    /// Packs depth × lanes elements, times alpha, into panels of width lanes: panel p holds for every depth d the lanes
    /// p·width … p·width + width − 1, zero beyond the last. Lanes are the rows of A or the columns of B.
    /// </summary>
    private static void Pack(double* to, MatrixOperand from, int lanes, int depth, int width, bool lanesAreColumns, double alpha)
    {
        long laneStride = lanesAreColumns ? from.ColumnStride : from.RowStride;
        long depthStride = lanesAreColumns ? from.RowStride : from.ColumnStride;
        Vector256<double> scale = Vector256.Create(alpha);
        int whole = 0;
        if (laneStride == 1)
        {
            // Along the rows of memory: one pass over each cache line, where lane by lane would take several.
            whole = lanes / width * width;
            for (int d = 0; d < depth; d++)
                if (from.Single)
                    PackDepth(to + (long)d * width, (long)depth * 4, width, from.Floats + d * depthStride, whole, scale);
                else
                    PackDepth(to + (long)d * width, (long)depth * 4, width, from.Doubles + d * depthStride, whole, scale);
        }
        for (int lane = whole; lane < lanes; lane += width)
        {
            double* panel = to + (long)lane * depth;
            for (int group = 0; group < width; group += 4)
            {
                int count = Math.Clamp(lanes - lane - group, 0, 4);
                if (from.Single)
                    PackGroup(panel + group, width, from.Floats + (lane + group) * laneStride, count, depth, laneStride, depthStride, scale);
                else
                    PackGroup(panel + group, width, from.Doubles + (lane + group) * laneStride, count, depth, laneStride, depthStride, scale);
            }
        }
    }

    private static void PackDepth<T>(double* to, long quarterPanel, int width, T* from, int lanes, Vector256<double> scale)
        where T : unmanaged
    {
        if (width == TileColumns)
            for (int lane = 0; lane < lanes; lane += TileColumns, to += 2 * quarterPanel)
            {
                (Load4(from + lane) * scale).Store(to);
                (Load4(from + lane + 4) * scale).Store(to + 4);
            }
        else
            for (int lane = 0; lane < lanes; lane += TileRows, to += quarterPanel)
                (Load4(from + lane) * scale).Store(to);
    }

    private static void PackGroup<T>(double* to, int width, T* from, int count, int depth, long laneStride, long depthStride, Vector256<double> scale)
        where T : unmanaged
    {
        int d = 0;
        if (count == 4 && depthStride == 1)
        {
            for (; d + 4 <= depth; d += 4)
            {
                Vector256<double> r0 = Load4(from + d) * scale, r1 = Load4(from + laneStride + d) * scale;
                Vector256<double> r2 = Load4(from + 2 * laneStride + d) * scale, r3 = Load4(from + 3 * laneStride + d) * scale;
                StoreTransposed(to + (long)d * width, width, r0, r1, r2, r3);
            }
        }
        double alpha = scale[0];
        for (; d < depth; d++)
            for (int l = 0; l < 4; l++)
                to[(long)d * width + l] = l < count ? alpha * Load1(from + l * laneStride + d * depthStride) : 0;
    }

    /// <summary>Stores the columns of the 4×4 block whose rows are given, step doubles apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreTransposed(double* to, int step, Vector256<double> r0, Vector256<double> r1, Vector256<double> r2, Vector256<double> r3)
    {
        if (Avx.IsSupported)
        {
            Vector256<double> even01 = Avx.UnpackLow(r0, r1), odd01 = Avx.UnpackHigh(r0, r1);
            Vector256<double> even23 = Avx.UnpackLow(r2, r3), odd23 = Avx.UnpackHigh(r2, r3);
            Avx.Permute2x128(even01, even23, 0x20).Store(to);
            Avx.Permute2x128(odd01, odd23, 0x20).Store(to + step);
            Avx.Permute2x128(even01, even23, 0x31).Store(to + 2 * step);
            Avx.Permute2x128(odd01, odd23, 0x31).Store(to + 3 * step);
            return;
        }
        for (int i = 0; i < 4; i++)
            Vector256.Create(r0[i], r1[i], r2[i], r3[i]).Store(to + i * step);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<double> Load4<T>(T* from)
        where T : unmanaged
    {
        if (typeof(T) == typeof(double))
            return Vector256.Load((double*)from);
        if (Avx.IsSupported)
            return Avx.ConvertToVector256Double(Vector128.Load((float*)from));
        (Vector128<double> low, Vector128<double> high) = Vector128.Widen(Vector128.Load((float*)from));
        return Vector256.Create(low, high);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static double Load1<T>(T* from)
        where T : unmanaged
        => typeof(T) == typeof(double) ? *(double*)from : *(float*)from;
}
