using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels;

/// <summary>Finds values that are not finite: those whose exponent bits are all ones. Models are checked once when they are loaded, in code that has not run before, so it is optimised at once.</summary>
public static class FiniteValues
{
    /// <summary>Place of the first value that is infinite or no number, −1 where there is none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static int FirstNot(ReadOnlySpan<float> values)
    {
        ReadOnlySpan<uint> bits = MemoryMarshal.Cast<float, uint>(values);
        Vector256<uint> exponent = Vector256.Create(0x7F800000u);
        int i = 0;
        for (; i <= bits.Length - 8; i += 8)
            if (Vector256.EqualsAny(Vector256.Create(bits[i..]) & exponent, exponent))
                break;
        for (; i < bits.Length; i++)
            if ((bits[i] & 0x7F800000u) == 0x7F800000u)
                return i;
        return -1;
    }

    /// <summary>The same for 16-bit values as they are stored.</summary>
    /// <param name="values">fp16 or bf16.</param>
    /// <param name="exponent">The bits of the exponent: 0x7C00 of fp16, 0x7F80 of bf16.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static int FirstNot(ReadOnlySpan<ushort> values, ushort exponent)
    {
        Vector256<ushort> mask = Vector256.Create(exponent);
        int i = 0;
        for (; i <= values.Length - 16; i += 16)
            if (Vector256.EqualsAny(Vector256.Create(values[i..]) & mask, mask))
                break;
        for (; i < values.Length; i++)
            if ((values[i] & exponent) == exponent)
                return i;
        return -1;
    }
}
