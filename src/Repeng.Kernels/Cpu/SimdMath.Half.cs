using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

internal static unsafe partial class SimdMath
{
    /// <summary>Eight bfloat16 as fp32, exact.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> WidenBFloat16(Vector128<ushort> bits) => Vector256.ShiftLeft(Widen(bits), 16).AsSingle();

    /// <summary>Eight binary16 as fp32, exact, subnormal numbers, infinities and NaN included.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> WidenHalf(Vector128<ushort> bits)
    {
        Vector256<uint> wide = Widen(bits);
        Vector256<uint> size = Vector256.ShiftLeft(wide & Vector256.Create(0x7FFFu), 13);
        // The exponents' biases differ by 112; a product with 2¹¹² moves subnormal numbers right as well.
        Vector256<uint> finite = (size.AsSingle() * 5.192296858534828e33f).AsUInt32();
        Vector256<uint> special = Vector256.GreaterThan(size.AsInt32(), Vector256.Create(0x0F7FFFFF)).AsUInt32() & Vector256.Create(0x7F800000u);
        Vector256<uint> sign = Vector256.ShiftLeft(wide & Vector256.Create(0x8000u), 16);
        return (finite | special | sign).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<uint> Widen(Vector128<ushort> bits) => Vector256.WidenLower(bits.ToVector256Unsafe());
}
