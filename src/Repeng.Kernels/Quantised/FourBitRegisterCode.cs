using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// bitsandbytes' 4-bit codes, code[nibble]·scale with the even element in the high nibble: NF4 and FP4, with scales in fp32 or quantised again.
/// Blocks of 32 elements or more, so that a group has one scale. The tables are the matrix itself, which holds the code book and knows where scales lie.
/// </summary>
internal readonly unsafe struct FourBitRegisterCode : IWideRegisterCode
{
    public static int Elements => 2;
    public static int Bytes => 1;

    public static void* Tables(PackedSource* source) => source;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* tables, byte* row, nint group, out Vector512<float> first, out Vector512<float> second)
    {
        var source = (PackedSource*)tables;
        byte* codes = row + group * 16;
        // The sixteen products that the block can have; a code chooses one.
        Vector512<float> values = Vector512.Load(source->Code) * Vector512.Create(PackedSource.ScaleOf(source, codes));
        first = Avx512F.PermuteVar16x32(values, Nibbles(codes));
        second = Avx512F.PermuteVar16x32(values, Nibbles(codes + 8));
    }

    // The nibbles of eight bytes, the high one of each first, in the low four bits of sixteen lanes; a permutation does not look at the others.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Nibbles(byte* codes)
    {
        if (Avx512Vbmi.IsSupported)
        {
            // From bit 8i + 4 on, then from bit 8i.
            Vector512<ulong> from = Vector512.Create(0x00_0000_0004ul, 0x08_0000_000C, 0x10_0000_0014, 0x18_0000_001C, 0x20_0000_0024, 0x28_0000_002C, 0x30_0000_0034, 0x38_0000_003C);
            return Avx512Vbmi.MultiShift(from.AsByte(), Vector512.Create(*(ulong*)codes)).AsInt32();
        }
        Vector512<ulong> bytes = Avx512F.ConvertToVector512UInt64(Vector128.CreateScalarUnsafe(*(ulong*)codes).AsByte());
        return ((bytes >> 4) | (bytes << 32)).AsInt32();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Expand(void* tables, byte* row, nint group, out Vector256<float> first, out Vector256<float> second, out Vector256<float> third, out Vector256<float> fourth)
    {
        var source = (PackedSource*)tables;
        byte* codes = row + group * 16;
        Vector256<float> scale = Vector256.Create(PackedSource.ScaleOf(source, codes)), low = Vector256.Load(source->Code), high = Vector256.Load(source->Code + 8);
        first = Choose(low, high, codes) * scale;
        second = Choose(low, high, codes + 4) * scale;
        third = Choose(low, high, codes + 8) * scale;
        fourth = Choose(low, high, codes + 12) * scale;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Choose(Vector256<float> low, Vector256<float> high, byte* codes)
    {
        Vector256<uint> nibbles = Avx2.ShiftRightLogicalVariable(Vector256.Create(*(uint*)codes), Vector256.Create(4u, 0, 12, 8, 20, 16, 28, 24));
        // The nibble's own highest bit, as a sign, chooses the upper half of the values.
        return Avx.BlendVariable(Avx2.PermuteVar8x32(low, nibbles.AsInt32()), Avx2.PermuteVar8x32(high, nibbles.AsInt32()), (nibbles << 28).AsSingle());
    }
}
