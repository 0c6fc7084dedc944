using System.Runtime.InteropServices;
using System.Text.Json.Serialization;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;

namespace Repeng.Runtime.Formats;

/// <summary>Forms that plain weights can be quantised to.</summary>
[JsonConverter(typeof(JsonStringEnumConverter<QuantisedForm>))]
public enum QuantisedForm
{
    /// <summary>4 bits, quantiles of a normal distribution.</summary>
    Nf4,

    /// <summary>4 bits, floating point.</summary>
    Fp4,

    /// <summary>8 bits, a scale a row.</summary>
    Int8,
}

/// <summary>How plain weights are quantised, as bitsandbytes does it.</summary>
/// <param name="Form">What a weight becomes.</param>
/// <param name="DoubleQuant">Whether the scales of 4-bit weights are quantised too.</param>
/// <param name="BlockSize">Values of a 4-bit weight that share a scale.</param>
public sealed record Quantisation(QuantisedForm Form, bool DoubleQuant = false, int BlockSize = FourBitCode.DefaultBlockSize)
{
    /// <summary>Block size where nothing else is asked for.</summary>
    public const int DefaultBlockSize = FourBitCode.DefaultBlockSize;

    /// <summary>Code book of a 4-bit form; null for 8 bits.</summary>
    [JsonIgnore]
    public FourBitCode? Code => Form switch { QuantisedForm.Nf4 => FourBitCode.Nf4, QuantisedForm.Fp4 => FourBitCode.Fp4, _ => null };

    /// <summary>Refuses what does not go together.</summary>
    public Quantisation Checked()
    {
        if (Form == QuantisedForm.Int8 && DoubleQuant)
            throw new UserErrorException("double quantisation belongs to 4-bit weights; 8-bit ones have a scale a row, which stays fp32");
        if (!FourBitCode.IsBlockSize(BlockSize))
            throw new UserErrorException($"block size {BlockSize} is not supported; take a power of two from 32 to 4096");
        return this;
    }

    /// <summary>Quantises a matrix, on all cores.</summary>
    /// <param name="values">[rows, columns], finite.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="columns">Elements of a row.</param>
    public unsafe QuantisedMatrix Quantise(float* values, int rows, int columns)
    {
        long count = (long)rows * columns;
        if (count > Array.MaxLength)
            throw new UserErrorException($"a matrix of {rows}×{columns} has too many elements to be quantised at a time");
        if (Code is not { } code)
        {
            var bytes = new byte[count];
            var rowScales = new float[rows];
            fixed (byte* b = bytes)
            fixed (float* s = rowScales)
                RowCode.Quantise(values, rows, columns, (sbyte*)b, s);
            return new QuantisedMatrix(this, rows, columns, bytes, rowScales);
        }
        var packed = new byte[(count + 1) / 2];
        var absmax = new float[(count + BlockSize - 1) / BlockSize];
        fixed (byte* p = packed)
        fixed (float* a = absmax)
            code.Quantise(values, count, BlockSize, p, a);
        if (!DoubleQuant)
            return new QuantisedMatrix(this, rows, columns, packed, absmax);
        var codes = new byte[absmax.Length];
        var nested = new float[(absmax.Length + FourBitCode.NestedBlockSize - 1) / FourBitCode.NestedBlockSize];
        float offset = FourBitCode.QuantiseScales(absmax, codes, nested);
        return new QuantisedMatrix(this, rows, columns, packed, nested) { ScaleCodes = codes, Offset = offset };
    }

    /// <summary>What a matrix becomes, by its size alone; the values are asked for when the bytes are.</summary>
    public unsafe PackedTensor Packed(int rows, int columns, Func<QuantisedMatrix> quantise)
    {
        if (Code is null)
            return PackedRows.Tensor(rows, columns, to => PackedRows.Fill(quantise(), to));
        FourBitLayout layout = FourBitLayout.Of(this, (long)rows * columns);
        return new PackedTensor { Form = layout.Form, Bytes = layout.Bytes, At = layout.At, Fill = to => layout.Fill(quantise(), to) };
    }
}

/// <summary>A quantised matrix on the host: the parts that a checkpoint stores.</summary>
/// <param name="Settings">How it was made.</param>
/// <param name="Rows">Rows.</param>
/// <param name="Columns">Elements of a row.</param>
/// <param name="Codes">4-bit codes two a byte, or signed bytes.</param>
/// <param name="Scales">fp32: one a block, a row, or with double quantisation one for 256 blocks.</param>
public sealed record QuantisedMatrix(Quantisation Settings, int Rows, int Columns, byte[] Codes, float[] Scales)
{
    /// <summary>With double quantisation a byte a block.</summary>
    public byte[]? ScaleCodes { get; init; }

    /// <summary>With double quantisation the mean of the scales.</summary>
    public float Offset { get; init; }
}

/// <summary>Where the parts of a 4-bit matrix lie in one piece of memory: codes, scales, and of nested ones codes and map.</summary>
internal sealed unsafe class FourBitLayout
{
    // fp32 parts begin at multiples of this.
    private const int Alignment = 64;

    public required FourBitCode Code { get; init; }

    public required int BlockSize { get; init; }

    /// <summary>0 without double quantisation.</summary>
    public required int NestedBlockSize { get; init; }

    public required long Elements { get; init; }

    public float Offset { get; set; }

    public long CodeBytes => (Elements + 1) / 2;

    public long Blocks => (Elements + BlockSize - 1) / BlockSize;

    public long Scales => NestedBlockSize == 0 ? Blocks : (Blocks + NestedBlockSize - 1) / NestedBlockSize;

    public long ScalesAt => Aligned(CodeBytes);

    public long MapAt => Aligned(ScalesAt + Scales * sizeof(float));

    public long ScaleCodesAt => MapAt + 256 * sizeof(float);

    public long Bytes => NestedBlockSize == 0 ? ScalesAt + Scales * sizeof(float) : ScaleCodesAt + Blocks;

    public string Form => NestedBlockSize == 0 ? Code.Name : Code.Name + "+DQ";

    public static FourBitLayout Of(Quantisation settings, long elements) => new()
    {
        Code = settings.Code ?? FourBitCode.Nf4,
        BlockSize = settings.BlockSize,
        NestedBlockSize = settings.DoubleQuant ? FourBitCode.NestedBlockSize : 0,
        Elements = elements,
    };

    public Packing At(nint address) => NestedBlockSize == 0
        ? Packing.OfCodes(Code, address, address + (nint)ScalesAt, BlockSize, Elements)
        : Packing.OfNestedCodes(Code, address, address + (nint)ScaleCodesAt, address + (nint)ScalesAt, address + (nint)MapAt, Offset, BlockSize, NestedBlockSize, Elements);

    public void Fill(QuantisedMatrix matrix, byte* to)
    {
        Offset = matrix.Offset;
        Copy(matrix.Codes, to);
        Copy(MemoryMarshal.AsBytes(matrix.Scales.AsSpan()), to + ScalesAt);
        if (matrix.ScaleCodes is null)
            return;
        Copy(MemoryMarshal.AsBytes(FourBitCode.DynamicCode), to + MapAt);
        Copy(matrix.ScaleCodes, to + ScaleCodesAt);
    }

    private static void Copy(ReadOnlySpan<byte> from, byte* to) => from.CopyTo(new Span<byte>(to, from.Length));

    private static long Aligned(long at) => (at + Alignment - 1) / Alignment * Alignment;
}

/// <summary>Where the parts of an 8-bit matrix lie: codes, then scales.</summary>
internal static unsafe class PackedRows
{
    public static long ScalesAt(long rows, long columns) => (rows * columns + 63) / 64 * 64;

    public static PackedTensor Tensor(long rows, int columns, PackedFill fill) => new()
    {
        Form = "INT8",
        Bytes = ScalesAt(rows, columns) + rows * sizeof(float),
        At = address => Packing.OfRows(address, address + (nint)ScalesAt(rows, columns), rows, columns),
        Fill = fill,
    };

    public static void Fill(QuantisedMatrix matrix, byte* to)
    {
        matrix.Codes.CopyTo(new Span<byte>(to, matrix.Codes.Length));
        matrix.Scales.CopyTo(new Span<float>(to + ScalesAt(matrix.Rows, matrix.Columns), matrix.Scales.Length));
    }
}
