using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters;

/// <summary>
/// The weights of a model with an adapter merged in at one coefficient, by the names and in the layout of the model's own
/// files: a plain model that needs no adapter. Merged layers are computed one at a time when they are asked for.
/// </summary>
public sealed unsafe class MergedWeights : ITensorSource
{
    private readonly DecoderModel _model;
    private readonly Func<LinearModule, (float[] Weight, float[]? Bias)?> _merge;
    private readonly Dictionary<string, TensorInfo> _infos = [];
    // Linear layers whose weight or bias a parameter is, or is a part of, and where it begins.
    private readonly Dictionary<string, List<(LinearModule Module, long Start)>> _weights = [], _biases = [];
    private readonly List<string> _names = [];
    private (string Path, float[] Weight, float[]? Bias)? _last;

    private MergedWeights(DecoderModel model, string description, Func<LinearModule, (float[] Weight, float[]? Bias)?> merge)
    {
        (_model, Description, _merge) = (model, description, merge);
        foreach (LinearModule l in model.Linears.Values)
        {
            Add(_weights, l.WeightPart ?? ($"{l.Path}.weight", 0), l);
            if (l.Bias is not null)
                Add(_biases, l.BiasPart ?? ($"{l.Path}.bias", 0), l);
        }
        // Experts that were quantised out of one tensor go back into it.
        Dictionary<string, string> stacks = model.Linears.Values.Where(l => l.WeightPart is { } part && !model.Parameters.ContainsKey(part.Name)).ToDictionary(l => l.Weight.Name!, l => l.WeightPart!.Value.Name);
        foreach (string name in model.Parameters.Keys.Select(n => stacks.GetValueOrDefault(n, n)).Distinct())
        {
            long[] shape = model.FileShape(name);
            long length = shape.Aggregate(1L, (a, b) => a * b);
            // Here and not in the middle of a file.
            WeightReader.RequireArray(name, length);
            _names.Add(name);
            _infos[name] = new TensorInfo(name, shape, "F32", length, length * sizeof(float));
        }

        static void Add(Dictionary<string, List<(LinearModule, long)>> of, (string Name, long Start) part, LinearModule module)
        {
            if (!of.TryGetValue(part.Name, out List<(LinearModule, long)>? modules))
                of[part.Name] = modules = [];
            modules.Add((module, part.Start));
        }
    }

    /// <inheritdoc/>
    public string Description { get; }

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _names;

    /// <summary>The weights at a coefficient; throws <see cref="UserErrorException"/> where a layer cannot be merged.</summary>
    public static MergedWeights Of(IAdapter adapter, float c)
    {
        if (!float.IsFinite(c))
            throw new UserErrorException($"coefficient {c} is not a finite number");
        return new MergedWeights(adapter.Model, $"{adapter.Model.Source} with the {adapter.Kind} adapter at {c}", l => adapter.Merge(l, c));
    }

    /// <summary>A copy of the adapter's model with the adapter merged in, on the same device, in fp32.</summary>
    public static DecoderModel Load(IAdapter adapter, float c)
    {
        using MergedWeights source = Of(adapter, c);
        return ModelLoader.Load(adapter.Model.Device, adapter.Model.Config, source, WeightType.F32);
    }

    /// <summary>Writes all weights as one safetensors file in fp32, merged at a coefficient.</summary>
    public static void Write(IAdapter adapter, float c, string path)
    {
        using MergedWeights source = Of(adapter, c);
        SafetensorsWriter writer = new SafetensorsWriter().SetMetadata("format", "pt");
        foreach (string name in source.Names)
            writer.AddStreamed(name, "F32", source._infos[name].Shape, s => SafetensorsWriter.WriteFloats(s, source.Values(name)));
        writer.Write(path);
    }

    /// <inheritdoc/>
    public bool TryGetInfo(string name, out TensorInfo info) => _infos.TryGetValue(name, out info);

    /// <inheritdoc/>
    public void ReadF32(string name, long firstRow, long rows, float* destination)
    {
        int width = checked((int)this.Info(name).RowLength);
        Values(name).AsSpan(checked((int)firstRow * width), checked((int)rows * width)).CopyTo(new Span<float>(destination, checked((int)rows * width)));
    }

    /// <inheritdoc/>
    public void ReadRaw(string name, long firstRow, long rows, byte* destination) => ReadF32(name, firstRow, rows, (float*)destination);

    /// <inheritdoc/>
    public bool TryMap(string name, out MappedBytes bytes)
    {
        bytes = default;
        return false;
    }

    /// <inheritdoc/>
    public void Dispose() => _last = null;

    private float[] Values(string name)
    {
        bool whole = _model.Parameters.TryGetValue(name, out Tensor? parameter);
        float[] values = whole ? WeightReader.ToHost(parameter!) : new float[_infos[name].Elements];
        foreach ((LinearModule module, long start) in _weights.GetValueOrDefault(name) ?? [])
            (Merged(module)?.Weight ?? (whole ? null : WeightReader.ToHost(module.Weight)))?.CopyTo(values.AsSpan(checked((int)start)));
        foreach ((LinearModule module, long start) in _biases.GetValueOrDefault(name) ?? [])
            Merged(module)?.Bias?.CopyTo(values.AsSpan(checked((int)start)));
        return _model.FileLayouts.TryGetValue(name, out FileLayout? layout) ? layout.ToFile<float>(values) : values;
    }

    // Weight and bias of a layer are asked for one after the other.
    private (float[] Weight, float[]? Bias)? Merged(LinearModule l)
    {
        if (_last is { } last && last.Path == l.Path)
            return (last.Weight, last.Bias);
        if (_merge(l) is not { } made)
            return null;
        _last = (l.Path, made.Weight, made.Bias);
        return made;
    }
}
