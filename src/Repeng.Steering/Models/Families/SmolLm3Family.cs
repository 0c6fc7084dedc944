using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>SmolLM3: Llama without rotary embedding in every fourth layer (NoPE, Kazemnejad et al. 2023); a window, where there is one, is for those layers.</summary>
internal static class SmolLm3Family
{
    public static ModelConfig Describe(ConfigReader c)
    {
        int layers = c.Size("num_hidden_layers", limit: 4096), interval = c.Size("no_rope_layer_interval", 4);
        // 1 where a layer has the rotary embedding, whatever the key's name says.
        int[] given = c.Ints("no_rope_layers");
        if (given.Length > 0 && given.Length < layers)
            throw new UserErrorException($"{c.Source}: no_rope_layers has {given.Length} entries for {layers} layers");
        bool[] rotary = [.. Enumerable.Range(0, layers).Select(i => given.Length > 0 ? given[i] != 0 : (i + 1) % interval != 0)];
        bool windowed = c.Bool("use_sliding_window", false);
        return LlamaFamily.Describe(c) with
        {
            RotaryLayers = rotary,
            // use_sliding_window decides on the layers, where layer_types does not; masks ask layer_types alone.
            Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, i => windowed && !rotary[i]),
        };
    }
}
