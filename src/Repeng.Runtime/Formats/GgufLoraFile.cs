using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// LoRA adapters as llama.cpp reads them (llama-adapter.cpp): general.type adapter, adapter.type lora, and for every
/// layer the tensors NAME.weight.lora_a [r, in] and NAME.weight.lora_b [out, r], rows of b moved as those of the weight are.
/// </summary>
public static class GgufLoraFile
{
    /// <summary>The change of one linear layer: B [out, r] · A [r, in].</summary>
    /// <param name="Path">Dotted path of the layer, such as model.layers.0.self_attn.q_proj.</param>
    /// <param name="Outputs">Rows of B.</param>
    /// <param name="Inputs">Columns of A.</param>
    /// <param name="B">Row-major.</param>
    /// <param name="A">Row-major.</param>
    public sealed record Layer(string Path, int Outputs, int Inputs, float[] B, float[] A)
    {
        /// <summary>r.</summary>
        public int Rank => B.Length / Outputs;
    }

    /// <summary>Writes the file; at llama.cpp's scale 1 the layers' weights change by B·A.</summary>
    /// <param name="path">File to write.</param>
    /// <param name="config">Fields of the base model's config.json.</param>
    /// <param name="configSource">What messages call the configuration.</param>
    /// <param name="layers">At least one layer.</param>
    /// <param name="name">general.name, or null.</param>
    /// <exception cref="UserErrorException">The family is unknown to GGUF, or a layer has no name there.</exception>
    public static void Write(string path, JsonObject config, string configSource, IReadOnlyList<Layer> layers, string? name)
    {
        var fields = new JsonFields(config, configSource);
        GgufFamily family = GgufModelWriter.FamilyOf(fields);
        long heads = fields.OptionalInteger("num_attention_heads") ?? 0, keyValueHeads = fields.OptionalInteger("num_key_value_heads") ?? heads;
        long headDim = fields.OptionalInteger("head_dim") ?? (heads > 0 ? fields.Integer("hidden_size") / heads : 0);
        var writer = new GgufWriter(family.Architecture);
        writer.Add("general.type", "adapter").Add("adapter.type", "lora");
        if (name is not null)
            writer.Add("general.name", name);
        // llama.cpp multiplies by alpha / rank, and by 1 where alpha is 0.
        int[] ranks = [.. layers.Select(l => l.Rank).Distinct()];
        writer.Add("adapter.lora.alpha", ranks.Length == 1 ? (float)ranks[0] : 0f);
        foreach (Layer layer in layers)
        {
            (string gguf, int? expert) = family.ToGguf(layer.Path + ".weight")
                ?? throw FileErrors.Bad(configSource, $"layer {layer.Path} has no name in llama.cpp's {family.Architecture}");
            if (expert is not null)
                throw FileErrors.Bad(configSource, $"layer {layer.Path} is one expert; llama.cpp adds LoRAs to all experts of a block together");
            long permuted = family.PermutedHeads(gguf, heads, keyValueHeads);
            if (permuted > 0 && layer.Outputs != permuted * headDim)
                throw FileErrors.Bad(configSource, $"layer {layer.Path} has {layer.Outputs} outputs, needed are {permuted} heads of {headDim}");
            float scale = GgufModelWriter.ScalesQueries(family, gguf) ? GgufConfig.QueryScale(fields, family) : 1;
            writer.AddTensor(gguf + ".lora_a", [layer.Rank, layer.Inputs], layer.A);
            writer.AddTensor(gguf + ".lora_b", [layer.Outputs, layer.Rank], Rows(layer, permuted > 0 ? headDim : 0, scale));
        }
        writer.Write(path);
    }

    private static float[] Rows(Layer layer, long headDim, float scale)
    {
        if (headDim == 0 && scale == 1)
            return layer.B;
        var moved = new float[layer.B.Length];
        for (int row = 0; row < layer.Outputs; row++)
        {
            int from = headDim == 0 ? row : (int)GgufTensors.SourceRow(row, headDim);
            for (int j = 0; j < layer.Rank; j++)
                moved[row * layer.Rank + j] = layer.B[from * layer.Rank + j] * scale;
        }
        return moved;
    }
}
