using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Cpu;

/// <summary>Transposition of fp32 rows in blocks of 4 × 4.</summary>
internal static unsafe class Transpose
{
    /// <summary>dst[d · stride + i] = row i [d] · factor for four rows and d &lt; length.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void FourRows(float* dst, nint stride, float* row0, float* row1, float* row2, float* row3, int length, float factor)
    {
        Vector128<float> f = Vector128.Create(factor);
        int d = 0;
        for (; d + 4 <= length; d += 4)
        {
            Vector128<float> a = Vector128.Load(row0 + d) * f, b = Vector128.Load(row1 + d) * f, c = Vector128.Load(row2 + d) * f, e = Vector128.Load(row3 + d) * f;
            // Two rounds of interleaving: first rows 0 with 2 and 1 with 3, then the results.
            Vector128<float> low0 = InterleaveLow(a, c), low1 = InterleaveLow(b, e), high0 = InterleaveHigh(a, c), high1 = InterleaveHigh(b, e);
            float* to = dst + d * stride;
            InterleaveLow(low0, low1).Store(to);
            InterleaveHigh(low0, low1).Store(to + stride);
            InterleaveLow(high0, high1).Store(to + 2 * stride);
            InterleaveHigh(high0, high1).Store(to + 3 * stride);
        }
        for (; d < length; d++)
            (Vector128.Create(row0[d], row1[d], row2[d], row3[d]) * f).Store(dst + d * stride);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> InterleaveLow(Vector128<float> a, Vector128<float> b)
    {
        if (Sse.IsSupported)
            return Sse.UnpackLow(a, b);
        if (AdvSimd.Arm64.IsSupported)
            return AdvSimd.Arm64.ZipLow(a, b);
        return Vector128.Create(a[0], b[0], a[1], b[1]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> InterleaveHigh(Vector128<float> a, Vector128<float> b)
    {
        if (Sse.IsSupported)
            return Sse.UnpackHigh(a, b);
        if (AdvSimd.Arm64.IsSupported)
            return AdvSimd.Arm64.ZipHigh(a, b);
        return Vector128.Create(a[2], b[2], a[3], b[3]);
    }
}
