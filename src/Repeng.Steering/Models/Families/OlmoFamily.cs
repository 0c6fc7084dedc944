namespace Repeng.Steering.Models;

/// <summary>OLMo: norms behind attention and MLP alone, queries and keys normalised as a whole; 3 has three windowed layers to one that sees everything.</summary>
internal static class OlmoFamily
{
    private static BlockNames PostNormNames => new()
    {
        InputNorm = null,
        PostAttentionNorm = "post_attention_layernorm",
        PreMlpNorm = null,
        PostMlpNorm = "post_feedforward_layernorm",
    };

    public static ModelConfig Olmo2(ConfigReader c) => LlamaFamily.Describe(c) with { Names = PostNormNames, QkNorm = QkNormKind.FullWidth, MlpBias = false };

    public static ModelConfig Olmo3(ConfigReader c) => Olmo2(c) with
    {
        Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, i => (i + 1) % 4 != 0),
        // Layers with a window keep the plain frequencies; scaling is for those that see everything.
        LocalRope = c.Ropes().Local ?? new RopeSpec(c.Ropes().Global.Theta, null),
    };
}
