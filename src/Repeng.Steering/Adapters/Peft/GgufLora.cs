using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>LoRA adapters in llama.cpp's GGUF files, as adapters of PEFT.</summary>
public static class GgufLora
{
    /// <summary>Whether a path is meant as a GGUF file.</summary>
    public static bool IsGguf(string path) => path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) && !Directory.Exists(path);

    /// <summary>Loads a LoRA for a model; c = 1 is what llama.cpp computes at scale 1. Throws <see cref="UserErrorException"/> for anything that does not fit.</summary>
    public static PeftAdapter Load(DecoderModel model, string path)
    {
        ModelConfig c = model.Config;
        var parts = new List<LoraFactors>();
        foreach (GgufLoraFile.Layer layer in GgufLoraFile.Read(path, new(c.ModelType, model.Source, c.NumLayers, c.Experts?.Count ?? 0, c.HiddenSize, c.NumHeads, c.NumKvHeads, c.HeadDim, c.AttentionScale)))
        {
            if (!model.Linears.TryGetValue(layer.Path, out LinearModule? linear))
                throw new UserErrorException($"{path}: adapts {layer.Path}, which is no linear layer of {model.Source} that can be adapted (embeddings and the output head are not)");
            if (layer.Outputs != linear.Outputs || layer.Inputs != linear.Inputs)
                throw new UserErrorException($"{path}: the change of {layer.Path} is [{layer.Outputs}, {layer.Inputs}], the weight of {model.Source} [{linear.Outputs}, {linear.Inputs}]; load the base model that the adapter belongs to");
            parts.Add(new LoraFactors(linear, [.. layer.B], [.. layer.A]));
        }
        return LoraExport.Adapter(model, parts, model.Source, path);
    }
}
