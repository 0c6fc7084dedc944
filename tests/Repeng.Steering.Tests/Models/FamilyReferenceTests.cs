using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>Families that no golden folder has, against <see cref="ReferenceDecoder"/>: hidden states, logits, and the gradient of every parameter by central differences.</summary>
public sealed class FamilyReferenceTests
{
    private static readonly int[] s_ids = [3, 17, 8, 8, 29, 1, 14, 22, 5, 30, 11];

    private static readonly Dictionary<string, string> s_configs = new()
    {
        ["smollm3"] = """{"model_type":"smollm3","num_key_value_heads":1,"num_hidden_layers":4,"rope_theta":500,"rms_norm_eps":1e-6,"no_rope_layer_interval":2}""",
        ["smollm3 listed, windowed, untied"] = """{"model_type":"smollm3","num_key_value_heads":2,"no_rope_layers":[1,0,0],"use_sliding_window":true,"sliding_window":4,"tie_word_embeddings":false,"attention_bias":true,"mlp_bias":true}""",
        ["smollm3 by layer types, own head size, base by default"] = """{"model_type":"smollm3","num_key_value_heads":2,"no_rope_layer_interval":3,"head_dim":6,"use_sliding_window":false,"sliding_window":3,"layer_types":["sliding_attention","full_attention","sliding_attention"]}""",
        ["smollm3 stretched as Llama 3.1"] = """{"model_type":"smollm3","num_key_value_heads":1,"rope_theta":100,"rope_scaling":{"rope_type":"llama3","factor":4,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":32}}""",
        ["granite"] = """{"model_type":"granite","num_key_value_heads":1,"embedding_multiplier":6.5,"attention_multiplier":0.21,"residual_multiplier":0.37,"logits_scaling":3.5,"tie_word_embeddings":true}""",
        ["granite untied"] = """{"model_type":"granite","num_key_value_heads":2,"embedding_multiplier":12,"attention_multiplier":0.05,"residual_multiplier":0.22,"logits_scaling":8,"rope_theta":300}""",
        ["granite with biases and no factors, of transformers 5"] = """{"model_type":"granite","num_key_value_heads":1,"attention_bias":true,"mlp_bias":true,"rope_parameters":{"rope_type":"linear","factor":2.5,"rope_theta":200}}""",
        ["gpt-neox"] = """{"model_type":"gpt_neox","rotary_pct":0.5,"rotary_emb_base":700,"layer_norm_eps":1e-5}""",
        ["gpt-neox sequential"] = """{"model_type":"gpt_neox","rotary_pct":1.0,"use_parallel_residual":false,"layer_norm_eps":1e-4}""",
        ["gpt-neox by default, tanh, no biases"] = """{"model_type":"gpt_neox","attention_bias":false,"hidden_act":"gelu_new"}""",
        ["gpt-neox of transformers 5"] = """{"model_type":"gpt_neox","hidden_act":"relu","rope_parameters":{"rope_type":"default","rope_theta":50,"partial_rotary_factor":0.75}}""",
        ["qwen2-moe"] = """{"model_type":"qwen2_moe","num_key_value_heads":1,"num_experts":6,"num_experts_per_tok":3,"moe_intermediate_size":10,"shared_expert_intermediate_size":14,"norm_topk_prob":false,"decoder_sparse_step":2}""",
        ["qwen2-moe normalised"] = """{"model_type":"qwen2_moe","num_key_value_heads":2,"num_experts":5,"num_experts_per_tok":2,"moe_intermediate_size":8,"shared_expert_intermediate_size":6,"norm_topk_prob":true,"mlp_only_layers":[0]}""",
        ["qwen2-moe windowed"] = """{"model_type":"qwen2_moe","num_key_value_heads":1,"num_hidden_layers":4,"num_experts":4,"num_experts_per_tok":2,"moe_intermediate_size":6,"shared_expert_intermediate_size":6,"use_sliding_window":true,"sliding_window":3,"max_window_layers":2,"qkv_bias":false}""",
        ["qwen2-moe windowed by layer types"] = """{"model_type":"qwen2_moe","num_key_value_heads":2,"num_experts":4,"num_experts_per_tok":1,"moe_intermediate_size":6,"shared_expert_intermediate_size":6,"use_sliding_window":true,"sliding_window":4,"layer_types":["full_attention","sliding_attention","sliding_attention"]}""",
        ["qwen2-moe without experts"] = """{"model_type":"qwen2_moe","num_key_value_heads":1,"num_experts":0}""",
        ["olmoe normalised, with biases, not cut"] = """{"model_type":"olmoe","num_key_value_heads":1,"num_experts":5,"num_experts_per_tok":3,"norm_topk_prob":true,"attention_bias":true}""",
        ["olmoe"] = """{"model_type":"olmoe","num_experts":7,"num_experts_per_tok":2,"norm_topk_prob":false,"clip_qkv":1.1,"rms_norm_eps":1e-5}""",
    };

    public static IEnumerable<TheoryDataRow<string>> Names => s_configs.Keys.Select(n => new TheoryDataRow<string>(n));

    [Theory]
    [MemberData(nameof(Names))]
    public void Hidden_states_logits_and_gradients_are_those_of_the_double_reference(string name)
    {
        JsonObject config = Config(s_configs[name]);
        using var checkpoint = new TinyCheckpoint(config, seed: 5);
        var reference = new ReferenceDecoder(config, checkpoint.Weights);
        (double[][] logits, List<double[][]> hidden) = reference.Run(s_ids);
        using Device device = Device.Cpu(2);
        using DecoderModel model = checkpoint.Load(device);
        Assert.Equal(checkpoint.Weights.Keys.Order(StringComparer.Ordinal), model.Parameters.Keys.Order(StringComparer.Ordinal));
        model.RequireGradients(true);
        var tokens = new TokenBatch(1, s_ids.Length, s_ids, [0]);
        using (var tape = new Tape(device))
        {
            var context = new ForwardContext(tape, tokens) { KeepHiddenStates = true };
            Tensor last = model.Forward(context);
            for (int i = 0; i < hidden.Count; i++)
                Close.To(1e-5, context.HiddenStates[i].ToArray(), [.. hidden[i].SelectMany(r => r)], $"{name} hidden_states.{i}");
            Close.To(1e-5, model.Logits(tape, last).ToArray(), [.. logits.SelectMany(r => r)], $"{name} logits");
            Close.To(1e-5, model.Logits(context, last).ToArray(), [.. logits.SelectMany(r => r)], $"{name} logits of the pass");
            Tensor logProb = model.LabelLogProb(context, last, [.. Enumerable.Range(0, s_ids.Length - 1)], s_ids[1..]);
            tape.Backward(tape.Scale(tape.Mean(logProb), -1));
        }
        var random = new Random(3);
        foreach ((string parameter, double[] values) in checkpoint.Weights)
        {
            float[] gradient = model.Parameters[parameter].GradToArray();
            // A gradient that is 0 by the mathematics (a bias of keys without rotary embedding) is rounding.
            double scale = Math.Max(gradient.Max(Math.Abs), 1e-3);
            foreach (int i in Enumerable.Range(0, 3).Select(_ => random.Next(values.Length)).Append(Array.FindIndex(gradient, g => Math.Abs(g) == gradient.Max(Math.Abs))))
            {
                double was = values[i], step = 1e-5;
                values[i] = was + step;
                double up = reference.Loss(s_ids);
                values[i] = was - step;
                double difference = (up - reference.Loss(s_ids)) / (2 * step);
                values[i] = was;
                Assert.True(Math.Abs(difference - gradient[i]) <= 1e-4 * scale, $"{name} grad.{parameter}[{i}]: {gradient[i]:g6}, difference {difference:g6}, largest {scale:g4}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Decoding_with_a_cache_gives_the_logits_of_the_whole_text(string name)
    {
        using var checkpoint = new TinyCheckpoint(Config(s_configs[name]), seed: 6);
        using Device device = Device.Cpu(2);
        using DecoderModel model = checkpoint.Load(device);
        using var whole = new Tape(device, record: false);
        float[] expected = model.Logits(whole, model.Forward(new ForwardContext(whole, new TokenBatch(1, s_ids.Length, s_ids, [0])))).ToArray();
        using var cache = new KvCache(device, model.Config, 1, s_ids.Length, [0]);
        var actual = new List<float>();
        foreach (int[] part in new[] { s_ids[..4], s_ids[4..5], s_ids[5..6], s_ids[6..] })
        {
            using var tape = new Tape(device, record: false);
            actual.AddRange(model.Logits(tape, model.Forward(new ForwardContext(tape, new TokenBatch(1, part.Length, part, [0]), cache))).ToArray());
        }
        Close.To(1e-5, actual.ToArray(), expected, name);
    }

    /// <summary>The description by its name here.</summary>
    internal static JsonObject ConfigOf(string name) => Config(s_configs[name]);

    private static JsonObject Config(string special)
    {
        JsonObject config = JsonNode.Parse("""{"hidden_size":16,"intermediate_size":22,"num_hidden_layers":3,"num_attention_heads":2,"vocab_size":31,"max_position_embeddings":64}""")!.AsObject();
        foreach ((string key, JsonNode? value) in JsonNode.Parse(special)!.AsObject())
            config[key] = value?.DeepClone();
        return config;
    }
}
