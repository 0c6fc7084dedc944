using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Reads of one stored element type as fp32. Implemented by empty structs, so that the JIT makes one copy of a
/// kernel per type with the conversion inlined. Indices are elements, not bytes.
/// </summary>
internal unsafe interface IGemmElement
{
    static abstract int Size { get; }
    static abstract float Get(byte* p, nint index);
    static abstract Vector128<float> Load128(byte* p, nint index);
    static abstract Vector256<float> Load256(byte* p, nint index);
    static abstract Vector512<float> Load512(byte* p, nint index);
}

internal unsafe struct F32Element : IGemmElement
{
    public static int Size => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Get(byte* p, nint index) => ((float*)p)[index];

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Load128(byte* p, nint index) => Vector128.Load((float*)p + index);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load256(byte* p, nint index) => Vector256.Load((float*)p + index);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load512(byte* p, nint index) => Vector512.Load((float*)p + index);
}

/// <summary>bfloat16 is the upper half of binary32: widening is a shift.</summary>
internal unsafe struct BF16Element : IGemmElement
{
    public static int Size => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Get(byte* p, nint index) => BitConverter.UInt32BitsToSingle((uint)((ushort*)p)[index] << 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Load128(byte* p, nint index) =>
        Vector128.ShiftLeft(Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)((ushort*)p + index)).AsUInt16()), 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load256(byte* p, nint index) =>
        Vector256.ShiftLeft(Vector256.WidenLower(Vector128.Load((ushort*)p + index).ToVector256Unsafe()), 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load512(byte* p, nint index) =>
        Vector512.ShiftLeft(Vector512.WidenLower(Vector256.Load((ushort*)p + index).ToVector512Unsafe()), 16).AsSingle();
}

/// <summary>
/// IEEE binary16. The exponent and fraction bits, moved to their binary32 place, are the value times 2⁻¹¹²; one
/// exact multiplication mends that for normal and subnormal numbers alike. Infinity and NaN get the full exponent.
/// </summary>
internal unsafe struct F16Element : IGemmElement
{
    // 2^112 as bits of a binary32.
    private const uint Rebias = (127 + 112) << 23;

    public static int Size => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Get(byte* p, nint index) => (float)((Half*)p)[index];

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Load128(byte* p, nint index)
    {
        Vector128<uint> h = Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)((ushort*)p + index)).AsUInt16());
        Vector128<uint> magnitude = h & Vector128.Create(0x7fffu);
        Vector128<uint> full = Vector128.GreaterThan(magnitude.AsInt32(), Vector128.Create(0x7bff)).AsUInt32() & Vector128.Create(0x7f800000u);
        Vector128<uint> sign = Vector128.ShiftLeft(h ^ magnitude, 16);
        Vector128<float> scaled = Vector128.ShiftLeft(magnitude, 13).AsSingle() * Vector128.Create(Rebias).AsSingle();
        return (scaled.AsUInt32() | full | sign).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load256(byte* p, nint index)
    {
        Vector256<uint> h = Vector256.WidenLower(Vector128.Load((ushort*)p + index).ToVector256Unsafe());
        Vector256<uint> magnitude = h & Vector256.Create(0x7fffu);
        Vector256<uint> full = Vector256.GreaterThan(magnitude.AsInt32(), Vector256.Create(0x7bff)).AsUInt32() & Vector256.Create(0x7f800000u);
        Vector256<uint> sign = Vector256.ShiftLeft(h ^ magnitude, 16);
        Vector256<float> scaled = Vector256.ShiftLeft(magnitude, 13).AsSingle() * Vector256.Create(Rebias).AsSingle();
        return (scaled.AsUInt32() | full | sign).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load512(byte* p, nint index)
    {
        Vector512<uint> h = Vector512.WidenLower(Vector256.Load((ushort*)p + index).ToVector512Unsafe());
        Vector512<uint> magnitude = h & Vector512.Create(0x7fffu);
        Vector512<uint> full = Vector512.GreaterThan(magnitude.AsInt32(), Vector512.Create(0x7bff)).AsUInt32() & Vector512.Create(0x7f800000u);
        Vector512<uint> sign = Vector512.ShiftLeft(h ^ magnitude, 16);
        Vector512<float> scaled = Vector512.ShiftLeft(magnitude, 13).AsSingle() * Vector512.Create(Rebias).AsSingle();
        return (scaled.AsUInt32() | full | sign).AsSingle();
    }
}

/// <summary>
/// One SIMD width, as an empty struct over the runtime's vector type, so that a kernel written once is compiled per
/// width. Without the hardware the runtime's software fallback gives the same results, which lets tests run every width.
/// </summary>
internal unsafe interface IGemmWidth<TVector> where TVector : struct
{
    static abstract int Lanes { get; }
    static abstract TVector Zero { get; }
    static abstract TVector Load<TElement>(byte* p, nint index) where TElement : struct, IGemmElement;
    static abstract TVector Broadcast(float value);
    static abstract TVector MultiplyAdd(TVector a, TVector b, TVector c);
    static abstract TVector Add(TVector a, TVector b);
    static abstract void Store(TVector v, float* p);

    /// <summary>Sum of the lanes in an order that depends on nothing but the width.</summary>
    static abstract float Sum(TVector v);
}

internal unsafe struct Width128 : IGemmWidth<Vector128<float>>
{
    public static int Lanes => 4;
    public static Vector128<float> Zero => Vector128<float>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Load<TElement>(byte* p, nint index) where TElement : struct, IGemmElement => TElement.Load128(p, index);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Broadcast(float value) => Vector128.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> MultiplyAdd(Vector128<float> a, Vector128<float> b, Vector128<float> c) => Vector128.FusedMultiplyAdd(a, b, c);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Add(Vector128<float> a, Vector128<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector128<float> v, float* p) => v.Store(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector128<float> v)
    {
        // Vector128.Sum may add in another order from one instruction set to the next.
        Vector128<float> pairs = v + Vector128.Shuffle(v, Vector128.Create(2, 3, 0, 1));
        return pairs.ToScalar() + pairs.GetElement(1);
    }
}

internal unsafe struct Width256 : IGemmWidth<Vector256<float>>
{
    public static int Lanes => 8;
    public static Vector256<float> Zero => Vector256<float>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load<TElement>(byte* p, nint index) where TElement : struct, IGemmElement => TElement.Load256(p, index);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Broadcast(float value) => Vector256.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> MultiplyAdd(Vector256<float> a, Vector256<float> b, Vector256<float> c) => Vector256.FusedMultiplyAdd(a, b, c);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Add(Vector256<float> a, Vector256<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector256<float> v, float* p) => v.Store(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector256<float> v) => Width128.Sum(v.GetLower() + v.GetUpper());
}

internal unsafe struct Width512 : IGemmWidth<Vector512<float>>
{
    public static int Lanes => 16;
    public static Vector512<float> Zero => Vector512<float>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load<TElement>(byte* p, nint index) where TElement : struct, IGemmElement => TElement.Load512(p, index);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Broadcast(float value) => Vector512.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> MultiplyAdd(Vector512<float> a, Vector512<float> b, Vector512<float> c) => Vector512.FusedMultiplyAdd(a, b, c);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Add(Vector512<float> a, Vector512<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector512<float> v, float* p) => v.Store(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector512<float> v) => Width256.Sum(v.GetLower() + v.GetUpper());
}
