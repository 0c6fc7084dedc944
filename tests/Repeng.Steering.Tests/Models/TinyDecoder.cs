using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Tests.Models;

/// <summary>Small random models for tests that need no files.</summary>
internal static class TinyDecoder
{
    public const int Vocabulary = 40;

    /// <summary>A qwen3, or qwen3_moe with six experts of which a token sees two, of width 16 with an own head; change may alter its description, seed its weights.</summary>
    public static DecoderModel Load(Device device, int layers = 4, Func<ModelConfig, ModelConfig>? change = null, ulong seed = 3, bool experts = false)
    {
        var json = new JsonObject
        {
            ["model_type"] = "qwen3",
            ["hidden_size"] = 16,
            ["intermediate_size"] = 24,
            ["num_hidden_layers"] = layers,
            ["num_attention_heads"] = 2,
            ["num_key_value_heads"] = 1,
            ["head_dim"] = 8,
            ["vocab_size"] = Vocabulary,
            ["max_position_embeddings"] = 64,
            ["rms_norm_eps"] = 1e-6,
            ["rope_theta"] = 10000.0,
            ["hidden_act"] = "silu",
            ["attention_bias"] = false,
            ["tie_word_embeddings"] = false,
            ["eos_token_id"] = Vocabulary - 1,
        };
        if (experts)
            (json["model_type"], json["num_experts"], json["num_experts_per_tok"], json["moe_intermediate_size"], json["norm_topk_prob"]) = ("qwen3_moe", 6, 2, 12, true);
        ModelConfig config = Families.Read(new ConfigReader(json, "tiny"));
        config = change?.Invoke(config) ?? config;
        using var weights = new ModelInitialiser(config, seed, 0.3);
        return ModelLoader.Load(device, config, weights);
    }
}
