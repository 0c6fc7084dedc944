using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Cpu;

/// <content>The same with 16 registers of 256 bits: tiles of 1 line × 4 columns or 4 lines × 2.</content>
internal static unsafe partial class GemmThin
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void CodeDots256<TCode>(Work* work, float* small, nint smallLine, byte* large, int columns, int depth, float* c)
        where TCode : struct, IRegisterCode
    {
        PackedSource* source = work->Call.Right.Packed;
        nint rowBytes = work->Call.Right.Line / TCode.Elements * TCode.Bytes;
        byte* row = source->Data + (nint)large / TCode.Elements * TCode.Bytes;
        void* tables = TCode.Tables(source);
        float* results = stackalloc float[8];
        int lines = work->Call.Left.Lines, across = lines == 1 ? 4 : 2;
        nint groups = depth / CodeGroup;
        FetchFirst(row, columns * rowBytes);
        for (int column = 0; column < columns; column += across, row += across * rowBytes)
        {
            int valid = Math.Min(across, columns - column);
            for (int line = 0; line < lines; line += 4)
            {
                int down = Math.Min(4, lines - line);
                if (lines == 1)
                    Codes1x4Of256<TCode>(tables, small, row, rowBytes, valid - 1, groups, results);
                else
                    Codes4x2Of256<TCode>(tables, small + line * smallLine, smallLine, down - 1, row, rowBytes, valid - 1, groups, results);
                for (int y = 0; y < down; y++)
                {
                    for (int x = 0; x < valid; x++)
                    {
                        float* to = c + (line + y) * work->Call.LeftC + (column + x) * work->Call.RightC;
                        *to = work->Call.Accumulate ? *to + results[y * across + x] : results[y * across + x];
                    }
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Codes1x4Of256<TCode>(void* tables, float* s, byte* l0, nint step, int last, nint groups, float* results)
        where TCode : struct, IRegisterCode
    {
        byte* l1 = l0 + Math.Min(1, last) * step, l2 = l0 + Math.Min(2, last) * step, l3 = l0 + Math.Min(3, last) * step;
        Vector256<float> v0 = default, v1 = default, v2 = default, v3 = default;
        for (nint g = 0; g < groups; g++, s += CodeGroup)
        {
            FetchAhead(l0, g * (4 * TCode.Bytes * CodeGroup / TCode.Elements), 4 * TCode.Bytes * CodeGroup / TCode.Elements);
            TCode.Expand(tables, l0, g, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d);
            v0 = Add(s, a, b, c, d, v0);
            TCode.Expand(tables, l1, g, out a, out b, out c, out d);
            v1 = Add(s, a, b, c, d, v1);
            TCode.Expand(tables, l2, g, out a, out b, out c, out d);
            v2 = Add(s, a, b, c, d, v2);
            TCode.Expand(tables, l3, g, out a, out b, out c, out d);
            v3 = Add(s, a, b, c, d, v3);
        }
        results[0] = Width256.Sum(v0);
        results[1] = Width256.Sum(v1);
        results[2] = Width256.Sum(v2);
        results[3] = Width256.Sum(v3);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Codes4x2Of256<TCode>(void* tables, float* s, nint smallLine, int lastLine, byte* l0, nint step, int last, nint groups, float* results)
        where TCode : struct, IRegisterCode
    {
        byte* l1 = l0 + Math.Min(1, last) * step;
        nint o1 = Math.Min(1, lastLine) * smallLine, o2 = Math.Min(2, lastLine) * smallLine, o3 = Math.Min(3, lastLine) * smallLine;
        Vector256<float> a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default, b2 = default, b3 = default;
        for (nint g = 0; g < groups; g++, s += CodeGroup)
        {
            FetchAhead(l0, g * (2 * TCode.Bytes * CodeGroup / TCode.Elements), 2 * TCode.Bytes * CodeGroup / TCode.Elements);
            TCode.Expand(tables, l0, g, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d);
            a0 = Add(s, a, b, c, d, a0);
            a1 = Add(s + o1, a, b, c, d, a1);
            a2 = Add(s + o2, a, b, c, d, a2);
            a3 = Add(s + o3, a, b, c, d, a3);
            TCode.Expand(tables, l1, g, out a, out b, out c, out d);
            b0 = Add(s, a, b, c, d, b0);
            b1 = Add(s + o1, a, b, c, d, b1);
            b2 = Add(s + o2, a, b, c, d, b2);
            b3 = Add(s + o3, a, b, c, d, b3);
        }
        results[0] = Width256.Sum(a0);
        results[1] = Width256.Sum(b0);
        results[2] = Width256.Sum(a1);
        results[3] = Width256.Sum(b1);
        results[4] = Width256.Sum(a2);
        results[5] = Width256.Sum(b2);
        results[6] = Width256.Sum(a3);
        results[7] = Width256.Sum(b3);
    }

    // Thirty-two elements of a line by those of a column.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Add(float* s, Vector256<float> a, Vector256<float> b, Vector256<float> c, Vector256<float> d, Vector256<float> sum)
    {
        sum = Vector256.FusedMultiplyAdd(Vector256.Load(s), a, sum);
        sum = Vector256.FusedMultiplyAdd(Vector256.Load(s + 8), b, sum);
        sum = Vector256.FusedMultiplyAdd(Vector256.Load(s + 16), c, sum);
        return Vector256.FusedMultiplyAdd(Vector256.Load(s + 24), d, sum);
    }
}
