using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Functions on eight fp32 lanes. Every lane is computed on its own, so a value gives the same bits wherever it
/// stands; loops that run the tail through <see cref="LoadPartial"/> keep that for odd lengths. Polynomial
/// coefficients are minimax fits (Remez) of relative error below 1e-8 over the stated interval.
/// </summary>
internal static unsafe partial class SimdMath
{
    /// <summary>Lanes of a vector.</summary>
    public const int Lanes = 8;

    /// <summary>a·b + c with one rounding.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> MulAdd(Vector256<float> a, Vector256<float> b, Vector256<float> c) => Vector256.FusedMultiplyAdd(a, b, c);

    /// <summary>The first count (1 … 7) lanes from memory, zeros above.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static Vector256<float> LoadPartial(float* source, int count)
    {
        Vector256<float> v = default;
        float* lanes = (float*)&v;
        for (int i = 0; i < count; i++)
            lanes[i] = source[i];
        return v;
    }

    /// <summary>Writes the first count lanes to memory.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void StorePartial(float* destination, Vector256<float> v, int count)
    {
        float* lanes = (float*)&v;
        for (int i = 0; i < count; i++)
            destination[i] = lanes[i];
    }

    /// <summary>Up to eight elements from memory: all lanes where remaining ≥ 8, zeros above remaining otherwise.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> LoadFirst(float* source, int remaining) => remaining >= Lanes ? Vector256.Load(source) : LoadPartial(source, remaining);

    /// <summary>Writes up to eight lanes, as many as remain.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreFirst(float* destination, Vector256<float> v, int remaining)
    {
        if (remaining >= Lanes)
            Vector256.Store(v, destination);
        else
            StorePartial(destination, v, remaining);
    }

    /// <summary>Keeps the first count lanes and clears the rest.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> KeepFirst(Vector256<float> v, int count) =>
        Vector256.LessThan(Vector256<int>.Indices, Vector256.Create(count)).AsSingle() & v;

    /// <summary>The sum of four doubles, pairwise.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static double Sum(Vector256<double> v)
    {
        Vector128<double> pair = v.GetLower() + v.GetUpper();
        return pair.ToScalar() + pair.GetElement(1);
    }
}
