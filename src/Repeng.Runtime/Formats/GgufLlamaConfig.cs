using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>config.json fields of a GGUF file of architecture llama (keys: ggml's docs/gguf.md and llama.cpp's gguf-py constants).</summary>
internal static class GgufLlamaConfig
{
    public const string Architecture = "llama";

    private const long MostSize = 1 << 30;

    /// <summary>Keys that change what the model computes in ways model_type llama does not have, with the value that means "off".</summary>
    private static readonly (string Key, double Neutral)[] s_foreign =
    [
        ("expert_count", 0), ("expert_shared_count", 0), ("attention.sliding_window", 0), ("attention.max_alibi_bias", 0),
        ("attention.clamp_kqv", 0), ("logit_scale", 1), ("embedding_scale", 1), ("residual_scale", 1),
        ("attn_logit_softcapping", 0), ("final_logit_softcapping", 0), ("rope.scaling.yarn_log_multiplier", 0),
        ("rope.scaling.yarn_ext_factor", 1), ("rope.scaling.yarn_attn_factor", 1),
    ];

    /// <summary>Reads and checks the hyper-parameters.</summary>
    public static JsonObject Read(GgufFile file)
    {
        GgufMetadata m = file.Metadata;
        RefuseForeign(m);
        long hidden = Size(m, "embedding_length"), heads = Uniform(m, "attention.head_count") ?? throw m.Bad(Key("attention.head_count"), "is missing");
        long keyValueHeads = Uniform(m, "attention.head_count_kv") ?? heads;
        long headDim = HeadDim(m, hidden, heads);
        if (heads % keyValueHeads != 0)
            throw m.Bad(Key("attention.head_count_kv"), $"is {keyValueHeads}, which does not divide the {heads} attention heads");
        long vocabulary = Vocabulary(file, hidden);
        bool tied = !file.Contains("output.weight");
        var config = new JsonObject
        {
            ["model_type"] = "llama",
            ["architectures"] = new JsonArray("LlamaForCausalLM"),
            ["hidden_size"] = hidden,
            ["num_hidden_layers"] = Layers(file),
            ["num_attention_heads"] = heads,
            ["num_key_value_heads"] = keyValueHeads,
            ["head_dim"] = headDim,
            ["intermediate_size"] = Uniform(m, "feed_forward_length") ?? throw m.Bad(Key("feed_forward_length"), "is missing"),
            ["vocab_size"] = vocabulary,
            ["max_position_embeddings"] = Size(m, "context_length"),
            ["hidden_act"] = "silu",
            ["rms_norm_eps"] = m.Number(Key("attention.layer_norm_rms_epsilon"), 0, 1),
            // 10000 is what the format gives to a file without the key.
            ["rope_theta"] = m.OptionalNumber(Key("rope.freq_base"), double.Epsilon) ?? 10000.0,
            ["rope_scaling"] = RopeScaling(file, headDim),
            ["attention_bias"] = file.Contains("blk.0.attn_q.bias"),
            ["mlp_bias"] = file.Contains("blk.0.ffn_up.bias"),
            ["tie_word_embeddings"] = tied,
        };
        foreach ((string id, string field) in new[] { ("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id") })
            if (GgufTokenizer.TokenId(m, id, vocabulary) is { } token)
                config[field] = token;
        return config;
    }

    private static string Key(string name) => $"{Architecture}.{name}";

    private static long Size(GgufMetadata m, string name) => m.Integer(Key(name), 1, MostSize);

    private static long Layers(GgufFile file)
    {
        long layers = Size(file.Metadata, "block_count");
        return layers <= file.Names.Count ? layers : throw file.Metadata.Bad(Key("block_count"), $"is {layers}, the file has only {file.Names.Count} tensors");
    }

    private static void RefuseForeign(GgufMetadata m)
    {
        foreach ((string name, double neutral) in s_foreign)
            if (m.OptionalNumber(Key(name)) is { } value && value != neutral)
                throw m.Bad(Key(name), $"is {value:R}; a llama model with this setting is not supported{(name == "expert_count" ? " (mixture of experts)" : "")}");
        if (m.OptionalBoolean(Key("attention.causal")) is false)
            throw m.Bad(Key("attention.causal"), "is false; models without a causal mask are not supported");
    }

    /// <summary>A size that newer files may give per block: one number, or an array of equal numbers.</summary>
    private static long? Uniform(GgufMetadata m, string name)
    {
        long[]? values = m.OptionalIntegers(Key(name), 1, MostSize);
        if (values is null)
            return null;
        if (values.Length == 0 || values.Any(v => v != values[0]))
            throw m.Bad(Key(name), $"differs from block to block ({string.Join(", ", values.Distinct().Take(4))}); such models are not supported");
        return values[0];
    }

    private static long HeadDim(GgufMetadata m, long hidden, long heads)
    {
        long? stored = m.OptionalInteger(Key("attention.key_length"), 1, MostSize);
        if (stored is null && hidden % heads != 0)
            throw m.Bad(Key("attention.head_count"), $"is {heads}, which does not divide the embedding length {hidden}");
        long headDim = stored ?? hidden / heads;
        if (m.OptionalInteger(Key("attention.value_length")) is { } value && value != headDim)
            throw m.Bad(Key("attention.value_length"), $"is {value}, the key length {headDim}; different lengths are not supported");
        if (headDim % 2 != 0)
            throw m.Bad(Key(stored is null ? "embedding_length" : "attention.key_length"), $"gives heads of {headDim}; rotary embedding needs an even number");
        if (m.OptionalInteger(Key("rope.dimension_count")) is { } rotated && rotated != headDim)
            throw m.Bad(Key("rope.dimension_count"), $"is {rotated}, the head has {headDim}; partial rotation is not supported for {Architecture}");
        return headDim;
    }

    private static long Vocabulary(GgufFile file, long hidden)
    {
        long rows = file.Info("token_embd.weight", -1, hidden).Shape[0];
        if (file.Metadata.OptionalInteger(Key("vocab_size")) is { } stored && stored != rows)
            throw file.Metadata.Bad(Key("vocab_size"), $"is {stored}, the embedding has {rows} rows");
        return rows;
    }

    private static JsonObject? RopeScaling(GgufFile file, long headDim)
    {
        if (Factors(file, headDim) is { } factors)
            return factors;
        GgufMetadata m = file.Metadata;
        // Files of 2023 have the linear factor alone.
        string type = m.OptionalText(Key("rope.scaling.type")) ?? (m.Has(Key("rope.scale_linear")) ? "linear" : "none");
        string factorKey = m.Has(Key("rope.scaling.factor")) ? "rope.scaling.factor" : "rope.scale_linear";
        switch (type)
        {
            case "none":
                return null;
            case "linear":
                return new JsonObject { ["rope_type"] = "linear", ["factor"] = m.Number(Key(factorKey), double.Epsilon) };
            case "yarn":
                return Yarn(m, m.Number(Key("rope.scaling.factor"), double.Epsilon));
            default:
                throw m.Bad(Key("rope.scaling.type"), $"is {FileErrors.Quote(type)}; supported are none, linear, yarn and factors stored as tensors");
        }
    }

    private static JsonObject Yarn(GgufMetadata m, double factor)
    {
        var yarn = new JsonObject
        {
            ["rope_type"] = "yarn",
            ["factor"] = factor,
            ["original_max_position_embeddings"] = m.Integer(Key("rope.scaling.original_context_length"), 1, MostSize),
        };
        // llama.cpp multiplies its own 0.1·ln(factor) + 1 by the stored number; Hugging Face names the product.
        if (m.OptionalNumber(Key("rope.scaling.attn_factor"), double.Epsilon) is { } attention && attention != 1)
            yarn["attention_factor"] = attention * (0.1 * Math.Log(factor) + 1);
        foreach (string name in new[] { "beta_fast", "beta_slow" })
            if (m.OptionalNumber(Key($"rope.scaling.yarn_{name}"), 0) is { } beta)
                yarn[name] = beta;
        return yarn;
    }

    /// <summary>
    /// Frequency divisors stored as tensors: rope_freqs for Llama 3.1 and later (the llama3 rule, evaluated by the
    /// converter), rope_factors_short and _long for longrope. Hugging Face's longrope takes such divisors as they are.
    /// </summary>
    private static JsonObject? Factors(GgufFile file, long headDim)
    {
        const string Single = "rope_freqs.weight", Short = "rope_factors_short.weight", Long = "rope_factors_long.weight";
        GgufMetadata m = file.Metadata;
        long context = Size(m, "context_length");
        if (file.Contains(Short) || file.Contains(Long))
        {
            if (file.Contains(Single))
                throw FileErrors.Bad(file.Description, $"holds both {Single} and {Short}; only one kind of rope factors can apply");
            return new JsonObject
            {
                ["rope_type"] = "longrope",
                ["short_factor"] = Read(Short),
                ["long_factor"] = Read(Long),
                ["original_max_position_embeddings"] = m.Integer(Key("rope.scaling.original_context_length"), 1, MostSize),
                ["attention_factor"] = m.OptionalNumber(Key("rope.scaling.attn_factor"), double.Epsilon) ?? 1.0,
            };
        }
        if (!file.Contains(Single))
            return null;
        if (m.OptionalText(Key("rope.scaling.type")) is { } type && type is not ("none" or "longrope"))
            throw m.Bad(Key("rope.scaling.type"), $"is {FileErrors.Quote(type)} beside rope factors in {Single}; only one kind of scaling can apply");
        return new JsonObject
        {
            ["rope_type"] = "longrope",
            ["short_factor"] = Read(Single),
            ["long_factor"] = Read(Single),
            ["original_max_position_embeddings"] = context,
            ["attention_factor"] = 1.0,
        };

        JsonArray Read(string name)
        {
            file.Info(name, headDim / 2);
            float[] values = file.ReadF32(name);
            int bad = Array.FindIndex(values, v => !float.IsFinite(v) || v <= 0);
            if (bad >= 0)
                throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)}, element {bad}: {values[bad]:R} is no divisor of a frequency; it must be finite and above 0");
            return new JsonArray([.. values.Select(v => (JsonNode)JsonValue.Create((double)v))]);
        }
    }
}
