namespace Repeng.Steering.Models;

/// <summary>Granite 3 (IBM): Llama with factors of the embeddings, the attention scores, what blocks add, and a divisor of the logits.</summary>
internal static class GraniteFamily
{
    public static ModelConfig Describe(ConfigReader c) => LlamaFamily.Describe(c) with
    {
        EmbeddingScale = (float)c.Double("embedding_multiplier", 1),
        AttentionScale = (float)c.Double("attention_multiplier", 1),
        ResidualScale = (float)c.Double("residual_multiplier", 1),
        LogitScale = (float)(1 / c.Positive("logits_scaling", 1)),
    };
}
