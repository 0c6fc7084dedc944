namespace Repeng.Runtime.Formats;

/// <summary>
/// Experts that a checkpoint stacks in one tensor a projection (LIST.gate_up_proj, LIST.down_proj and their _bias), under
/// the names of single experts (LIST.0.gate_proj.weight …), [out, in] each. Other tensors pass as they are.
/// </summary>
internal sealed unsafe class UnstackedExperts : ITensorSource
{
    private const string List = ".experts.";

    private readonly ITensorSource _source;
    private readonly bool _interleaved;
    private readonly Dictionary<string, Part> _parts = new(StringComparer.Ordinal);
    private readonly List<string> _names = [];
    private readonly Lock _lock = new();
    private (string Name, float[] Values)? _last;

    private UnstackedExperts(ITensorSource source, bool interleaved)
    {
        (_source, _interleaved) = (source, interleaved);
        foreach (string name in source.Names)
            if (IsStack(name))
                Split(source.Info(name));
            else
                _names.Add(name);
    }

    /// <inheritdoc/>
    public string Description => _source.Description;

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _names;

    /// <summary>The source itself where it stacks nothing.</summary>
    public static ITensorSource Of(ITensorSource source, GgufFamily family) =>
        family.Experts.Length > 0 && source.Names.Any(IsStack) ? new UnstackedExperts(source, family.StacksInterleaved) : source;

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
        Values(part).AsSpan(checked((int)(firstRow * width)), checked((int)(rows * width))).CopyTo(new Span<float>(destination, checked((int)(rows * width))));
    }

    /// <inheritdoc/>
    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        if (_parts.ContainsKey(name))
            ReadF32(name, firstRow, rows, (float*)destination);
        else
            _source.ReadRaw(name, firstRow, rows, destination);
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
        string list = stack.Name[..(stack.Name.LastIndexOf(List, StringComparison.Ordinal) + List.Length)];
        long outputs = bias || _interleaved ? stack.Shape[^1] : stack.Shape[1], inputs = bias ? 1 : _interleaved ? stack.Shape[1] : stack.Shape[2];
        string[] projections = fused ? ["gate_proj", "up_proj"] : ["down_proj"];
        long rows = outputs / projections.Length;
        for (int expert = 0; expert < stack.Shape[0]; expert++)
            for (int half = 0; half < projections.Length; half++)
            {
                string name = $"{list}{expert}.{projections[half]}.{(bias ? "bias" : "weight")}";
                long[] shape = bias ? [rows] : [rows, inputs];
                _parts[name] = new Part(stack.Name, expert, half, fused, (int)outputs, (int)inputs, new TensorInfo(name, shape, "F32", rows * inputs, rows * inputs * sizeof(float)));
                _names.Add(name);
            }
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

    private sealed record Part(string Stack, int Expert, int Half, bool Fused, int Outputs, int Inputs, TensorInfo Info);
}
