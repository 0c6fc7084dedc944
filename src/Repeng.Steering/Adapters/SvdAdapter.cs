using System.Text.RegularExpressions;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters;

/// <summary>SVD adapters on the target layers of a model. Owns its layers; the model stays untouched.</summary>
public sealed class SvdAdapter : IAdapter
{
    private readonly Dictionary<string, SvdLayer> _layers;
    private readonly HashSet<int> _blocks;

    /// <summary>Takes ownership of the layers.</summary>
    public SvdAdapter(SvdAdapterConfig config, DecoderModel model, IReadOnlyList<SvdLayer> layers)
    {
        (Config, Model) = (config, model);
        _layers = layers.ToDictionary(l => l.Path);
        _blocks = [.. model.Blocks.Where(b => b.Linears.Any(l => _layers.ContainsKey(l.Path))).Select(b => b.Index)];
    }

    /// <inheritdoc/>
    public string Kind => "SVD rotation";

    /// <inheritdoc/>
    public IReadOnlyCollection<string> Modules => _layers.Keys;

    /// <summary>The settings.</summary>
    public SvdAdapterConfig Config { get; }

    /// <summary>The base model.</summary>
    public DecoderModel Model { get; }

    /// <summary>Adapted layers by dotted path, in the order of the forward pass.</summary>
    public IReadOnlyDictionary<string, SvdLayer> Layers => _layers;

    /// <summary>Number of the first block with an adapted layer: what enters it is the same for every coefficient.</summary>
    public int FirstBlock => _blocks.Min();

    /// <summary>Trained tensors, in the order of the layers.</summary>
    public IReadOnlyList<Tensor> Parameters => [.. _layers.Values.SelectMany(l => l.Parameters).Select(p => p.Value)];

    /// <summary>Number of trained values.</summary>
    public long ParameterCount => Parameters.Sum(p => p.Length);

    /// <summary>
    /// New adapters on every linear layer whose whole path matches the target expression: bases by the top-r SVD
    /// of each weight, parameters from the seed. Throws when nothing matches or the rank is too large.
    /// </summary>
    public static SvdAdapter Create(DecoderModel model, SvdAdapterConfig config, Action<int, int>? progress = null)
    {
        config.Validate();
        LinearModule[] targets = Match(model, config.TargetModules);
        foreach (LinearModule t in targets)
            if (config.Rank > Math.Min(t.Inputs, t.Outputs))
                throw new UserErrorException($"rank {config.Rank} is above the smaller side of {t.Path} [{t.Outputs}, {t.Inputs}]; take at most {Math.Min(t.Inputs, t.Outputs)}");
        var layers = new List<SvdLayer>();
        try
        {
            var bases = new AdapterBases(model.Device, config.Rank, done => progress?.Invoke(done, targets.Length));
            bases.Prepare(targets);
            for (int i = 0; i < targets.Length; i++)
                layers.Add(CreateLayer(model.Device, config, targets[i], bases.Take(targets[i]), i));
            return new SvdAdapter(config, model, layers);
        }
        catch
        {
            layers.ForEach(l => l.Dispose());
            throw;
        }
    }

    /// <summary>Linear layers whose whole path matches; the error for no match names the nearest paths.</summary>
    public static LinearModule[] Match(DecoderModel model, string pattern)
    {
        Regex regex;
        try
        {
            // Full match, as PEFT treats a target_modules string.
            regex = new Regex($"^(?:{pattern})$", RegexOptions.CultureInvariant, TimeSpan.FromSeconds(5));
        }
        catch (ArgumentException e)
        {
            throw new UserErrorException($"target_modules '{pattern}' is no regular expression: {e.Message}", e);
        }
        LinearModule[] found = [.. model.Linears.Values.Where(l => regex.IsMatch(l.Path))];
        if (found.Length > 0)
            return found;
        string[] leaves = [.. model.Linears.Keys.Select(p => p[(p.LastIndexOf('.') + 1)..]).Distinct()];
        string[] near = [.. model.Linears.Keys.OrderBy(p => Distance(p, pattern)).Take(3)];
        throw new UserErrorException($"target_modules '{pattern}' matches none of the {model.Linears.Count} linear layers of {model.Source} (the whole path must match); nearest: {string.Join(", ", near)}; layer names: {string.Join(", ", leaves)}; blocks 0 … {model.Config.NumLayers - 1}");
    }

    /// <summary>
    /// Terms for one pass in which each sequence has its own coefficient; rows with c = 0 get no term and so equal
    /// the base model exactly.
    /// </summary>
    /// <param name="tape">Records M(c) when the parameters are to be trained.</param>
    /// <param name="coefficients">One a sequence.</param>
    /// <param name="length">Tokens a sequence.</param>
    /// <param name="like">An earlier pass on the same tape with the same parameters, whose M(c) are used again.</param>
    /// <param name="asTerms">Terms are all that it gives.</param>
    public IAdapterPass Pass(Tape tape, ReadOnlySpan<float> coefficients, int length, IAdapterPass? like = null, Func<string, bool>? asTerms = null)
    {
        var runs = new List<(int Start, int Count, float C)>();
        for (int b = 0; b < coefficients.Length; b++)
        {
            float c = coefficients[b];
            if (!float.IsFinite(c))
                throw new UserErrorException($"coefficient {c} of row {b} is not a finite number");
            if (c == 0)
                continue;
            if (runs.Count > 0 && runs[^1] is var last && last.C == c && last.Start + last.Count == b * length)
                runs[^1] = (last.Start, last.Count + length, c);
            else
                runs.Add((b * length, length, c));
        }
        var terms = new Dictionary<string, LowRankTerm>();
        var deltas = new Dictionary<(string Path, float C), Tensor>();
        if (runs.Count > 0)
        {
            float[] distinct = [.. runs.Select(r => r.C).Distinct()];
            IReadOnlyDictionary<(string Path, float C), Tensor>? known = (like as AdapterPass)?.Deltas;
            foreach (float c in distinct)
            {
                Tensor[] made = known?.ContainsKey((_layers.Keys.First(), c)) == true ? [.. _layers.Keys.Select(path => known[(path, c)])] : SvdDeltas.Of(tape, Config, _layers.Values, c);
                foreach ((string path, Tensor delta) in _layers.Keys.Zip(made))
                    deltas[(path, c)] = delta;
            }
            // Where the pass is one of many rows and its products round.
            bool rounds = tape.Backend.LayerType(coefficients.Length * length, Config.Rank) == DType.BF16 && (tape.Recording || length > 1);
            foreach (SvdLayer layer in _layers.Values)
            {
                var m = distinct.ToDictionary(c => c, c => deltas[(layer.Path, c)]);
                // A pass of one token a row is made once and used for every token to come.
                Tensor? down = tape.Recording || length > 1 ? null : layer.Down(tape, distinct.Length == 1 ? m[distinct[0]] : null);
                terms[layer.Path] = new LowRankTerm(layer.V, layer.U, [.. runs.Select(r => new LowRankSegment(r.Start, r.Count, m[r.C]))]) { Down = down, IsFolded = distinct.Length == 1, Rounded = rounds ? layer.Rounded() : null };
            }
        }
        return new AdapterPass(terms, deltas, _blocks, tape.Recording && runs.Count > 0 && Parameters.Any(p => p.RequiresGrad));
    }

    /// <inheritdoc/>
    public bool AddsToWeight(string module) => true;

    /// <inheritdoc/>
    public (float[] Weight, float[]? Bias)? Merge(LinearModule module, float c)
    {
        if (!_layers.TryGetValue(module.Path, out SvdLayer? layer))
            return null;
        float[] w = WeightReader.ToHost(module.Weight);
        if (c != 0)
            layer.AddTo(w, c);
        return (w, module.Bias is null ? null : WeightReader.ToHost(module.Bias));
    }

    /// <summary>Turns the effect round: every parameter is negated. Exact mirror for rotations, exp and additive scales.</summary>
    public void Negate()
    {
        foreach (Tensor p in Parameters)
            p.Device.Backend.Unary(p.Data, p.Data, p.Length, UnaryOp.Scale, -1);
    }

    /// <inheritdoc/>
    public void Save(string folder, string baseModel) => AdapterFile.Save(this, folder, baseModel);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (SvdLayer layer in _layers.Values)
            layer.Dispose();
    }

    private static SvdLayer CreateLayer(Device device, SvdAdapterConfig config, LinearModule target, TruncatedSvd svd, int index)
    {
        int r = config.Rank;
        Tensor u = Tensor.From(device, svd.U, target.Outputs, r), s = Tensor.From(device, svd.S, r), v = Tensor.From(device, svd.V, target.Inputs, r);
        // Each layer and parameter has its own random stream, so that adding a target changes no other.
        ulong stream = (ulong)index * 4;
        Tensor? scale = config.Scale switch
        {
            ScaleMethod.None => null,
            ScaleMethod.AddTanh => Tensor.From(device, Uniform(config.Seed, stream, r, 1e-5, 1e-3), r),
            ScaleMethod.Mult => Tensor.From(device, Normal(config.Seed, stream, r, 0, 0.002), r),
            _ => Tensor.From(device, Normal(config.Seed, stream, r, 4e-4, 4e-4), r),
        };
        return new SvdLayer(config, target.Path, u, s, v, scale,
            config.RotateU ? Skewed(device, config, stream + 1) : null,
            config.RotateV ? Skewed(device, config, stream + 2) : null);
    }

    // P = Z − Zᵀ, in blocks where the rotation is.
    private static Tensor Skewed(Device device, SvdAdapterConfig config, ulong stream)
    {
        int n = config.Rotation == RotationMethod.BlockDiagonal ? config.BlockSize : config.Rank, batch = config.Rank / n;
        float[] z = Normal(config.Seed, stream, batch * n * n, 0, config.InitRotation), p = new float[z.Length];
        for (int b = 0; b < batch; b++)
            for (int i = 0; i < n; i++)
                for (int j = 0; j < n; j++)
                    p[(b * n + i) * n + j] = z[(b * n + i) * n + j] - z[(b * n + j) * n + i];
        return batch == 1 && config.Rotation != RotationMethod.BlockDiagonal ? Tensor.From(device, p, n, n) : Tensor.From(device, p, batch, n, n);
    }

    private static float[] Normal(ulong seed, ulong stream, int n, double mean, double deviation)
    {
        var x = new float[n];
        for (int i = 0; i < n; i++)
            x[i] = (float)(mean + deviation * Philox.Normal(seed, stream, (ulong)i));
        return x;
    }

    private static float[] Uniform(ulong seed, ulong stream, int n, double low, double high)
    {
        var x = new float[n];
        for (int i = 0; i < n; i++)
            x[i] = (float)(low + (high - low) * Philox.Uniform(seed, stream, (ulong)i));
        return x;
    }

    // Edit distance is enough to put the likely meant path first.
    private static int Distance(string a, string b)
    {
        int[] row = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
                (diagonal, row[j]) = (row[j], Math.Min(Math.Min(row[j], row[j - 1]) + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)));
        }
        return row[^1];
    }

    private sealed class AdapterPass(Dictionary<string, LowRankTerm> terms, Dictionary<(string Path, float C), Tensor> deltas, HashSet<int> blocks, bool requiresGrad) : IAdapterPass
    {
        public IReadOnlyDictionary<(string Path, float C), Tensor> Deltas => deltas;

        public bool RequiresGrad => requiresGrad;

        public LowRankTerm? Term(string module) => terms.GetValueOrDefault(module);

        public bool Touches(int block) => blocks.Contains(block);
    }
}
