using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>Qwen's mixtures of experts: 2 with an expert that every token goes through, 3 without; some layers may have a plain MLP.</summary>
internal static class QwenMoeFamily
{
    public static ModelConfig Qwen2(ConfigReader c)
    {
        bool windowed = c.Bool("use_sliding_window", false);
        int below = c.Int("max_window_layers");
        return LlamaFamily.Describe(c) with
        {
            QkvBias = c.Bool("qkv_bias", true),
            OutputBias = false,
            MlpBias = false,
            Windows = c.Windows(windowed ? c.OptionalInt("sliding_window") ?? 0 : 0, i => i % 2 == 0 && i < below),
            Experts = Experts(c) is { } experts ? experts with { SharedIntermediateSize = c.Size("shared_expert_intermediate_size") } : null,
        };
    }

    public static ModelConfig Qwen3(ConfigReader c) => LlamaFamily.Describe(c) with
    {
        QkNorm = QkNormKind.PerHead,
        Windows = c.Windows(c.Bool("use_sliding_window", false) ? c.OptionalInt("sliding_window") ?? 0 : 0, _ => true),
        Experts = Experts(c),
    };

    // Null where there are none: every layer has a plain MLP.
    private static ExpertConfig? Experts(ConfigReader c)
    {
        if (c.OptionalInt("num_experts") == 0)
            return null;
        int layers = c.Size("num_hidden_layers", limit: 4096), step = c.Size("decoder_sparse_step", 1);
        int[] plain = c.Ints("mlp_only_layers");
        if (plain.Length > 0 && (plain.Min() < 0 || plain.Max() >= layers))
            throw new UserErrorException($"{c.Source}: mlp_only_layers names layer {(plain.Min() < 0 ? plain.Min() : plain.Max())}, there are layers 0 … {layers - 1}");
        return new ExpertConfig
        {
            Count = c.Size("num_experts", c.OptionalInt("num_local_experts")),
            PerToken = c.Size("num_experts_per_tok"),
            IntermediateSize = c.Size("moe_intermediate_size"),
            NormaliseWeights = c.Bool("norm_topk_prob", false),
            Layers = [.. Enumerable.Range(0, layers).Select(i => !plain.Contains(i) && (i + 1) % step == 0)],
        };
    }
}
