using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;
using Repeng.Runtime.Formats;

namespace Repeng.Bench.Packed;

/// <summary>A random weight [rows, columns] in one of the packed forms: a type of ggml's blocks, or one of bitsandbytes' forms.</summary>
internal sealed unsafe class PackedWeight : IDisposable
{
    private readonly nint _data;

    public PackedWeight(string form, int rows, int columns)
    {
        long count = (long)rows * columns;
        if (BlockType.Find(form) is { } type)
        {
            long size = type.SizeOf(count);
            _data = New(size);
            // Any bits are codes; small scales keep them finite. What they are changes no time.
            new Random(2).NextBytes(new Span<byte>((void*)_data, checked((int)size)));
            for (long i = 0; i < size; i++)
                ((byte*)_data)[i] &= 0x3F;
            View = Packing.OfBlocks(type, _data, count).View;
            return;
        }
        Quantisation settings = Settings(form);
        var values = new float[count];
        // A stretch of numbers again and again, of a length that lets rows differ: drawing them all would take long.
        Span<float> drawn = values.AsSpan(0, Math.Min(values.Length, 999_983));
        Philox.FillNormal(drawn, 1, 1);
        for (int at = drawn.Length; at < values.Length; at += drawn.Length)
            drawn[..Math.Min(drawn.Length, values.Length - at)].CopyTo(values.AsSpan(at));
        fixed (float* v = values)
        {
            QuantisedMatrix made = settings.Quantise(v, rows, columns);
            PackedTensor tensor = settings.Packed(rows, columns, () => made);
            _data = New(tensor.Bytes);
            tensor.Fill((byte*)_data);
            View = tensor.At(_data).View;
        }
    }

    /// <summary>Forms of bitsandbytes.</summary>
    public static IReadOnlyList<string> Codes { get; } = ["NF4", "NF4+DQ", "FP4", "INT8"];

    public View View { get; }

    /// <summary>Bits of an element in this form, scales included (of blocks of 64, where it has them).</summary>
    public static double Bits(string form) => BlockType.Find(form) is { } type ? 8.0 * type.Bytes / type.Elements : form switch
    {
        "NF4" or "FP4" => 4 + 32.0 / 64,
        "NF4+DQ" => 4 + 8.0 / 64 + 32.0 / (64 * 256),
        "INT8" => 8,
        _ => throw Unknown(form),
    };

    public void Dispose() => NativeMemory.AlignedFree((void*)_data);

    private static nint New(long bytes) => (nint)NativeMemory.AlignedAlloc((nuint)bytes, 64);

    /// <summary>The form as `quantize` knows it.</summary>
    public static Quantisation Settings(string form) => form switch
    {
        "NF4" => new(QuantisedForm.Nf4),
        "NF4+DQ" => new(QuantisedForm.Nf4, DoubleQuant: true),
        "FP4" => new(QuantisedForm.Fp4),
        "INT8" => new(QuantisedForm.Int8),
        _ => throw Unknown(form),
    };

    private static UserErrorException Unknown(string form) => new($"form {form} is unknown: {string.Join(", ", Codes)}, or a block type of GGUF");
}
