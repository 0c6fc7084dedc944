using System.Text.Json.Nodes;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Steering.Tests.Models;

/// <summary>Random weights of a family under the names that transformers gives them, in a safetensors file of their own; the names are written here, not taken from the engine.</summary>
internal sealed class TinyCheckpoint : IDisposable
{
    private readonly JsonObject _config;
    private readonly string _folder = Path.Combine(Path.GetTempPath(), $"repeng-family-{Guid.NewGuid():N}");

    public TinyCheckpoint(JsonObject config, int seed)
    {
        _config = config;
        var random = new Random(seed);
        int d = Int("hidden_size"), heads = Int("num_attention_heads"), vocabulary = Int("vocab_size"), hd = (int?)config["head_dim"] ?? d / heads;
        int kv = (config["num_key_value_heads"] is { } n ? (int)n : heads) * hd;
        string type = (string)config["model_type"]!, prefix = type == "gpt_neox" ? "gpt_neox." : "model.";
        if (type == "gpt_neox")
        {
            Add("gpt_neox.embed_in.weight", 1, vocabulary, d);
            Add("embed_out.weight", 0.5, vocabulary, d);
            LayerNorm("gpt_neox.final_layer_norm");
        }
        else
        {
            Add("model.embed_tokens.weight", 1, vocabulary, d);
            Add("model.norm.weight", 1, d);
            if (!((bool?)config["tie_word_embeddings"] ?? type == "smollm3"))
                Add("lm_head.weight", 0.5, vocabulary, d);
        }
        for (int i = 0; i < Int("num_hidden_layers"); i++)
        {
            string p = $"{prefix}layers.{i}.";
            if (type == "gpt_neox")
            {
                LayerNorm(p + "input_layernorm");
                LayerNorm(p + "post_attention_layernorm");
                Linear(p + "attention.query_key_value", 3 * d, d, (bool?)config["attention_bias"] ?? true);
                Linear(p + "attention.dense", d, d, (bool?)config["attention_bias"] ?? true);
                Linear(p + "mlp.dense_h_to_4h", Int("intermediate_size"), d, true);
                Linear(p + "mlp.dense_4h_to_h", d, Int("intermediate_size"), true);
                continue;
            }
            bool bias = (bool?)config["attention_bias"] ?? false;
            Add(p + "input_layernorm.weight", 1, d);
            Add(p + "post_attention_layernorm.weight", 1, d);
            bool inner = type == "qwen2_moe" ? (bool?)config["qkv_bias"] ?? true : bias;
            Linear(p + "self_attn.q_proj", heads * hd, d, inner);
            Linear(p + "self_attn.k_proj", kv, d, inner);
            Linear(p + "self_attn.v_proj", kv, d, inner);
            Linear(p + "self_attn.o_proj", d, heads * hd, bias);
            if (type is "olmoe" or "qwen3_moe")
            {
                Add(p + "self_attn.q_norm.weight", 1, type == "olmoe" ? d : hd);
                Add(p + "self_attn.k_norm.weight", 1, type == "olmoe" ? kv : hd);
            }
            bool plain = ((int?)config["num_experts"] ?? 0) == 0 || (config["mlp_only_layers"] as JsonArray)?.Any(l => (int)l! == i) == true || (i + 1) % ((int?)config["decoder_sparse_step"] ?? 1) != 0;
            if (plain)
            {
                Gated(p + "mlp.", Int("intermediate_size"));
                continue;
            }
            Linear(p + "mlp.gate", Int("num_experts"), d, false);
            for (int e = 0; e < Int("num_experts"); e++)
                Gated($"{p}mlp.experts.{e}.", (int)(config["moe_intermediate_size"] ?? config["intermediate_size"])!);
            if (type != "qwen2_moe")
                continue;
            Gated(p + "mlp.shared_expert.", Int("shared_expert_intermediate_size"));
            Linear(p + "mlp.shared_expert_gate", 1, d, false);
        }

        int Int(string key) => (int)config[key]!;
        void Add(string name, double spread, params int[] shape)
        {
            Shapes[name] = shape;
            // Norm weights lie around one, so that a family that adds one is told apart.
            bool norm = shape.Length == 1 && name.EndsWith("norm.weight", StringComparison.Ordinal);
            Weights[name] = [.. Enumerable.Range(0, shape.Aggregate(1, (a, b) => a * b)).Select(_ => (double)(float)((norm ? 1 : 0) + (norm ? 0.3 : spread) * (2 * random.NextDouble() - 1)))];
        }
        void Linear(string path, int outputs, int inputs, bool bias)
        {
            Add(path + ".weight", 0.6, outputs, inputs);
            if (bias)
                Add(path + ".bias", 0.4, outputs);
        }
        void LayerNorm(string path)
        {
            Add(path + ".weight", 1, d);
            Add(path + ".bias", 0.3, d);
        }
        void Gated(string path, int width)
        {
            bool bias = (bool?)config["mlp_bias"] ?? false;
            Linear(path + "gate_proj", width, d, bias);
            Linear(path + "up_proj", width, d, bias);
            Linear(path + "down_proj", d, width, bias);
        }
    }

    /// <summary>Values by name; they can be changed before <see cref="Load"/>.</summary>
    public Dictionary<string, double[]> Weights { get; } = [];

    /// <summary>Shapes by name.</summary>
    public Dictionary<string, int[]> Shapes { get; } = [];

    /// <summary>Folder with config.json and model.safetensors.</summary>
    public string Write()
    {
        Directory.CreateDirectory(_folder);
        File.WriteAllText(Path.Combine(_folder, "config.json"), _config.ToJsonString());
        var writer = new SafetensorsWriter();
        foreach ((string name, double[] values) in Weights)
            writer.Add(name, [.. Shapes[name].Select(s => (long)s)], Array.ConvertAll(values, v => (float)v));
        writer.Write(Path.Combine(_folder, "model.safetensors"));
        return _folder;
    }

    public DecoderModel Load(Device device) => GoldenFiles.Load(device, Write());

    public void Dispose()
    {
        if (Directory.Exists(_folder))
            Directory.Delete(_folder, recursive: true);
    }
}
