namespace Repeng.Kernels;

/// <summary>Element types of memory that ops read and write. Activations, gradients and reductions are always <see cref="F32"/>.</summary>
public enum DType : byte
{
    /// <summary>IEEE binary32.</summary>
    F32,

    /// <summary>IEEE binary16; weights only.</summary>
    F16,

    /// <summary>bfloat16 (the upper half of a binary32); weights only.</summary>
    BF16,

    /// <summary>Signed 32-bit integers: token ids, positions, indices.</summary>
    I32,

    /// <summary>Elements of a quantised matrix, which have no size of their own: blocks or codes with scales; weights only. See <see cref="Quantised.Packing"/>.</summary>
    Packed,
}

/// <summary>Sizes of <see cref="DType"/> elements.</summary>
public static class DTypes
{
    /// <summary>Bytes of one element; throws for <see cref="DType.Packed"/>, whose elements share bytes.</summary>
    public static int Size(this DType type) => type switch
    {
        DType.F32 or DType.I32 => 4,
        DType.F16 or DType.BF16 => 2,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "unknown element type"),
    };
}
