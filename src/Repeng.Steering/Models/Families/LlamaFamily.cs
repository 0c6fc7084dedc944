namespace Repeng.Steering.Models;

/// <summary>Llama (Touvron et al. 2023), which most families say what they are by their difference from.</summary>
internal static class LlamaFamily
{
    public static ModelConfig Describe(ConfigReader c)
    {
        int hidden = c.Size("hidden_size"), heads = c.Size("num_attention_heads"), layers = c.Size("num_hidden_layers", limit: 4096);
        int headDim = c.HeadDim();
        (RopeSpec rope, _) = c.Ropes();
        return new ModelConfig
        {
            ModelType = c.OptionalString("model_type")!,
            VocabSize = c.Size("vocab_size"),
            HiddenSize = hidden,
            IntermediateSize = c.Size("intermediate_size"),
            NumLayers = layers,
            NumHeads = heads,
            NumKvHeads = c.Size("num_key_value_heads", heads),
            HeadDim = headDim,
            MaxPositions = c.Size("max_position_embeddings", 2048, int.MaxValue),
            NormEps = (float)c.Double("rms_norm_eps", 1e-6),
            QkvBias = c.Bool("attention_bias", false),
            OutputBias = c.Bool("attention_bias", false),
            MlpBias = c.Bool("mlp_bias", false),
            Activation = c.Activation(c.OptionalString("hidden_activation") ?? c.OptionalString("hidden_act") ?? "silu"),
            Rope = rope,
            RotaryDim = c.RotaryDim(1),
            Windows = new int[layers],
            AttentionScale = (float)(1 / Math.Sqrt(headDim)),
            TiedHead = c.Bool("tie_word_embeddings", false),
            EosTokenIds = c.Ints("eos_token_id"),
        };
    }
}
