namespace Repeng.Steering.Models;

/// <summary>
/// GPT-NeoX and Pythia (Black et al. 2022): attention and MLP side by side, LayerNorm, a quarter of each head rotated, q, k and v of a
/// head beside each other in one projection.
/// </summary>
internal static class GptNeoxFamily
{
    public static ModelConfig Describe(ConfigReader c)
    {
        int hidden = c.Size("hidden_size"), heads = c.Size("num_attention_heads"), layers = c.Size("num_hidden_layers", limit: 4096), headDim = hidden / heads;
        (RopeSpec rope, _) = c.Ropes("rotary_emb_base", "rope_theta");
        bool bias = c.Bool("attention_bias", true);
        return new ModelConfig
        {
            ModelType = "gpt_neox",
            VocabSize = c.Size("vocab_size"),
            HiddenSize = hidden,
            IntermediateSize = c.Size("intermediate_size"),
            NumLayers = layers,
            NumHeads = heads,
            NumKvHeads = heads,
            HeadDim = headDim,
            MaxPositions = c.Size("max_position_embeddings", 2048, int.MaxValue),
            Norm = NormKind.Layer,
            NormEps = (float)c.Double("layer_norm_eps", 1e-5),
            Names = new BlockNames
            {
                Attention = "attention",
                FusedQkv = "query_key_value",
                Output = "dense",
                Up = "dense_h_to_4h",
                Down = "dense_4h_to_h",
            },
            Prefix = "gpt_neox.",
            Embedding = "embed_in",
            FinalNorm = "final_layer_norm",
            HeadPath = "embed_out",
            QkvLayout = QkvLayout.ByHead,
            QkvBias = bias,
            OutputBias = bias,
            MlpBias = true,
            Gated = false,
            ParallelResidual = c.Bool("use_parallel_residual", true),
            Activation = c.Activation(c.OptionalString("hidden_act") ?? "gelu"),
            Rope = rope,
            RotaryDim = c.RotaryDim(c.OptionalDouble("rotary_pct") ?? 0.25),
            Windows = new int[layers],
            AttentionScale = (float)(1 / Math.Sqrt(headDim)),
            TiedHead = c.Bool("tie_word_embeddings", false),
            EosTokenIds = c.Ints("eos_token_id"),
        };
    }
}
