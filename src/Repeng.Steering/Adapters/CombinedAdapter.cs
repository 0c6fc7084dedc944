using System.Globalization;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters;

/// <summary>
/// Several adapters on one model: at a coefficient c each works at c times its own weight. On a layer that several adapt their
/// changes of the weight add up, W·x + Σ ΔWᵢ(c·wᵢ)·x, which is what PEFT computes with several active LoRAs; an adapter that scales or
/// rotates what a layer gives can have its layers only for itself, and anything else is refused. Owns its adapters.
/// For use, not for training.
/// </summary>
public sealed class CombinedAdapter : IAdapter
{
    private readonly (IAdapter Adapter, float Weight)[] _parts;
    private readonly Dictionary<string, IAdapter[]> _of = [];

    /// <summary>Takes ownership of the adapters, also where it throws: a weight that is not finite, another model, a layer that cannot be shared.</summary>
    /// <param name="parts">Adapters of one model with their weights.</param>
    /// <param name="names">What they are called in messages.</param>
    public CombinedAdapter(IReadOnlyList<(IAdapter Adapter, float Weight)> parts, IReadOnlyList<string> names)
    {
        _parts = [.. parts];
        Model = parts[0].Adapter.Model;
        try
        {
            for (int i = 0; i < _parts.Length; i++)
            {
                if (!float.IsFinite(_parts[i].Weight))
                    throw new UserErrorException($"weight {_parts[i].Weight} of {names[i]} is not a finite number");
                if (_parts[i].Adapter.Model != Model)
                    throw new UserErrorException($"{names[i]} is loaded for {_parts[i].Adapter.Model.Source}, {names[0]} for {Model.Source}; adapters are combined on one model");
            }
            foreach (string module in Model.Linears.Keys)
            {
                int[] on = [.. Enumerable.Range(0, _parts.Length).Where(i => _parts[i].Adapter.Modules.Contains(module))];
                if (on.Length > 1 && Array.FindIndex(on, i => !_parts[i].Adapter.AddsToWeight(module)) is >= 0 and var k)
                    throw new UserErrorException($"{names[on[k]]} ({_parts[on[k]].Adapter.Kind}) and {names[on[k == 0 ? 1 : 0]]} ({_parts[on[k == 0 ? 1 : 0]].Adapter.Kind}) both adapt {module}: {_parts[on[k]].Adapter.Kind} does more there than add to the weight, so that their sum is not defined; combine it with adapters on other layers, or merge one into the model (export) and load the other on that");
                if (on.Length > 0)
                    _of[module] = [.. on.Select(i => _parts[i].Adapter)];
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public string Kind => string.Join(" + ", _parts.Select(p => p.Weight == 1 ? p.Adapter.Kind : $"{p.Weight.ToString("0.###", CultureInfo.InvariantCulture)}·{p.Adapter.Kind}"));

    /// <inheritdoc/>
    public DecoderModel Model { get; }

    /// <inheritdoc/>
    public IReadOnlyCollection<string> Modules => _of.Keys;

    /// <inheritdoc/>
    public int FirstBlock => _parts.Min(p => p.Adapter.FirstBlock);

    /// <inheritdoc/>
    public IReadOnlyList<Tensor> Parameters => [.. _parts.SelectMany(p => p.Adapter.Parameters)];

    /// <inheritdoc/>
    public long ParameterCount => _parts.Sum(p => p.Adapter.ParameterCount);

    /// <summary>Loads saved adapters of any kind for one model; one alone at weight 1 is itself.</summary>
    public static IAdapter Load(DecoderModel model, IReadOnlyList<string> folders, IReadOnlyList<float> weights)
    {
        if (folders.Count != weights.Count)
            throw new ArgumentException($"{weights.Count} weights for {folders.Count} adapters");
        var parts = new List<(IAdapter, float)>();
        try
        {
            for (int i = 0; i < folders.Count; i++)
                parts.Add((AdapterFile.LoadAny(model, folders[i]), weights[i]));
        }
        catch
        {
            parts.ForEach(p => p.Item1.Dispose());
            throw;
        }
        return parts is [var (only, weight)] && weight == 1 ? only : new CombinedAdapter(parts, folders);
    }

    /// <inheritdoc/>
    public bool AddsToWeight(string module) => _of[module].All(a => a.AddsToWeight(module));

    /// <inheritdoc/>
    public IAdapterPass Pass(Tape tape, ReadOnlySpan<float> coefficients, int length, IAdapterPass? like = null, Func<string, bool>? asTerms = null)
    {
        var passes = new Dictionary<IAdapter, IAdapterPass>();
        for (int i = 0; i < _parts.Length; i++)
        {
            var own = new float[coefficients.Length];
            for (int b = 0; b < own.Length; b++)
                own[b] = coefficients[b] * _parts[i].Weight;
            passes[_parts[i].Adapter] = _parts[i].Adapter.Pass(tape, own, length, (like as CombinedPass)?.Of(_parts[i].Adapter), m => asTerms?.Invoke(m) == true || _of.TryGetValue(m, out IAdapter[]? on) && on.Length > 1);
        }
        var sums = new Dictionary<string, LowRankTerm>();
        foreach ((string module, IAdapter[] on) in _of.Where(m => m.Value.Length > 1))
            if (on.Select(a => passes[a].Term(module)).OfType<LowRankTerm>().ToArray() is { Length: > 0 } terms)
                sums[module] = terms is [var one] ? one : Sum(tape, terms);
        return new CombinedPass(_of, passes, sums);
    }

    /// <inheritdoc/>
    public (float[] Weight, float[]? Bias)? Merge(LinearModule module, float c)
    {
        if (!_of.TryGetValue(module.Path, out IAdapter[]? on))
            return null;
        if (on is [var only])
            return only.Merge(module, c * WeightOf(only));
        float[] w = WeightReader.ToHost(module.Weight);
        foreach (IAdapter adapter in on)
        {
            (double[] left, double[] right) = LoraExport.Factors(adapter, module.Path, c * WeightOf(adapter));
            LowRankProduct.AddTo(w, module.Inputs, left, right);
        }
        return (w, module.Bias is null ? null : WeightReader.ToHost(module.Bias));
    }

    /// <inheritdoc/>
    public void Negate()
    {
        foreach ((IAdapter adapter, _) in _parts)
            adapter.Negate();
    }

    /// <inheritdoc/>
    public void Save(string folder, string baseModel) => throw new UserErrorException($"a combination ({Kind}) has no file of its own; keep the adapters' folders and name them together, or merge them into the model");

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((IAdapter adapter, _) in _parts)
            adapter.Dispose();
    }

    private float WeightOf(IAdapter adapter) => Array.Find(_parts, p => p.Adapter == adapter).Weight;

    // One term of all ranks together: (x·[V₁ V₂])·diag(M₁, M₂)·[U₁ U₂]ᵀ, where a term has no rows with M = 0 of its own.
    private static LowRankTerm Sum(Tape tape, LowRankTerm[] terms)
    {
        int rank = terms.Sum(t => t.V.Cols), inputs = terms[0].V.Rows, outputs = terms[0].U.Rows;
        Tensor v = tape.New(inputs, rank), u = tape.New(outputs, rank);
        int at = 0;
        foreach (LowRankTerm t in terms)
        {
            tape.Backend.CopyColumns(v.Data, rank, at, t.V.Data, t.V.Cols, 0, inputs, t.V.Cols, accumulate: false);
            tape.Backend.CopyColumns(u.Data, rank, at, t.U.Data, t.U.Cols, 0, outputs, t.U.Cols, accumulate: false);
            at += t.V.Cols;
        }
        int[] ends = [.. terms.SelectMany(t => t.Segments.SelectMany(s => new[] { s.Start, s.Start + s.Count })).Distinct().Order()];
        var segments = new List<LowRankSegment>();
        for (int i = 0; i + 1 < ends.Length; i++)
        {
            Tensor[] here = [.. terms.Select(t => t.Segments.FirstOrDefault(s => s.Start <= ends[i] && ends[i] < s.Start + s.Count).M)];
            if (Array.TrueForAll(here, m => m is null))
                continue;
            Tensor all = tape.Filled(0, rank, rank);
            for (int k = 0, from = 0; k < terms.Length; from += terms[k++].V.Cols)
                if (here[k] is { } m)
                    tape.Backend.CopyColumns(all.Data.Slice((long)from * rank, (long)m.Rows * rank), rank, from, m.Data, m.Cols, 0, m.Rows, m.Cols, accumulate: false);
            segments.Add(new LowRankSegment(ends[i], ends[i + 1] - ends[i], all));
        }
        return new LowRankTerm(v, u, segments);
    }

    private sealed class CombinedPass(Dictionary<string, IAdapter[]> of, Dictionary<IAdapter, IAdapterPass> passes, Dictionary<string, LowRankTerm> sums) : IAdapterPass
    {
        public bool RequiresGrad => false;

        public IAdapterPass Of(IAdapter adapter) => passes[adapter];

        public LowRankTerm? Term(string module) => Owner(module) is { } pass ? pass.Term(module) : sums.GetValueOrDefault(module);

        public bool Computes(string module) => Owner(module)?.Computes(module) == true;

        public Tensor? Output(Tape tape, LinearModule module, Tensor x, int[]? tokens = null) => Owner(module.Path)?.Output(tape, module, x, tokens);

        public bool Touches(int block) => passes.Values.Any(p => p.Touches(block));

        private IAdapterPass? Owner(string module) => of.TryGetValue(module, out IAdapter[]? on) && on is [var only] ? passes[only] : null;
    }
}
