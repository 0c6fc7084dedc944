using Repeng.Kernels;

namespace Repeng.Steering.Models;

/// <summary>The families of decoders that are known, each a description of how it differs from Llama.</summary>
public static class Families
{
    private static readonly Dictionary<string, Func<ConfigReader, ModelConfig>> s_families = new()
    {
        ["llama"] = Llama,
        ["mistral"] = c => Llama(c) with { Windows = Windows(c, c.OptionalInt("sliding_window") ?? 0, _ => true) },
        ["qwen2"] = c => Llama(c) with { QkvBias = true, OutputBias = false, Windows = QwenWindows(c) },
        ["qwen3"] = c => Llama(c) with { QkNorm = QkNormKind.PerHead, Windows = QwenWindows(c) },
        ["gemma"] = c => Gemma(c),
        ["gemma2"] = c => Gemma(c) with
        {
            Names = SandwichNames,
            Windows = Windows(c, c.OptionalInt("sliding_window") ?? 0, i => i % 2 == 0),
            AttentionScale = QueryScale(c),
            AttentionSoftCap = (float)(c.OptionalDouble("attn_logit_softcapping") ?? 0),
            LogitSoftCap = (float)(c.OptionalDouble("final_logit_softcapping") ?? 0),
        },
        ["gemma3_text"] = c => Gemma(c) with
        {
            Names = SandwichNames,
            QkNorm = QkNormKind.PerHead,
            Windows = Windows(c, c.OptionalInt("sliding_window") ?? 0, i => (i + 1) % c.Size("sliding_window_pattern", c.OptionalInt("_sliding_window_pattern") ?? 6) != 0),
            LocalRope = Ropes(c).Local ?? new RopeSpec(c.Double("rope_local_base_freq", 10000), null),
            AttentionScale = QueryScale(c),
            AttentionSoftCap = (float)(c.OptionalDouble("attn_logit_softcapping") ?? 0),
            LogitSoftCap = (float)(c.OptionalDouble("final_logit_softcapping") ?? 0),
        },
        ["phi3"] = c => Llama(c) with
        {
            Names = new BlockNames { FusedQkv = "qkv_proj", FusedGateUp = "gate_up_proj" },
            Windows = Windows(c, c.OptionalInt("sliding_window") ?? 0, _ => true),
        },
        ["olmo2"] = c => Llama(c) with { Names = PostNormNames, QkNorm = QkNormKind.FullWidth },
        ["olmo3"] = c => Llama(c) with
        {
            Names = PostNormNames,
            QkNorm = QkNormKind.FullWidth,
            Windows = Windows(c, c.OptionalInt("sliding_window") ?? 0, i => (i + 1) % 4 != 0),
            // Layers with a window keep the plain frequencies; scaling is for those that see everything.
            LocalRope = Ropes(c).Local ?? new RopeSpec(Ropes(c).Global.Theta, null),
        },
        ["glm4"] = c => Llama(c) with
        {
            Names = new BlockNames
            {
                PostAttentionNorm = "post_self_attn_layernorm",
                PostMlpNorm = "post_mlp_layernorm",
                FusedGateUp = "gate_up_proj",
            },
            QkvBias = c.Bool("attention_bias", true),
            OutputBias = false,
            RopeInterleaved = true,
            RotaryDim = RotaryDim(c, 0.5),
        },
        ["gpt2"] = Gpt2,
    };

    private static readonly Dictionary<string, string> s_refused = new()
    {
        ["qwen2_moe"] = "mixture of experts",
        ["qwen3_moe"] = "mixture of experts",
        ["mixtral"] = "mixture of experts",
        ["gpt_oss"] = "mixture of experts with attention sinks",
        ["olmoe"] = "mixture of experts",
        ["deepseek_v2"] = "mixture of experts",
        ["deepseek_v3"] = "mixture of experts",
        ["llama4"] = "mixture of experts",
        ["chatglm"] = "own code; take the -hf or 0414 repository of the same model",
    };

    private static BlockNames SandwichNames => new()
    {
        PostAttentionNorm = "post_attention_layernorm",
        PreMlpNorm = "pre_feedforward_layernorm",
        PostMlpNorm = "post_feedforward_layernorm",
    };

    private static BlockNames PostNormNames => new()
    {
        InputNorm = null,
        PostAttentionNorm = "post_attention_layernorm",
        PreMlpNorm = null,
        PostMlpNorm = "post_feedforward_layernorm",
    };

    /// <summary>Names of the supported families.</summary>
    public static IReadOnlyCollection<string> Supported => s_families.Keys;

    /// <summary>The description of a model from its config.json; an unknown family is refused by name before any weight is read.</summary>
    public static ModelConfig Read(ConfigReader config)
    {
        string type = config.OptionalString("model_type") ?? throw new UserErrorException($"{config.Source}: the key model_type is missing; is this the config.json of a language model?");
        if (s_refused.TryGetValue(type, out string? why))
            throw new UserErrorException($"{config.Source}: family {type} ({why}) is not supported yet; supported: {string.Join(", ", s_families.Keys)}");
        if (type == "gemma3")
        {
            // The multimodal checkpoint nests the text model.
            ConfigReader text = config.Object("text_config") ?? throw new UserErrorException($"{config.Source}: gemma3 without text_config");
            return s_families["gemma3_text"](text) with { Prefix = "language_model.model." };
        }
        if (!s_families.TryGetValue(type, out Func<ConfigReader, ModelConfig>? describe))
            throw new UserErrorException($"{config.Source}: family {type} is not known; supported: {string.Join(", ", s_families.Keys)}");
        ModelConfig model = describe(config);
        if (model.NumHeads % model.NumKvHeads != 0)
            throw new UserErrorException($"{config.Source}: {model.NumHeads} attention heads are no multiple of {model.NumKvHeads} key/value heads");
        if (model.RotaryDim % 2 != 0 || model.RotaryDim > model.HeadDim)
            throw new UserErrorException($"{config.Source}: {model.RotaryDim} rotated elements in a head of {model.HeadDim}");
        return model;
    }

    private static ModelConfig Llama(ConfigReader c)
    {
        int hidden = c.Size("hidden_size"), heads = c.Size("num_attention_heads"), layers = c.Size("num_hidden_layers", limit: 4096);
        int headDim = HeadDim(c);
        (RopeSpec rope, _) = Ropes(c);
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
            Activation = Activation(c, c.OptionalString("hidden_activation") ?? c.OptionalString("hidden_act") ?? "silu"),
            Rope = rope,
            RotaryDim = RotaryDim(c, 1),
            Windows = new int[layers],
            AttentionScale = (float)(1 / Math.Sqrt(headDim)),
            TiedHead = c.Bool("tie_word_embeddings", false),
            EosTokenIds = c.Ints("eos_token_id"),
        };
    }

    private static ModelConfig Gemma(ConfigReader c)
    {
        // transformers reads hidden_act "gelu" of early Gemma checkpoints as the tanh form, which they were trained with.
        string activation = c.OptionalString("hidden_activation") ?? c.OptionalString("hidden_act") ?? "gelu_pytorch_tanh";
        return Llama(c) with
        {
            NormOffset = 1,
            Activation = Activation(c, activation == "gelu" ? "gelu_pytorch_tanh" : activation),
            EmbeddingScale = (float)Math.Sqrt(c.Size("hidden_size")),
            TiedHead = c.Bool("tie_word_embeddings", true),
        };
    }

    private static ModelConfig Gpt2(ConfigReader c)
    {
        int hidden = c.Size("n_embd"), heads = c.Size("n_head"), layers = c.Size("n_layer", limit: 4096);
        if (c.Bool("scale_attn_by_inverse_layer_idx", false))
            throw new UserErrorException($"{c.Source}: gpt2 with scale_attn_by_inverse_layer_idx is not supported");
        return new ModelConfig
        {
            ModelType = "gpt2",
            VocabSize = c.Size("vocab_size"),
            HiddenSize = hidden,
            IntermediateSize = c.OptionalInt("n_inner") ?? 4 * hidden,
            NumLayers = layers,
            NumHeads = heads,
            NumKvHeads = heads,
            HeadDim = hidden / heads,
            MaxPositions = c.Size("n_positions"),
            Norm = NormKind.Layer,
            NormEps = (float)c.Double("layer_norm_epsilon", 1e-5),
            Names = new BlockNames
            {
                Attention = "attn",
                InputNorm = "ln_1",
                PreMlpNorm = "ln_2",
                FusedQkv = "c_attn",
                Output = "c_proj",
                Up = "c_fc",
                Down = "c_proj",
            },
            Prefix = "transformer.",
            Layers = "h",
            Embedding = "wte",
            PositionEmbedding = "wpe",
            FinalNorm = "ln_f",
            LinearStoredTransposed = true,
            QkvBias = true,
            OutputBias = true,
            MlpBias = true,
            Gated = false,
            Activation = Activation(c, c.OptionalString("activation_function") ?? "gelu_new"),
            Windows = new int[layers],
            AttentionScale = c.Bool("scale_attn_weights", true) ? (float)(1 / Math.Sqrt(hidden / heads)) : 1,
            TiedHead = c.Bool("tie_word_embeddings", true),
            EosTokenIds = c.Ints("eos_token_id"),
        };
    }

    private static int HeadDim(ConfigReader c) => c.OptionalInt("head_dim") is > 0 and int d ? d : c.Size("hidden_size") / c.Size("num_attention_heads");

    private static int RotaryDim(ConfigReader c, double factor)
    {
        double f = c.OptionalDouble("partial_rotary_factor") ?? c.Object("rope_parameters")?.OptionalDouble("partial_rotary_factor") ?? factor;
        return (int)(HeadDim(c) * f);
    }

    private static float QueryScale(ConfigReader c) => (float)(1 / Math.Sqrt(c.Double("query_pre_attn_scalar", HeadDim(c))));

    private static UnaryOp Activation(ConfigReader c, string name) => name switch
    {
        "silu" or "swish" => UnaryOp.Silu,
        "gelu" => UnaryOp.Gelu,
        "gelu_new" or "gelu_pytorch_tanh" or "gelu_fast" => UnaryOp.GeluTanh,
        "relu" => UnaryOp.Relu,
        _ => throw new UserErrorException($"{c.Source}: activation {name} is not known; known: silu, gelu, gelu_new, gelu_pytorch_tanh, relu"),
    };

    private static int[] QwenWindows(ConfigReader c)
    {
        int window = c.Bool("use_sliding_window", false) ? c.OptionalInt("sliding_window") ?? 0 : 0;
        int full = c.OptionalInt("max_window_layers") ?? 0;
        return Windows(c, window, i => i >= full);
    }

    private static int[] Windows(ConfigReader c, int window, Func<int, bool> isLocal)
    {
        int layers = c.Size("num_hidden_layers", limit: 4096);
        string[]? types = c.OptionalStrings("layer_types");
        if (types is not null && types.Length != layers)
            throw new UserErrorException($"{c.Source}: layer_types has {types.Length} entries for {layers} layers");
        var windows = new int[layers];
        for (int i = 0; i < layers; i++)
        {
            bool local = types is null ? isLocal(i) : types[i] switch
            {
                "sliding_attention" => true,
                "full_attention" => false,
                _ => throw new UserErrorException($"{c.Source}: layer type {types[i]} of layer {i} is not known"),
            };
            windows[i] = local ? window : 0;
        }
        return windows;
    }

    // transformers 4 writes rope_theta + rope_scaling, transformers 5 rope_parameters (for Gemma 3 one a layer type).
    private static (RopeSpec Global, RopeSpec? Local) Ropes(ConfigReader c)
    {
        ConfigReader? parameters = c.Object("rope_parameters");
        if (parameters?.Object("full_attention") is { } full)
            return (Spec(full), parameters.Object("sliding_attention") is { } local ? Spec(local) : null);
        if (parameters is not null)
            return (Spec(parameters), null);
        double theta = c.Double("rope_theta", 10000);
        return (new RopeSpec(theta, c.Object("rope_scaling") is { } s ? Scaling(c, s) : null), null);

        RopeSpec Spec(ConfigReader p) => new(p.Double("rope_theta", c.OptionalDouble("rope_theta") ?? 10000), Scaling(c, p));
    }

    private static RopeScaling? Scaling(ConfigReader c, ConfigReader s)
    {
        string type = s.OptionalString("rope_type") ?? s.OptionalString("type") ?? "default";
        if (type == "default")
            return null;
        int? original = s.OptionalInt("original_max_position_embeddings") ?? c.OptionalInt("original_max_position_embeddings");
        RopeScalingType kind = RopeScaling.ParseType(type);
        if (kind == RopeScalingType.Default)
            return null;
        return new RopeScaling
        {
            Type = kind,
            Factor = s.OptionalDouble("factor") ?? 0,
            LowFreqFactor = s.OptionalDouble("low_freq_factor") ?? 0,
            HighFreqFactor = s.OptionalDouble("high_freq_factor") ?? 0,
            OriginalMaxPosition = original ?? 0,
            BetaFast = s.OptionalDouble("beta_fast") ?? 0,
            BetaSlow = s.OptionalDouble("beta_slow") ?? 0,
            AttentionFactor = s.OptionalDouble("attention_factor"),
            Mscale = s.OptionalDouble("mscale"),
            MscaleAllDim = s.OptionalDouble("mscale_all_dim"),
            Truncate = s.Bool("truncate", true),
            ShortFactors = s.OptionalDoubles("short_factor"),
            LongFactors = s.OptionalDoubles("long_factor"),
        };
    }
}
