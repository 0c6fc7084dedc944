namespace Repeng.Steering.Models;

/// <summary>OLMoE (Muennighoff et al. 2024): Llama with experts in every layer, queries and keys normalised as a whole and perhaps cut.</summary>
internal static class OlmoeFamily
{
    public static ModelConfig Describe(ConfigReader c) => LlamaFamily.Describe(c) with
    {
        NormEps = (float)c.Double("rms_norm_eps", 1e-5),
        QkNorm = QkNormKind.FullWidth,
        QkvClip = (float)(c.OptionalDouble("clip_qkv") ?? 0),
        Experts = new ExpertConfig
        {
            Count = c.Size("num_experts"),
            PerToken = c.Size("num_experts_per_tok"),
            IntermediateSize = c.Size("intermediate_size"),
            Layers = c.EveryLayer(),
            NormaliseWeights = c.Bool("norm_topk_prob", false),
        },
    };
}
