namespace Repeng.Steering.Models;

/// <summary>OLMoE (Muennighoff et al. 2024): Llama with experts in every layer, queries and keys normalised as a whole and perhaps cut.</summary>
internal static class OlmoeFamily
{
    public static ModelConfig Describe(ConfigReader c) => LlamaFamily.Describe(c) with
    {
        QkNorm = QkNormKind.FullWidth,
        QkvClip = c.OptionalDouble("clip_qkv") is null ? 0 : (float)c.Positive("clip_qkv", 0),
        MlpBias = false,
        Experts = new ExpertConfig
        {
            Count = c.Size("num_experts", c.OptionalInt("num_local_experts")),
            PerToken = c.Size("num_experts_per_tok"),
            IntermediateSize = c.Size("intermediate_size"),
            Layers = c.EveryLayer(),
            NormaliseWeights = c.Bool("norm_topk_prob", false),
        },
    };
}
