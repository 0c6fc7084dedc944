using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>Gemma: norms multiply by 1 + weight, embeddings are scaled; 2 and 3 have a norm on both sides of attention and MLP.</summary>
internal static class GemmaFamily
{
    private static BlockNames SandwichNames => new()
    {
        PostAttentionNorm = "post_attention_layernorm",
        PreMlpNorm = "pre_feedforward_layernorm",
        PostMlpNorm = "post_feedforward_layernorm",
    };

    public static ModelConfig Gemma(ConfigReader c)
    {
        // transformers reads hidden_act "gelu" of early Gemma checkpoints as the tanh form, which they were trained with.
        string activation = c.OptionalString("hidden_activation") ?? c.OptionalString("hidden_act") ?? "gelu_pytorch_tanh";
        return LlamaFamily.Describe(c) with
        {
            NormOffset = 1,
            Activation = c.Activation(activation == "gelu" ? "gelu_pytorch_tanh" : activation),
            EmbeddingScale = (float)Math.Sqrt(c.Size("hidden_size")),
        };
    }

    public static ModelConfig Gemma2(ConfigReader c) => Sandwich(c) with
    {
        Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, i => i % 2 == 0),
    };

    public static ModelConfig Gemma3(ConfigReader c) => Sandwich(c) with
    {
        QkNorm = QkNormKind.PerHead,
        Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, i => (i + 1) % c.Size("sliding_window_pattern", c.OptionalInt("_sliding_window_pattern") ?? 6) != 0),
        LocalRope = c.Ropes().Local ?? new RopeSpec(c.Double("rope_local_base_freq", 10000), null),
    };

    /// <summary>The multimodal checkpoint nests the text model.</summary>
    public static ModelConfig Gemma3Multimodal(ConfigReader c)
    {
        ConfigReader text = c.Object("text_config") ?? throw new UserErrorException($"{c.Source}: gemma3 without text_config");
        return Gemma3(text.WithDefaultsOf("gemma3_text")) with { Prefix = "language_model.model." };
    }

    private static ModelConfig Sandwich(ConfigReader c) => Gemma(c) with
    {
        Names = SandwichNames,
        AttentionScale = (float)(1 / Math.Sqrt(c.Double("query_pre_attn_scalar"))),
        AttentionSoftCap = (float)(c.OptionalDouble("attn_logit_softcapping") ?? 0),
        LogitSoftCap = (float)(c.OptionalDouble("final_logit_softcapping") ?? 0),
    };
}
