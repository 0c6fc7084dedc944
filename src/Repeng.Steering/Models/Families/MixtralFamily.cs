namespace Repeng.Steering.Models;

/// <summary>Mixtral (Jiang et al. 2024): Mistral with experts in every layer.</summary>
internal static class MixtralFamily
{
    public static ModelConfig Describe(ConfigReader c) => MistralFamily.Describe(c) with
    {
        Names = new BlockNames { Mlp = "block_sparse_moe" },
        Experts = new ExpertConfig
        {
            Count = c.Size("num_local_experts"),
            PerToken = c.Size("num_experts_per_tok"),
            IntermediateSize = c.Size("intermediate_size"),
            Layers = c.EveryLayer(),
            NormaliseWeights = true,
            Gate = "w1",
            Up = "w3",
            Down = "w2",
        },
    };
}
