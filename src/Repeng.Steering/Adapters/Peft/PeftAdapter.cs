using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// An adapter of Hugging Face's PEFT on a model, steered by a coefficient a row: LoRA and DoRA scale A, (IA)³ and RoAd go from
/// one to the factor, VeRA scales λ_b, DeLoRA λ. c = 1 is the adapter as PEFT runs it; c = 0 is the base model but
/// for DoRA (its magnitudes stay), RoAd (its rotation stays) and LoRA with a bias (which stays).
/// </summary>
public sealed class PeftAdapter : IAdapter
{
    private readonly PeftLayer[] _layers;
    private readonly HashSet<int> _blocks;

    /// <summary>Takes ownership of the layers and, for VeRA, the shared projections.</summary>
    public PeftAdapter(DecoderModel model, PeftConfig config, IReadOnlyList<PeftLayer> layers, VeraProjections? projections = null)
    {
        (Model, Config, Projections, _layers) = (model, config, projections, [.. layers]);
        Layers = _layers.ToDictionary(l => l.Path);
        _blocks = [.. model.Blocks.Where(b => b.Linears.Any(l => Layers.ContainsKey(l.Path))).Select(b => b.Index)];
        Parameters = [.. _layers.SelectMany(l => l.Trained)];
    }

    /// <inheritdoc/>
    public string Kind => Config.Type switch
    {
        PeftType.Lora => Config.Dora ? "DoRA" : Config.RankStabilised ? "rsLoRA" : "LoRA",
        PeftType.Ia3 => "IA3",
        PeftType.Vera => "VeRA",
        PeftType.Delora => "DeLoRA",
        PeftType.Road => $"RoAd {Config.Variant}",
        _ => "PSOFT",
    };

    /// <inheritdoc/>
    public DecoderModel Model { get; }

    /// <summary>The settings, as PEFT has them.</summary>
    public PeftConfig Config { get; }

    /// <summary>Shared projections of VeRA.</summary>
    public VeraProjections? Projections { get; }

    /// <summary>Adapted layers by dotted path.</summary>
    public IReadOnlyDictionary<string, PeftLayer> Layers { get; }

    /// <inheritdoc/>
    public IReadOnlyCollection<string> Modules => [.. _layers.Select(l => l.Path)];

    /// <inheritdoc/>
    public int FirstBlock => _blocks.Min();

    /// <inheritdoc/>
    public IReadOnlyList<Tensor> Parameters { get; }

    /// <inheritdoc/>
    public long ParameterCount => Parameters.Sum(p => p.Length);

    /// <inheritdoc/>
    public IAdapterPass Pass(Tape tape, ReadOnlySpan<float> coefficients, int length, IAdapterPass? like = null, Func<string, bool>? asTerms = null)
    {
        var rows = new CoefficientRows(tape, coefficients, length);
        var prepared = new Dictionary<(string, float), Tensor[]>();
        var terms = new Dictionary<string, LowRankTerm>();
        foreach (PeftLayer layer in _layers)
        {
            if (rows.AllZero && layer.IsBaseAtZero)
                continue;
            if ((length == 1 && !tape.Recording || asTerms?.Invoke(layer.Path) == true) && layer is LowRankLayer low && low.Term(tape, rows) is { } term)
            {
                terms[layer.Path] = term;
                continue;
            }
            foreach (float c in rows.Distinct)
                prepared[(layer.Path, c)] = (like as AdapterPass)?.Prepared.GetValueOrDefault((layer.Path, c)) ?? layer.Prepare(tape, c);
        }
        return new AdapterPass(Layers, _blocks, rows, prepared, terms, tape.Recording && Parameters.Any(p => p.RequiresGrad));
    }

    /// <inheritdoc/>
    public bool AddsToWeight(string module) => Layers[module] is LowRankLayer { IsBaseAtZero: true };

    /// <inheritdoc/>
    public (float[] Weight, float[]? Bias)? Merge(LinearModule module, float c) => Layers.TryGetValue(module.Path, out PeftLayer? layer) ? layer.Merge(c) : null;

    /// <inheritdoc/>
    public void Negate()
    {
        foreach (PeftLayer layer in _layers)
            layer.Negate();
    }

    /// <inheritdoc/>
    public void Save(string folder, string baseModel) => PeftFile.Save(this, folder, baseModel);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (PeftLayer layer in _layers)
            layer.Dispose();
        Projections?.Dispose();
    }

    private sealed class AdapterPass(IReadOnlyDictionary<string, PeftLayer> layers, HashSet<int> blocks, CoefficientRows rows, Dictionary<(string, float), Tensor[]> prepared, Dictionary<string, LowRankTerm> terms, bool requiresGrad) : IAdapterPass
    {
        public IReadOnlyDictionary<(string, float), Tensor[]> Prepared => prepared;

        public bool RequiresGrad => requiresGrad;

        public LowRankTerm? Term(string module) => terms.GetValueOrDefault(module);

        public bool Computes(string module) => layers.TryGetValue(module, out PeftLayer? layer) && !(rows.AllZero && layer.IsBaseAtZero) && !terms.ContainsKey(module);

        public Tensor? Output(Tape tape, LinearModule module, Tensor x, int[]? tokens = null) => Computes(module.Path)
            ? layers[module.Path].Forward(tape, x, tokens is null ? rows : rows.At(tape, tokens), c => prepared[(module.Path, c)])
            : null;

        public bool Touches(int block) => blocks.Contains(block);
    }
}
