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
    private readonly Dictionary<string, LinearModule> _weights = [], _biases = [];
    private readonly List<string> _names = [];
    private (string Path, float[] Weight, float[]? Bias)? _last;

    private MergedWeights(DecoderModel model, string description, Func<LinearModule, (float[] Weight, float[]? Bias)?> merge)
    {
        (_model, Description, _merge) = (model, description, merge);
        foreach (LinearModule l in model.Linears.Values)
        {
            _weights[$"{l.Path}.weight"] = l;
            if (l.Bias is not null)
                _biases[$"{l.Path}.bias"] = l;
        }
        foreach ((string name, Tensor t) in model.Parameters)
        {
            long[] shape = [.. t.Shape.Select(s => (long)s)];
            if (model.Config.LinearStoredTransposed && _weights.ContainsKey(name))
                Array.Reverse(shape);
            _names.Add(name);
            _infos[name] = new TensorInfo(name, shape, "F32", t.Length, t.Length * sizeof(float));
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
        if (_weights.TryGetValue(name, out LinearModule? l) && Merged(l) is { } w)
            return _model.Config.LinearStoredTransposed ? Transposed(w.Weight, l.Outputs, l.Inputs) : w.Weight;
        if (_biases.TryGetValue(name, out LinearModule? of) && Merged(of) is { Bias: { } bias })
            return bias;
        float[] values = WeightReader.ToHost(_model.Parameters[name]);
        return l is not null && _model.Config.LinearStoredTransposed ? Transposed(values, l.Outputs, l.Inputs) : values;
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

    private static float[] Transposed(float[] w, int rows, int columns)
    {
        var turned = new float[w.Length];
        for (int o = 0; o < rows; o++)
            for (int i = 0; i < columns; i++)
                turned[(long)i * rows + o] = w[(long)o * columns + i];
        return turned;
    }
}
