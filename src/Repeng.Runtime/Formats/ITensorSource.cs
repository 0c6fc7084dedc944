using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>What a file says about one tensor.</summary>
/// <param name="Name">Exact name in the source.</param>
/// <param name="Shape">Sizes, slowest dimension first (row-major) whatever the file format; empty for a scalar.</param>
/// <param name="Type">Storage type by name, such as F32, BF16 or Q8_0; see <see cref="StorageType.Find"/>.</param>
/// <param name="Elements">Product of the shape.</param>
/// <param name="Bytes">Size of the stored bytes.</param>
public readonly record struct TensorInfo(string Name, long[] Shape, string Type, long Elements, long Bytes)
{
    /// <summary>Elements of a row: the fastest dimension, 1 for a scalar.</summary>
    public long RowLength => Shape.Length == 0 ? 1 : Shape[^1];

    /// <summary>Number of rows: the product of all dimensions but the fastest; 0 for an empty tensor.</summary>
    public long Rows => Elements == 0 ? 0 : Elements / RowLength;

    /// <summary>The shape as text, such as [49152, 576].</summary>
    public string ShapeText => $"[{string.Join(", ", Shape)}]";
}

/// <summary>Bytes of a tensor where they lie in a mapped file; valid until the source is disposed.</summary>
public readonly unsafe struct MappedBytes
{
    private readonly MappedFile _file;

    // Always with its file: who keeps the address beyond the source's life has to hold the mapping.
    internal MappedBytes(MappedFile file, byte* address, long length)
    {
        _file = file;
        Address = address;
        Length = length;
    }

    /// <summary>Address of the first byte.</summary>
    public byte* Address { get; }

    /// <summary>Number of bytes.</summary>
    public long Length { get; }

    /// <summary>The bytes as a span; throws where they are more than 2³¹−1.</summary>
    public ReadOnlySpan<byte> Span => new(Address, checked((int)Length));

    /// <summary>Keeps the mapping alive after its source is disposed, until the result is.</summary>
    public IDisposable Hold() => _file.Hold();

    /// <summary>Bytes [start, start + length) of these; throws where they lie outside.</summary>
    public MappedBytes Part(long start, long length) => start < 0 || length < 0 || start > Length - length
        ? throw new ArgumentOutOfRangeException(nameof(start), $"bytes [{start}, {start + length}) of {Length}")
        : new MappedBytes(_file, Address + start, length);

    /// <summary>Part of the bytes; throws where it lies outside.</summary>
    public ReadOnlySpan<byte> Slice(long start, int length)
    {
        if (start < 0 || length < 0 || start > Length - length)
            throw new ArgumentOutOfRangeException(nameof(start), $"bytes [{start}, {start + length}) of {Length}");
        return new ReadOnlySpan<byte>(Address + start, length);
    }
}

/// <summary>
/// Named tensors in a file or a set of files. Opening reads and checks headers only; values are converted on demand.
/// Reads may run on several threads at once; disposing while a read runs is an error of the caller.
/// </summary>
public unsafe interface ITensorSource : IDisposable
{
    /// <summary>Path of the file or folder, for messages.</summary>
    string Description { get; }

    /// <summary>Every tensor name, in the order of the file.</summary>
    IReadOnlyList<string> Names { get; }

    /// <summary>Looks a tensor up by its exact name.</summary>
    bool TryGetInfo(string name, out TensorInfo info);

    /// <summary>
    /// Converts rows [firstRow, firstRow + rows) to fp32 at <paramref name="destination"/>, rows × row length values.
    /// Throws <see cref="UserErrorException"/> for a missing name or a type that has no conversion.
    /// </summary>
    void ReadF32(string name, long firstRow, long rows, float* destination);

    /// <summary>Copies the stored bytes of rows [firstRow, firstRow + rows) as they are to <paramref name="destination"/>.</summary>
    void ReadRaw(string name, long firstRow, long rows, byte* destination);

    /// <summary>The stored bytes without a copy; false where rows have to be reordered, so that only <see cref="ReadRaw"/> can give them.</summary>
    bool TryMap(string name, out MappedBytes bytes);

    /// <summary>A quantised tensor as it is stored, for products that take it so; null for a plain type, or one that cannot be decoded.</summary>
    PackedTensor? Packed(string name) => PackedTensor.OfBlocks(this, name);
}
