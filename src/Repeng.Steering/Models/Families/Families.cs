using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>
/// The table of families that are known, by config.json's model_type. A family is a description of data, one file beside
/// this one: docs/adding-a-family.md walks through adding one.
/// </summary>
public static class Families
{
    private static readonly Dictionary<string, Func<ConfigReader, ModelConfig>> s_families = new()
    {
        ["llama"] = LlamaFamily.Describe,
        ["mistral"] = MistralFamily.Describe,
        ["qwen2"] = QwenFamily.Qwen2,
        ["qwen3"] = QwenFamily.Qwen3,
        ["gemma"] = GemmaFamily.Gemma,
        ["gemma2"] = GemmaFamily.Gemma2,
        ["gemma3_text"] = GemmaFamily.Gemma3,
        ["gemma3"] = GemmaFamily.Gemma3Multimodal,
        ["phi3"] = Phi3Family.Describe,
        ["olmo2"] = OlmoFamily.Olmo2,
        ["olmo3"] = OlmoFamily.Olmo3,
        ["glm4"] = Glm4Family.Describe,
        ["gpt2"] = Gpt2Family.Describe,
        ["gpt_neox"] = GptNeoxFamily.Describe,
        ["smollm3"] = SmolLm3Family.Describe,
        ["granite"] = GraniteFamily.Describe,
        ["qwen2_moe"] = QwenMoeFamily.Qwen2,
        ["qwen3_moe"] = QwenMoeFamily.Qwen3,
        ["mixtral"] = MixtralFamily.Describe,
        ["olmoe"] = OlmoeFamily.Describe,
        ["gpt_oss"] = GptOssFamily.Describe,
    };

    private static readonly Dictionary<string, string> s_refused = new()
    {
        ["deepseek_v2"] = "latent attention, mixture of experts in groups",
        ["deepseek_v3"] = "latent attention, mixture of experts in groups",
        ["llama4"] = "mixture of experts on scaled inputs, chunked attention",
        ["chatglm"] = "own code; take the -hf or 0414 repository of the same model",
    };

    /// <summary>Names of the supported families.</summary>
    public static IReadOnlyCollection<string> Supported => s_families.Keys;

    /// <summary>The description of a model from its config.json; an unknown family is refused by name before any weight is read.</summary>
    public static ModelConfig Read(ConfigReader config)
    {
        string type = config.OptionalString("model_type") ?? throw new UserErrorException($"{config.Source}: the key model_type is missing; is this the config.json of a language model?");
        if (s_refused.TryGetValue(type, out string? why))
            throw new UserErrorException($"{config.Source}: family {type} ({why}) is not supported yet; supported: {string.Join(", ", s_families.Keys)}");
        if (!s_families.TryGetValue(type, out Func<ConfigReader, ModelConfig>? describe))
            throw new UserErrorException($"{config.Source}: family {type} is not known; supported: {string.Join(", ", s_families.Keys)}");
        ModelConfig model = Describe(describe, config.WithDefaultsOf(type));
        if (model.NumHeads % model.NumKvHeads != 0)
            throw new UserErrorException($"{config.Source}: {model.NumHeads} attention heads are no multiple of {model.NumKvHeads} key/value heads");
        if (model.RotaryDim % 2 != 0 || model.RotaryDim > model.HeadDim)
            throw new UserErrorException($"{config.Source}: {model.RotaryDim} rotated elements in a head of {model.HeadDim}");
        if (model.Experts is { } e && e.PerToken > e.Count)
            throw new UserErrorException($"{config.Source}: a token is to go through {e.PerToken} experts (num_experts_per_tok), there are {e.Count}");
        return model;
    }

    // What deeper layers refuse, such as a kind of rope scaling, they refuse without knowing of a file.
    private static ModelConfig Describe(Func<ConfigReader, ModelConfig> describe, ConfigReader config)
    {
        try
        {
            return describe(config);
        }
        catch (UserErrorException e) when (!e.Message.Contains(config.Source, StringComparison.Ordinal))
        {
            throw new UserErrorException($"{config.Source}: {e.Message}", e);
        }
    }
}
