namespace Repeng.Kernels.Quantised;

/// <summary>
/// How the elements of one quantised matrix are stored, and where: the packed form is the only copy, and products decode
/// what they read of it. Elements are numbered row by row. Describes memory that somebody else owns, on the device of
/// the views made of it.
/// </summary>
public sealed unsafe class Packing
{
    // Kernels hold a pointer to this; an array of the pinned heap stays where it is and needs no freeing.
    private readonly PackedSource[] _source = GC.AllocateArray<PackedSource>(1, pinned: true);

    private Packing(string name, long elements, long bytes, in PackedSource source, BlockType? blocks = null, FourBitCode? code = null)
    {
        (Name, Elements, Bytes, Blocks, Code) = (name, elements, bytes, blocks, code);
        _source[0] = source;
    }

    /// <summary>The type of ggml's blocks; null of the other forms.</summary>
    internal BlockType? Blocks { get; }

    /// <summary>The code book of a 4-bit form; null of the others.</summary>
    internal FourBitCode? Code { get; }

    /// <summary>Name of the form: a type of ggml such as Q4_1, or NF4, FP4, NF4+DQ, FP4+DQ, INT8.</summary>
    public string Name { get; }

    /// <summary>Number of elements.</summary>
    public long Elements { get; }

    /// <summary>Bytes of the codes and of everything that scales them.</summary>
    public long Bytes { get; }

    /// <summary>Bits that an element takes, scales included.</summary>
    public double BitsPerWeight => Elements == 0 ? 0 : 8.0 * Bytes / Elements;

    /// <summary>Address of the codes on the device.</summary>
    public nint Address => (nint)_source[0].Data;

    /// <summary>All elements as an operand.</summary>
    public View View => new(this, 0, Elements);

    internal PackedSource* Source
    {
        get
        {
            fixed (PackedSource* p = _source)
                return p;
        }
    }

    /// <summary>Blocks of ggml, as a GGUF file holds them; a row must be whole blocks.</summary>
    /// <param name="type">A packed type that can be decoded.</param>
    /// <param name="data">Address of the first block; needs no alignment.</param>
    /// <param name="elements">Number of elements, whole blocks.</param>
    /// <exception cref="ArgumentException">The type cannot be decoded, or the elements are no whole blocks.</exception>
    public static Packing OfBlocks(BlockType type, nint data, long elements)
    {
        if (!type.CanDecode)
            throw new ArgumentException($"{type.Name} cannot be decoded");
        if (elements % type.Elements != 0)
            throw new ArgumentException($"{elements} elements are no whole blocks of {type.Elements} of {type.Name}");
        return new Packing(type.Name, elements, type.SizeOf(elements), new PackedSource
        {
            Read = &PackedSource.ReadBlocks,
            Data = (byte*)data,
            Decode = type.Decoder,
            BlockElements = type.Elements,
            BlockBytes = type.Bytes,
            Register = Enum.TryParse(type.Name, out RegisterForm form) ? form : RegisterForm.None,
            Sound = type.Scales.Count > 0 ? &PackedSource.SoundBlocks : null,
            FirstScale = type.Scales.Count > 0 ? type.Scales[0] : 0,
            SecondScale = type.Scales.Count > 0 ? type.Scales[^1] : 0,
        }, blocks: type);
    }

    /// <summary>bitsandbytes' 4-bit codes: element i is code[nibble i]·absmax[i / blockSize], blocks run over row ends.</summary>
    /// <param name="code">NF4 or FP4.</param>
    /// <param name="data">(elements + 1) / 2 bytes, the element of the even number in the high nibble.</param>
    /// <param name="absmax">fp32, one a block.</param>
    /// <param name="blockSize">A power of two.</param>
    /// <param name="elements">Number of elements.</param>
    public static Packing OfCodes(FourBitCode code, nint data, nint absmax, int blockSize, long elements)
    {
        FourBitCode.CheckBlockSize(blockSize);
        long blocks = (elements + blockSize - 1) / blockSize;
        PackedSource source = Codes(code, data, blockSize);
        source.Scales = (float*)absmax;
        return new Packing(code.Name, elements, (elements + 1) / 2 + blocks * sizeof(float), source, code: code);
    }

    /// <summary>The same with double quantisation: absmax[j] = map[codes[j]]·nested[j / nestedBlockSize] + offset, product and sum each rounded to fp32.</summary>
    /// <param name="code">NF4 or FP4.</param>
    /// <param name="data">As of the other one.</param>
    /// <param name="scaleCodes">A byte a block.</param>
    /// <param name="nestedScales">fp32, one for each nestedBlockSize blocks.</param>
    /// <param name="nestedMap">256 fp32 values.</param>
    /// <param name="offset">Mean of the absmax.</param>
    /// <param name="blockSize">A power of two.</param>
    /// <param name="nestedBlockSize">A power of two.</param>
    /// <param name="elements">Number of elements.</param>
    public static Packing OfNestedCodes(FourBitCode code, nint data, nint scaleCodes, nint nestedScales, nint nestedMap, float offset, int blockSize, int nestedBlockSize, long elements)
    {
        FourBitCode.CheckBlockSize(blockSize);
        FourBitCode.CheckBlockSize(nestedBlockSize);
        long blocks = (elements + blockSize - 1) / blockSize, nested = (blocks + nestedBlockSize - 1) / nestedBlockSize;
        PackedSource source = Codes(code, data, blockSize);
        source.ScaleCodes = (byte*)scaleCodes;
        source.NestedScales = (float*)nestedScales;
        source.NestedMap = (float*)nestedMap;
        source.NestedShift = int.Log2(nestedBlockSize);
        source.Offset = offset;
        return new Packing(code.Name + "+DQ", elements, (elements + 1) / 2 + blocks + (nested + 256) * sizeof(float), source, code: code);
    }

    /// <summary>LLM.int8: element (row, column) is q·scale[row]·(1/127) in fp32, from left to right.</summary>
    /// <param name="data">rows · columns signed bytes.</param>
    /// <param name="scales">fp32, one a row (SCB).</param>
    /// <param name="rows">Rows.</param>
    /// <param name="columns">Elements of a row.</param>
    public static Packing OfRows(nint data, nint scales, long rows, int columns) => new("INT8", rows * columns, rows * columns + rows * sizeof(float), new PackedSource
    {
        Read = &PackedSource.ReadRows,
        Sound = &PackedSource.SoundRows,
        Data = (byte*)data,
        Scales = (float*)scales,
        Columns = Math.Max(1, columns),
    });

    /// <summary>Decodes elements to fp32 on this thread; host memory only.</summary>
    public void Decode(long first, Span<float> destination)
    {
        if (first < 0 || first > Elements - destination.Length)
            throw new ArgumentOutOfRangeException(nameof(first), $"elements [{first}, {first + destination.Length}) of {Elements}");
        PackedSource* source = Source;
        fixed (float* to = destination)
            source->Read(source, first, destination.Length, to);
        GC.KeepAlive(this);
    }

    /// <summary>
    /// Number of the first element that is not finite, −1 where all are; host memory only, parts of large matrices on all cores. Values are decoded only
    /// where their scales do not tell: a scale stands for 32 to 256 values of most forms.
    /// </summary>
    public long FirstNotFinite()
    {
        // Some milliseconds each, where the bytes are in memory.
        long together = Source->Sound != null ? 1 << 25 : 1 << 18;
        if (Elements <= together)
            return FirstNotFinite(0, Elements);
        long bad = long.MaxValue;
        object gate = new();
        Parallel.For(0, (Elements + together - 1) / together, part =>
        {
            if (FirstNotFinite(part * together, Math.Min(together, Elements - part * together)) is >= 0 and var found)
                lock (gate)
                    bad = Math.Min(bad, found);
        });
        return bad == long.MaxValue ? -1 : bad;
    }

    private long FirstNotFinite(long first, long count)
    {
        const int Tile = 4096;
        PackedSource* source = Source;
        if (count == 0 || source->Sound != null && source->Sound(source, first, count))
            return -1;
        float* tile = stackalloc float[Tile];
        for (long at = first, end = first + count; at < end; at += Tile)
        {
            int n = (int)Math.Min(Tile, end - at);
            source->Read(source, at, n, tile);
            int bad = FiniteValues.FirstNot(new ReadOnlySpan<float>(tile, n));
            if (bad >= 0)
                return at + bad;
        }
        return -1;
    }

    /// <inheritdoc/>
    public override string ToString() => Name;

    private static PackedSource Codes(FourBitCode code, nint data, int blockSize)
    {
        var source = new PackedSource { Read = &PackedSource.ReadCodes, Sound = &PackedSource.SoundCodes, Data = (byte*)data, BlockShift = int.Log2(blockSize), Register = RegisterForm.FourBit };
        code.Values.CopyTo(new Span<float>(source.Code, 16));
        return source;
    }
}
