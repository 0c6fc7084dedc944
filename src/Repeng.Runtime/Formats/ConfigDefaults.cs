using System.Text.Json.Nodes;

namespace Repeng.Runtime.Formats;

/// <summary>
/// What transformers' configuration classes take for a key that config.json leaves out, by model_type, where it is not what the readers here take of every
/// family (as many key and value heads as heads, a head size of width / heads, a context of 2048, an epsilon of 1e-6, a base of 10000, no window, an untied
/// head). null in the file is a value, not a gap. Sizes that the weights show have no default, as a file without them is hardly a model's; nested
/// Gemma 3 files do leave them out.
/// </summary>
public static class ConfigDefaults
{
    private const string QwenWindows = """ "max_position_embeddings": 32768, "sliding_window": 4096 """;

    private static readonly Dictionary<string, string> s_defaults = new(StringComparer.Ordinal)
    {
        ["mistral"] = """{"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}""",
        ["mixtral"] = """{"num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1000000, "num_experts_per_tok": 2}""",
        ["qwen2"] = $$"""{"num_key_value_heads": 32, "max_window_layers": 28, {{QwenWindows}}}""",
        ["qwen3"] = $$"""{"num_key_value_heads": 32, "head_dim": 128, "max_window_layers": 28, {{QwenWindows}}}""",
        ["qwen2_moe"] = $$"""{"num_key_value_heads": 16, "max_window_layers": 28, "num_experts_per_tok": 4, {{QwenWindows}}}""",
        ["qwen3_moe"] = $$"""{"num_key_value_heads": 4, "num_experts_per_tok": 8, {{QwenWindows}}}""",
        ["gemma"] = """{"num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": true}""",
        ["gemma2"] = """{"num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": true, "sliding_window": 4096, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50, "final_logit_softcapping": 30}""",
        ["gemma3_text"] = """{"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072, "rope_theta": 1000000, "tie_word_embeddings": true, "sliding_window": 4096, "query_pre_attn_scalar": 256}""",
        ["phi3"] = """{"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5}""",
        ["olmo2"] = """{"rms_norm_eps": 1e-5}""",
        ["olmo3"] = """{"rms_norm_eps": 1e-5, "rope_theta": 500000, "sliding_window": 4096}""",
        ["olmoe"] = """{"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_experts_per_tok": 8}""",
        ["glm4"] = """{"num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7, "attention_bias": true}""",
        ["smollm3"] = """{"num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2000000, "tie_word_embeddings": true}""",
        ["gpt_oss"] = """{"num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 150000, "sliding_window": 128, "attention_bias": true, "num_experts_per_tok": 4, "rope_scaling": {"rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false, "original_max_position_embeddings": 4096}}""",
    };

    /// <summary>The defaults of a family; empty where it has none of its own.</summary>
    public static JsonObject Of(string modelType) => JsonNode.Parse(s_defaults.GetValueOrDefault(modelType, "{}"))!.AsObject();

    /// <summary>A copy of a config.json with the defaults of its family for the keys that are absent.</summary>
    public static JsonObject Fill(JsonObject config)
    {
        var filled = (JsonObject)config.DeepClone();
        if (config["model_type"] is JsonValue type && type.TryGetValue(out string? name))
            foreach ((string key, JsonNode? value) in Of(name))
                if (!filled.ContainsKey(key))
                    filled[key] = value?.DeepClone();
        return filled;
    }
}
