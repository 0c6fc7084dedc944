using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>Methods of Hugging Face's PEFT that are understood; the names are its peft_type values.</summary>
public enum PeftType
{
    /// <summary>LoRA, rsLoRA and DoRA.</summary>
    Lora,

    /// <summary>(IA)³.</summary>
    Ia3,

    /// <summary>VeRA.</summary>
    Vera,

    /// <summary>DeLoRA.</summary>
    Delora,

    /// <summary>RoAd, variants 1, 2 and 4.</summary>
    Road,

    /// <summary>PSOFT.</summary>
    Psoft,
}

/// <summary>
/// An adapter_config.json of PEFT. The JSON is kept as it came, so that writing gives back every field; a field that is set
/// and would change the computation in a way not known here is refused by its name.
/// </summary>
public sealed class PeftConfig
{
    private static readonly string[] s_common =
    [
        "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "base_model_fingerprint", "revision", "inference_mode",
        "target_modules", "exclude_modules", "bias",
    ];

    // Fields that say how training began or went: a saved adapter does not depend on them.
    private static readonly Dictionary<PeftType, string[]> s_known = new()
    {
        [PeftType.Lora] = ["r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "init_lora_weights", "lora_dropout", "megatron_core", "qalora_group_size", "ensure_weight_tying"],
        [PeftType.Ia3] = ["feedforward_modules", "fan_in_fan_out", "init_ia3_weights"],
        [PeftType.Vera] = ["r", "projection_prng_key", "save_projection", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "vera_dropout", "d_initial", "init_weights"],
        [PeftType.Delora] = ["r", "rank_pattern", "layers_to_transform", "layers_pattern", "delora_lambda", "lambda_pattern", "module_dropout", "init_weights"],
        [PeftType.Road] = ["variant", "group_size", "init_weights"],
        [PeftType.Psoft] = ["r", "psoft_alpha", "psoft_mag_a", "psoft_mag_b", "psoft_orth", "psoft_svd", "psoft_svd_lowrank_niter", "use_cayley_neumann", "num_cayley_neumann_terms", "cayley_neumann_eps", "ab_svd_init", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "psoft_dropout", "init_weights", "random_seed"],
    };

    private readonly JsonFields _fields;

    /// <summary>Reads the fields; throws <see cref="UserErrorException"/> naming file, field and value.</summary>
    /// <param name="json">The object of adapter_config.json.</param>
    /// <param name="where">Its file, for messages.</param>
    public PeftConfig(JsonObject json, string where)
    {
        _fields = new JsonFields(json, where);
        Type = ReadType();
        RefuseUnknown();
        Rank = Type is PeftType.Ia3 or PeftType.Road ? 0 : _fields.OptionalInt32("r", 1, 1 << 16) ?? (Type == PeftType.Vera ? 256 : Type == PeftType.Psoft ? 32 : 8);
        Alpha = Type switch
        {
            PeftType.Lora => _fields.OptionalNumber("lora_alpha") ?? 8,
            PeftType.Psoft => _fields.OptionalNumber("psoft_alpha") ?? Rank,
            _ => 0,
        };
        TargetModules = new ModuleSelector(_fields, "target_modules");
        ExcludeModules = new ModuleSelector(_fields, "exclude_modules");
        FeedForwardModules = new ModuleSelector(_fields, "feedforward_modules");
        if (TargetModules.IsEmpty)
            throw _fields.Error("target_modules", "is missing or empty; an expression or a list of names is needed");
        Layers = ReadLayers();
        LayersPattern = json["layers_pattern"] is JsonArray ? _fields.OptionalTexts("layers_pattern")! : _fields.OptionalText("layers_pattern") is { Length: > 0 } one ? [one] : [];
        if (Layers is not null && TargetModules.IsExpression)
            throw _fields.Error("layers_to_transform", "does not go with target_modules as an expression (PEFT refuses it too); put the layers into the expression");
        RankPattern = ReadPattern("rank_pattern");
        AlphaPattern = ReadPattern("alpha_pattern");
        Variant = Type == PeftType.Road ? ReadVariant() : 0;
        GroupSize = Type == PeftType.Road ? _fields.OptionalInt32("group_size", 2, 1 << 24) ?? 64 : 0;
        if (GroupSize % 2 != 0)
            throw _fields.Error("group_size", $"{GroupSize} is odd; elements are rotated in pairs");
        CheckCombinations();
    }

    /// <summary>The method.</summary>
    public PeftType Type { get; }

    /// <summary>File that the settings came from, for messages.</summary>
    public string Where => _fields.Where;

    /// <summary>The JSON as it came.</summary>
    public JsonObject Json => _fields.Json;

    /// <summary>r where no pattern says otherwise; 0 for methods without a rank.</summary>
    public int Rank { get; }

    /// <summary>lora_alpha or psoft_alpha.</summary>
    public double Alpha { get; }

    /// <summary>Which modules are adapted.</summary>
    public ModuleSelector TargetModules { get; }

    /// <summary>Which of them are not, after all.</summary>
    public ModuleSelector ExcludeModules { get; }

    /// <summary>Modules whose input (IA)³ scales.</summary>
    public ModuleSelector FeedForwardModules { get; }

    /// <summary>Blocks that are adapted; null for all.</summary>
    public IReadOnlyList<int>? Layers { get; }

    /// <summary>Path segments that a block's number may follow; empty for any.</summary>
    public IReadOnlyList<string> LayersPattern { get; }

    /// <summary>Ranks by expression, in the order of the file.</summary>
    public IReadOnlyList<(string Pattern, double Value)> RankPattern { get; }

    /// <summary>Alphas by expression.</summary>
    public IReadOnlyList<(string Pattern, double Value)> AlphaPattern { get; }

    /// <summary>Scale by α/√r instead of α/r.</summary>
    public bool RankStabilised => Flag("use_rslora");

    /// <summary>LoRA with a magnitude a row (DoRA).</summary>
    public bool Dora => Flag("use_dora");

    /// <summary>The B factor of LoRA has a bias.</summary>
    public bool LoraBias => Flag("lora_bias");

    /// <summary>1, 2 or 4 for RoAd.</summary>
    public int Variant { get; }

    /// <summary>Outputs that RoAd rotates together.</summary>
    public int GroupSize { get; }

    /// <summary>Seed of VeRA's projections.</summary>
    public long ProjectionKey => _fields.OptionalInteger("projection_prng_key") ?? 0;

    /// <summary>The file holds VeRA's projections.</summary>
    public bool SaveProjection => Flag("save_projection", true);

    /// <summary>A flag of the method.</summary>
    public bool Flag(string name, bool fallback = false) => _fields.OptionalBoolean(name) ?? fallback;

    /// <summary>A number of the method.</summary>
    public double Number(string name, double fallback) => _fields.OptionalNumber(name) ?? fallback;

    /// <summary>A text of the method.</summary>
    public string Text(string name, string fallback) => _fields.OptionalText(name) ?? fallback;

    /// <summary>The base model's name, or null.</summary>
    public string? BaseModel => _fields.OptionalText("base_model_name_or_path");

    /// <summary>An error about a field.</summary>
    public UserErrorException Error(string field, string what) => _fields.Error(field, what);

    /// <summary>Whether a configuration's peft_type is one of PEFT's own that is read here.</summary>
    public static bool IsPeft(string? type) => Enum.GetNames<PeftType>().Any(n => n.Equals(type, StringComparison.OrdinalIgnoreCase));

    /// <summary>Reads adapter_config.json.</summary>
    public static PeftConfig Read(string path) => new(JsonFile.ReadObject(path).Json, path);

    private PeftType ReadType()
    {
        string type = _fields.Text("peft_type");
        return IsPeft(type) ? Enum.Parse<PeftType>(type, ignoreCase: true)
            : throw _fields.Error("peft_type", $"{FileErrors.Quote(type)} is not read here; known: {string.Join(", ", Enum.GetNames<PeftType>().Select(n => n.ToUpperInvariant()))}");
    }

    private void RefuseUnknown()
    {
        string[] unknown = [.. Json.Where(f => IsSet(f.Value) && !s_common.Contains(f.Key) && !s_known[Type].Contains(f.Key)).Select(f => f.Key)];
        if (unknown.Contains("target_parameters"))
            throw _fields.Error("target_parameters", $"is set to {Shorten(Json["target_parameters"]!)}: low-rank factors of a parameter that holds all experts are not read; experts are adapted one by one here, as the linear layers MLP.experts.N.gate_proj, up_proj and down_proj. Save the adapter with target_modules, or merge it into the model");
        if (unknown.Length > 0)
            throw _fields.Error(unknown[0], $"is set to {Shorten(Json[unknown[0]]!)}, which may change what a {Type.ToString().ToUpperInvariant()} adapter computes and is not known here{(unknown.Length > 1 ? $"; so are {string.Join(", ", unknown.Skip(1).Select(FileErrors.Quote))}" : "")}. Save the adapter without it");
    }

    private void CheckCombinations()
    {
        if (_fields.OptionalText("bias") is { } bias && bias != "none")
            throw _fields.Error("bias", $"{FileErrors.Quote(bias)}: trained biases of the base model are not read; train with bias = \"none\"");
        if (Type == PeftType.Lora && Dora && LoraBias)
            throw _fields.Error("lora_bias", "does not go with use_dora");
        // These begin by changing the base weight, so that the adapter belongs to a base that the file does not hold.
        if (Type == PeftType.Lora && Json["init_lora_weights"] is JsonValue init && init.GetValueKind() == JsonValueKind.String && init.GetValue<string>() is not ("gaussian" or "orthogonal" or "eva") and var name)
            throw _fields.Error("init_lora_weights", $"{FileErrors.Quote(name)} changes the base weights, which the file does not hold; convert it to a plain LoRA (save_pretrained with path_initial_model_for_weight_conversion)");
        if (Type == PeftType.Psoft && !Flag("psoft_orth", true))
            throw _fields.Error("psoft_orth", "is false; only the orthogonal form is read");
    }

    private static bool IsSet(JsonNode? value) => value switch
    {
        null => false,
        JsonArray a => a.Count > 0,
        JsonObject o => o.Count > 0,
        JsonValue v => v.GetValueKind() switch { JsonValueKind.False or JsonValueKind.Null => false, JsonValueKind.String => v.GetValue<string>().Length > 0, _ => true },
        _ => true,
    };

    private int ReadVariant()
    {
        string variant = Text("variant", "road_1");
        return variant switch { "road_1" => 1, "road_2" => 2, "road_4" => 4, _ => throw _fields.Error("variant", $"{FileErrors.Quote(variant)} is not known; known: road_1, road_2, road_4") };
    }

    private int[]? ReadLayers() => Json["layers_to_transform"] switch
    {
        null => null,
        JsonArray { Count: 0 } => null,
        JsonArray => [.. _fields.OptionalNumbers("layers_to_transform", 0, int.MaxValue)!.Select(n => (int)n)],
        _ => [_fields.Int32("layers_to_transform", 0)],
    };

    private (string, double)[] ReadPattern(string name) => Type is PeftType.Lora or PeftType.Delora && _fields.OptionalObject(name) is { } o
        ? [.. o.Json.Select(p => (p.Key, o.Number(p.Key, name == "rank_pattern" ? 1 : double.MinValue, name == "rank_pattern" ? 1 << 16 : double.MaxValue)))]
        : [];

    private static string Shorten(JsonNode node)
    {
        string text = node.ToJsonString();
        return text.Length > 60 ? text[..60] + "…" : text.ToString(CultureInfo.InvariantCulture);
    }
}
