using System.Text.Json.Nodes;

namespace Repeng.Runtime.Formats;

/// <summary>The table of architectures.</summary>
internal sealed partial record GgufFamily
{
    private static readonly GgufField[] s_fields =
    [
        new("embedding_length", "hidden_size"),
        new("block_count", "num_hidden_layers"),
        new("attention.head_count", "num_attention_heads"),
        new("attention.head_count_kv", "num_key_value_heads", Required: false),
        new("feed_forward_length", "intermediate_size"),
        new("context_length", "max_position_embeddings"),
        new("attention.layer_norm_rms_epsilon", "rms_norm_eps", Whole: false),
    ];

    private static readonly GgufField[] s_softCaps =
    [
        new("attn_logit_softcapping", "attn_logit_softcapping", Whole: false, Required: false),
        new("final_logit_softcapping", "final_logit_softcapping", Whole: false, Required: false),
    ];

    private static readonly (string, string)[] s_attention =
    [
        ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj"),
    ];

    private static readonly (string, string)[] s_headNorms = [("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];

    private static readonly (string, string)[] s_mlp = [("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")];

    private static readonly (string, string)[] s_preNorms = [("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];

    private static readonly (string, string)[] s_sandwich =
    [
        ("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_norm", "pre_feedforward_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm"),
    ];

    private static readonly (string, string)[] s_qwenExperts =
    [
        ("ffn_gate_exps", "mlp.experts.{0}.gate_proj"), ("ffn_up_exps", "mlp.experts.{0}.up_proj"), ("ffn_down_exps", "mlp.experts.{0}.down_proj"),
    ];

    private static readonly GgufBiases s_attentionBias = new("attention_bias", "self_attn", "q_proj", "k_proj", "v_proj", "o_proj");

    private static readonly GgufFamily s_llama = new("llama", "llama", "LlamaForCausalLM")
    {
        Block = [.. s_preNorms, .. s_attention, .. s_mlp],
        PermutesHeads = true,
        Biases = [s_attentionBias, new("mlp_bias", "mlp", "gate_proj", "up_proj", "down_proj")],
    };

    private static readonly GgufFamily s_qwen3 = new("qwen3", "qwen3", "Qwen3ForCausalLM")
    {
        Block = [.. s_preNorms, .. s_attention, .. s_headNorms, .. s_mlp],
        Biases = [s_attentionBias],
    };

    private static readonly GgufFamily s_gemma = new("gemma", "gemma", "GemmaForCausalLM")
    {
        Block = [.. s_preNorms, .. s_attention, .. s_mlp],
        NormShift = 1,
        AlwaysTied = true,
        Implied = [("hidden_activation", JsonValue.Create("gelu_pytorch_tanh"))],
    };

    private static readonly GgufFamily s_olmo2 = new("olmo2", "olmo2", "Olmo2ForCausalLM")
    {
        Block = [("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm"), .. s_attention, .. s_headNorms, .. s_mlp],
    };

    /// <summary>All families; of those that share an architecture the first that applies counts.</summary>
    private static readonly GgufFamily[] s_all =
    [
        s_llama with
        {
            ModelType = "mixtral",
            ModelClass = "MixtralForCausalLM",
            Block = [.. s_preNorms, .. s_attention, ("ffn_gate_inp", "block_sparse_moe.gate")],
            OldMlp = "block_sparse_moe",
            Experts = [("ffn_gate_exps", "block_sparse_moe.experts.{0}.w1"), ("ffn_down_exps", "block_sparse_moe.experts.{0}.w2"), ("ffn_up_exps", "block_sparse_moe.experts.{0}.w3")],
            Fields = [.. s_fields, new("expert_count", "num_local_experts"), new("expert_used_count", "num_experts_per_tok")],
            Biases = [],
            Windows = new(1),
            Applies = m => m.OptionalInteger("llama.expert_count") > 0,
        },
        s_llama with { ModelType = "mistral", ModelClass = "MistralForCausalLM", Biases = [], Windows = new(1), Applies = m => m.OptionalInteger("llama.attention.sliding_window") > 0 },
        s_llama,
        new("qwen2", "qwen2", "Qwen2ForCausalLM") { Block = [.. s_preNorms, .. s_attention, .. s_mlp] },
        s_qwen3,
        s_qwen3 with
        {
            Architecture = "qwen3moe",
            ModelType = "qwen3_moe",
            ModelClass = "Qwen3MoeForCausalLM",
            Block = [.. s_qwen3.Block, ("ffn_gate_inp", "mlp.gate")],
            Experts = s_qwenExperts,
            Fields = [.. s_fields, new("expert_count", "num_experts"), new("expert_used_count", "num_experts_per_tok"), new("expert_feed_forward_length", "moe_intermediate_size")],
            Implied = [.. s_qwen3.Implied, ("norm_topk_prob", JsonValue.Create(true)), ("decoder_sparse_step", JsonValue.Create(1))],
        },
        new("gpt-oss", "gpt_oss", "GptOssForCausalLM")
        {
            Block = [("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm"), .. s_attention, ("ffn_gate_inp", "mlp.router")],
            Bare = [("attn_sinks.weight", "self_attn.sinks")],
            Experts = s_qwenExperts,
            StacksInterleaved = true,
            // Numbers of llama.cpp's code.
            Implied = [("hidden_act", JsonValue.Create("silu")), ("swiglu_limit", JsonValue.Create(7.0)), ("swiglu_alpha", JsonValue.Create(1.702))],
            Fields = [.. s_fields, new("expert_count", "num_local_experts"), new("expert_used_count", "num_experts_per_tok"), new("expert_feed_forward_length", "intermediate_size")],
            Windows = new(2),
            YarnTruncates = false,
            Biases = [s_attentionBias],
        },
        s_gemma,
        s_gemma with
        {
            Architecture = "gemma2",
            ModelType = "gemma2",
            ModelClass = "Gemma2ForCausalLM",
            Block = [.. s_sandwich, .. s_attention, .. s_mlp],
            Fields = [.. s_fields, .. s_softCaps],
            Windows = new(2, Default: 4096, IsFixed: true),
            BlocksOfOtherScale = 46,
        },
        s_gemma with
        {
            Architecture = "gemma3",
            ModelType = "gemma3_text",
            ModelClass = "Gemma3ForCausalLM",
            Block = [.. s_sandwich, .. s_attention, .. s_headNorms, .. s_mlp],
            Fields = [.. s_fields, .. s_softCaps],
            Windows = new(6),
            HasLocalRope = true,
            BlocksOfOtherScale = 62,
        },
        new("phi3", "phi3", "Phi3ForCausalLM")
        {
            Block = [.. s_preNorms, ("attn_qkv", "self_attn.qkv_proj"), ("attn_output", "self_attn.o_proj"), ("ffn_up", "mlp.gate_up_proj"), ("ffn_down", "mlp.down_proj")],
            Windows = new(1),
            HasPartialRope = true,
        },
        new("glm4", "glm4", "Glm4ForCausalLM")
        {
            Block =
            [
                ("attn_norm", "input_layernorm"), ("post_attention_norm", "post_self_attn_layernorm"), ("ffn_norm", "post_attention_layernorm"),
                ("post_ffw_norm", "post_mlp_layernorm"), .. s_attention, ("ffn_up", "mlp.gate_up_proj"), ("ffn_down", "mlp.down_proj"),
            ],
            Biases = [new("attention_bias", "self_attn", "q_proj", "k_proj", "v_proj")],
            HasPartialRope = true,
            RopeShare = ("partial_rotary_factor", 0.5),
        },
        s_olmo2 with { ModelType = "olmo3", ModelClass = "Olmo3ForCausalLM", Windows = new(4), Applies = m => m.OptionalInteger("olmo2.attention.sliding_window") > 0 },
        s_olmo2,
        s_llama with
        {
            Architecture = "granite",
            ModelType = "granite",
            ModelClass = "GraniteForCausalLM",
            Fields =
            [
                .. s_fields, new("attention.scale", "attention_multiplier", Whole: false), new("embedding_scale", "embedding_multiplier", Whole: false),
                new("residual_scale", "residual_multiplier", Whole: false), new("logit_scale", "logits_scaling", Whole: false),
            ],
        },
        s_llama with
        {
            Architecture = "smollm3",
            ModelType = "smollm3",
            ModelClass = "SmolLM3ForCausalLM",
            Biases = [],
            Implied = [.. s_llama.Implied, ("attention_bias", JsonValue.Create(false)), ("mlp_bias", JsonValue.Create(false))],
            NoRopeEvery = 4,
        },
        new("gptneox", "gpt_neox", "GPTNeoXForCausalLM")
        {
            Global = [("token_embd", "gpt_neox.embed_in"), ("output_norm", "gpt_neox.final_layer_norm"), ("output", "embed_out")],
            Blocks = "gpt_neox.layers",
            Block =
            [
                ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"), ("attn_qkv", "attention.query_key_value"), ("attn_output", "attention.dense"),
                ("ffn_up", "mlp.dense_h_to_4h"), ("ffn_down", "mlp.dense_4h_to_h"),
            ],
            Fields =
            [
                new("embedding_length", "hidden_size"), new("block_count", "num_hidden_layers"), new("attention.head_count", "num_attention_heads"),
                new("feed_forward_length", "intermediate_size"), new("context_length", "max_position_embeddings"), new("attention.layer_norm_epsilon", "layer_norm_eps", Whole: false),
            ],
            Flags = [("use_parallel_residual", "use_parallel_residual", true)],
            Implied = [("hidden_act", JsonValue.Create("gelu"))],
            Biases = [new("attention_bias", "attention", "query_key_value", "dense")],
            FusesByHead = true,
            NormsHaveBias = true,
            HasPartialRope = true,
            ThetaField = "rotary_emb_base",
            RopeShare = ("rotary_pct", 0.25),
        },
        new("qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM")
        {
            Block =
            [
                .. s_preNorms, .. s_attention, ("ffn_gate_inp", "mlp.gate"), ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
                ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"), ("ffn_up_shexp", "mlp.shared_expert.up_proj"), ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
            ],
            Experts = s_qwenExperts,
            Fields =
            [
                .. s_fields, new("expert_count", "num_experts"), new("expert_used_count", "num_experts_per_tok"), new("expert_feed_forward_length", "moe_intermediate_size"),
                new("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
            ],
            Implied = [("hidden_act", JsonValue.Create("silu")), ("qkv_bias", JsonValue.Create(true)), ("norm_topk_prob", JsonValue.Create(false)), ("decoder_sparse_step", JsonValue.Create(1))],
        },
        new("olmoe", "olmoe", "OlmoeForCausalLM")
        {
            Block = [.. s_preNorms, .. s_attention, .. s_headNorms, ("ffn_gate_inp", "mlp.gate")],
            Experts = s_qwenExperts,
            Fields = [.. s_fields, new("expert_count", "num_experts"), new("expert_used_count", "num_experts_per_tok")],
            Implied = [("hidden_act", JsonValue.Create("silu")), ("attention_bias", JsonValue.Create(false)), ("norm_topk_prob", JsonValue.Create(false))],
        },
        new("gpt2", "gpt2", "GPT2LMHeadModel")
        {
            Global = [("token_embd", "transformer.wte"), ("position_embd", "transformer.wpe"), ("output_norm", "transformer.ln_f"), ("output", "lm_head")],
            Blocks = "transformer.h",
            Block = [("attn_norm", "ln_1"), ("attn_qkv", "attn.c_attn"), ("attn_output", "attn.c_proj"), ("ffn_norm", "ln_2"), ("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")],
            Fields =
            [
                new("embedding_length", "n_embd"), new("block_count", "n_layer"), new("attention.head_count", "n_head"),
                new("feed_forward_length", "n_inner"), new("context_length", "n_positions"), new("attention.layer_norm_epsilon", "layer_norm_epsilon", Whole: false),
            ],
            Implied = [("activation_function", JsonValue.Create("gelu_new")), ("scale_attn_weights", JsonValue.Create(true))],
            TransposesLinears = true,
            NormsHaveBias = true,
            HasRope = false,
        },
    ];

    /// <summary>Names of the architectures, for messages.</summary>
    public static string Architectures => string.Join(", ", s_all.Select(f => f.Architecture).Distinct());

    /// <summary>Names of the families of transformers that can be written, for messages.</summary>
    public static string ModelTypes => string.Join(", ", s_all.Select(f => f.ModelType));

    /// <summary>The family of a file, or null where its architecture is not known.</summary>
    public static GgufFamily? Of(string architecture, GgufMetadata metadata) => s_all.FirstOrDefault(f => f.Architecture == architecture && f.Applies(metadata));

    /// <summary>The family by config.json's model_type, or null.</summary>
    public static GgufFamily? OfModelType(string modelType) => s_all.FirstOrDefault(f => f.ModelType == modelType);
}
