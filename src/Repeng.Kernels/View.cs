using System.Runtime.CompilerServices;
using Repeng.Kernels.Quantised;

namespace Repeng.Kernels;

/// <summary>
/// Contiguous memory that an op works on and does not own: an address on the backend's device, a number of
/// elements and their type. The default value is the empty view, which marks an operand that is absent
/// (no bias, no gradient wanted).
/// <para>
/// A view of <see cref="DType.Packed"/> elements is a run of a quantised matrix: <see cref="Packing"/> says how it is stored,
/// <see cref="Start"/> where the run begins in it. Only weights of products and tables of embeddings may be packed.
/// </para>
/// </summary>
public readonly unsafe struct View
{
    /// <summary>Elements of a plain type.</summary>
    public View(nint address, long length, DType type) => (Address, Length, Type) = (address, length, type);

    /// <summary>Elements [start, start + length) of a packed matrix.</summary>
    internal View(Packing packing, long start, long length) =>
        (Address, Length, Type, Packing, Start) = (packing.Address, length, DType.Packed, packing, start);

    /// <summary>Address of the first element on the device; of a packed view the address of the whole matrix's codes.</summary>
    public nint Address { get; }

    /// <summary>Number of elements.</summary>
    public long Length { get; }

    /// <summary>Element type.</summary>
    public DType Type { get; }

    /// <summary>How a packed view's matrix is stored; null for plain types.</summary>
    public Packing? Packing { get; }

    /// <summary>Number of a packed view's first element in its matrix; 0 for plain types.</summary>
    public long Start { get; }

    /// <summary>True for the empty view, an absent operand.</summary>
    public bool IsEmpty => Length == 0;

    /// <summary>Size in bytes; of a packed view with its share of the scales.</summary>
    public long Bytes => Packing is null ? Length * Type.Size() : Length == Packing.Elements ? Packing.Bytes : (long)(Length * ElementBytes);

    /// <summary>Bytes that an element takes; of packed ones the average, with scales.</summary>
    public double ElementBytes => Packing is null ? Type.Size() : Packing.BitsPerWeight / 8;

    /// <summary>The part that starts at element <paramref name="start"/> and holds <paramref name="length"/> elements.</summary>
    public View Slice(long start, long length)
    {
        if ((ulong)start > (ulong)Length || (ulong)length > (ulong)(Length - start))
            throw new ArgumentOutOfRangeException(nameof(length), $"slice [{start}, {start + length}) of a view of {Length} elements");
        return Packing is null ? new View(Address + (nint)(start * Type.Size()), length, Type) : new View(Packing, Start + start, length);
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
