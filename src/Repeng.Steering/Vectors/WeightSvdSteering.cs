using System.Globalization;
using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Steering.Vectors;

/// <summary>
/// Steering along the singular directions of a weight W = U·S·Vᵀ (novel_steering, weight_svd_steering.py): with
/// ΔS = normalise(mean(y⁺ − y⁻)·U), y += c·((x·V)∘ΔS)·Uᵀ. That is W + c·U·diag(ΔS)·Vᵀ, a LoRA of PEFT with A = Vᵀ,
/// B = U·diag(ΔS), α = r, and is kept as one: what is added depends on the layer's input, which no control vector's does.
/// Turning a pair (u, v) around turns its part of the edit, so the pairs have the sign that <see cref="TruncatedSvd"/> gives them
/// (largest element of u positive); upstream's is whatever its library gave.
/// </summary>
public static class WeightSvdSteering
{
    /// <summary>Name of the method; _rankK behind it sets the rank.</summary>
    public const string Name = "svd_weight";

    /// <summary>Singular pairs that are kept where the weight has as many.</summary>
    public const int DefaultRank = 256;

    /// <summary>Rank that a method's name asks for; null for the name of another method.</summary>
    public static int? RankOf(string method)
    {
        const string Ranked = Name + "_rank";
        if (method == Name)
            return DefaultRank;
        if (!method.StartsWith(Ranked, StringComparison.Ordinal))
            return null;
        return int.TryParse(method[Ranked.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out int rank) && rank > 0
            ? rank
            : throw new UserErrorException($"method {method}: write {Ranked}K with a rank K from 1 up");
    }

    /// <summary>
    /// The layers that are steered unless others are chosen, as an expression: those that write to the residual stream, of a mixture of
    /// experts the attention's alone (no token need go through an expert).
    /// </summary>
    public static string DefaultLayers(DecoderModel model)
    {
        IEnumerable<LinearModule> writers = model.Blocks.All(b => b.Experts is null) ? model.Blocks[0].Writers : [model.Blocks[0].Output];
        return $@"\.({string.Join('|', writers.Select(w => Leaf(w.Path)).Distinct().Select(Regex.Escape))})$";
    }

    /// <summary>
    /// The edit of some linear layers from contrast pairs. Throws <see cref="UserErrorException"/> for a module that is no
    /// linear layer, and where both texts of all pairs have the same output.
    /// </summary>
    /// <param name="model">The model; it is not changed.</param>
    /// <param name="modules">Dotted paths of linear layers.</param>
    /// <param name="pairs">Token sequences of the positive and the negative texts.</param>
    /// <param name="padId">Fills shorter rows on the left.</param>
    /// <param name="rank">Singular pairs that are kept, less where a weight has less.</param>
    /// <param name="settings">Which token is read, and how many rows at once.</param>
    /// <param name="baseModel">Name of the base model, for the configuration.</param>
    /// <param name="progress">Hears what is being done, how much is done, of how much.</param>
    public static PeftAdapter Train(DecoderModel model, IReadOnlyList<string> modules, IReadOnlyList<TokenPair> pairs, int padId, int rank, RepresentationSettings settings, string baseModel, Action<string, int, int>? progress = null)
    {
        if (rank < 1)
            throw new UserErrorException($"rank {rank} of {Name} must be at least 1");
        if (modules.FirstOrDefault(m => !model.Linears.ContainsKey(m)) is { } other)
            throw new UserErrorException($"{other} is no linear layer of {model.Source}, and {Name} needs a weight to decompose; choose linear layers, such as --layers '{Leaf(model.Blocks[0].Output.Path)}$'");
        using Representations rows = Representations.Collect(model, modules, pairs, padId, VectorNeeds.MeanDifference, settings, (done, of) => progress?.Invoke("texts", done, of));
        var parts = new List<LoraFactors>();
        foreach (string path in modules)
        {
            LinearModule module = model.Linears[path];
            TruncatedSvd svd = TopSvd.Compute(model.Device.HostWorkers, WeightReader.ToHost(module.Weight), module.Outputs, module.Inputs, Math.Min(rank, Math.Min(module.Outputs, module.Inputs)), model.Device.Backend as ISingularVectors);
            double[] difference = rows.Layers[path].MeanDifference;
            if (Array.TrueForAll(difference, v => v == 0))
                throw new UserErrorException($"layer {path}: positive and negative texts have the same mean output at the token that is read; check that the personas differ, or read another token (--token_position)");
            parts.Add(Factors(module, svd.U, svd.V, DeltaSigma(difference, svd.U)));
            progress?.Invoke("layers", parts.Count, modules.Count);
        }
        return LoraExport.Adapter(model, parts, baseModel, Name);
    }

    /// <summary>
    /// ΔS [r]: the mean difference of outputs [out] along the columns of u [out, r], by the length of all of it. Outputs differ
    /// only within the columns of W, so that this length is also that along all of U, the cut columns included.
    /// </summary>
    public static double[] DeltaSigma(ReadOnlySpan<double> meanDifference, ReadOnlySpan<float> u)
    {
        int r = u.Length / meanDifference.Length;
        double length = Math.Sqrt(LayerRows.Dot(meanDifference, meanDifference));
        var delta = new double[r];
        for (int i = 0; i < u.Length; i++)
            delta[i % r] += meanDifference[i / r] * u[i] / length;
        return delta;
    }

    /// <summary>The factors of U·diag(ΔS)·Vᵀ as a LoRA's, of u [out, r], v [in, r] and ΔS [r].</summary>
    public static LoraFactors Factors(LinearModule module, ReadOnlySpan<float> u, ReadOnlySpan<float> v, ReadOnlySpan<double> deltaSigma)
    {
        int r = deltaSigma.Length;
        var left = new double[u.Length];
        for (int i = 0; i < left.Length; i++)
            left[i] = u[i] * deltaSigma[i % r];
        var right = new double[v.Length];
        for (int i = 0; i < right.Length; i++)
            right[i % r * module.Inputs + i / r] = v[i];
        return new LoraFactors(module, left, right);
    }

    private static string Leaf(string path) => path[(path.LastIndexOf('.') + 1)..];
}
