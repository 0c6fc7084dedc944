using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

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
        if (!float.IsFinite(c))
            throw new UserErrorException($"coefficient {c} is not a finite number");
        DecoderModel model = adapter.Model;
        (LinearModule Module, double[] Left, double[] Right, int Rank)[] parts = [.. adapter.Modules.Select(path =>
        {
            LinearModule module = model.Linears[path];
            (double[] left, double[] right) = Factors(adapter, path, c);
            return (module, left, right, left.Length / module.Outputs);
        })];
        int common = parts.GroupBy(p => p.Rank).MaxBy(g => g.Count())!.Key;
        JsonObject json = PeftConfigs.Lora(common, common, new JsonArray([.. parts.Select(p => (JsonNode)p.Module.Path)]), baseModel);
        var others = parts.Where(p => p.Rank != common).ToArray();
        JsonObject Pattern() => new(others.Select(p => KeyValuePair.Create(p.Module.Path, (JsonNode?)p.Rank)));
        (json["rank_pattern"], json["alpha_pattern"]) = (Pattern(), Pattern());
        var layers = parts.Select(p => (PeftLayer)new LoraLayer(p.Module, 1, Tensor.From(model.Device, Narrow(p.Right), p.Rank, p.Module.Inputs), Tensor.From(model.Device, Narrow(p.Left), p.Module.Outputs, p.Rank), null, null)).ToList();
        return new PeftAdapter(model, new PeftConfig(json, $"LoRA of {adapter.Kind} at {c.ToString(CultureInfo.InvariantCulture)}"), layers);
    }

    private static (double[] Left, double[] Right) Factors(IAdapter adapter, string path, float c)
    {
        if (adapter is SvdAdapter svd)
            return svd.Layers[path].Factors(c);
        if (adapter is PeftAdapter peft && peft.Layers[path] is LowRankLayer { IsBaseAtZero: true } layer)
            return layer.Factors(c);
        throw new UserErrorException($"{path}: a {adapter.Kind} adapter is more than a product of low rank added to the weight, so that no LoRA says the same; merge it into the weights instead");
    }

    private static float[] Narrow(double[] values) => Array.ConvertAll(values, v => (float)v);
}
