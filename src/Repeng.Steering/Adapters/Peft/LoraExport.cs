using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>A change of a linear layer's weight as a product Left [out, r] · Right [r, in], both row-major.</summary>
public sealed record LoraFactors(LinearModule Module, double[] Left, double[] Right)
{
    /// <summary>r.</summary>
    public int Rank => Left.Length / Module.Outputs;
}

/// <summary>
/// Any adapter that adds a product of low rank to the weights, said as a plain LoRA of PEFT at one coefficient. The change
/// that an SVD rotation of rank r makes, U·M(c)ᵀ·Vᵀ, has rank r itself: A = Vᵀ, B = U·M(c)ᵀ, α = r. At c = 1 the LoRA is what
/// the adapter is at the coefficient of the export; scaling the LoRA is not turning the rotation further.
/// </summary>
public static class LoraExport
{
    /// <summary>The LoRA at a coefficient. Throws <see cref="UserErrorException"/> for adapters that scale or rotate outputs.</summary>
    /// <param name="adapter">An SVD rotation, or a LoRA without bias, VeRA, DeLoRA or PSOFT.</param>
    /// <param name="c">Coefficient.</param>
    /// <param name="baseModel">Name of the base model, for the configuration.</param>
    public static PeftAdapter Of(IAdapter adapter, float c, string baseModel)
    {
        LoraFactors[] parts = Parts(adapter, c);
        return Adapter(adapter.Model, parts, baseModel, $"LoRA of {adapter.Kind} at {c.ToString(CultureInfo.InvariantCulture)}");
    }

    /// <summary>What the adapter adds to each of its layers' weights at a coefficient. Throws as <see cref="Of"/>.</summary>
    public static LoraFactors[] Parts(IAdapter adapter, float c)
    {
        if (!float.IsFinite(c))
            throw new UserErrorException($"coefficient {c} is not a finite number");
        return [.. adapter.Modules.Select(path =>
        {
            (double[] left, double[] right) = Factors(adapter, path, c);
            return new LoraFactors(adapter.Model.Linears[path], left, right);
        })];
    }

    /// <summary>The LoRA at a coefficient as a GGUF file that llama.cpp reads beside the base model. Throws as <see cref="Of"/>.</summary>
    /// <param name="path">File to write.</param>
    /// <param name="files">The base model's files.</param>
    /// <param name="adapter">An SVD rotation, or a LoRA without bias, VeRA, DeLoRA or PSOFT.</param>
    /// <param name="c">Coefficient.</param>
    public static IReadOnlyList<LoraFactors> WriteGguf(string path, ModelFiles files, IAdapter adapter, float c)
    {
        LoraFactors[] parts = Parts(adapter, c);
        GgufLoraFile.Write(path, files.Config, files.ConfigSource, [.. parts.Select(p => new GgufLoraFile.Layer(p.Module.Path, p.Module.Outputs, p.Module.Inputs, Narrow(p, p.Left), Narrow(p, p.Right)))], null);
        return parts;
    }

    /// <summary>A LoRA of factor 1 (α = r) with the given products at c = 1; the most frequent rank is r, others are in the patterns.</summary>
    /// <param name="model">The model.</param>
    /// <param name="parts">At least one layer with its factors.</param>
    /// <param name="baseModel">Name of the base model, for the configuration.</param>
    /// <param name="where">What it is, for messages.</param>
    public static PeftAdapter Adapter(DecoderModel model, IReadOnlyCollection<LoraFactors> parts, string baseModel, string where)
    {
        int common = parts.GroupBy(p => p.Rank).MaxBy(g => g.Count())!.Key;
        JsonObject json = PeftConfigs.Lora(common, common, new JsonArray([.. parts.Select(p => (JsonNode)p.Module.Path)]), baseModel);
        var others = parts.Where(p => p.Rank != common).ToArray();
        JsonObject Pattern() => new(others.Select(p => KeyValuePair.Create(p.Module.Path, (JsonNode?)p.Rank)));
        (json["rank_pattern"], json["alpha_pattern"]) = (Pattern(), Pattern());
        var layers = parts.Select(p => (PeftLayer)new LoraLayer(p.Module, 1, Tensor.From(model.Device, Narrow(p, p.Right), p.Rank, p.Module.Inputs), Tensor.From(model.Device, Narrow(p, p.Left), p.Module.Outputs, p.Rank), null, null)).ToList();
        return new PeftAdapter(model, new PeftConfig(json, where), layers);
    }

    /// <summary>What an adapter adds to the weight of one of its layers at a coefficient, as factors [out, r] and [r, in]; an adapter that does more is refused.</summary>
    internal static (double[] Left, double[] Right) Factors(IAdapter adapter, string path, float c)
    {
        if (adapter is SvdAdapter svd)
            return svd.Layers[path].Factors(c);
        if (adapter is PeftAdapter peft && peft.Layers[path] is LowRankLayer { IsBaseAtZero: true } layer)
            return layer.Factors(c);
        throw new UserErrorException($"{path}: a {adapter.Kind} adapter is more than a product of low rank added to the weight, so that no LoRA says the same; merge it into the weights instead");
    }

    private static float[] Narrow(LoraFactors part, double[] values)
    {
        float[] narrow = Array.ConvertAll(values, v => (float)v);
        int bad = Array.FindIndex(narrow, v => !float.IsFinite(v));
        return bad < 0 ? narrow : throw new UserErrorException($"{part.Module.Path}: the LoRA would hold {values[bad]:g3}, which is no number of fp32; take a smaller coefficient");
    }
}
