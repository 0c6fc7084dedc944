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
        // hidden_act "gelu" of early Gemma checkpoints stands for the tanh form, which they were trained with; transformers 4 documents the key as legacy, with the tanh form where hidden_activation is not given.
        string? old = c.OptionalString("hidden_act");
        return Describe(c, c.OptionalString("hidden_activation") ?? (old == "gelu" ? null : old));
    }

    public static ModelConfig Gemma2(ConfigReader c) => Sandwich(c) with
    {
        Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, i => i % 2 == 0),
    };

    public static ModelConfig Gemma3(ConfigReader c) => Sandwich(c) with
    {
        QkNorm = QkNormKind.PerHead,
        // The configuration class has the key of Gemma 2, the attention of Gemma 3 does not read it.
        AttentionSoftCap = 0,
        Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, i => (i + 1) % c.Size("sliding_window_pattern", c.OptionalInt("_sliding_window_pattern") ?? 6) != 0),
        LocalRope = (c.Ropes().Local ?? new RopeSpec(0, null)) with { Theta = LocalBase(c) },
    };

    /// <summary>The multimodal checkpoint nests the text model.</summary>
    public static ModelConfig Gemma3Multimodal(ConfigReader c)
    {
        ConfigReader text = c.Object("text_config") ?? throw new UserErrorException($"{c.Source}: gemma3 without text_config");
        ModelConfig config = Gemma3(text.WithDefaultsOf("gemma3_text"));
        // Where a text ends is said beside the text model; its module moved in transformers 4.52, whose files keep the old name unless they were written by hand.
        return config with { Prefix = "language_model.model.", OtherPrefix = "model.language_model.", EosTokenIds = [.. config.EosTokenIds.Concat(c.Ints("eos_token_id")).Distinct()] };
    }

    // The base of layers with a window falls back to a key, and a default, of its own.
    private static double LocalBase(ConfigReader c) => c.Object("rope_parameters")?.Object("sliding_attention")?.OptionalDouble("rope_theta") ?? c.Double("rope_local_base_freq", 10000);

    private static ModelConfig Describe(ConfigReader c, string? activation)
    {
        if (c.Bool("use_bidirectional_attention", false))
            throw new UserErrorException($"{c.Source}: use_bidirectional_attention is true: tokens see those behind them, as in models that embed texts; only models that go from left to right are supported");
        return LlamaFamily.Describe(c) with
        {
            NormOffset = 1,
            Activation = c.Activation(activation ?? "gelu_pytorch_tanh"),
            EmbeddingScale = (float)Math.Sqrt(c.Size("hidden_size")),
            MlpBias = false,
        };
    }

    private static ModelConfig Sandwich(ConfigReader c) => Describe(c, c.OptionalString("hidden_activation")) with
    {
        Names = SandwichNames,
        AttentionScale = (float)(1 / Math.Sqrt(c.Double("query_pre_attn_scalar"))),
        AttentionSoftCap = (float)(c.OptionalDouble("attn_logit_softcapping") ?? 0),
        LogitSoftCap = (float)(c.OptionalDouble("final_logit_softcapping") ?? 0),
    };
}
