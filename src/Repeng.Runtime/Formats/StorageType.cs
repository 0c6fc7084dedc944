using Repeng.Kernels.Quantised;

namespace Repeng.Runtime.Formats;

/// <summary>
/// How values are stored in a file: blocks of <see cref="BlockElements"/> values in <see cref="BlockBytes"/> bytes
/// (one value a block for plain types). Names are those of safetensors and ggml, which agree where both know a type.
/// </summary>
public sealed unsafe partial class StorageType
{
    private static readonly Dictionary<string, StorageType> s_byName = new(StringComparer.Ordinal);

    // Order of the types in the safetensors library; files are written with the last one first (see SafetensorsWriter).
    private static readonly string[] s_safetensors =
    [
        "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0",
        "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
    ];

    private readonly delegate*<byte*, float*, long, void> _decode;

    static StorageType()
    {
        foreach (BlockType type in BlockType.All)
            s_byName.Add(type.Name, new StorageType(type));
        Add("F64", 1, 8, &Decode.F64);
        Add("BOOL", 1, 1, &Decode.Bool);
        Add("U8", 1, 1, &Decode.U8);
        Add("I8", 1, 1, &Decode.I8);
        Add("U16", 1, 2, &Decode.U16);
        Add("I16", 1, 2, &Decode.I16);
        Add("U32", 1, 4, &Decode.U32);
        Add("I32", 1, 4, &Decode.I32);
        Add("U64", 1, 8, &Decode.U64);
        Add("I64", 1, 8, &Decode.I64);
        Add("C64", 1, 8, null);
        Add("F8_E5M2", 1, 1, null);
        Add("F8_E4M3", 1, 1, null);
        Add("F8_E8M0", 1, 1, null);
        Add("F8_E4M3FNUZ", 1, 1, null);
        Add("F8_E5M2FNUZ", 1, 1, null);
        Add("F6_E2M3", 4, 3, null);
        Add("F6_E3M2", 4, 3, null);
        Add("F4", 2, 1, null);
        NumberGgmlTypes();
        ReadableNames = string.Join(", ", s_byName.Values.Where(t => t.CanReadF32).Select(t => t.Name));
    }

    private StorageType(string name, int blockElements, int blockBytes, delegate*<byte*, float*, long, void> decode)
    {
        Name = name;
        BlockElements = blockElements;
        BlockBytes = blockBytes;
        _decode = decode;
    }

    private StorageType(BlockType block) : this(block.Name, block.Elements, block.Bytes, null) => Block = block;

    /// <summary>Name in capitals, such as BF16 or Q4_1.</summary>
    public string Name { get; }

    /// <summary>Values of a block.</summary>
    public int BlockElements { get; }

    /// <summary>Bytes of a block.</summary>
    public int BlockBytes { get; }

    /// <summary>The description of ggml's floating-point types; null for integers and types that only safetensors knows.</summary>
    public BlockType? Block { get; }

    /// <summary>Whether values can be converted to fp32.</summary>
    public bool CanReadF32 => Block?.CanDecode ?? _decode != null;

    /// <summary>Names of all types that can be converted to fp32, for messages.</summary>
    internal static string ReadableNames { get; }

    /// <summary>The type of this name, or null.</summary>
    public static StorageType? Find(string name) => s_byName.GetValueOrDefault(name);

    /// <summary>The safetensors type of this name, or null; block types of ggml are none.</summary>
    internal static StorageType? FindSafetensors(string name) => SafetensorsOrder(name) < 0 ? null : s_byName[name];

    /// <summary>Position of a type in the safetensors library's list, −1 for none of them.</summary>
    internal static int SafetensorsOrder(string name) => Array.IndexOf(s_safetensors, name);

    /// <summary>All safetensors type names, for messages.</summary>
    internal static string SafetensorsNames => string.Join(", ", s_safetensors);

    /// <summary>Bytes of that many values; false where they fill no whole number of blocks or the bytes pass 2⁶³−1.</summary>
    public bool TryBytes(long elements, out long bytes)
    {
        bytes = 0;
        if (elements < 0 || elements % BlockElements != 0)
            return false;
        Int128 wide = (Int128)(elements / BlockElements) * BlockBytes;
        if (wide > long.MaxValue)
            return false;
        bytes = (long)wide;
        return true;
    }

    /// <summary>Converts a whole number of blocks on this thread.</summary>
    internal void ToF32(byte* source, float* destination, long elements)
    {
        if (Block is not null)
            Block.Decode(source, destination, elements);
        else
            _decode(source, destination, elements);
    }

    /// <inheritdoc/>
    public override string ToString() => Name;

    private static void Add(string name, int blockElements, int blockBytes, delegate*<byte*, float*, long, void> decode) =>
        s_byName.Add(name, new StorageType(name, blockElements, blockBytes, decode));
}
