namespace Repeng.Steering.Models;

/// <summary>GLM-4 (0414): half of each head rotated, neighbours with each other; a norm on both sides of attention and MLP.</summary>
internal static class Glm4Family
{
    public static ModelConfig Describe(ConfigReader c) => LlamaFamily.Describe(c) with
    {
        Names = new BlockNames
        {
            PostAttentionNorm = "post_self_attn_layernorm",
            PostMlpNorm = "post_mlp_layernorm",
            FusedGateUp = "gate_up_proj",
        },
        OutputBias = false,
        RopeInterleaved = true,
        RotaryDim = c.RotaryDim(0.5),
    };
}
