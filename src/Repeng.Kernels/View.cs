using System.Runtime.CompilerServices;

namespace Repeng.Kernels;

/// <summary>
/// Contiguous memory that an op works on and does not own: an address on the backend's device, a number of
/// elements and their type. The default value is the empty view, which marks an operand that is absent
/// (no bias, no gradient wanted).
/// </summary>
public readonly unsafe struct View(nint address, long length, DType type)
{
    /// <summary>Address of the first element on the device.</summary>
    public nint Address { get; } = address;

    /// <summary>Number of elements.</summary>
    public long Length { get; } = length;

    /// <summary>Element type.</summary>
    public DType Type { get; } = type;

    /// <summary>True for the empty view, an absent operand.</summary>
    public bool IsEmpty => Length == 0;

    /// <summary>Size in bytes.</summary>
    public long Bytes => Length * Type.Size();

    /// <summary>The part that starts at element <paramref name="start"/> and holds <paramref name="length"/> elements.</summary>
    public View Slice(long start, long length)
    {
        if ((ulong)start > (ulong)Length || (ulong)length > (ulong)(Length - start))
            throw new ArgumentOutOfRangeException(nameof(length), $"slice [{start}, {start + length}) of a view of {Length} elements");
        return new View(Address + (nint)(start * Type.Size()), length, Type);
    }

    /// <summary>Pointer to fp32 elements; throws for another type.</summary>
    public float* Floats
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get
        {
            if (Type != DType.F32)
                ThrowType(DType.F32);
            return (float*)Address;
        }
    }

    /// <summary>Pointer to int32 elements; throws for another type.</summary>
    public int* Ints
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get
        {
            if (Type != DType.I32)
                ThrowType(DType.I32);
            return (int*)Address;
        }
    }

    /// <summary>Host memory as a span of fp32 (CPU and dry backends only); throws for another type or over 2³¹−1 elements.</summary>
    public Span<float> HostFloats => new(Floats, checked((int)Length));

    /// <summary>Host memory as a span of int32 (CPU and dry backends only); throws for another type or over 2³¹−1 elements.</summary>
    public Span<int> HostInts => new(Ints, checked((int)Length));

    /// <summary>Checks that the view holds at least <paramref name="elements"/> of <paramref name="type"/>; throws with names and numbers otherwise.</summary>
    public void Require(long elements, DType type, string op, string operand)
    {
        if (Length < elements || (Type != type && elements > 0))
            throw new ArgumentException($"{op}: operand {operand} has {Length} × {Type}, needs {elements} × {type}");
    }

    private void ThrowType(DType wanted) => throw new InvalidOperationException($"view of {Type} read as {wanted}");
}
