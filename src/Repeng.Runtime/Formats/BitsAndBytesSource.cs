using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;

namespace Repeng.Runtime.Formats;

/// <summary>
/// The tensors of a bitsandbytes checkpoint as the weights that they stand for: a 4-bit weight P.weight with its .absmax,
/// .quant_map, .quant_state.bitsandbytes__nf4 or __fp4 (and .nested_absmax, .nested_quant_map) is one tensor [out, in] of
/// type NF4, FP4, NF4+DQ or FP4+DQ; an 8-bit one with its P.SCB is of type INT8. What a checkpoint holds is told by
/// its keys, not by its config.json. Everything is checked at opening, scales for numbers that are not finite too.
/// </summary>
public sealed unsafe class BitsAndBytesSource : ITensorSource
{
    private const string State = ".quant_state.bitsandbytes__", Weight = ".weight", Scales = ".SCB", WeightFormat = ".weight_format";

    private readonly ITensorSource _inner;
    private readonly Dictionary<string, Entry> _packed = new(StringComparer.Ordinal);
    private readonly HashSet<string> _hidden = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];

    private BitsAndBytesSource(ITensorSource inner)
    {
        _inner = inner;
        foreach (string name in inner.Names)
        {
            if (name.IndexOf(State, StringComparison.Ordinal) is > 0 and var at)
                AddCodes(name[..at], name, name[(at + State.Length)..]);
            else if (name.EndsWith(Scales, StringComparison.Ordinal))
                AddRows(name[..^Scales.Length], name);
        }
        foreach (string name in inner.Names)
        {
            if (name.EndsWith(".absmax", StringComparison.Ordinal) && !_hidden.Contains(name))
                throw Bad(name[..^".absmax".Length], $"has an absmax but no {State[1..]}nf4 or fp4, which says how it is packed; the checkpoint is incomplete, fetch it again");
            if (!_hidden.Contains(name))
                _names.Add(name);
        }
    }

    /// <inheritdoc/>
    public string Description => _inner.Description;

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _names;

    /// <summary>The source as it is, or where it holds parts of quantised weights, seen as those weights. Takes ownership.</summary>
    public static ITensorSource Wrap(ITensorSource inner)
    {
        try
        {
            return inner.Names.Any(n => n.Contains(State, StringComparison.Ordinal) || n.EndsWith(Scales, StringComparison.Ordinal) || n.EndsWith(".weight.absmax", StringComparison.Ordinal))
                ? new BitsAndBytesSource(inner) : inner;
        }
        catch
        {
            inner.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public bool TryGetInfo(string name, out TensorInfo info)
    {
        if (_packed.TryGetValue(name, out Entry? entry))
        {
            info = entry.Info;
            return true;
        }
        info = default;
        return !_hidden.Contains(name) && _inner.TryGetInfo(name, out info);
    }

    /// <inheritdoc/>
    public PackedTensor? Packed(string name) => _packed.TryGetValue(name, out Entry? entry) ? entry.Tensor : _inner.Packed(name);

    /// <inheritdoc/>
    public void ReadF32(string name, long firstRow, long rows, float* destination)
    {
        if (!_packed.TryGetValue(name, out Entry? entry))
        {
            _inner.ReadF32(name, firstRow, rows, destination);
            return;
        }
        TensorInfo info = entry.Info;
        if (firstRow < 0 || rows < 0 || firstRow > info.Rows - rows)
            throw new ArgumentOutOfRangeException(nameof(rows), $"rows [{firstRow}, {firstRow + rows}) of tensor {name} {info.ShapeText}");
        var bytes = new byte[entry.Tensor.Bytes];
        fixed (byte* p = bytes)
        {
            entry.Tensor.Fill(p);
            Packing packing = entry.Tensor.At((nint)p);
            int width = checked((int)info.RowLength);
            Parallel.For(0, rows, row => packing.Decode((firstRow + row) * width, new Span<float>(destination + row * width, width)));
        }
    }

    /// <inheritdoc/>
    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        if (_packed.TryGetValue(name, out Entry? entry))
            throw Bad(name, $"is stored as {entry.Info.Type} in several tensors, whose bytes are no rows");
        _inner.ReadRaw(name, firstRow, rows, destination);
    }

    /// <inheritdoc/>
    public bool TryMap(string name, out MappedBytes bytes)
    {
        bytes = default;
        return !_packed.ContainsKey(name) && _inner.TryMap(name, out bytes);
    }

    /// <inheritdoc/>
    public void Dispose() => _inner.Dispose();

    private void AddCodes(string weight, string stateName, string type)
    {
        FourBitCode code = FourBitCode.Find(type) ?? throw Bad(weight, $"has the quant type {FileErrors.Quote(type)}; known are nf4 and fp4");
        QuantState state = ReadState(weight, stateName, type);
        long elements = state.Shape[0] * state.Shape[1];
        if (!_inner.TryGetInfo(weight, out TensorInfo data))
            throw Bad(weight, "is missing, though its quant_state is there; the checkpoint is incomplete, fetch it again");
        if (data.Bytes != (elements + 1) / 2)
            throw Bad(weight, $"holds {data.Bytes} bytes, shape [{string.Join(", ", state.Shape)}] of its quant_state needs {(elements + 1) / 2}; they do not belong together");
        var layout = new FourBitLayout
        {
            Code = WithValues(weight, code),
            BlockSize = state.BlockSize,
            NestedBlockSize = state.NestedBlockSize,
            Elements = elements,
            Offset = state.Offset,
        };
        if (layout.NestedBlockSize == 0)
        {
            Require(weight, ".absmax", "F32", layout.Blocks);
        }
        else
        {
            Require(weight, ".absmax", "U8", layout.Blocks);
            Require(weight, ".nested_absmax", "F32", layout.Scales);
            Require(weight, ".nested_quant_map", "F32", 256);
        }
        Add(weight, state.Shape, new PackedTensor
        {
            Form = layout.Form,
            Bytes = layout.Bytes,
            At = layout.At,
            Fill = to =>
            {
                _inner.ReadRaw(data.Name, 0, data.Rows, to);
                if (layout.NestedBlockSize == 0)
                {
                    ReadScales(weight, ".absmax", layout.Blocks, to + layout.ScalesAt);
                    return;
                }
                ReadScales(weight, ".nested_absmax", layout.Scales, to + layout.ScalesAt);
                ReadScales(weight, ".nested_quant_map", 256, to + layout.MapAt);
                _inner.ReadRaw(weight + ".absmax", 0, _inner.Info(weight + ".absmax").Rows, to + layout.ScaleCodesAt);
            },
        });
        _hidden.Add(stateName);
    }

    private void AddRows(string module, string scalesName)
    {
        string weight = module + Weight;
        if (!_inner.TryGetInfo(weight, out TensorInfo info) || info.Type != "I8" || info.Shape.Length != 2)
            throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(scalesName)} scales an 8-bit weight, but {FileErrors.Quote(weight)} is {(info.Shape is null ? "missing" : $"{info.Type} {info.ShapeText}; I8 of two dimensions is needed")}");
        if (_inner.TryGetInfo(module + WeightFormat, out TensorInfo format))
        {
            if (_inner.ReadI64(format.Name) is not [0])
                throw Bad(weight, $"has weight_format {string.Join(", ", _inner.ReadI64(format.Name).Take(4))}; only 0, rows as they are, can be read. Save the model anew with a current bitsandbytes");
            _hidden.Add(format.Name);
        }
        TensorInfo stored = _inner.Info(scalesName);
        if (stored.Type != "F32" || stored.Elements != info.Shape[0])
            throw Bad(weight, $"has an SCB of {stored.Elements} × {stored.Type}, its {info.Shape[0]} rows need as many × F32");
        int columns = checked((int)info.Shape[1]);
        Add(weight, info.Shape, PackedRows.Tensor(info.Shape[0], columns, to =>
        {
            _inner.ReadRaw(weight, 0, info.Rows, to);
            ReadScales(module, Scales, info.Shape[0], to + PackedRows.ScalesAt(info.Shape[0], columns));
        }));
        _hidden.Add(scalesName);
    }

    private void Add(string weight, long[] shape, PackedTensor tensor)
    {
        long elements = shape[0] * shape[1];
        if (!_packed.TryAdd(weight, new Entry(new TensorInfo(weight, shape, tensor.Form, elements, tensor.At(0).Bytes), tensor)))
            throw Bad(weight, "has two quant_states, nf4 and fp4; one is needed");
    }

    private QuantState ReadState(string weight, string stateName, string type)
    {
        string where = $"{Description}: {stateName}";
        var fields = new JsonFields(JsonFile.Parse(_inner.ReadBytes(stateName), where) as JsonObject ?? throw Bad(weight, "has a quant_state that is no JSON object"), where);
        string named = fields.Text("quant_type");
        if (named != type)
            throw Bad(weight, $"is named {type} by its key and {FileErrors.Quote(named)} by its quant_state; the file is damaged");
        long blockSize = fields.Integer("blocksize");
        if (!FourBitCode.IsBlockSize(blockSize))
            throw Bad(weight, $"has blocks of {blockSize}; powers of two from 32 to 4096 are supported");
        double[] sizes = fields.OptionalNumbers("shape") ?? [];
        if (sizes.Length != 2 || sizes.Any(s => s < 1 || s > int.MaxValue || s != Math.Floor(s)))
            throw Bad(weight, $"has shape [{string.Join(", ", sizes.Take(8))}] in its quant_state; two whole numbers from 1 to {int.MaxValue} are needed");
        long[] shape = [(long)sizes[0], (long)sizes[1]];
        if (!_inner.Contains(weight + ".nested_absmax") && !fields.Has("nested_blocksize"))
            return new QuantState((int)blockSize, shape, 0, 0);
        long nested = fields.Integer("nested_blocksize");
        if (!FourBitCode.IsBlockSize(nested))
            throw Bad(weight, $"has nested blocks of {nested}; powers of two from 32 to 4096 are supported");
        return new QuantState((int)blockSize, shape, (int)nested, (float)fields.Number("nested_offset", float.MinValue, float.MaxValue));
    }

    private TensorInfo Require(string weight, string suffix, string type, long count)
    {
        _hidden.Add(weight + suffix);
        if (!_inner.TryGetInfo(weight + suffix, out TensorInfo info))
            throw Bad(weight, $"has no {suffix[1..]}, which its quant_state needs; the checkpoint is incomplete, fetch it again");
        if (info.Type != type || info.Elements != count)
            throw Bad(weight, $"has {suffix[1..]} of {info.Elements} × {info.Type}, {count} × {type} are needed; the checkpoint is damaged or of another format");
        return info;
    }

    // Scales are looked at when they are brought in, so that opening a large checkpoint reads headers alone.
    private void ReadScales(string weight, string suffix, long count, byte* to)
    {
        _inner.ReadRaw(weight + suffix, 0, _inner.Info(weight + suffix).Rows, to);
        for (long i = 0; i < count; i++)
            if (!float.IsFinite(((float*)to)[i]))
                throw Bad(weight, $"has {((float*)to)[i]} at element {i} of {suffix[1..]}; the file is damaged, fetch it again");
    }

    // Versions of the library round the values of a book differently; what the file was packed with decides.
    private FourBitCode WithValues(string weight, FourBitCode code)
    {
        float[] values = _inner.ReadF32(Require(weight, ".quant_map", "F32", 16).Name);
        int at = Array.FindIndex(values, v => !float.IsFinite(v));
        if (at >= 0)
            throw Bad(weight, $"has {values[at]} at element {at} of quant_map; the file is damaged, fetch it again");
        return code.Values.SequenceEqual(values) ? code : code.With(values);
    }

    private UserErrorException Bad(string weight, string what) => FileErrors.Bad(Description, $"weight {FileErrors.Quote(weight)} {what}");

    private sealed record QuantState(int BlockSize, long[] Shape, int NestedBlockSize, float Offset);

    private sealed record Entry(TensorInfo Info, PackedTensor Tensor);
}
