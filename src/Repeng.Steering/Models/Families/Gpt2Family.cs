using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>GPT-2: learned positions, LayerNorm with bias, weights stored [in, out].</summary>
internal static class Gpt2Family
{
    public static ModelConfig Describe(ConfigReader c)
    {
        int hidden = c.Size("n_embd"), heads = c.Size("n_head"), layers = c.Size("n_layer", limit: 4096);
        if (c.Bool("scale_attn_by_inverse_layer_idx", false))
            throw new UserErrorException($"{c.Source}: gpt2 with scale_attn_by_inverse_layer_idx is not supported");
        return new ModelConfig
        {
            ModelType = "gpt2",
            VocabSize = c.Size("vocab_size"),
            HiddenSize = hidden,
            IntermediateSize = c.OptionalInt("n_inner") ?? 4 * hidden,
            NumLayers = layers,
            NumHeads = heads,
            NumKvHeads = heads,
            HeadDim = hidden / heads,
            MaxPositions = c.Size("n_positions"),
            Norm = NormKind.Layer,
            NormEps = (float)c.Double("layer_norm_epsilon", 1e-5),
            Names = new BlockNames
            {
                Attention = "attn",
                InputNorm = "ln_1",
                PreMlpNorm = "ln_2",
                FusedQkv = "c_attn",
                Output = "c_proj",
                Up = "c_fc",
                Down = "c_proj",
            },
            Prefix = "transformer.",
            Layers = "h",
            Embedding = "wte",
            PositionEmbedding = "wpe",
            FinalNorm = "ln_f",
            LinearStoredTransposed = true,
            QkvBias = true,
            OutputBias = true,
            MlpBias = true,
            Gated = false,
            Activation = c.Activation(c.OptionalString("activation_function") ?? "gelu_new"),
            Windows = new int[layers],
            AttentionScale = c.Bool("scale_attn_weights", true) ? (float)(1 / Math.Sqrt(hidden / heads)) : 1,
            TiedHead = c.Bool("tie_word_embeddings", true),
            EosTokenIds = c.Ints("eos_token_id"),
        };
    }
}
