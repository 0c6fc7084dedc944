using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <content>Five to eight lines at once where there are registers for it: the large operand comes from memory once, in step with the arithmetic.</content>
internal static unsafe partial class GemmThin
{
    /// <summary>Eight lines by three columns: 24 accumulators and four operands of AVX-512's 32 registers. Lines and columns beyond the last repeat it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Dots8x3<TWidth, TVector, TElement>(float* s, nint smallLine, int lastLine, byte* l0, nint step, int last, int depth, float* results)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        nint o1 = Math.Min(1, lastLine) * smallLine, o2 = Math.Min(2, lastLine) * smallLine, o3 = Math.Min(3, lastLine) * smallLine, o4 = Math.Min(4, lastLine) * smallLine;
        nint o5 = Math.Min(5, lastLine) * smallLine, o6 = Math.Min(6, lastLine) * smallLine, o7 = Math.Min(7, lastLine) * smallLine;
        byte* l1 = l0 + Math.Min(1, last) * step, l2 = l0 + Math.Min(2, last) * step;
        TVector a0 = TWidth.Zero, a1 = TWidth.Zero, a2 = TWidth.Zero, a3 = TWidth.Zero, a4 = TWidth.Zero, a5 = TWidth.Zero, a6 = TWidth.Zero, a7 = TWidth.Zero;
        TVector b0 = TWidth.Zero, b1 = TWidth.Zero, b2 = TWidth.Zero, b3 = TWidth.Zero, b4 = TWidth.Zero, b5 = TWidth.Zero, b6 = TWidth.Zero, b7 = TWidth.Zero;
        TVector c0 = TWidth.Zero, c1 = TWidth.Zero, c2 = TWidth.Zero, c3 = TWidth.Zero, c4 = TWidth.Zero, c5 = TWidth.Zero, c6 = TWidth.Zero, c7 = TWidth.Zero;
        nint k = 0;
        for (; k <= depth - TWidth.Lanes; k += TWidth.Lanes)
        {
            FetchAhead(l0, k * 3 * TElement.Size, 3 * TWidth.Lanes * TElement.Size);
            TVector x = TWidth.Load<TElement>(l0, k), y = TWidth.Load<TElement>(l1, k), z = TWidth.Load<TElement>(l2, k);
            Add3<TWidth, TVector>(s + k, x, y, z, ref a0, ref b0, ref c0);
            Add3<TWidth, TVector>(s + o1 + k, x, y, z, ref a1, ref b1, ref c1);
            Add3<TWidth, TVector>(s + o2 + k, x, y, z, ref a2, ref b2, ref c2);
            Add3<TWidth, TVector>(s + o3 + k, x, y, z, ref a3, ref b3, ref c3);
            Add3<TWidth, TVector>(s + o4 + k, x, y, z, ref a4, ref b4, ref c4);
            Add3<TWidth, TVector>(s + o5 + k, x, y, z, ref a5, ref b5, ref c5);
            Add3<TWidth, TVector>(s + o6 + k, x, y, z, ref a6, ref b6, ref c6);
            Add3<TWidth, TVector>(s + o7 + k, x, y, z, ref a7, ref b7, ref c7);
        }
        Finish3<TWidth, TVector, TElement>(a0, b0, c0, s, l0, l1, l2, k, depth, results);
        Finish3<TWidth, TVector, TElement>(a1, b1, c1, s + o1, l0, l1, l2, k, depth, results + 3);
        Finish3<TWidth, TVector, TElement>(a2, b2, c2, s + o2, l0, l1, l2, k, depth, results + 6);
        Finish3<TWidth, TVector, TElement>(a3, b3, c3, s + o3, l0, l1, l2, k, depth, results + 9);
        Finish3<TWidth, TVector, TElement>(a4, b4, c4, s + o4, l0, l1, l2, k, depth, results + 12);
        Finish3<TWidth, TVector, TElement>(a5, b5, c5, s + o5, l0, l1, l2, k, depth, results + 15);
        Finish3<TWidth, TVector, TElement>(a6, b6, c6, s + o6, l0, l1, l2, k, depth, results + 18);
        Finish3<TWidth, TVector, TElement>(a7, b7, c7, s + o7, l0, l1, l2, k, depth, results + 21);
    }

    // One line by three columns' elements.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add3<TWidth, TVector>(float* s, TVector x, TVector y, TVector z, ref TVector a, ref TVector b, ref TVector c)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector>
    {
        TVector line = TWidth.Load<F32Element>((byte*)s, 0);
        a = TWidth.MultiplyAdd(line, x, a);
        b = TWidth.MultiplyAdd(line, y, b);
        c = TWidth.MultiplyAdd(line, z, c);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Finish3<TWidth, TVector, TElement>(TVector a, TVector b, TVector c, float* s, byte* l0, byte* l1, byte* l2, nint k, int depth, float* results)
        where TVector : struct where TWidth : struct, IGemmWidth<TVector> where TElement : struct, IGemmElement
    {
        results[0] = Finish<TWidth, TVector, TElement>(a, s, l0, k, depth);
        results[1] = Finish<TWidth, TVector, TElement>(b, s, l1, k, depth);
        results[2] = Finish<TWidth, TVector, TElement>(c, s, l2, k, depth);
    }
}
