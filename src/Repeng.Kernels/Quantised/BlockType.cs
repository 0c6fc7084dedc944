namespace Repeng.Kernels.Quantised;

/// <summary>
/// How ggml stores floating-point values: blocks of <see cref="Elements"/> values in <see cref="Bytes"/> bytes, each
/// of which decodes by itself. The one description of a type that readers, writers and products share. Rows are
/// whole blocks, so any rows of a matrix decode alone. Plain types (F32, F16, BF16) are blocks of one value.
/// Sources: ggml's docs/gguf.md for names and numbers, ggml-common.h for the layout of the blocks.
/// </summary>
public sealed unsafe partial class BlockType
{
    private static readonly List<BlockType> s_all = [];
    private static readonly Dictionary<string, BlockType> s_byName = new(StringComparer.Ordinal);
    private static readonly Dictionary<uint, BlockType> s_byGgmlId = [];

    private readonly delegate*<byte*, float*, long, void> _decode;
    private readonly delegate*<float*, byte*, long, void> _encode;

    private BlockType(string name, uint ggmlId, int elements, int bytes, int[] scales, delegate*<byte*, float*, long, void> decode, delegate*<float*, byte*, long, void> encode)
    {
        (Name, GgmlId, Elements, Bytes, Scales) = (name, ggmlId, elements, bytes, scales);
        _decode = decode;
        _encode = encode;
    }

    /// <summary>Name in capitals as ggml writes it, such as Q4_1 or IQ3_XXS.</summary>
    public string Name { get; }

    /// <summary>Number of the type in a GGUF file.</summary>
    public uint GgmlId { get; }

    /// <summary>Values of a block.</summary>
    public int Elements { get; }

    /// <summary>Bytes of a block.</summary>
    public int Bytes { get; }

    /// <summary>
    /// Where in a block its one or two fp16 scales lie, where these alone decide whether its values are finite: everything
    /// else that multiplies them is a small number. Empty where only the values tell.
    /// </summary>
    internal IReadOnlyList<int> Scales { get; }

    /// <summary>Whether blocks of several values share a scale; false for F32, F16, BF16.</summary>
    public bool IsPacked => Elements > 1;

    /// <summary>Whether blocks can be converted to fp32. Types that ggml keeps for activations cannot.</summary>
    public bool CanDecode => _decode != null;

    /// <summary>Whether fp32 can be converted to blocks.</summary>
    public bool CanEncode => _encode != null;

    internal delegate*<byte*, float*, long, void> Decoder => _decode;

    /// <summary>Every type, in the order of ggml's numbers.</summary>
    public static IReadOnlyList<BlockType> All => s_all;

    /// <summary>The type of this name, or null.</summary>
    public static BlockType? Find(string name) => s_byName.GetValueOrDefault(name);

    /// <summary>The type with this number in a GGUF file, or null; ggml's integers are none.</summary>
    public static BlockType? Find(uint ggmlId) => s_byGgmlId.GetValueOrDefault(ggmlId);

    /// <summary>Bytes of that many values, which are whole blocks.</summary>
    public long SizeOf(long elements) => elements % Elements == 0
        ? elements / Elements * Bytes
        : throw new ArgumentOutOfRangeException(nameof(elements), elements, $"{Name} stores blocks of {Elements}");

    /// <summary>
    /// Converts whole blocks to fp32 on this thread, bit for bit as ggml's reference does. The source needs no
    /// alignment; every bit pattern decodes (to something not finite where the scale is).
    /// </summary>
    /// <param name="source">elements / <see cref="Elements"/> · <see cref="Bytes"/> bytes.</param>
    /// <param name="destination">elements values.</param>
    /// <param name="elements">A multiple of <see cref="Elements"/>.</param>
    /// <exception cref="NotSupportedException"><see cref="CanDecode"/> is false.</exception>
    public void Decode(byte* source, float* destination, long elements)
    {
        if (_decode == null)
            throw new NotSupportedException($"{Name} cannot be converted to fp32");
        _decode(source, destination, elements);
    }

    /// <summary>Converts fp32 to whole blocks on this thread, byte for byte as ggml's reference quantisers do.</summary>
    /// <param name="source">elements finite values.</param>
    /// <param name="destination">elements / <see cref="Elements"/> · <see cref="Bytes"/> bytes.</param>
    /// <param name="elements">A multiple of <see cref="Elements"/>.</param>
    /// <exception cref="NotSupportedException"><see cref="CanEncode"/> is false.</exception>
    public void Encode(float* source, byte* destination, long elements)
    {
        if (_encode == null)
            throw new NotSupportedException($"{Name} cannot be written from fp32");
        _encode(source, destination, elements);
    }

    /// <inheritdoc/>
    public override string ToString() => Name;

    private static void Add(uint ggmlId, string name, int elements, int bytes, int[] scales, delegate*<byte*, float*, long, void> decode, delegate*<float*, byte*, long, void> encode = null)
    {
        var type = new BlockType(name, ggmlId, elements, bytes, scales, decode, encode);
        s_all.Add(type);
        s_byName.Add(name, type);
        s_byGgmlId.Add(ggmlId, type);
    }
}
