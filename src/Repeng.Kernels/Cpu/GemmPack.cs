using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Packing of an operand into panels: [depth, width] fp32, contiguous, the lines beyond <c>count</c> zero. A line is a row of
/// op(A) or a column of op(B). 16-bit elements are widened here, once per block, so that the tiles see fp32 alone.
/// </summary>
internal static unsafe class GemmPack
{
    /// <summary>Packs one panel from a source that is contiguous along the lines: element (k, line) at source[k·stride + line].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Along<TElement>(byte* source, nint stride, int count, int width, int depth, float* panel) where TElement : struct, IGemmElement
    {
        if (count < width)
            NativeMemory.Clear(panel, (nuint)width * (nuint)depth * sizeof(float));
        for (int k = 0; k < depth; k++, source += stride * TElement.Size, panel += width)
        {
            int i = 0;
            for (; i <= count - 8; i += 8)
                TElement.Load256(source, i).Store(panel + i);
            if (i <= count - 4)
            {
                TElement.Load128(source, i).Store(panel + i);
                i += 4;
            }
            for (; i < count; i++)
                panel[i] = TElement.Get(source, i);
        }
    }

    /// <summary>Packs one panel from a source that is contiguous along the depth: element (k, line) at source[line·stride + k].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Across<TElement>(byte* source, nint stride, int count, int width, int depth, float* panel) where TElement : struct, IGemmElement
    {
        if (count < width)
            NativeMemory.Clear(panel, (nuint)width * (nuint)depth * sizeof(float));
        nint step = stride * TElement.Size;
        int line = 0;
        for (; line <= count - 4; line += 4)
        {
            byte* s0 = source + line * step;
            byte* s1 = s0 + step, s2 = s1 + step, s3 = s2 + step;
            float* to = panel + line;
            int k = 0;
            for (; k <= depth - 4; k += 4, to += 4 * width)
            {
                Vector128<float> v0 = TElement.Load128(s0, k), v1 = TElement.Load128(s1, k);
                Vector128<float> v2 = TElement.Load128(s2, k), v3 = TElement.Load128(s3, k);
                Vector128<float> low01 = ZipLow(v0, v1), high01 = ZipHigh(v0, v1), low23 = ZipLow(v2, v3), high23 = ZipHigh(v2, v3);
                JoinLow(low01, low23).Store(to);
                JoinHigh(low01, low23).Store(to + width);
                JoinLow(high01, high23).Store(to + 2 * width);
                JoinHigh(high01, high23).Store(to + 3 * width);
            }
            for (; k < depth; k++, to += width)
            {
                to[0] = TElement.Get(s0, k);
                to[1] = TElement.Get(s1, k);
                to[2] = TElement.Get(s2, k);
                to[3] = TElement.Get(s3, k);
            }
        }
        for (; line <= count - 2; line += 2)
        {
            byte* s0 = source + line * step;
            byte* s1 = s0 + step;
            float* to = panel + line;
            int k = 0;
            for (; k <= depth - 4; k += 4, to += 4 * width)
            {
                Vector128<float> v0 = TElement.Load128(s0, k), v1 = TElement.Load128(s1, k);
                Vector128<double> low = ZipLow(v0, v1).AsDouble(), high = ZipHigh(v0, v1).AsDouble();
                *(double*)to = low.ToScalar();
                *(double*)(to + width) = low.GetElement(1);
                *(double*)(to + 2 * width) = high.ToScalar();
                *(double*)(to + 3 * width) = high.GetElement(1);
            }
            for (; k < depth; k++, to += width)
            {
                to[0] = TElement.Get(s0, k);
                to[1] = TElement.Get(s1, k);
            }
        }
        if (line < count)
        {
            byte* s = source + line * step;
            float* to = panel + line;
            for (int k = 0; k < depth; k++, to += width)
                *to = TElement.Get(s, k);
        }
    }

    /// <summary>Copies a small operand to [count, depth] rows, whatever its strides: element (k, line) at source[line·lineStride + k·depthStride].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Rows<TElement>(byte* source, nint lineStride, nint depthStride, int count, int depth, float* rows) where TElement : struct, IGemmElement
    {
        for (int line = 0; line < count; line++, rows += depth)
        {
            byte* s = source + line * lineStride * TElement.Size;
            for (int k = 0; k < depth; k++)
                rows[k] = TElement.Get(s, k * depthStride);
        }
    }

    // a0 b0 a1 b1
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> ZipLow(Vector128<float> a, Vector128<float> b) =>
        Sse.IsSupported ? Sse.UnpackLow(a, b)
        : AdvSimd.Arm64.IsSupported ? AdvSimd.Arm64.ZipLow(a, b)
        : Vector128.Create(a[0], b[0], a[1], b[1]);

    // a2 b2 a3 b3
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> ZipHigh(Vector128<float> a, Vector128<float> b) =>
        Sse.IsSupported ? Sse.UnpackHigh(a, b)
        : AdvSimd.Arm64.IsSupported ? AdvSimd.Arm64.ZipHigh(a, b)
        : Vector128.Create(a[2], b[2], a[3], b[3]);

    // a0 a1 b0 b1
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> JoinLow(Vector128<float> a, Vector128<float> b) =>
        Sse.IsSupported ? Sse.MoveLowToHigh(a, b) : Vector128.Create(a.GetLower(), b.GetLower());

    // a2 a3 b2 b3
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> JoinHigh(Vector128<float> a, Vector128<float> b) =>
        Sse.IsSupported ? Sse.MoveHighToLow(b, a) : Vector128.Create(a.GetUpper(), b.GetUpper());
}
