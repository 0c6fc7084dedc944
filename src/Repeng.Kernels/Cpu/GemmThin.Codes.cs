using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Cpu;

/// <content>
/// Few rows by a quantised matrix whose codes are expanded in registers (<see cref="IRegisterCode"/>) and used at once (for more than
/// four rows with 256 bits twice): nothing of the weight is written anywhere. Sums go in the order of the other dot products of the width, so the
/// bits are those of the decoded matrix.
/// </content>
internal static unsafe partial class GemmThin
{
    /// <summary>Elements that an expansion gives; a row is a multiple of it.</summary>
    private const int CodeGroup = 32;

    // Null where the form, the width or the rows do not suit.
    private static delegate*<Work*, float*, nint, byte*, int, int, float*, void> CodeKernel(in GemmCall call)
    {
        bool wide = call.Width == GemmWidth.Bits512 && Avx512BW.IsSupported, half = call.Width == GemmWidth.Bits256 && Avx2.IsSupported && Fma.IsSupported;
        if (!(wide || half) || call.K % CodeGroup != 0)
            return null;
        PackedSource* source = call.Right.Packed;
        int block = source->BlockElements == 0 ? CodeGroup : source->BlockElements;
        // A row must begin with a block, or a group where blocks run over the ends of rows.
        if (call.Right.Line % block != 0 || (nint)call.Right.Data % block != 0 || call.Right.Stride % block != 0)
            return null;
        return source->Register switch
        {
            RegisterForm.Q4_0 => wide ? &CodeDots<Q4_0Code> : &CodeDots256<Q4_0Code>,
            RegisterForm.Q4_1 => wide ? &CodeDots<Q4_1Code> : &CodeDots256<Q4_1Code>,
            RegisterForm.Q8_0 => wide ? &CodeDots<Q8_0Code> : &CodeDots256<Q8_0Code>,
            RegisterForm.Q4_K => wide ? &CodeDots<Q4_KCode> : &CodeDots256<Q4_KCode>,
            RegisterForm.FourBit => wide ? &CodeDots<FourBitRegisterCode> : &CodeDots256<FourBitRegisterCode>,
            RegisterForm.Q6_K => wide ? &CodeDots<Q6_KCode> : &CodeDots256<Q6_KCode>,
            _ => null,
        };
    }

    /// <summary>As Dots; large counts elements. Tiles of 8 lines × 2 columns, 4 × 4 or 1 × 4.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private static void CodeDots<TCode>(Work* work, float* small, nint smallLine, byte* large, int columns, int depth, float* c)
        where TCode : struct, IWideRegisterCode
    {
        PackedSource* source = work->Call.Right.Packed;
        nint rowBytes = work->Call.Right.Line / TCode.Elements * TCode.Bytes;
        byte* row = source->Data + (nint)large / TCode.Elements * TCode.Bytes;
        void* tables = TCode.Tables(source);
        float* results = stackalloc float[16];
        int lines = work->Call.Left.Lines, across = lines > 4 ? 2 : 4;
        nint groups = depth / CodeGroup;
        FetchFirst(row, columns * rowBytes);
        for (int column = 0; column < columns; column += across, row += across * rowBytes)
        {
            int valid = Math.Min(across, columns - column);
            if (lines == 1)
                Codes1x4<TCode>(tables, small, row, rowBytes, valid - 1, groups, results);
            else if (lines <= 4)
                Codes4x4<TCode>(tables, small, smallLine, lines - 1, row, rowBytes, valid - 1, groups, results);
            else
                Codes8x2<TCode>(tables, small, smallLine, lines - 1, row, rowBytes, valid - 1, groups, results);
            for (int y = 0; y < lines; y++)
            {
                for (int x = 0; x < valid; x++)
                {
                    float* to = c + y * work->Call.LeftC + (column + x) * work->Call.RightC;
                    *to = work->Call.Accumulate ? *to + results[y * across + x] : results[y * across + x];
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Codes1x4<TCode>(void* tables, float* s, byte* l0, nint step, int last, nint groups, float* results)
        where TCode : struct, IWideRegisterCode
    {
        byte* l1 = l0 + Math.Min(1, last) * step, l2 = l0 + Math.Min(2, last) * step, l3 = l0 + Math.Min(3, last) * step;
        Vector512<float> v0 = default, v1 = default, v2 = default, v3 = default;
        for (nint g = 0; g < groups; g++, s += CodeGroup)
        {
            FetchAhead(l0, g * (4 * TCode.Bytes * CodeGroup / TCode.Elements), 4 * TCode.Bytes * CodeGroup / TCode.Elements);
            Vector512<float> x = Vector512.Load(s), y = Vector512.Load(s + 16);
            TCode.Expand(tables, l0, g, out Vector512<float> a, out Vector512<float> b);
            v0 = Vector512.FusedMultiplyAdd(x, a, v0);
            v0 = Vector512.FusedMultiplyAdd(y, b, v0);
            TCode.Expand(tables, l1, g, out a, out b);
            v1 = Vector512.FusedMultiplyAdd(x, a, v1);
            v1 = Vector512.FusedMultiplyAdd(y, b, v1);
            TCode.Expand(tables, l2, g, out a, out b);
            v2 = Vector512.FusedMultiplyAdd(x, a, v2);
            v2 = Vector512.FusedMultiplyAdd(y, b, v2);
            TCode.Expand(tables, l3, g, out a, out b);
            v3 = Vector512.FusedMultiplyAdd(x, a, v3);
            v3 = Vector512.FusedMultiplyAdd(y, b, v3);
        }
        results[0] = Width512.Sum(v0);
        results[1] = Width512.Sum(v1);
        results[2] = Width512.Sum(v2);
        results[3] = Width512.Sum(v3);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Codes4x4<TCode>(void* tables, float* s, nint smallLine, int lastLine, byte* l0, nint step, int last, nint groups, float* results)
        where TCode : struct, IWideRegisterCode
    {
        float* t = s + Math.Min(1, lastLine) * smallLine, u = s + Math.Min(2, lastLine) * smallLine, q = s + Math.Min(3, lastLine) * smallLine;
        byte* l1 = l0 + Math.Min(1, last) * step, l2 = l0 + Math.Min(2, last) * step, l3 = l0 + Math.Min(3, last) * step;
        Vector512<float> s0 = default, s1 = default, s2 = default, s3 = default, t0 = default, t1 = default, t2 = default, t3 = default;
        Vector512<float> u0 = default, u1 = default, u2 = default, u3 = default, q0 = default, q1 = default, q2 = default, q3 = default;
        for (nint g = 0, k = 0; g < groups; g++, k += CodeGroup)
        {
            FetchAhead(l0, g * (4 * TCode.Bytes * CodeGroup / TCode.Elements), 4 * TCode.Bytes * CodeGroup / TCode.Elements);
            TCode.Expand(tables, l0, g, out Vector512<float> a, out Vector512<float> b);
            Add4(s + k, t + k, u + k, q + k, a, b, ref s0, ref t0, ref u0, ref q0);
            TCode.Expand(tables, l1, g, out a, out b);
            Add4(s + k, t + k, u + k, q + k, a, b, ref s1, ref t1, ref u1, ref q1);
            TCode.Expand(tables, l2, g, out a, out b);
            Add4(s + k, t + k, u + k, q + k, a, b, ref s2, ref t2, ref u2, ref q2);
            TCode.Expand(tables, l3, g, out a, out b);
            Add4(s + k, t + k, u + k, q + k, a, b, ref s3, ref t3, ref u3, ref q3);
        }
        Sum4(s0, s1, s2, s3, results);
        Sum4(t0, t1, t2, t3, results + 4);
        Sum4(u0, u1, u2, u3, results + 8);
        Sum4(q0, q1, q2, q3, results + 12);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Codes8x2<TCode>(void* tables, float* s, nint smallLine, int lastLine, byte* l0, nint step, int last, nint groups, float* results)
        where TCode : struct, IWideRegisterCode
    {
        byte* l1 = l0 + Math.Min(1, last) * step;
        nint o1 = Math.Min(1, lastLine) * smallLine, o2 = Math.Min(2, lastLine) * smallLine, o3 = Math.Min(3, lastLine) * smallLine, o4 = Math.Min(4, lastLine) * smallLine;
        nint o5 = Math.Min(5, lastLine) * smallLine, o6 = Math.Min(6, lastLine) * smallLine, o7 = Math.Min(7, lastLine) * smallLine;
        Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default, a4 = default, a5 = default, a6 = default, a7 = default;
        Vector512<float> b0 = default, b1 = default, b2 = default, b3 = default, b4 = default, b5 = default, b6 = default, b7 = default;
        for (nint g = 0; g < groups; g++, s += CodeGroup)
        {
            FetchAhead(l0, g * (2 * TCode.Bytes * CodeGroup / TCode.Elements), 2 * TCode.Bytes * CodeGroup / TCode.Elements);
            TCode.Expand(tables, l0, g, out Vector512<float> a, out Vector512<float> a16);
            TCode.Expand(tables, l1, g, out Vector512<float> b, out Vector512<float> b16);
            Add2(s, a, a16, b, b16, ref a0, ref b0);
            Add2(s + o1, a, a16, b, b16, ref a1, ref b1);
            Add2(s + o2, a, a16, b, b16, ref a2, ref b2);
            Add2(s + o3, a, a16, b, b16, ref a3, ref b3);
            Add2(s + o4, a, a16, b, b16, ref a4, ref b4);
            Add2(s + o5, a, a16, b, b16, ref a5, ref b5);
            Add2(s + o6, a, a16, b, b16, ref a6, ref b6);
            Add2(s + o7, a, a16, b, b16, ref a7, ref b7);
        }
        Sum4(a0, b0, a1, b1, results);
        Sum4(a2, b2, a3, b3, results + 4);
        Sum4(a4, b4, a5, b5, results + 8);
        Sum4(a6, b6, a7, b7, results + 12);
    }

    // One column's elements for four lines.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add4(float* s, float* t, float* u, float* q, Vector512<float> a, Vector512<float> b, ref Vector512<float> v0, ref Vector512<float> v1, ref Vector512<float> v2, ref Vector512<float> v3)
    {
        v0 = Vector512.FusedMultiplyAdd(Vector512.Load(s), a, v0);
        v1 = Vector512.FusedMultiplyAdd(Vector512.Load(t), a, v1);
        v2 = Vector512.FusedMultiplyAdd(Vector512.Load(u), a, v2);
        v3 = Vector512.FusedMultiplyAdd(Vector512.Load(q), a, v3);
        v0 = Vector512.FusedMultiplyAdd(Vector512.Load(s + 16), b, v0);
        v1 = Vector512.FusedMultiplyAdd(Vector512.Load(t + 16), b, v1);
        v2 = Vector512.FusedMultiplyAdd(Vector512.Load(u + 16), b, v2);
        v3 = Vector512.FusedMultiplyAdd(Vector512.Load(q + 16), b, v3);
    }

    // One line by two columns' elements.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add2(float* s, Vector512<float> a, Vector512<float> a16, Vector512<float> b, Vector512<float> b16, ref Vector512<float> v, ref Vector512<float> w)
    {
        Vector512<float> x = Vector512.Load(s), y = Vector512.Load(s + 16);
        v = Vector512.FusedMultiplyAdd(x, a, v);
        w = Vector512.FusedMultiplyAdd(x, b, w);
        v = Vector512.FusedMultiplyAdd(y, a16, v);
        w = Vector512.FusedMultiplyAdd(y, b16, w);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Sum4(Vector512<float> v0, Vector512<float> v1, Vector512<float> v2, Vector512<float> v3, float* results)
    {
        results[0] = Width512.Sum(v0);
        results[1] = Width512.Sum(v1);
        results[2] = Width512.Sum(v2);
        results[3] = Width512.Sum(v3);
    }
}
