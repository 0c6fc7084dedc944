using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Steering.Tests.Models;

/// <summary>A key that config.json leaves out means what transformers' configuration class of the family says (its values are written here, read from configuration_*.py), and null is not the same.</summary>
public sealed class ConfigDefaultsTests
{
    private const string Sizes = """{"hidden_size":256,"intermediate_size":96,"num_hidden_layers":8,"num_attention_heads":32,"vocab_size":50,"num_experts":16,"num_local_experts":16,"moe_intermediate_size":8,"shared_expert_intermediate_size":8}""";

    private static readonly Dictionary<string, string> s_classes = new()
    {
        ["llama"] = """{"num_key_value_heads":32,"hidden_act":"silu","max_position_embeddings":2048,"rms_norm_eps":1e-6,"rope_theta":10000,"rope_scaling":null,"attention_bias":false,"mlp_bias":false,"tie_word_embeddings":false}""",
        ["mistral"] = """{"num_key_value_heads":8,"hidden_act":"silu","max_position_embeddings":131072,"rms_norm_eps":1e-6,"rope_theta":10000,"sliding_window":4096,"tie_word_embeddings":false}""",
        ["mixtral"] = """{"num_key_value_heads":8,"hidden_act":"silu","max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":1e6,"sliding_window":null,"num_experts_per_tok":2,"tie_word_embeddings":false}""",
        ["qwen2"] = """{"num_key_value_heads":32,"hidden_act":"silu","max_position_embeddings":32768,"rms_norm_eps":1e-6,"rope_theta":10000,"use_sliding_window":false,"sliding_window":4096,"max_window_layers":28,"tie_word_embeddings":false}""",
        ["qwen3"] = """{"num_key_value_heads":32,"head_dim":128,"hidden_act":"silu","max_position_embeddings":32768,"rms_norm_eps":1e-6,"rope_theta":10000,"use_sliding_window":false,"sliding_window":4096,"max_window_layers":28,"attention_bias":false,"tie_word_embeddings":false}""",
        ["qwen2_moe"] = """{"num_key_value_heads":16,"hidden_act":"silu","max_position_embeddings":32768,"rms_norm_eps":1e-6,"rope_theta":10000,"use_sliding_window":false,"sliding_window":4096,"max_window_layers":28,"decoder_sparse_step":1,"num_experts_per_tok":4,"norm_topk_prob":false,"mlp_only_layers":[],"qkv_bias":true,"tie_word_embeddings":false}""",
        ["qwen3_moe"] = """{"num_key_value_heads":4,"hidden_act":"silu","max_position_embeddings":32768,"rms_norm_eps":1e-6,"rope_theta":10000,"use_sliding_window":false,"sliding_window":4096,"decoder_sparse_step":1,"num_experts_per_tok":8,"norm_topk_prob":false,"mlp_only_layers":[],"attention_bias":false,"tie_word_embeddings":false}""",
        ["gemma"] = """{"num_key_value_heads":16,"head_dim":256,"hidden_act":"gelu_pytorch_tanh","hidden_activation":null,"max_position_embeddings":8192,"rms_norm_eps":1e-6,"rope_theta":10000,"attention_bias":false,"tie_word_embeddings":true}""",
        ["gemma2"] = """{"num_key_value_heads":4,"head_dim":256,"hidden_activation":"gelu_pytorch_tanh","max_position_embeddings":8192,"rms_norm_eps":1e-6,"rope_theta":10000,"query_pre_attn_scalar":256,"sliding_window":4096,"final_logit_softcapping":30,"attn_logit_softcapping":50,"tie_word_embeddings":true}""",
        ["gemma3_text"] = """{"num_key_value_heads":4,"head_dim":256,"hidden_activation":"gelu_pytorch_tanh","max_position_embeddings":131072,"rms_norm_eps":1e-6,"rope_theta":1e6,"rope_local_base_freq":10000,"query_pre_attn_scalar":256,"sliding_window":4096,"sliding_window_pattern":6,"final_logit_softcapping":null,"attn_logit_softcapping":null,"tie_word_embeddings":true}""",
        ["phi3"] = """{"num_key_value_heads":32,"hidden_act":"silu","max_position_embeddings":4096,"original_max_position_embeddings":4096,"rms_norm_eps":1e-5,"rope_theta":10000,"sliding_window":null,"tie_word_embeddings":false}""",
        ["olmo2"] = """{"num_key_value_heads":32,"hidden_act":"silu","max_position_embeddings":2048,"rms_norm_eps":1e-5,"rope_theta":10000,"rope_scaling":null,"attention_bias":false,"tie_word_embeddings":false}""",
        ["olmo3"] = """{"num_key_value_heads":32,"hidden_act":"silu","max_position_embeddings":2048,"rms_norm_eps":1e-5,"rope_theta":500000,"sliding_window":4096,"attention_bias":false,"tie_word_embeddings":false}""",
        ["olmoe"] = """{"num_key_value_heads":32,"hidden_act":"silu","max_position_embeddings":4096,"rms_norm_eps":1e-5,"rope_theta":10000,"clip_qkv":null,"num_experts_per_tok":8,"norm_topk_prob":false,"attention_bias":false,"tie_word_embeddings":false}""",
        ["glm4"] = """{"num_key_value_heads":2,"head_dim":128,"hidden_act":"silu","max_position_embeddings":131072,"rms_norm_eps":1.5625e-7,"rope_theta":10000,"partial_rotary_factor":0.5,"attention_bias":true,"tie_word_embeddings":false}""",
        ["smollm3"] = """{"num_key_value_heads":4,"hidden_act":"silu","max_position_embeddings":32768,"rms_norm_eps":1e-6,"rope_theta":2e6,"use_sliding_window":false,"sliding_window":null,"no_rope_layer_interval":4,"no_rope_layers":[1,1,1,0,1,1,1,0],"attention_bias":false,"mlp_bias":false,"tie_word_embeddings":true}""",
        ["granite"] = """{"num_key_value_heads":32,"hidden_act":"silu","max_position_embeddings":2048,"rms_norm_eps":1e-6,"rope_theta":10000,"attention_bias":false,"mlp_bias":false,"embedding_multiplier":1,"logits_scaling":1,"residual_multiplier":1,"attention_multiplier":1,"tie_word_embeddings":false}""",
        ["gpt_neox"] = """{"hidden_act":"gelu","rotary_pct":0.25,"rotary_emb_base":10000,"max_position_embeddings":2048,"layer_norm_eps":1e-5,"use_parallel_residual":true,"attention_bias":true,"rope_scaling":null,"tie_word_embeddings":false}""",
        ["gpt_oss"] = """{"num_key_value_heads":8,"head_dim":64,"hidden_act":"silu","max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":150000,"sliding_window":128,"attention_bias":true,"num_experts_per_tok":4,"swiglu_alpha":1.702,"swiglu_limit":7,"tie_word_embeddings":false,"rope_scaling":{"rope_type":"yarn","factor":32.0,"beta_fast":32.0,"beta_slow":1.0,"truncate":false,"original_max_position_embeddings":4096}}""",
    };

    public static IEnumerable<TheoryDataRow<string>> Names => s_classes.Keys.Select(n => new TheoryDataRow<string>(n));

    [Theory]
    [MemberData(nameof(Names))]
    public void What_a_file_leaves_out_is_what_the_class_says(string family)
    {
        ModelConfig left = Read(family, "{}");
        // With the switch on, the defaults of windows count too.
        Assert.Equivalent(Read(family, s_classes[family]), left, strict: true);
        const string Windowed = """{"use_sliding_window":true}""";
        ModelConfig on = Read(family, s_classes[family], Windowed);
        Assert.Equivalent(on, Read(family, Windowed), strict: true);
        if (family is "qwen2_moe" or "qwen3_moe")
            Assert.Equal(4096, on.Windows[0]);
    }

    [Fact]
    public void Null_is_a_value()
    {
        Assert.All(Read("mistral", "{}").Windows, w => Assert.Equal(4096, w));
        Assert.All(Read("mistral", """{"sliding_window":null}""").Windows, w => Assert.Equal(0, w));
        Assert.Equal(4, Read("smollm3", "{}").NumKvHeads);
        Assert.Equal(32, Read("smollm3", """{"num_key_value_heads":null}""").NumKvHeads);
        Assert.NotNull(Read("gpt_oss", "{}").Rope!.Scaling);
        Assert.Null(Read("gpt_oss", """{"rope_scaling":null}""").Rope!.Scaling);
        // transformers 5 says both in one object, and what is missing in it is the family's again.
        Assert.Equal(new RopeSpec(2e6, null), Read("smollm3", """{"rope_parameters":{"rope_type":"default"}}""").Rope);
        Assert.Equal(8, Read("glm4", """{"rope_parameters":{"rope_type":"default","rope_theta":100,"partial_rotary_factor":0.0625}}""").RotaryDim);
    }

    [Fact]
    public void A_multimodal_Gemma_3_says_little_of_its_text_model()
    {
        // Such files may name the sizes of the text model that are not the defaults, and no other.
        JsonObject json = JsonNode.Parse("""{"model_type":"gemma3","text_config":{"hidden_size":2560,"intermediate_size":10240,"model_type":"gemma3_text","num_hidden_layers":34,"rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":1024},"vision_config":{}}""")!.AsObject();
        ModelConfig c = Families.Read(new ConfigReader(json, "config.json"));
        Assert.Equal((262208, 8, 4, 256, 131072), (c.VocabSize, c.NumHeads, c.NumKvHeads, c.HeadDim, c.MaxPositions));
        Assert.Equal((1e6, 8.0, 1e4), (c.Rope!.Theta, c.Rope.Scaling!.Factor, c.LocalRope!.Theta));
        Assert.Equal(0.0625f, c.AttentionScale);
        Assert.True(c.TiedHead);
    }

    [Theory]
    // The legacy key of Gemma's first checkpoints stands for the tanh form; 2 and 3 do not read it, and what they read is taken at its word.
    [InlineData("gemma", """{"hidden_act":"gelu"}""", UnaryOp.GeluTanh)]
    [InlineData("gemma", """{"hidden_act":"gelu","hidden_activation":null}""", UnaryOp.GeluTanh)]
    [InlineData("gemma", """{"hidden_act":"gelu","hidden_activation":"gelu"}""", UnaryOp.Gelu)]
    [InlineData("gemma", """{"hidden_act":"silu"}""", UnaryOp.Silu)]
    [InlineData("gemma2", """{"hidden_act":"silu"}""", UnaryOp.GeluTanh)]
    [InlineData("gemma2", """{"hidden_act":"gelu_pytorch_tanh","hidden_activation":"gelu"}""", UnaryOp.Gelu)]
    [InlineData("gemma3_text", """{"hidden_act":"silu"}""", UnaryOp.GeluTanh)]
    [InlineData("gemma3_text", """{"hidden_activation":"silu"}""", UnaryOp.Silu)]
    public void The_activation_of_a_Gemma(string family, string more, UnaryOp expected) => Assert.Equal(expected, Read(family, more).Activation);

    [Fact]
    public void What_Gemma_3_and_OLMo_do_not_read()
    {
        ModelConfig two = Read("gemma2", """{"attn_logit_softcapping":20,"final_logit_softcapping":7}""");
        Assert.Equal((20f, 7f), (two.AttentionSoftCap, two.LogitSoftCap));
        ModelConfig three = Read("gemma3_text", """{"attn_logit_softcapping":20,"final_logit_softcapping":7,"mlp_bias":true}""");
        Assert.Equal((0f, 7f, false), (three.AttentionSoftCap, three.LogitSoftCap, three.MlpBias));
        Assert.False(Read("olmo2", """{"mlp_bias":true}""").MlpBias);
        Assert.True(Read("llama", """{"mlp_bias":true}""").MlpBias);
    }

    [Theory]
    [InlineData("""{"rope_parameters":{"full_attention":{"rope_type":"default"},"sliding_attention":{"rope_type":"default"}}}""", 1e6, 1e4)]
    [InlineData("""{"rope_parameters":{"full_attention":{"rope_theta":5e5},"sliding_attention":{"rope_type":"default"}},"rope_local_base_freq":300}""", 5e5, 300)]
    [InlineData("""{"rope_parameters":{"full_attention":{"rope_theta":5e5},"sliding_attention":{"rope_theta":200}},"rope_local_base_freq":300}""", 5e5, 200)]
    [InlineData("""{"rope_theta":7e5,"rope_local_base_freq":300}""", 7e5, 300)]
    public void Bases_of_Gemma_3(string more, double global, double local)
    {
        ModelConfig c = Read("gemma3_text", more);
        Assert.Equal((global, local), (c.Rope!.Theta, c.LocalRope!.Theta));
    }

    [Fact]
    public void A_multimodal_Gemma_3_says_outside_of_its_text_model_where_texts_end()
    {
        JsonObject json = JsonNode.Parse("""{"model_type":"gemma3","eos_token_id":[1,106],"text_config":{"model_type":"gemma3_text"}}""")!.AsObject();
        Assert.Equal([1, 106], Families.Read(new ConfigReader(json, "config.json")).EosTokenIds);
        json["text_config"]!["eos_token_id"] = 7;
        Assert.Equal([7, 1, 106], Families.Read(new ConfigReader(json, "config.json")).EosTokenIds);
    }

    [Theory]
    [InlineData("gemma", """{"use_bidirectional_attention":true}""", "tokens see those behind them")]
    [InlineData("gemma2", """{"use_bidirectional_attention":true}""", "tokens see those behind them")]
    [InlineData("gemma3_text", """{"use_bidirectional_attention":true}""", "tokens see those behind them")]
    [InlineData("olmoe", """{"clip_qkv":-2}""", "clip_qkv = -2 must be above 0")]
    [InlineData("granite", """{"logits_scaling":0}""", "logits_scaling = 0 must be above 0")]
    public void What_cannot_be_is_refused(string family, string more, string message) =>
        Assert.Contains(message, Assert.Throws<UserErrorException>(() => Read(family, more)).Message);

    private static ModelConfig Read(string family, params string[] more)
    {
        JsonObject json = JsonNode.Parse(Sizes)!.AsObject();
        json["model_type"] = family;
        foreach (string part in more)
            foreach ((string key, JsonNode? value) in JsonNode.Parse(part)!.AsObject())
                json[key] = value?.DeepClone();
        return Families.Read(new ConfigReader(json, "config.json"));
    }
}
