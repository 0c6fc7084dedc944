using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Packing of an operand into panels: each [depth, width] fp32, contiguous, one after the other, lines beyond
/// <c>count</c> zero. A line is a row of op(A) or a column of op(B). 16-bit elements are widened here, once per block,
/// so that the tiles see fp32 alone.
/// </summary>
internal static unsafe class GemmPack
{
    // Panels that are written side by side: long enough runs of the source, few enough streams for the hardware to follow.
    private const int PanelsAbreast = 8;

    /// <summary>Packs from a source that is contiguous along the lines: element (k, line) at source[k·stride + line].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Along<TElement>(byte* source, nint stride, int count, int width, int depth, float* panels) where TElement : struct, IGemmElement
    {
        for (int line = 0; line < count; line += PanelsAbreast * width)
            AlongRuns<TElement>(source + line * TElement.Size, stride, Math.Min(PanelsAbreast * width, count - line), width, depth, panels + (nint)line * depth);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AlongRuns<TElement>(byte* source, nint stride, int count, int width, int depth, float* panels) where TElement : struct, IGemmElement
    {
        int full = count / width, rest = count % width;
        nint panelLength = (nint)width * depth;
        // Rows lie a page or more apart, where the hardware does not look ahead.
        nint ahead = 6 * stride * TElement.Size;
        if (rest > 0)
            NativeMemory.Clear(panels + full * panelLength, (nuint)panelLength * sizeof(float));
        for (int k = 0; k < depth; k++, source += stride * TElement.Size, panels += width)
        {
            byte* from = source;
            float* to = panels;
            switch (width)
            {
                case 16:
                    for (int p = 0; p < full; p++, from += 16 * TElement.Size, to += panelLength)
                    {
                        if (Sse.IsSupported)
                            Sse.Prefetch0(from + ahead);
                        Vector256<float> low = TElement.Load256(from, 0), high = TElement.Load256(from, 8);
                        low.Store(to);
                        high.Store(to + 8);
                    }
                    break;
                case 32:
                    for (int p = 0; p < full; p++, from += 32 * TElement.Size, to += panelLength)
                    {
                        if (Sse.IsSupported)
                        {
                            Sse.Prefetch0(from + ahead);
                            if (TElement.Size > 2)
                                Sse.Prefetch0(from + ahead + 64);
                        }
                        Vector512<float> low = TElement.Load512(from, 0), high = TElement.Load512(from, 16);
                        low.Store(to);
                        high.Store(to + 16);
                    }
                    break;
                case 12:
                    for (int p = 0; p < full; p++, from += 12 * TElement.Size, to += panelLength)
                    {
                        if (Sse.IsSupported)
                            Sse.Prefetch0(from + ahead);
                        Vector256<float> low = TElement.Load256(from, 0);
                        Vector128<float> high = TElement.Load128(from, 8);
                        low.Store(to);
                        high.Store(to + 8);
                    }
                    break;
                case 6:
                    for (int p = 0; p < full; p++, from += 6 * TElement.Size, to += panelLength)
                    {
                        TElement.Load128(from, 0).Store(to);
                        to[4] = TElement.Get(from, 4);
                        to[5] = TElement.Get(from, 5);
                    }
                    break;
                default:
                    for (int p = 0; p < full; p++, from += width * TElement.Size, to += panelLength)
                        for (int i = 0; i < width; i += 4)
                            TElement.Load128(from, i).Store(to + i);
                    break;
            }
            for (int i = 0; i < rest; i++)
                to[i] = TElement.Get(from, i);
        }
    }

    /// <summary>Packs from a source that is contiguous along the depth: element (k, line) at source[line·stride + k].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Across<TElement>(byte* source, nint stride, int count, int width, int depth, float* panels) where TElement : struct, IGemmElement
    {
        nint step = stride * TElement.Size;
        for (int first = 0; first < count; first += width, source += width * step, panels += (nint)width * depth)
        {
            int lines = Math.Min(width, count - first);
            if (lines < width)
                NativeMemory.Clear(panels, (nuint)width * (nuint)depth * sizeof(float));
            int line = 0;
            for (; line <= lines - 8 && Avx.IsSupported; line += 8)
                Across8<TElement>(source + line * step, step, width, depth, panels + line);
            for (; line <= lines - 4; line += 4)
                Across4<TElement>(source + line * step, step, width, depth, panels + line);
            for (; line <= lines - 2; line += 2)
                Across2<TElement>(source + line * step, step, width, depth, panels + line);
            if (line < lines)
            {
                byte* s = source + line * step;
                float* to = panels + line;
                for (int k = 0; k < depth; k++, to += width)
                    *to = TElement.Get(s, k);
            }
        }
    }

    /// <summary>Lays eight rows of fp32 out as eight lines of a panel: element (k, line) from rows[line·stride + k] to to[k·width + line].</summary>
    public static void Lines8(float* rows, int stride, int width, int depth, float* to)
    {
        if (Avx.IsSupported)
        {
            Across8<F32Element>((byte*)rows, (nint)stride * sizeof(float), width, depth, to);
            return;
        }
        Across4<F32Element>((byte*)rows, (nint)stride * sizeof(float), width, depth, to);
        Across4<F32Element>((byte*)(rows + 4 * stride), (nint)stride * sizeof(float), width, depth, to + 4);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Across8<TElement>(byte* source, nint step, int width, int depth, float* to) where TElement : struct, IGemmElement
    {
        byte* s0 = source, s1 = s0 + step, s2 = s1 + step, s3 = s2 + step, s4 = s3 + step, s5 = s4 + step, s6 = s5 + step, s7 = s6 + step;
        int k = 0;
        for (; k <= depth - 8; k += 8, to += 8 * width)
        {
            if ((k * TElement.Size & 63) == 0)
            {
                // The next eight lines, because the hardware does not follow from the end of one line to the next.
                byte* ahead = source + 8 * step + k * TElement.Size;
                Sse.Prefetch0(ahead);
                Sse.Prefetch0(ahead + step);
                Sse.Prefetch0(ahead + 2 * step);
                Sse.Prefetch0(ahead + 3 * step);
                Sse.Prefetch0(ahead + 4 * step);
                Sse.Prefetch0(ahead + 5 * step);
                Sse.Prefetch0(ahead + 6 * step);
                Sse.Prefetch0(ahead + 7 * step);
            }
            // Lines 0 and 4, 1 and 5, … share a register from the start, so that all shuffles stay within 128-bit lanes.
            Vector256<float> v0 = Vector256.Create(TElement.Load128(s0, k), TElement.Load128(s4, k));
            Vector256<float> v1 = Vector256.Create(TElement.Load128(s1, k), TElement.Load128(s5, k));
            Vector256<float> v2 = Vector256.Create(TElement.Load128(s2, k), TElement.Load128(s6, k));
            Vector256<float> v3 = Vector256.Create(TElement.Load128(s3, k), TElement.Load128(s7, k));
            Transpose(v0, v1, v2, v3, width, to);
            v0 = Vector256.Create(TElement.Load128(s0, k + 4), TElement.Load128(s4, k + 4));
            v1 = Vector256.Create(TElement.Load128(s1, k + 4), TElement.Load128(s5, k + 4));
            v2 = Vector256.Create(TElement.Load128(s2, k + 4), TElement.Load128(s6, k + 4));
            v3 = Vector256.Create(TElement.Load128(s3, k + 4), TElement.Load128(s7, k + 4));
            Transpose(v0, v1, v2, v3, width, to + 4 * width);
        }
        for (; k < depth; k++, to += width)
        {
            to[0] = TElement.Get(s0, k);
            to[1] = TElement.Get(s1, k);
            to[2] = TElement.Get(s2, k);
            to[3] = TElement.Get(s3, k);
            to[4] = TElement.Get(s4, k);
            to[5] = TElement.Get(s5, k);
            to[6] = TElement.Get(s6, k);
            to[7] = TElement.Get(s7, k);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Transpose(Vector256<float> v0, Vector256<float> v1, Vector256<float> v2, Vector256<float> v3, int width, float* to)
    {
        Vector256<double> low01 = Avx.UnpackLow(v0, v1).AsDouble(), high01 = Avx.UnpackHigh(v0, v1).AsDouble();
        Vector256<double> low23 = Avx.UnpackLow(v2, v3).AsDouble(), high23 = Avx.UnpackHigh(v2, v3).AsDouble();
        Avx.UnpackLow(low01, low23).AsSingle().Store(to);
        Avx.UnpackHigh(low01, low23).AsSingle().Store(to + width);
        Avx.UnpackLow(high01, high23).AsSingle().Store(to + 2 * width);
        Avx.UnpackHigh(high01, high23).AsSingle().Store(to + 3 * width);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Across4<TElement>(byte* source, nint step, int width, int depth, float* to) where TElement : struct, IGemmElement
    {
        byte* s0 = source, s1 = s0 + step, s2 = s1 + step, s3 = s2 + step;
        int k = 0;
        for (; k <= depth - 4; k += 4, to += 4 * width)
        {
            Vector128<float> v0 = TElement.Load128(s0, k), v1 = TElement.Load128(s1, k);
            Vector128<float> v2 = TElement.Load128(s2, k), v3 = TElement.Load128(s3, k);
            Transpose(ref v0, ref v1, ref v2, ref v3);
            v0.Store(to);
            v1.Store(to + width);
            v2.Store(to + 2 * width);
            v3.Store(to + 3 * width);
        }
        for (; k < depth; k++, to += width)
        {
            to[0] = TElement.Get(s0, k);
            to[1] = TElement.Get(s1, k);
            to[2] = TElement.Get(s2, k);
            to[3] = TElement.Get(s3, k);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Across2<TElement>(byte* source, nint step, int width, int depth, float* to) where TElement : struct, IGemmElement
    {
        byte* s0 = source, s1 = s0 + step;
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

    /// <summary>Copies lines that are contiguous along the depth to rows [count, depth]: element (k, line) at source[line·stride + k].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Rows<TElement>(byte* source, nint stride, int count, int width, int depth, float* rows) where TElement : struct, IGemmElement
    {
        for (int line = 0; line < count; line++, rows += depth, source += stride * TElement.Size)
        {
            int k = 0;
            for (; k <= depth - 8; k += 8)
                TElement.Load256(source, k).Store(rows + k);
            for (; k < depth; k++)
                rows[k] = TElement.Get(source, k);
        }
    }

    /// <summary>Copies a small operand to rows [count, depth], whatever its strides: element (k, line) at source[line·lineStride + k·depthStride].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Gather<TElement>(byte* source, nint lineStride, nint depthStride, int count, int depth, float* rows) where TElement : struct, IGemmElement
    {
        for (int line = 0; line < count; line++, rows += depth)
        {
            byte* s = source + line * lineStride * TElement.Size;
            for (int k = 0; k < depth; k++)
                rows[k] = TElement.Get(s, k * depthStride);
        }
    }

    /// <summary>Transposes a 4×4 block.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Transpose(ref Vector128<float> v0, ref Vector128<float> v1, ref Vector128<float> v2, ref Vector128<float> v3)
    {
        Vector128<float> low01 = ZipLow(v0, v1), high01 = ZipHigh(v0, v1), low23 = ZipLow(v2, v3), high23 = ZipHigh(v2, v3);
        v0 = JoinLow(low01, low23);
        v1 = JoinHigh(low01, low23);
        v2 = JoinLow(high01, high23);
        v3 = JoinHigh(high01, high23);
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
