using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>Families that no golden folder has (qwen3_moe: none without dense blocks), written as GGUF and read back; what llama.cpp's architecture cannot say is refused.</summary>
public sealed class GgufFamilyTests : IDisposable
{
    private static readonly TokenBatch s_tokens = TokenBatch.Pad([[3, 17, 8, 8, 29, 1, 14, 22, 5, 30, 11], [4, 9, 2]], 0);

    /// <summary>Configurations that llama.cpp's architectures can say.</summary>
    internal static readonly Dictionary<string, string> Configs = new()
    {
        ["smollm3"] = """{"model_type":"smollm3","num_key_value_heads":1,"num_hidden_layers":4,"rope_theta":500,"rms_norm_eps":1e-6,"no_rope_layers":[1,1,1,0],"no_rope_layer_interval":4}""",
        ["smollm3, base by default"] = """{"model_type":"smollm3","num_key_value_heads":1,"num_hidden_layers":4,"rms_norm_eps":1e-6}""",
        ["granite"] = """{"model_type":"granite","num_key_value_heads":1,"rms_norm_eps":1e-6,"embedding_multiplier":6.5,"attention_multiplier":0.21,"residual_multiplier":0.37,"logits_scaling":3.5,"tie_word_embeddings":true}""",
        ["granite, untied, with biases"] = """{"model_type":"granite","num_key_value_heads":2,"rms_norm_eps":1e-6,"embedding_multiplier":12,"attention_multiplier":0.05,"residual_multiplier":0.22,"logits_scaling":8,"rope_theta":300,"attention_bias":true,"mlp_bias":true}""",
        ["gpt_neox"] = """{"model_type":"gpt_neox","rotary_pct":0.5,"rotary_emb_base":700,"layer_norm_eps":1e-5}""",
        ["gpt_neox, sequential"] = """{"model_type":"gpt_neox","rotary_pct":1.0,"use_parallel_residual":false,"layer_norm_eps":1e-4}""",
        ["qwen2_moe"] = """{"model_type":"qwen2_moe","num_key_value_heads":1,"rms_norm_eps":1e-6,"num_experts":6,"num_experts_per_tok":3,"moe_intermediate_size":10,"shared_expert_intermediate_size":14,"norm_topk_prob":false,"decoder_sparse_step":1}""",
        ["qwen3_moe"] = """{"model_type":"qwen3_moe","num_key_value_heads":1,"rms_norm_eps":1e-6,"num_experts":6,"num_experts_per_tok":2,"moe_intermediate_size":10,"norm_topk_prob":true,"decoder_sparse_step":1}""",
        ["olmoe"] = """{"model_type":"olmoe","num_experts":7,"num_experts_per_tok":2,"norm_topk_prob":false,"rms_norm_eps":1e-5}""",
    };

    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-gguf-family-").FullName;

    public static IEnumerable<TheoryDataRow<string>> Names => Configs.Keys.Select(n => new TheoryDataRow<string>(n));

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Names))]
    public void A_family_written_and_read_back_has_its_logits(string name)
    {
        JsonObject config = Config(Configs[name]);
        using var checkpoint = new TinyCheckpoint(config, seed: 7);
        string folder = checkpoint.Write(), path = Path.Combine(_folder, "model.gguf"), again = Path.Combine(_folder, "again.gguf");
        using Device device = Device.Cpu(2);
        using DecoderModel plain = GoldenFiles.Load(device, folder);
        using (ITensorSource source = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")))
            GgufModelWriter.Write(path, config, "config.json", source, new GgufModelWriter.Options { Type = "F32" });
        using GgufModel gguf = GgufModel.Open(path);
        Assert.Equal((string)config["model_type"]!, (string)gguf.Config["model_type"]!);
        using DecoderModel read = ModelLoader.Load(device, ModelBundle.ConfigOf(gguf, path), gguf.Tensors);
        Close.To(1e-6, Logits(read), Logits(plain), name);
        foreach (string parameter in plain.Parameters.Keys)
            Assert.Equal(plain.Parameters[parameter].ToArray(), read.Parameters[parameter].ToArray());

        // From GGUF to GGUF nothing changes.
        GgufModelWriter.Write(again, gguf.Config, path, gguf.Tensors, new GgufModelWriter.Options { Type = "F32", FromGguf = true });
        using (GgufFile second = GgufFile.Open(again))
        {
            Assert.Equal(gguf.File.Names, second.Names);
            Assert.All(gguf.File.Names, n => Assert.Equal(gguf.File.ReadBytes(n), second.ReadBytes(n)));
            Assert.Equal(gguf.File.Metadata.Keys.Select(k => $"{k} {gguf.File.Metadata.Preview(k)}"), second.Metadata.Keys.Select(k => $"{k} {second.Metadata.Preview(k)}"));
        }

        // A LoRA on every linear layer of a block goes there and back.
        using PeftAdapter adapter = PeftFactory.Create(plain, new PeftSettings { Kind = "lora", Rank = 2, TargetModules = @".*layers\.1\.(?!.*shared_expert_gate).*", InitNoise = 0.2 });
        string lora = Path.Combine(_folder, "lora.gguf");
        using (ModelFiles files = ModelFiles.Open(folder))
            LoraExport.WriteGguf(lora, files, adapter, 1);
        float[] wanted = Logits(plain, adapter);
        Assert.True(Close.Error(wanted, Logits(plain)) > 1e-3, "the LoRA does something");
        foreach (DecoderModel model in new[] { plain, read })
        {
            using IAdapter loaded = AdapterFile.LoadAny(model, lora);
            Close.To(1e-5, Logits(model, loaded), wanted, $"{name}: LoRA on {model.Source}");
        }
    }

    [Theory]
    [InlineData("smollm3", """{"no_rope_layers":[1,0,1,0]}""", "no_rope_layers", "than every 4th, which is what llama.cpp's smollm3 has")]
    [InlineData("smollm3", """{"no_rope_layers":null,"no_rope_layer_interval":2}""", "no_rope_layer_interval", "than every 4th")]
    [InlineData("smollm3", """{"use_sliding_window":true,"sliding_window":4}""", "sliding_window", "llama.cpp's smollm3 has no windows")]
    [InlineData("smollm3", """{"attention_bias":true}""", "attention_bias", "is true, llama.cpp's smollm3 has false")]
    [InlineData("granite", """{"attention_multiplier":null}""", "attention_multiplier", "is missing")]
    [InlineData("gpt_neox", """{"hidden_act":"relu"}""", "hidden_act", "llama.cpp's gptneox has \"gelu\"")]
    [InlineData("qwen2_moe", """{"norm_topk_prob":true}""", "norm_topk_prob", "is true, llama.cpp's qwen2moe has false")]
    [InlineData("olmoe", """{"clip_qkv":1.1}""", "clip_qkv", "does not cut queries")]
    public void What_llama_cpp_would_compute_otherwise_is_refused(string name, string change, string field, string says)
    {
        JsonObject config = Config(Configs[name], change);
        using var checkpoint = new TinyCheckpoint(config, seed: 7);
        string path = Path.Combine(_folder, "model.gguf");
        using ITensorSource source = SafetensorsFile.Open(Path.Combine(checkpoint.Write(), "model.safetensors"));
        UserErrorException e = Assert.Throws<UserErrorException>(() => GgufModelWriter.Write(path, config, "config.json", source, new GgufModelWriter.Options { Type = "F32" }));
        Assert.Contains($"'{field}'", e.Message);
        Assert.Contains(says, e.Message);
        Assert.False(File.Exists(path));
    }

    internal static JsonObject Config(params string[] parts)
    {
        JsonObject config = JsonNode.Parse("""{"hidden_size":16,"intermediate_size":22,"num_hidden_layers":3,"num_attention_heads":2,"vocab_size":31,"max_position_embeddings":64}""")!.AsObject();
        foreach (string part in parts)
            foreach ((string key, JsonNode? value) in JsonNode.Parse(part)!.AsObject())
                config[key] = value?.DeepClone();
        return config;
    }

    private static float[] Logits(DecoderModel model, IAdapter? adapter = null)
    {
        using var tape = new Tape(model.Device, record: false);
        return model.Logits(tape, model.Forward(new ForwardContext(tape, s_tokens) { Adapter = adapter?.Pass(tape, [1, 1], s_tokens.Length) })).ToArray();
    }
}
