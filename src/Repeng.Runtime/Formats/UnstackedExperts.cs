using Repeng.Kernels.Quantised;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Experts that a checkpoint stacks in one tensor a projection (LIST.gate_up_proj, LIST.down_proj and their _bias, or in
/// MXFP4 their _blocks and _scales), under the names that the family gives to single experts (LIST.0.gate_proj.weight,
/// LIST.0.w1.weight …), [out, in] each. MXFP4 is seen as ggml's blocks of the same numbers. Other tensors pass as they are.
/// </summary>
internal sealed unsafe class UnstackedExperts : ITensorSource
{
    private const string List = ".experts.";

    // Each becomes a few names, also where the file is sparse; the largest models have hundreds.
    private const int MostExperts = 1 << 16;

    private readonly ITensorSource _source;
    private readonly bool _interleaved;
    private readonly string[] _gateUp, _down;
    private readonly Dictionary<string, Part> _parts = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];
    private readonly Lock _lock = new();
    private (string Name, float[] Values)? _last;

    private UnstackedExperts(ITensorSource source, GgufFamily family)
    {
        (_source, _interleaved) = (source, family.StacksInterleaved);
        (_gateUp, _down) = ([family.ExpertProjection("ffn_gate_exps"), family.ExpertProjection("ffn_up_exps")], [family.ExpertProjection("ffn_down_exps")]);
        foreach (string name in source.Names)
            if (IsStack(name))
                Split(source.Info(name));
            else if (PackedStem(name, Mxfp4.Blocks) is { } stem)
                SplitPacked(stem);
            else if (PackedStem(name, Mxfp4.Scales) is null)
                _names.Add(name);
    }

    /// <inheritdoc/>
    public string Description => _source.Description;

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _names;

    /// <summary>The source itself where it stacks nothing.</summary>
    public static ITensorSource Of(ITensorSource source, GgufFamily family) =>
        family.Experts.Length > 0 && source.Names.Any(n => IsStack(n) || PackedStem(n, Mxfp4.Blocks) is not null) ? new UnstackedExperts(source, family) : source;

    /// <inheritdoc/>
    public bool TryGetInfo(string name, out TensorInfo info)
    {
        if (!_parts.TryGetValue(name, out Part? part))
            return _source.TryGetInfo(name, out info);
        info = part.Info;
        return true;
    }

    /// <inheritdoc/>
    public void ReadF32(string name, long firstRow, long rows, float* destination)
    {
        if (!_parts.TryGetValue(name, out Part? part))
        {
            _source.ReadF32(name, firstRow, rows, destination);
            return;
        }
        int width = (int)part.Info.RowLength;
        if (part.IsPacked)
        {
            for (long row = 0; row < rows; row++)
            {
                byte[] blocks = PackedRow(part, firstRow + row);
                fixed (byte* p = blocks)
                    BlockType.Find(Mxfp4.Form)!.Decode(p, destination + row * width, width);
            }
            return;
        }
        Values(part).AsSpan(checked((int)(firstRow * width)), checked((int)(rows * width))).CopyTo(new Span<float>(destination, checked((int)(rows * width))));
    }

    /// <inheritdoc/>
    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        if (!_parts.TryGetValue(name, out Part? part))
            _source.ReadRaw(name, firstRow, rows, destination);
        else if (!part.IsPacked)
            ReadF32(name, firstRow, rows, (float*)destination);
        else
            for (long row = 0; row < rows; row++)
            {
                byte[] blocks = PackedRow(part, firstRow + row);
                blocks.CopyTo(new Span<byte>(destination + row * blocks.Length, blocks.Length));
            }
    }

    /// <inheritdoc/>
    public bool TryMap(string name, out MappedBytes bytes)
    {
        bytes = default;
        return !_parts.ContainsKey(name) && _source.TryMap(name, out bytes);
    }

    /// <inheritdoc/>
    public void Dispose() => _source.Dispose();

    private static bool IsStack(string name) => name.LastIndexOf(List, StringComparison.Ordinal) is var at and >= 0
        && name[(at + List.Length)..] is "gate_up_proj" or "down_proj" or "gate_up_proj_bias" or "down_proj_bias";

    private void Split(TensorInfo stack)
    {
        bool bias = stack.Name.EndsWith("_bias", StringComparison.Ordinal), fused = stack.Name.Contains("gate_up_proj", StringComparison.Ordinal);
        if (stack.Shape.Length != (bias ? 2 : 3))
            throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(stack.Name)} has shape {stack.ShapeText}; [experts, {(bias ? "out" : "in, out")}] is needed");
        long outputs = bias || _interleaved ? stack.Shape[^1] : stack.Shape[1], inputs = bias ? 1 : _interleaved ? stack.Shape[1] : stack.Shape[2];
        AddParts(stack.Name, stack, fused, outputs, inputs, bias ? ".bias" : ".weight", "F32", rows => bias ? [rows] : [rows, inputs], elements => elements * sizeof(float));
    }

    private void AddParts(string stem, TensorInfo stack, bool fused, long outputs, long inputs, string suffix, string type, Func<long, long[]> shape, Func<long, long> bytes)
    {
        long experts = stack.Shape[0];
        if (stack.Elements == 0 || experts > MostExperts || outputs > int.MaxValue || inputs > Array.MaxLength / outputs)
            throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(stack.Name)} has shape {stack.ShapeText}; from 1 to {MostExperts} experts of 1 to {Array.MaxLength} values each are supported");
        if (fused && outputs % 2 != 0)
            throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(stack.Name)} has shape {stack.ShapeText}; its {outputs} outputs must be an even number, half for {_gateUp[0]} and half for {_gateUp[1]}");
        string list = stem[..(stem.LastIndexOf(List, StringComparison.Ordinal) + List.Length)];
        string[] projections = fused ? _gateUp : _down;
        long rows = outputs / projections.Length;
        for (int expert = 0; expert < experts; expert++)
            for (int half = 0; half < projections.Length; half++)
            {
                string name = $"{list}{expert}.{projections[half]}{suffix}";
                _parts[name] = new Part(stem, expert, half, fused, (int)outputs, (int)inputs, new TensorInfo(name, shape(rows), type, rows * inputs, bytes(rows * inputs)));
                _names.Add(name);
            }
    }

    // The name of the stack that a packed tensor is one half of.
    private static string? PackedStem(string name, string end) => name.EndsWith(end, StringComparison.Ordinal) && IsStack(name[..^end.Length]) ? name[..^end.Length] : null;

    private void SplitPacked(string stem)
    {
        TensorInfo blocks = _source.Info(stem + Mxfp4.Blocks), scales = _source.Info(stem + Mxfp4.Scales);
        foreach (TensorInfo t in new[] { blocks, scales })
            if (t.Type != "U8")
                throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(t.Name)} is stored as {t.Type}, MXFP4 is bytes (U8); fetch the file again");
        if (blocks.Shape.Length != 4 || blocks.Shape[3] != Mxfp4.Block / 2 || blocks.Elements == 0 || !scales.Shape.AsSpan().SequenceEqual(blocks.Shape.AsSpan(0, 3)))
            throw FileErrors.Bad(Description, $"tensor {FileErrors.Quote(blocks.Name)} has shape {blocks.ShapeText} and its scales {scales.ShapeText}; [experts, out, in / {Mxfp4.Block}, {Mxfp4.Block / 2}] and [experts, out, in / {Mxfp4.Block}] are needed");
        long outputs = blocks.Shape[1], inputs = blocks.Shape[2] * Mxfp4.Block;
        AddParts(stem, blocks, stem.EndsWith("gate_up_proj", StringComparison.Ordinal), outputs, inputs, ".weight", Mxfp4.Form, rows => [rows, inputs], Mxfp4.Bytes);
    }

    private byte[] PackedRow(Part part, long row)
    {
        int perRow = part.Inputs / Mxfp4.Block, rows = (int)part.Info.Rows;
        long output = (long)part.Expert * part.Outputs + (!part.Fused ? row : _interleaved ? 2 * row + part.Half : part.Half * rows + row);
        byte[] blocks = new byte[part.Inputs / 2], scales = new byte[perRow], made = new byte[Mxfp4.Bytes(part.Inputs)];
        fixed (byte* b = blocks, s = scales, to = made)
        {
            _source.ReadRaw(part.Stack + Mxfp4.Blocks, output * perRow, perRow, b);
            // Scales of a row are one row of their tensor.
            _source.ReadRaw(part.Stack + Mxfp4.Scales, output, 1, s);
            Mxfp4.WriteRow(blocks, scales, to);
        }
        return made;
    }

    private float[] Values(Part part)
    {
        lock (_lock)
        {
            if (_last is { } last && last.Name == part.Info.Name)
                return last.Values;
            TensorInfo stack = _source.Info(part.Stack);
            long stackRows = stack.Rows / stack.Shape[0];
            var stored = new float[part.Outputs * part.Inputs];
            fixed (float* p = stored)
                _source.ReadF32(part.Stack, part.Expert * stackRows, stackRows, p);
            var values = new float[part.Info.Elements];
            int rows = values.Length / part.Inputs;
            bool transposed = _interleaved && part.Inputs > 1;
            for (int r = 0; r < rows; r++)
            {
                int output = !part.Fused ? r : _interleaved ? 2 * r + part.Half : part.Half * rows + r;
                for (int i = 0; i < part.Inputs; i++)
                    values[r * part.Inputs + i] = stored[transposed ? i * part.Outputs + output : output * part.Inputs + i];
            }
            _last = (part.Info.Name, values);
            return values;
        }
    }

    private sealed record Part(string Stack, int Expert, int Half, bool Fused, int Outputs, int Inputs, TensorInfo Info)
    {
        public bool IsPacked => Info.Type == Mxfp4.Form;
    }
}
