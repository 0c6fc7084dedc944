namespace Repeng.Steering.Models;

/// <summary>
/// gpt-oss (OpenAI 2025): a window in every other layer, attention sinks, biases everywhere, experts with a clamped gated unit, stacked
/// in one tensor a projection, as they are or in MXFP4 blocks.
/// </summary>
internal static class GptOssFamily
{
    public static ModelConfig Describe(ConfigReader c)
    {
        ModelConfig llama = LlamaFamily.Describe(c);
        return llama with
        {
            Windows = c.Windows(c.OptionalInt("sliding_window") ?? 0, i => i % 2 == 0),
            AttentionSinks = true,
            Experts = new ExpertConfig
            {
                Count = c.Size("num_local_experts", c.OptionalInt("num_experts")),
                PerToken = c.Size("num_experts_per_tok", c.OptionalInt("experts_per_token")),
                IntermediateSize = llama.IntermediateSize,
                Layers = c.EveryLayer(),
                // Softmax over the chosen logits.
                NormaliseWeights = true,
                Router = "router",
                RouterIsLinear = false,
                RouterBias = true,
                Bias = true,
                Stack = StackLayout.InOutInterleaved,
                ClampedGate = new ClampedGate((float)c.Double("swiglu_alpha", 1.702), (float)c.Double("swiglu_limit", 7)),
            },
        };
    }
}
