using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>The fields of a config.json from the metadata of a GGUF file (keys: ggml's docs/gguf.md and gguf-py's constants).</summary>
internal static partial class GgufConfig
{
    private const long MostSize = 1 << 30;

    /// <summary>
    /// Keys that change what a model computes in ways that the families here do not have, with the value that means
    /// "off". A family that has the key as a field or by one of its properties is not asked.
    /// </summary>
    private static readonly (string Key, double Neutral)[] s_foreign =
    [
        ("expert_count", 0), ("expert_shared_count", 0), ("attention.sliding_window", 0), ("attention.max_alibi_bias", 0),
        ("attention.clamp_kqv", 0), ("logit_scale", 1), ("embedding_scale", 1), ("residual_scale", 1), ("attention.scale", 0),
        ("attn_logit_softcapping", 0), ("final_logit_softcapping", 0), ("rope.scaling.yarn_log_multiplier", 0),
        ("rope.scaling.yarn_ext_factor", 1), ("rope.scaling.yarn_attn_factor", 1), ("expert_weights_scale", 1), ("expert_gating_func", 1),
        ("leading_dense_block_count", 0), ("nextn_predict_layers", 0),
    ];

    /// <summary>Reads and checks the hyper-parameters.</summary>
    public static JsonObject Read(GgufFile file, GgufFamily family)
    {
        GgufMetadata m = file.Metadata;
        RefuseForeign(m, family);
        var config = new JsonObject { ["model_type"] = family.ModelType, ["architectures"] = new JsonArray(family.ModelClass) };
        foreach ((string field, JsonNode value) in family.Implied)
            config[field] = value.DeepClone();
        foreach (GgufField field in family.Fields)
            if (ReadField(m, family, field) is { } value)
                config[field.Config] = value;
        foreach ((string gguf, string field, bool usual) in family.Flags)
            config[field] = m.OptionalBoolean(family.Key(gguf)) ?? usual;
        long heads = Whole(config, family, "attention.head_count"), hidden = Whole(config, family, "embedding_length");
        long headDim = HeadDim(m, family, hidden, heads);
        if (family.HasRope)
        {
            long keyValueHeads = config["num_key_value_heads"]?.GetValue<long>() ?? heads;
            config["num_key_value_heads"] = keyValueHeads;
            if (heads % keyValueHeads != 0)
                throw m.Bad(family.Key("attention.head_count_kv"), $"is {keyValueHeads}, which does not divide the {heads} attention heads");
            config["head_dim"] = headDim;
            ReadRope(file, family, config, headDim);
        }
        long blocks = Whole(config, family, "block_count");
        if (blocks > file.Names.Count)
            throw m.Bad(family.Key("block_count"), $"is {blocks}, the file has only {file.Names.Count} tensors");
        ReadWindows(m, family, config, blocks);
        if (family.Experts.Length > 0 && DenseBlocks(file, family, blocks) is { Length: > 0 } dense)
            config["mlp_only_layers"] = new JsonArray([.. dense.Select(b => (JsonNode)JsonValue.Create(b))]);
        if (family.BlocksOfOtherScale is { } other)
            config["query_pre_attn_scalar"] = blocks == other ? (double)hidden / heads : headDim;
        foreach (GgufBiases bias in family.Biases)
            config[bias.Config] = family.ToGguf($"{family.Blocks}.0.{bias.Module}.{bias.Projections[0]}.bias") is { } name && file.Contains(name.Name);
        long vocabulary = Vocabulary(file, family, hidden);
        config["vocab_size"] = vocabulary;
        config["tie_word_embeddings"] = family.AlwaysTied || !file.Contains("output.weight");
        foreach ((string id, string field) in new[] { ("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id") })
            if (GgufTokenizer.TokenId(m, id, vocabulary) is { } token)
                config[field] = token;
        // A turn may end otherwise than a text; config.json lists both.
        if (GgufTokenizer.TokenId(m, "eot", vocabulary) is { } turn && config["eos_token_id"] is JsonValue eos && eos.GetValue<int>() != turn)
            config["eos_token_id"] = new JsonArray(eos.GetValue<int>(), turn);
        return config;
    }

    private static void RefuseForeign(GgufMetadata m, GgufFamily family)
    {
        foreach ((string name, double neutral) in s_foreign)
        {
            bool known = family.Fields.Any(f => f.Gguf == name) || (name == "attention.sliding_window" && family.Windows is not null);
            if (!known && !m.IsArray(family.Key(name)) && m.OptionalNumber(family.Key(name)) is { } value && value != neutral)
                throw m.Bad(family.Key(name), $"is {value:R}; a {family.Architecture} model with this setting is not supported{(name == "expert_count" ? " (mixture of experts)" : "")}");
        }
        if (m.OptionalBoolean(family.Key("attention.causal")) is false)
            throw m.Bad(family.Key("attention.causal"), "is false; models without a causal mask are not supported");
    }

    /// <summary>Blocks without experts, which have a plain MLP in their place.</summary>
    private static int[] DenseBlocks(GgufFile file, GgufFamily family, long blocks)
    {
        string stem = family.Experts[0].Gguf;
        int[] dense = [.. Enumerable.Range(0, (int)blocks).Where(b => !file.Contains($"blk.{b}.{stem}.weight"))];
        if (dense.Length > 0 && family.Block.All(b => b.Gguf != "ffn_down"))
            throw FileErrors.Bad(file.Description, $"block {dense[0]} has no {stem}; every block of a {family.Architecture} model with experts has them");
        return dense;
    }

    private static JsonNode? ReadField(GgufMetadata m, GgufFamily family, GgufField field)
    {
        string key = family.Key(field.Gguf);
        JsonNode? value = field.Whole ? Uniform(m, key) is { } whole ? JsonValue.Create(whole) : null
            : m.OptionalNumber(key, 0) is { } number ? JsonValue.Create(number) : null;
        return value is null && field.Required ? throw m.Bad(key, "is missing") : value;
    }

    private static long Whole(JsonObject config, GgufFamily family, string gguf) => config[family.Fields.Single(f => f.Gguf == gguf).Config]!.GetValue<long>();

    /// <summary>A size that newer files may give per block: one number, or an array of equal numbers.</summary>
    private static long? Uniform(GgufMetadata m, string key)
    {
        long[]? values = m.OptionalIntegers(key, 1, MostSize);
        if (values is null)
            return null;
        if (values.Length == 0 || values.Any(v => v != values[0]))
            throw m.Bad(key, $"differs from block to block ({string.Join(", ", values.Distinct().Take(4))}); such models are not supported");
        return values[0];
    }

    private static long HeadDim(GgufMetadata m, GgufFamily family, long hidden, long heads)
    {
        long? stored = m.OptionalInteger(family.Key("attention.key_length"), 1, MostSize);
        if (stored is null && hidden % heads != 0)
            throw m.Bad(family.Key("attention.head_count"), $"is {heads}, which does not divide the embedding length {hidden}");
        long headDim = stored ?? hidden / heads;
        if (m.OptionalInteger(family.Key("attention.value_length")) is { } value && value != headDim)
            throw m.Bad(family.Key("attention.value_length"), $"is {value}, the key length {headDim}; different lengths are not supported");
        if (family.HasRope && headDim % 2 != 0)
            throw m.Bad(family.Key(stored is null ? "embedding_length" : "attention.key_length"), $"gives heads of {headDim}; rotary embedding needs an even number");
        return headDim;
    }

    private static long Vocabulary(GgufFile file, GgufFamily family, long hidden)
    {
        long rows = file.Info("token_embd.weight", -1, hidden).Shape[0];
        if (file.Metadata.OptionalInteger(family.Key("vocab_size")) is { } stored && stored != rows)
            throw file.Metadata.Bad(family.Key("vocab_size"), $"is {stored}, the embedding has {rows} rows");
        return rows;
    }

    private static void ReadWindows(GgufMetadata m, GgufFamily family, JsonObject config, long blocks)
    {
        if (family.Windows is not { } windows)
            return;
        long window = m.OptionalInteger(family.Key("attention.sliding_window"), 0, MostSize) ?? windows.Default;
        config["sliding_window"] = window == 0 ? null : window;
        if (windows.Period == 1)
            return;
        string key = family.Key("attention.sliding_window_pattern");
        bool[]? pattern = m.IsArray(key) ? m.OptionalBooleans(key) : null;
        long period = pattern is null ? m.OptionalInteger(key, 1, MostSize) ?? windows.Period : 0;
        if (pattern is not null && pattern.Length != blocks)
            throw m.Bad(key, $"has {pattern.Length} entries for {blocks} blocks");
        config["layer_types"] = new JsonArray([.. Enumerable.Range(0, (int)blocks).Select(i =>
            (JsonNode)JsonValue.Create(window > 0 && (pattern is null ? (i + 1) % period != 0 : pattern[i]) ? "sliding_attention" : "full_attention"))]);
    }
}
