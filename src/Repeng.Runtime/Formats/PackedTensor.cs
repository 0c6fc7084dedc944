using Repeng.Kernels.Quantised;

namespace Repeng.Runtime.Formats;

/// <summary>Writes the stored bytes of a tensor to memory of its size.</summary>
public unsafe delegate void PackedFill(byte* destination);

/// <summary>A quantised tensor of a source, ready to be brought to a device as it is stored.</summary>
public sealed unsafe class PackedTensor
{
    /// <summary>Name of the form, as <see cref="Packing.Name"/>.</summary>
    public required string Form { get; init; }

    /// <summary>Bytes of codes and scales together, with what aligns the scales.</summary>
    public required long Bytes { get; init; }

    /// <summary>Describes the matrix when its bytes lie at an address of the device.</summary>
    public required Func<nint, Packing> At { get; init; }

    /// <summary>Writes the bytes to host memory.</summary>
    public required PackedFill Fill { get; init; }

    /// <summary>Where the bytes lie in a mapped file, exactly as <see cref="At"/> wants them; null where they have to be put together.</summary>
    public MappedBytes? Mapped { get; init; }

    /// <summary>A tensor of ggml's blocks in any source; null where it is stored another way, or in a type that cannot be decoded.</summary>
    public static PackedTensor? OfBlocks(ITensorSource source, string name)
    {
        if (!source.TryGetInfo(name, out TensorInfo info) || BlockType.Find(info.Type) is not { IsPacked: true, CanDecode: true } type)
            return null;
        return new PackedTensor
        {
            Form = type.Name,
            Bytes = info.Bytes,
            At = address => Packing.OfBlocks(type, address, info.Elements),
            Fill = to => source.ReadRaw(name, 0, info.Rows, to),
            Mapped = source.TryMap(name, out MappedBytes bytes) ? bytes : null,
        };
    }
}
