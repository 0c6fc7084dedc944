using System.Text.Json.Nodes;

namespace Repeng.Runtime.Formats;

/// <summary>A hyper-parameter: its key below the architecture's name in GGUF, and in config.json.</summary>
/// <param name="Gguf">Such as attention.head_count.</param>
/// <param name="Config">Such as num_attention_heads.</param>
/// <param name="Whole">A whole number above 0, else any number from 0.</param>
/// <param name="Required">Whether a file without it is refused.</param>
internal sealed record GgufField(string Gguf, string Config, bool Whole = true, bool Required = true);

/// <summary>Layers with a sliding window: all but every <paramref name="Period"/>th, 1 for all.</summary>
/// <param name="Period">2 for every second layer without a window, counted from 1.</param>
/// <param name="Default">Window of a file that does not give it, 0 for none.</param>
/// <param name="IsFixed">llama.cpp knows no other pattern for the architecture.</param>
internal sealed record GgufWindows(int Period, long Default = 0, bool IsFixed = false);

/// <summary>Projections that have a bias all or none, and the field of config.json that says so.</summary>
internal sealed record GgufBiases(string Config, string Module, params string[] Projections);

/// <summary>
/// How an architecture of llama.cpp and a family of transformers correspond: names, hyper-parameters, and what
/// llama.cpp's converter does to the weights. One description, used for reading and for writing. Facts: llama.cpp's
/// conversion scripts, gguf-py's constants and tensor_mapping, llama-model.cpp.
/// </summary>
internal sealed partial record GgufFamily(string Architecture, string ModelType, string ModelClass)
{
    /// <summary>Stems of tensors outside of blocks; their suffix is .weight or .bias.</summary>
    public (string Gguf, string Config)[] Global { get; init; } = [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

    /// <summary>Path of the list of blocks in config.json's world.</summary>
    public string Blocks { get; init; } = "model.layers";

    /// <summary>Stems of tensors of a block, below blk.N and the block's path.</summary>
    public required (string Gguf, string Config)[] Block { get; init; }

    /// <summary>Stems of tensors that hold all experts of a block one after the other, and the name of expert {0}.</summary>
    public (string Gguf, string Config)[] Experts { get; init; } = [];

    /// <summary>What config.json's world calls the module of the experts in <see cref="Block"/> and <see cref="Experts"/>, where transformers 5, which calls it mlp in every family, has another name than before; else null.</summary>
    public string? OldMlp { get; init; }

    /// <summary>Tensors of a block whose name in config.json's world has no suffix.</summary>
    public (string Gguf, string Config)[] Bare { get; init; } = [];

    /// <summary>Whether config.json's world may hold all experts in one tensor [experts, in, out] with columns of gate and up taking turns; else [experts, out, in], gate above up.</summary>
    public bool StacksInterleaved { get; init; }

    /// <summary>Hyper-parameters that are the same number in both worlds.</summary>
    public GgufField[] Fields { get; init; } = s_fields;

    /// <summary>Fields of config.json that the architecture implies.</summary>
    public (string Config, JsonNode Value)[] Implied { get; init; } = [("hidden_act", JsonValue.Create("silu"))];

    /// <summary>Whether rows of q and k are moved so that neighbours are rotated with each other instead of the halves of a head.</summary>
    public bool PermutesHeads { get; init; }

    /// <summary>Whether config.json's world has q, k and v of a head beside each other in one projection (GPT-NeoX); GGUF has all of q, then k, then v.</summary>
    public bool FusesByHead { get; init; }

    /// <summary>Every so many blocks one without rotary embedding, in llama.cpp's code; 0 for none.</summary>
    public int NoRopeEvery { get; init; }

    /// <summary>Hyper-parameters that are true or false, and what a config.json without them means.</summary>
    public (string Gguf, string Config, bool Default)[] Flags { get; init; } = [];

    /// <summary>Field of config.json that holds the base of the frequencies.</summary>
    public string ThetaField { get; init; } = "rope_theta";

    /// <summary>Field of config.json that holds the rotated share of a head, and what a config.json without it means.</summary>
    public (string Config, double Default) RopeShare { get; init; } = ("partial_rotary_factor", 1);

    /// <summary>What GGUF adds to the weights of norms (Gemma multiplies by 1 + w, llama.cpp by w).</summary>
    public float NormShift { get; init; }

    /// <summary>Whether config.json's world stores linear weights [in, out] (GPT-2), which GGUF never does.</summary>
    public bool TransposesLinears { get; init; }

    /// <summary>Whether norms have a bias (LayerNorm).</summary>
    public bool NormsHaveBias { get; init; }

    /// <summary>Whether positions are rotary.</summary>
    public bool HasRope { get; init; } = true;

    /// <summary>Whether only a part of each head may be rotated.</summary>
    public bool HasPartialRope { get; init; }

    /// <summary>Whether layers with a window have frequencies of their own.</summary>
    public bool HasLocalRope { get; init; }

    /// <summary>Field of yarn's ramp that config.json needs for llama.cpp's behaviour: whether its ends are rounded.</summary>
    public bool YarnTruncates { get; init; } = true;

    /// <summary>Sliding windows, or null for none.</summary>
    public GgufWindows? Windows { get; init; }

    /// <summary>
    /// Number of blocks of the one model whose attention is scaled by √(heads / hidden) (Gemma's largest); others by
    /// 1/√head_dim. Null where config.json has no query_pre_attn_scalar.
    /// </summary>
    public long? BlocksOfOtherScale { get; init; }

    /// <summary>Whether the head always shares the embedding.</summary>
    public bool AlwaysTied { get; init; }

    /// <summary>Biases that config.json speaks of.</summary>
    public GgufBiases[] Biases { get; init; } = [];

    /// <summary>Whether a file of the architecture is of this family, where several share it.</summary>
    public Func<GgufMetadata, bool> Applies { get; init; } = _ => true;

    /// <summary>Key of a hyper-parameter with the architecture's name before it.</summary>
    public string Key(string name) => $"{Architecture}.{name}";

    /// <summary>The GGUF name of a tensor, and which expert of it; null where the family has no such tensor.</summary>
    public (string Name, int? Expert)? ToGguf(string name)
    {
        foreach ((string gguf, string config) in Global)
            if (Suffix(name, config) is { } suffix)
                return (gguf + suffix, null);
        if (!name.StartsWith(Blocks + ".", StringComparison.Ordinal) || !TryNumber(name.AsSpan(Blocks.Length + 1), out int block, out int length))
            return null;
        string rest = name[(Blocks.Length + 2 + length)..];
        if (OldMlp is not null && rest.StartsWith("mlp.", StringComparison.Ordinal))
            rest = OldMlp + rest["mlp".Length..];
        foreach ((string gguf, string config) in Block)
            if (Suffix(rest, config) is { } suffix)
                return ($"blk.{block}.{gguf}{suffix}", null);
        foreach ((string gguf, string config) in Bare)
            if (rest == config)
                return ($"blk.{block}.{gguf}", null);
        foreach ((string gguf, string config) in Experts)
        {
            int at = config.IndexOf("{0}", StringComparison.Ordinal);
            if (rest.StartsWith(config[..at], StringComparison.Ordinal) && TryNumber(rest.AsSpan(at), out int expert, out int digits) && Suffix(rest[(at + digits)..], config[(at + 3)..]) is { } suffix)
                return ($"blk.{block}.{gguf}{suffix}", expert);
        }
        return null;
    }

    /// <summary>What config.json's world calls a projection of an expert: by ffn_gate_exps, ffn_up_exps or ffn_down_exps.</summary>
    public string ExpertProjection(string gguf) => Experts.First(e => e.Gguf == gguf).Config.Split('.')[^1];

    /// <summary>The names that a GGUF tensor has in config.json's world (one for each expert); null where the family has no such tensor.</summary>
    public IReadOnlyList<string>? FromGguf(string name, long blocks, int experts)
    {
        foreach ((string gguf, string config) in Global)
            if (Suffix(name, gguf) is { } suffix && MayHave(gguf, suffix, isGlobal: true))
                return [config + suffix];
        if (!name.StartsWith("blk.", StringComparison.Ordinal) || !TryNumber(name.AsSpan(4), out int block, out int length) || block >= blocks)
            return null;
        string rest = name[(5 + length)..], path = $"{Blocks}.{block}.";
        foreach ((string gguf, string config) in Block)
            if (Suffix(rest, gguf) is { } suffix && MayHave(gguf, suffix, isGlobal: false))
                return [path + config + suffix];
        foreach ((string gguf, string config) in Bare)
            if (rest == gguf)
                return [path + config];
        foreach ((string gguf, string config) in Experts)
            if (Suffix(rest, gguf) is { } suffix)
                return [.. Enumerable.Range(0, experts).Select(e => path + config.Replace("{0}", e.ToString(), StringComparison.Ordinal) + suffix)];
        return null;
    }

    /// <summary>Whether a GGUF tensor is the weight of a norm.</summary>
    public static bool IsNorm(string gguf) => gguf.EndsWith("_norm.weight", StringComparison.Ordinal);

    /// <summary>The order of a GGUF tensor's rows where it is not that of config.json's world, else null.</summary>
    public GgufRows? RowsOf(string gguf, long heads, long keyValueHeads, long headDim) =>
        PermutesHeads && gguf.Contains(".attn_q.", StringComparison.Ordinal) ? new GgufRows(headDim, heads, Fused: false)
        : PermutesHeads && gguf.Contains(".attn_k.", StringComparison.Ordinal) ? new GgufRows(headDim, keyValueHeads, Fused: false)
        : FusesByHead && gguf.Contains(".attn_qkv.", StringComparison.Ordinal) ? new GgufRows(headDim, heads, Fused: true) : null;

    private static string? Suffix(string name, string stem) =>
        name.Length > stem.Length && name.StartsWith(stem, StringComparison.Ordinal) && name[stem.Length..] is ".weight" or ".bias" ? name[stem.Length..] : null;

    private bool MayHave(string stem, string suffix, bool isGlobal) => suffix == ".weight" || (stem.EndsWith("_norm", StringComparison.Ordinal) ? NormsHaveBias : !isGlobal);

    // Decimal digits in their only spelling, then a dot.
    private static bool TryNumber(ReadOnlySpan<char> text, out int number, out int length)
    {
        length = text.IndexOf('.');
        number = 0;
        return length > 0 && int.TryParse(text[..length], System.Globalization.NumberStyles.None, null, out number) && (length == 1 || text[0] != '0');
    }
}
