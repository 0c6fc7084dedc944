using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Quantised;

/// <summary>Whether values can be told to be finite without decoding them.</summary>
internal unsafe partial struct PackedSource
{
    /// <summary>Blocks whose fp16 scales are finite; all that multiplies these is small.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool SoundBlocks(PackedSource* source, long first, long count)
    {
        long block = first / source->BlockElements, end = (first + count + source->BlockElements - 1) / source->BlockElements;
        byte* p = source->Data + block * source->BlockBytes;
        int step = source->BlockBytes;
        byte* a = p + source->FirstScale, b = p + source->SecondScale;
        // An exponent of all ones carries into the sixteenth bit.
        uint carry = 0;
        for (; block < end; block++, a += step, b += step)
            carry |= (Unsafe.ReadUnaligned<ushort>(a) & 0x7C00u) + 0x400 | (Unsafe.ReadUnaligned<ushort>(b) & 0x7C00u) + 0x400;
        return (carry & 0x8000) == 0;
    }

    /// <summary>Codes of at most 1 times scales that are finite.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool SoundCodes(PackedSource* source, long first, long count)
    {
        for (int i = 0; i < 16; i++)
            if (!(Math.Abs(source->Code[i]) <= 1))
                return false;
        long end = (first + count - 1) >> source->BlockShift;
        for (long block = first >> source->BlockShift; block <= end; block++)
            if (!float.IsFinite(Scale(source, block)))
                return false;
        return true;
    }

    /// <summary>Signed bytes times scales that are finite even so.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool SoundRows(PackedSource* source, long first, long count)
    {
        long end = (first + count - 1) / source->Columns;
        for (long row = first / source->Columns; row <= end; row++)
            if (!float.IsFinite(source->Scales[row] * 128))
                return false;
        return true;
    }
}
