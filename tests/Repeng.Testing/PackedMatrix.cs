using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;

namespace Repeng.Testing;

/// <summary>A matrix in one of the quantised forms, its codes of random bits or by quantising random values, and what it decodes to.</summary>
public sealed unsafe class PackedMatrix : IDisposable
{
    private readonly List<nint> _owned = [];

    // The matrix over memory elsewhere: its parts in order, and how they make it.
    private readonly List<(nint Address, long Bytes)> _parts = [];
    private Func<nint[], Packing> _at;

    /// <summary>A matrix of at least this many columns: as many as make whole blocks.</summary>
    public PackedMatrix(string form, int rows, int columns, ulong seed)
    {
        if (BlockType.Find(form) is { } type)
        {
            columns = (columns + type.Elements - 1) / type.Elements * type.Elements;
            long count = (long)rows * columns;
            var data = (byte*)New(type.SizeOf(count));
            Randomise(type, data, count / type.Elements, seed);
            _parts.Add(((nint)data, type.SizeOf(count)));
            _at = parts => Packing.OfBlocks(type, parts[0], count);
        }
        else
        {
            _at = Quantise(form, rows, columns, seed);
        }
        Packing = _at([.. _parts.Select(p => p.Address)]);
        (Rows, Columns) = (rows, columns);
        Decoded = new float[Packing.Elements];
        Packing.Decode(0, Decoded);
    }

    /// <summary>Every form that products take.</summary>
    public static IEnumerable<string> Forms => [.. BlockType.All.Where(t => t.IsPacked && t.CanDecode).Select(t => t.Name), "NF4", "NF4+DQ", "FP4", "FP4+DQ", "INT8"];

    /// <summary>Rows.</summary>
    public int Rows { get; }

    /// <summary>Columns.</summary>
    public int Columns { get; }

    /// <summary>How it is stored.</summary>
    public Packing Packing { get; }

    /// <summary>The whole as an operand.</summary>
    public View View => Packing.View;

    /// <summary>The elements as fp32.</summary>
    public float[] Decoded { get; }

    /// <summary>The whole as an operand in memory of another backend; blocks and codes lie at an odd address where skewed.</summary>
    public View On(TestMemory memory, bool skewed = false) =>
        _at([.. _parts.Select((p, i) => memory.Bytes(new ReadOnlySpan<byte>((void*)p.Address, checked((int)p.Bytes)), skewed && i == 0 ? 1 : 0))]).View;

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (nint p in _owned)
            NativeMemory.Free((void*)p);
        _owned.Clear();
    }

    private Func<nint[], Packing> Quantise(string form, int rows, int columns, ulong seed)
    {
        long count = (long)rows * columns;
        var values = (float*)New(count * sizeof(float));
        for (long i = 0; i < count; i++)
            values[i] = (float)Philox.Normal(seed, 1, (ulong)i);
        if (form == "INT8")
        {
            nint codes = New(count), rowScales = New(rows * sizeof(float));
            RowCode.Quantise(values, rows, columns, (sbyte*)codes, (float*)rowScales);
            _parts.AddRange([(codes, count), (rowScales, rows * sizeof(float))]);
            return parts => Packing.OfRows(parts[0], parts[1], rows, columns);
        }
        FourBitCode code = FourBitCode.Find(form.Split('+')[0]) ?? throw new ArgumentException(form);
        const int size = FourBitCode.DefaultBlockSize, nestedSize = FourBitCode.NestedBlockSize;
        int blocks = (int)((count + size - 1) / size), nested = (blocks + nestedSize - 1) / nestedSize;
        nint packed = New((count + 1) / 2), scales = New(blocks * sizeof(float));
        code.Quantise(values, count, size, (byte*)packed, (float*)scales);
        _parts.Add((packed, (count + 1) / 2));
        if (!form.EndsWith("+DQ", StringComparison.Ordinal))
        {
            _parts.Add((scales, blocks * sizeof(float)));
            return parts => Packing.OfCodes(code, parts[0], parts[1], size, count);
        }
        nint scaleCodes = New(blocks), nestedScales = New(nested * sizeof(float)), map = New(256 * sizeof(float));
        float offset = FourBitCode.QuantiseScales(new ReadOnlySpan<float>((float*)scales, blocks), new Span<byte>((byte*)scaleCodes, blocks), new Span<float>((float*)nestedScales, nested));
        FourBitCode.DynamicCode.CopyTo(new Span<float>((float*)map, 256));
        _parts.AddRange([(scaleCodes, blocks), (nestedScales, nested * sizeof(float)), (map, 256 * sizeof(float))]);
        return parts => Packing.OfNestedCodes(code, parts[0], parts[1], parts[2], parts[3], offset, size, nestedSize, count);
    }

    // Any bits that decode to finite values of moderate size are a valid block.
    private static void Randomise(BlockType type, byte* data, long blocks, ulong seed)
    {
        var random = new Random((int)seed);
        float* values = stackalloc float[type.Elements];
        var decoded = new Span<float>(values, type.Elements);
        for (long b = 0; b < blocks; b++, data += type.Bytes)
        {
            do
            {
                random.NextBytes(new Span<byte>(data, type.Bytes));
                type.Decode(data, values, type.Elements);
            }
            while (decoded.ContainsAnyExceptInRange(-1e6f, 1e6f));
        }
    }

    private nint New(long bytes)
    {
        nint p = (nint)NativeMemory.Alloc((nuint)Math.Max(1, bytes));
        _owned.Add(p);
        return p;
    }
}
