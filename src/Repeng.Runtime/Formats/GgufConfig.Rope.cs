using System.Text.Json.Nodes;

namespace Repeng.Runtime.Formats;

/// <summary>Rotary embedding: base, share of a head, scaling, and factors that stand in the file as tensors.</summary>
internal static partial class GgufConfig
{
    /// <summary>Divisors of the frequencies as tensors; no part of a Hugging Face checkpoint.</summary>
    internal const string RopeFreqs = "rope_freqs.weight", RopeShort = "rope_factors_short.weight", RopeLong = "rope_factors_long.weight";

    // What the format gives to a file without the key.
    private const double DefaultTheta = 10000;

    private static void ReadRope(GgufFile file, GgufFamily family, JsonObject config, long headDim)
    {
        GgufMetadata m = file.Metadata;
        long rotated = m.OptionalInteger(family.Key("rope.dimension_count"), 1, MostSize) ?? headDim;
        if (rotated != headDim && !family.HasPartialRope)
            throw m.Bad(family.Key("rope.dimension_count"), $"is {rotated}, the head has {headDim}; partial rotation is not supported for {family.Architecture}");
        if (rotated > headDim || rotated % 2 != 0)
            throw m.Bad(family.Key("rope.dimension_count"), $"is {rotated}; it must be even and at most the head's {headDim}");
        if (family.HasPartialRope)
            config[family.RopeShare.Config] = (double)rotated / headDim;
        double theta = m.OptionalNumber(family.Key("rope.freq_base"), double.Epsilon) ?? DefaultTheta;
        config[family.ThetaField] = theta;
        if (family.NoRopeEvery > 0)
            config["no_rope_layer_interval"] = family.NoRopeEvery;
        double? local = m.OptionalNumber(family.Key("rope.freq_base_swa"), double.Epsilon);
        if (family.HasLocalRope)
            config["rope_local_base_freq"] = local ?? DefaultTheta;
        else if (local is { } other && other != theta)
            throw m.Bad(family.Key("rope.freq_base_swa"), $"is {other:R}, other layers have {theta:R}; two bases are not supported for {family.Architecture}");
        config["rope_scaling"] = RopeScaling(file, family, rotated);
        if (config["rope_scaling"] is null && m.OptionalInteger(family.Key("rope.scaling.original_context_length"), 1, MostSize) is { } original && family.ModelType == "phi3")
            config["original_max_position_embeddings"] = original;
    }

    private static JsonObject? RopeScaling(GgufFile file, GgufFamily family, long rotated)
    {
        if (Factors(file, family, rotated) is { } factors)
            return factors;
        GgufMetadata m = file.Metadata;
        // Files of 2023 have the linear factor alone.
        string type = m.OptionalText(family.Key("rope.scaling.type")) ?? (m.Has(family.Key("rope.scale_linear")) ? "linear" : "none");
        string factorKey = family.Key(m.Has(family.Key("rope.scaling.factor")) ? "rope.scaling.factor" : "rope.scale_linear");
        switch (type)
        {
            case "none":
                return null;
            case "linear":
                return new JsonObject { ["rope_type"] = "linear", ["factor"] = m.Number(factorKey, double.Epsilon) };
            case "yarn":
                return Yarn(m, family, m.Number(family.Key("rope.scaling.factor"), double.Epsilon));
            default:
                throw m.Bad(family.Key("rope.scaling.type"), $"is {FileErrors.Quote(type)}; supported are none, linear, yarn and factors stored as tensors");
        }
    }

    private static JsonObject Yarn(GgufMetadata m, GgufFamily family, double factor)
    {
        var yarn = new JsonObject
        {
            ["rope_type"] = "yarn",
            ["factor"] = factor,
            ["original_max_position_embeddings"] = m.Integer(family.Key("rope.scaling.original_context_length"), 1, MostSize),
        };
        // llama.cpp multiplies its own 0.1·ln(factor) + 1 by the stored number; Hugging Face names the product.
        if (m.OptionalNumber(family.Key("rope.scaling.attn_factor"), double.Epsilon) is { } attention && attention != 1)
            yarn["attention_factor"] = attention * YarnAttention(factor);
        foreach (string name in new[] { "beta_fast", "beta_slow" })
            if (m.OptionalNumber(family.Key($"rope.scaling.yarn_{name}"), 0) is { } beta)
                yarn[name] = beta;
        if (!family.YarnTruncates)
            yarn["truncate"] = false;
        return yarn;
    }

    private static double YarnAttention(double factor) => 0.1 * Math.Log(factor) + 1;

    /// <summary>
    /// Frequency divisors stored as tensors: rope_freqs for Llama 3.1 and later (the llama3 rule, evaluated by the
    /// converter), rope_factors_short and _long for longrope. Hugging Face's longrope takes such divisors as they are.
    /// </summary>
    private static JsonObject? Factors(GgufFile file, GgufFamily family, long rotated)
    {
        GgufMetadata m = file.Metadata;
        if (file.Contains(RopeShort) || file.Contains(RopeLong))
        {
            if (file.Contains(RopeFreqs))
                throw FileErrors.Bad(file.Description, $"holds both {RopeFreqs} and {RopeShort}; only one kind of rope factors can apply");
            return new JsonObject
            {
                ["rope_type"] = "longrope",
                ["short_factor"] = Read(RopeShort),
                ["long_factor"] = Read(RopeLong),
                ["original_max_position_embeddings"] = m.Integer(family.Key("rope.scaling.original_context_length"), 1, MostSize),
                ["attention_factor"] = m.OptionalNumber(family.Key("rope.scaling.attn_factor"), double.Epsilon) ?? 1.0,
            };
        }
        if (!file.Contains(RopeFreqs))
            return null;
        if (m.OptionalText(family.Key("rope.scaling.type")) is { } type && type is not ("none" or "longrope"))
            throw m.Bad(family.Key("rope.scaling.type"), $"is {FileErrors.Quote(type)} beside rope factors in {RopeFreqs}; only one kind of scaling can apply");
        return new JsonObject
        {
            ["rope_type"] = "longrope",
            ["short_factor"] = Read(RopeFreqs),
            ["long_factor"] = Read(RopeFreqs),
            ["original_max_position_embeddings"] = m.Integer(family.Key("context_length"), 1, MostSize),
            ["attention_factor"] = 1.0,
        };

        JsonArray Read(string name)
        {
            file.Info(name, rotated / 2);
            float[] values = file.ReadF32(name);
            int bad = Array.FindIndex(values, v => !float.IsFinite(v) || v <= 0);
            if (bad >= 0)
                throw FileErrors.Bad(file.Description, $"tensor {FileErrors.Quote(name)}, element {bad}: {values[bad]:R} is no divisor of a frequency; it must be finite and above 0");
            return new JsonArray([.. values.Select(v => (JsonNode)JsonValue.Create((double)v))]);
        }
    }
}
