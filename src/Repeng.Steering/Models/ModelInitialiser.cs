using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Models;

/// <summary>
/// Random weights for a model that is trained from scratch, given out as named tensors: N(0, std) for matrices,
/// with the projections into the residual stream divided by √(2·layers) (GPT-2's rule), ones for norms (zeros where
/// a family adds one), zeros for biases. Each tensor has its own random stream.
/// </summary>
public sealed unsafe class ModelInitialiser : ITensorSource
{
    private readonly ModelConfig _config;
    private readonly ulong _seed;
    private readonly double _std;
    private readonly Dictionary<string, TensorInfo> _tensors = [];
    private readonly Dictionary<string, int> _streams = [];
    private readonly List<string> _names = [];

    /// <summary>Weights for a gated decoder with separate projections and rotary positions.</summary>
    public ModelInitialiser(ModelConfig config, ulong seed, double std = 0.02)
    {
        if (config.Norm != NormKind.Rms || config.Names.FusedQkv is not null || config.Names.FusedGateUp is not null || !config.Gated || config.LinearStoredTransposed || config.AttentionSinks || config.Experts is { Bias: true })
            throw new UserErrorException($"training from scratch knows decoders of the llama and qwen3 shape and mixtures of experts that are stored one by one, not {config.ModelType}");
        (_config, _seed, _std) = (config, seed, std);
        int d = config.HiddenSize, q = config.NumHeads * config.HeadDim, kv = config.NumKvHeads * config.HeadDim;
        Add($"{config.Prefix}{config.Embedding}.weight", config.VocabSize, d);
        for (int i = 0; i < config.NumLayers; i++)
        {
            string path = config.BlockPath(i), a = $"{path}.{config.Names.Attention}", m = $"{path}.{config.Names.Mlp}";
            foreach (string norm in new[] { config.Names.InputNorm, config.Names.PostAttentionNorm, config.Names.PreMlpNorm, config.Names.PostMlpNorm }.OfType<string>())
                Add($"{path}.{norm}.weight", d);
            if (config.QkNorm != QkNormKind.None)
            {
                Add($"{a}.q_norm.weight", config.QkNorm == QkNormKind.PerHead ? config.HeadDim : q);
                Add($"{a}.k_norm.weight", config.QkNorm == QkNormKind.PerHead ? config.HeadDim : kv);
            }
            AddLinear($"{a}.q_proj", q, d, config.QkvBias);
            AddLinear($"{a}.k_proj", kv, d, config.QkvBias);
            AddLinear($"{a}.v_proj", kv, d, config.QkvBias);
            AddLinear($"{a}.{config.Names.Output}", d, q, config.OutputBias);
            if (config.ExpertsOf(i) is not { } experts)
            {
                AddMlp(m, "gate_proj", config.Names.Up, config.Names.Down, config.IntermediateSize, config.MlpBias);
                continue;
            }
            AddLinear($"{m}.{experts.Router}", experts.Count, d, experts.RouterBias);
            for (int e = 0; e < experts.Count; e++)
                AddMlp($"{m}.{experts.List}.{e}", experts.Gate, experts.Up, experts.Down, experts.IntermediateSize, experts.Bias);
            if (experts.SharedIntermediateSize == 0)
                continue;
            AddMlp($"{m}.shared_expert", experts.Gate, experts.Up, experts.Down, experts.SharedIntermediateSize, experts.Bias);
            AddLinear($"{m}.shared_expert_gate", 1, d, false);
        }
        Add($"{config.Prefix}{config.FinalNorm}.weight", d);
        if (!config.TiedHead)
            Add($"{config.HeadPath}.weight", config.VocabSize, d);

        void AddMlp(string path, string gate, string up, string down, int width, bool bias)
        {
            AddLinear($"{path}.{gate}", width, d, bias);
            AddLinear($"{path}.{up}", width, d, bias);
            AddLinear($"{path}.{down}", d, width, bias);
        }
    }

    /// <inheritdoc/>
    public string Description => $"random weights (seed {_seed})";

    /// <inheritdoc/>
    public IReadOnlyList<string> Names => _names;

    /// <inheritdoc/>
    public bool TryGetInfo(string name, out TensorInfo info) => _tensors.TryGetValue(name, out info);

    /// <inheritdoc/>
    public void ReadF32(string name, long firstRow, long rows, float* destination)
    {
        TensorInfo info = this.Info(name);
        var values = new Span<float>(destination, checked((int)(rows * info.RowLength)));
        if (info.Shape.Length == 1)
        {
            values.Fill(name.EndsWith(".bias", StringComparison.Ordinal) || _config.NormOffset == 1 ? 0 : 1);
            return;
        }
        bool residual = new[] { _config.Names.Output, _config.Names.Down, _config.Experts?.Down }.OfType<string>().Any(n => name.EndsWith($".{n}.weight", StringComparison.Ordinal));
        double std = residual ? _std / Math.Sqrt(2.0 * _config.NumLayers) : _std;
        ulong stream = (ulong)_streams[name], start = (ulong)(firstRow * info.RowLength);
        Philox.FillNormal(values, _seed, stream, start);
        for (int i = 0; i < values.Length; i++)
            values[i] = (float)(values[i] * std);
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
    public void Dispose()
    {
    }

    private void AddLinear(string path, int outputs, int inputs, bool bias)
    {
        Add($"{path}.weight", outputs, inputs);
        if (bias)
            Add($"{path}.bias", outputs);
    }

    private void Add(string name, params int[] shape)
    {
        long elements = shape.Aggregate(1L, (a, b) => a * b);
        _tensors.Add(name, new TensorInfo(name, [.. shape.Select(s => (long)s)], "F32", elements, elements * 4));
        _streams.Add(name, _names.Count);
        _names.Add(name);
    }
}
