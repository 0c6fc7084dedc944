using System.Text.Json.Nodes;

namespace Repeng.Runtime.Formats;

/// <summary>Metadata from a config.json: the other direction of the same table.</summary>
internal static partial class GgufConfig
{
    // Rope types of config.json that say nothing about scaling.
    private static readonly string[] s_unscaled = ["default", "none"];

    /// <summary>
    /// Adds the hyper-parameters to a file, and the tensors that rope factors are. What llama.cpp would not compute as
    /// config.json says is a <see cref="Kernels.UserErrorException"/>, or told to warn where the difference shows in long texts only.
    /// </summary>
    public static void Write(JsonFields config, GgufFamily family, GgufWriter writer, Action<string>? warn)
    {
        foreach ((string field, JsonNode value) in family.Implied)
            if (config.Has(field) && !Same(config.Json[field]!, value) && !(field == "hidden_act" && config.OptionalText(field) == "swish"))
                throw config.Error(field, $"is {config.Json[field]!.ToJsonString()}, llama.cpp's {family.Architecture} has {value.ToJsonString()}; a GGUF file cannot say otherwise");
        if (config.Has("clip_qkv"))
            throw config.Error("clip_qkv", $"is {config.Json["clip_qkv"]!.ToJsonString()}, and llama.cpp's {family.Architecture} does not cut queries, keys and values");
        foreach (GgufField field in family.Fields)
            WriteField(config, family, field, writer);
        foreach ((string gguf, string name, bool usual) in family.Flags)
            writer.Add(family.Key(gguf), config.OptionalBoolean(name) ?? usual);
        long hidden = Whole(config, family, "embedding_length"), heads = Whole(config, family, "attention.head_count"), blocks = Whole(config, family, "block_count");
        long headDim = config.OptionalInteger("head_dim", 1, MostSize) ?? (hidden % heads == 0 ? hidden / heads : throw config.Error("head_dim", $"is missing, and {heads} heads do not divide the width {hidden}"));
        writer.Add(family.Key("attention.key_length"), (uint)headDim).Add(family.Key("attention.value_length"), (uint)headDim);
        writer.Add(family.Key("vocab_size"), (uint)config.Integer("vocab_size", 1, MostSize));
        if (!family.HasRope)
        {
            if (config.OptionalBoolean("scale_attn_by_inverse_layer_idx") is true)
                throw config.Error("scale_attn_by_inverse_layer_idx", "is true, which llama.cpp does not compute");
        }
        else
        {
            WriteRope(config, family, writer, headDim);
        }
        WriteWindows(config, family, writer, blocks, warn);
        if (family.Experts.Length > 0 && config.OptionalArray("mlp_only_layers") is { Count: > 0 } dense)
            warn?.Invoke($"blocks {string.Join(", ", dense.Select(d => d?.ToJsonString()))} have no experts, which llama.cpp's {family.Architecture} does not load; this program does");
    }

    /// <summary>What queries have to be multiplied by so that llama.cpp's own attention scale is right; 1 for almost every model.</summary>
    internal static float QueryScale(JsonFields config, GgufFamily family)
    {
        if (family.BlocksOfOtherScale is not { } other)
            return 1;
        long hidden = Whole(config, family, "embedding_length"), heads = Whole(config, family, "attention.head_count");
        double headDim = config.OptionalInteger("head_dim", 1, MostSize) ?? (double)hidden / heads;
        double own = Whole(config, family, "block_count") == other ? (double)hidden / heads : headDim;
        return (float)Math.Sqrt(own / (config.OptionalNumber("query_pre_attn_scalar", double.Epsilon) ?? headDim));
    }

    private static bool Same(JsonNode a, JsonNode b) => JsonNode.DeepEquals(JsonNode.Parse(a.ToJsonString()), JsonNode.Parse(b.ToJsonString()));

    private static void WriteField(JsonFields config, GgufFamily family, GgufField field, GgufWriter writer)
    {
        string key = family.Key(field.Gguf);
        if (!config.Has(field.Config))
        {
            // GPT-2's n_inner is null for four times the width; key and value heads are as many as heads where they are not given.
            long? usual = field.Gguf switch
            {
                "feed_forward_length" when field.Config == "n_inner" => 4 * config.Integer("n_embd", 1, MostSize),
                "attention.head_count_kv" => config.Integer("num_attention_heads", 1, MostSize),
                _ => null,
            };
            if (usual is { } value)
                writer.Add(key, (uint)value);
            else if (field.Required)
                throw config.Error(field.Config, "is missing");
            return;
        }
        if (field.Whole)
            writer.Add(key, (uint)config.Integer(field.Config, 1, MostSize));
        else
            writer.Add(key, (float)config.Number(field.Config, 0));
    }

    private static long Whole(JsonFields config, GgufFamily family, string gguf) => config.Integer(family.Fields.Single(f => f.Gguf == gguf).Config, 1, MostSize);

    private static void WriteWindows(JsonFields config, GgufFamily family, GgufWriter writer, long blocks, Action<string>? warn)
    {
        long window = config.OptionalInteger("sliding_window", 0, MostSize) ?? 0;
        string[]? types = config.OptionalTexts("layer_types");
        // Families with a switch for windows have them off where it is not there.
        bool? on = config.OptionalBoolean("use_sliding_window");
        bool any = window > 0 && on is not false && (types is null ? family.Windows is not null || on is true : types.Contains("sliding_attention"));
        if (family.Windows is not { } windows)
        {
            if (any)
                throw config.Error("sliding_window", $"is {window}; llama.cpp's {family.Architecture} has no windows");
            return;
        }
        if (!any)
        {
            // Of the families with a pattern, none without a window exist but by setting it to the whole context.
            if (windows.Default > 0)
                writer.Add(family.Key("attention.sliding_window"), (uint)config.Integer("max_position_embeddings", 1, MostSize));
            return;
        }
        writer.Add(family.Key("attention.sliding_window"), (uint)window);
        bool[] pattern = [.. Enumerable.Range(0, (int)blocks).Select(i => types is null ? windows.Period == 1 || (i + 1) % windows.Period != 0 : types[i] == "sliding_attention")];
        if (types is not null && types.Length != blocks)
            throw config.Error("layer_types", $"has {types.Length} entries for {blocks} blocks");
        bool usual = Enumerable.Range(0, (int)blocks).All(i => pattern[i] == (windows.Period == 1 || (i + 1) % windows.Period != 0));
        if (!usual && (windows.IsFixed || windows.Period == 1))
            throw config.Error("layer_types", $"llama.cpp's {family.Architecture} has a window on {(windows.Period == 1 ? "all layers" : $"all but every {windows.Period}th layer")}, this model on others; a GGUF file cannot say so");
        if (windows.Period > 1 && !windows.IsFixed)
            writer.Add(family.Key("attention.sliding_window_pattern"), pattern);
        if (windows.Period == 1)
            warn?.Invoke($"the sliding window of {window} tokens is written down, but llama.cpp's {family.Architecture} lets every layer see everything; texts longer than the window differ there");
    }

    private static void WriteRope(JsonFields config, GgufFamily family, GgufWriter writer, long headDim)
    {
        JsonFields? parameters = config.OptionalObject("rope_parameters");
        JsonFields? nested = parameters?.OptionalObject("full_attention"), local = parameters?.OptionalObject("sliding_attention");
        JsonFields? scaling = nested ?? parameters ?? config.OptionalObject("rope_scaling");
        double theta = (nested ?? parameters)?.OptionalNumber("rope_theta", double.Epsilon) ?? config.OptionalNumber(family.ThetaField, double.Epsilon) ?? DefaultTheta;
        double share = config.OptionalNumber("partial_rotary_factor", 0, 1) ?? config.OptionalNumber(family.RopeShare.Config, 0, 1) ?? scaling?.OptionalNumber("partial_rotary_factor", 0, 1) ?? family.RopeShare.Default;
        long rotated = (long)(headDim * share);
        if (family.NoRopeEvery > 0)
            RequireNoRope(config, family);
        if (rotated != headDim && !family.HasPartialRope)
            throw config.Error("partial_rotary_factor", $"is {share}; llama.cpp's {family.Architecture} rotates whole heads");
        writer.Add(family.Key("rope.dimension_count"), (uint)rotated).Add(family.Key("rope.freq_base"), (float)theta);
        if (family.HasLocalRope)
            writer.Add(family.Key("rope.freq_base_swa"), (float)(local?.OptionalNumber("rope_theta", double.Epsilon) ?? config.OptionalNumber("rope_local_base_freq", double.Epsilon) ?? DefaultTheta));
        string type = scaling?.OptionalText("rope_type") ?? scaling?.OptionalText("type") ?? "default";
        if (family.Architecture == "phi3" && (scaling is null || s_unscaled.Contains(type)))
            writer.Add(family.Key("rope.scaling.original_context_length"), (uint)(config.OptionalInteger("original_max_position_embeddings", 1, MostSize) ?? config.Integer("max_position_embeddings", 1, MostSize)));
        if (scaling is not null && !s_unscaled.Contains(type))
            WriteScaling(config, scaling, family, writer, type, theta, rotated);
    }

    private static void RequireNoRope(JsonFields config, GgufFamily family)
    {
        long every = config.OptionalInteger("no_rope_layer_interval", 1, MostSize) ?? 4;
        // 1 where a layer has the rotary embedding, whatever the field's name says.
        double[]? given = config.OptionalNumbers("no_rope_layers");
        bool fits = given is { Length: > 0 } ? !given.Where((v, i) => v != 0 != ((i + 1) % family.NoRopeEvery != 0)).Any() : every == family.NoRopeEvery;
        if (!fits)
            throw config.Error(given is null ? "no_rope_layer_interval" : "no_rope_layers", $"has other layers without rotary embedding than every {family.NoRopeEvery}th, which is what llama.cpp's {family.Architecture} has; a GGUF file cannot say so");
    }

    private static void WriteScaling(JsonFields config, JsonFields scaling, GgufFamily family, GgufWriter writer, string type, double theta, long rotated)
    {
        long? original = scaling.OptionalInteger("original_max_position_embeddings", 1, MostSize) ?? config.OptionalInteger("original_max_position_embeddings", 1, MostSize);
        long longest = config.Integer("max_position_embeddings", 1, MostSize);
        switch (type)
        {
            case "linear":
                writer.Add(family.Key("rope.scaling.type"), "linear").Add(family.Key("rope.scaling.factor"), (float)scaling.Number("factor", double.Epsilon));
                break;
            case "yarn":
                double factor = scaling.Number("factor", double.Epsilon);
                if (scaling.Has("mscale") && scaling.Has("mscale_all_dim"))
                    throw scaling.Error("mscale", "is not something that GGUF files of this architecture say");
                if ((scaling.OptionalBoolean("truncate") ?? true) != family.YarnTruncates)
                    throw scaling.Error("truncate", $"must be {(family.YarnTruncates ? "true" : "false")} for llama.cpp's {family.Architecture}");
                writer.Add(family.Key("rope.scaling.type"), "yarn").Add(family.Key("rope.scaling.factor"), (float)factor);
                writer.Add(family.Key("rope.scaling.original_context_length"), (uint)(original ?? longest));
                if (scaling.OptionalNumber("attention_factor", double.Epsilon) is { } attention)
                    writer.Add(family.Key("rope.scaling.attn_factor"), (float)(attention / YarnAttention(factor)));
                foreach (string name in new[] { "beta_fast", "beta_slow" })
                    if (scaling.OptionalNumber(name, 0) is { } beta)
                        writer.Add(family.Key($"rope.scaling.yarn_{name}"), (float)beta);
                break;
            case "llama3":
                writer.AddTensor(RopeFreqs, [rotated / 2], Llama3Divisors(scaling, theta, rotated, original ?? longest));
                break;
            case "longrope" or "su":
                float[] shortFactors = Divisors(scaling, "short_factor", rotated), longFactors = Divisors(scaling, "long_factor", rotated);
                long context = original ?? longest;
                double stretch = scaling.OptionalNumber("factor", double.Epsilon) ?? (double)longest / context;
                double own = scaling.OptionalNumber("attention_factor", double.Epsilon) ?? (stretch <= 1 ? 1 : Math.Sqrt(1 + Math.Log(stretch) / Math.Log(context)));
                if (own == 1 && shortFactors.AsSpan().SequenceEqual(longFactors))
                {
                    // One list for every length is what Llama 3.1's rule comes down to.
                    writer.AddTensor(RopeFreqs, [rotated / 2], shortFactors);
                    break;
                }
                writer.Add(family.Key("rope.scaling.type"), "longrope").Add(family.Key("rope.scaling.attn_factor"), (float)own);
                writer.Add(family.Key("rope.scaling.original_context_length"), (uint)context);
                writer.AddTensor(RopeLong, [rotated / 2], longFactors).AddTensor(RopeShort, [rotated / 2], shortFactors);
                break;
            default:
                throw scaling.Error("rope_type", $"is {FileErrors.Quote(type)}, which a GGUF file cannot say; it knows linear, yarn, llama3 and longrope");
        }
    }

    private static float[] Divisors(JsonFields scaling, string name, long rotated)
    {
        double[] values = scaling.OptionalNumbers(name, double.Epsilon) ?? throw scaling.Error(name, "is missing");
        return values.Length == rotated / 2 ? [.. values.Select(v => (float)v)] : throw scaling.Error(name, $"has {values.Length} values for {rotated / 2} frequencies");
    }

    /// <summary>Llama 3.1's rule as divisors of the frequencies: 1 for short wavelengths, the factor for long ones, a ramp of the frequencies between.</summary>
    private static float[] Llama3Divisors(JsonFields scaling, double theta, long rotated, long original)
    {
        double factor = scaling.Number("factor", double.Epsilon), low = scaling.Number("low_freq_factor", double.Epsilon), high = scaling.Number("high_freq_factor", double.Epsilon);
        var divisors = new float[rotated / 2];
        for (int i = 0; i < divisors.Length; i++)
        {
            double wavelength = 2 * Math.PI * Math.Pow(theta, 2.0 * i / rotated), smooth = (original / wavelength - low) / (high - low);
            divisors[i] = wavelength < original / high ? 1 : wavelength > original / low ? (float)factor : (float)(1 / ((1 - smooth) / factor + smooth));
        }
        return divisors;
    }
}
