using System.Text;
using System.Text.Json.Nodes;
using Repeng.Runtime.Chat;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Logging;
using Repeng.Runtime.Tokenizers;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Fuzz;

/// <summary>Every reader of files.</summary>
public static partial class FuzzTargets
{
    // Values of a tensor that are converted at most: a sparse file may claim much that is really there as nothing.
    private const long MostValues = 1 << 16;

    private static readonly string[] s_json = ["{\"", "\":", "\",\"", "null", "true", "false", "[", "]", "{", "}", "-1", "0.5", "1e400", "\\u0000", "\\ud800"];

    /// <summary>By name.</summary>
    public static IReadOnlyList<FuzzTarget> All { get; } =
    [
        new("safetensors", SafetensorsSeeds, w => File(w, "x.safetensors", p => ReadAll(SafetensorsFile.Open(p))),
            [.. s_json, "\"dtype\":\"F32\"", "\"BF16\"", "\"I64\"", "\"F8_E4M3\"", "\"BOOL\"", "\"shape\":[", "\"data_offsets\":[0,4]", "\"__metadata__\":{"]),
        new("shard-index", ShardSeeds, OpenShards, [.. s_json, "\"weight_map\":{", "one.safetensors", "../one.safetensors", "\"metadata\":"]),
        new("gguf", GgufSeeds, w => File(w, "x.gguf", p =>
        {
            using GgufFile file = GgufFile.Open(p);
            foreach (string key in file.Metadata.Keys)
                file.Metadata.Preview(key);
            ReadAll(file);
        }), ["GGUF", "general.architecture", "general.alignment", "llama", "\u0008\0\0\0\0\0\0\0"]),
        new("gguf-model", GgufModelSeeds, w => File(w, "x.gguf", p =>
        {
            using GgufModel model = GgufModel.Open(p);
            _ = model.Config.ToJsonString();
            Families.Read(new ConfigReader(model.Config, p));
            if (model.Tokenizer is { } t)
                Use(Tokenizer.FromGguf(t, p));
            foreach (string name in model.Tensors.Names)
                Convert(model.Tensors, name);
        }), ["llama.block_count", "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.precompiled_charsmap", "bert", "t5", "rope.scaling.type", "blk.0.attn_q.weight", "output.weight", "gemma3", "gpt-oss"]),
        new("config", _ => [.. Configs.Select(Encoding.UTF8.GetBytes)], w => File(w, "config.json", p => Families.Read(new ConfigReader(JsonFile.ReadObject(p).Json, p))),
            [.. s_json, "\"rope_scaling\":{\"rope_type\":\"", "llama3", "yarn", "longrope", "linear", "\"layer_types\":[", "\"sliding_attention\"", "\"num_experts\":", "\"quantization_config\":", "gpt_oss", "qwen3_moe", "gemma3_text", "\"text_config\":{"]),
        new("tokenizer", _ => [.. TokenizerSeeds.All.Select(Encoding.UTF8.GetBytes)], w => File(w, "tokenizer.json", p => Use(Tokenizer.FromJson(System.IO.File.ReadAllBytes(p), name: p))),
            [.. s_json, .. TokenizerSeeds.Words]),
        new("tokenizer-config", _ => [Encoding.UTF8.GetBytes(DemoTokenizerFiles.TokenizerConfigJson()), .. TokenizerSeeds.Configs.Select(Encoding.UTF8.GetBytes)], OpenTokenizerConfig,
            [.. s_json, "\"chat_template\":", "\"eos_token\":", "\"content\":", "\"name\":\"default\",\"template\":\"", "<|im_end|>", "\"added_tokens_decoder\":{"]),
        new("template", _ => [.. TemplateSeeds.All.Select(Encoding.UTF8.GetBytes)], w => File(w, "chat_template.jinja", OpenTemplate), TemplateSeeds.Words),
        new("vector", VectorSeeds, w => File(w, "v.gguf", p => ControlVectorFile.Read(p)), ["controlvector", "model_hint", "direction.1", "direction.", "layer_count", "GGUF"]),
        new("dilemmas", _ => [Encoding.UTF8.GetBytes(Dilemmas.ToJsonLines(Dilemmas.Own.Take(4)))], w => File(w, "d.jsonl", p => Dilemmas.Load(p)), [.. s_json, "\n", "\"values\":", "\"question\":"]),
        new("events", EventSeeds, w => File(w, "events.out.tfevents.1.h.1.0", p =>
        {
            foreach (EventEntry _ in EventReader.Read(p))
            {
            }
            foreach (EventEntry _ in EventReader.Read(p, allowCutEnd: true))
            {
            }
        }), []),
        new("wandb", WandbSeeds, w => File(w, "run-x.wandb", p =>
        {
            WandbReader.ReadAll(p, allowCutEnd: true);
            WandbReader.ReadAll(p);
        }), [":W&B"]),
        new("run-settings", _ => [Encoding.UTF8.GetBytes(new RunSettings { Model = "demo", Train = TrainConfig.FromProfile("readme"), Template = "{persona}", Personas = [new PersonaPair("a", "b")], Suffixes = ["demo"] }.ToJson())], w => File(w, "training_config.json", p => RunSettings.Load(p)), s_json),
        .. ModelTargets(),
    ];

    private static Action<byte[]> File(string folder, string name, Action<string> read)
    {
        string path = Path.Combine(folder, name);
        return bytes =>
        {
            System.IO.File.WriteAllBytes(path, bytes);
            read(path);
        };
    }

    private static void ReadAll(ITensorSource source)
    {
        using (source)
            foreach (string name in source.Names)
                Convert(source, name);
    }

    private static unsafe void Convert(ITensorSource source, string name)
    {
        TensorInfo info = source.Info(name);
        if (info.Elements > MostValues)
            return;
        if (info.Elements == 0)
            _ = source.ReadBytes(name);
        else
            _ = source.ReadF32(name);
    }

    private static void Use(Tokenizer tokenizer)
    {
        foreach (bool special in new[] { false, true })
        {
            int[] ids = tokenizer.Encode("Hello  wörld 12, <|im_start|>a\n\u00E9\u0301𐍈 ab", special);
            _ = tokenizer.Decode(ids, special);
            DecodeStream stream = tokenizer.CreateStream(special);
            foreach (int id in ids)
                stream.Add(id);
            stream.Flush();
        }
    }

    private static Action<byte[]> OpenShards(string folder)
    {
        new SafetensorsWriter().Add("a", [1], new[] { 1f }).Write(Path.Combine(folder, "one.safetensors"));
        new SafetensorsWriter().Add("b", [2], new[] { 1f, 2f }).Write(Path.Combine(folder, "two.safetensors"));
        return File(folder, ShardedSafetensors.IndexName, p => ReadAll(ShardedSafetensors.Open(p)));
    }

    private static Action<byte[]> OpenTokenizerConfig(string folder)
    {
        System.IO.File.WriteAllText(Path.Combine(folder, "tokenizer.json"), DemoTokenizerFiles.TokenizerJson());
        return File(folder, "tokenizer_config.json", p =>
        {
            _ = Tokenizer.Load(folder);
            ChatTemplateSet set = ChatTemplateSet.Load(folder);
            if (set.Templates.Count > 0)
                set.Select().Render([new ChatMessage("user", "hi")], new ChatRenderOptions { SpecialTokens = set.SpecialTokens, AddGenerationPrompt = true });
        });
    }

    private static void OpenTemplate(string path)
    {
        // Limits below the usual ones: what a template may do is bounded by them, and the bounds are what is tried here.
        var limits = new ChatTemplateLimits { MaxSteps = 200_000, MaxTextLength = 1 << 20, MaxAllocation = 1 << 24 };
        ChatTemplate template = ChatTemplate.Parse(JsonFile.ReadText(path), path, limits);
        var options = new ChatRenderOptions { AddGenerationPrompt = true, SpecialTokens = new Dictionary<string, object?> { ["bos_token"] = "<s>", ["eos_token"] = "</s>" } };
        ChatMessage[] messages = [new("system", "be brief"), new("user", "hi"), new("assistant", "<think>\nx\n</think>\nyes"), new("user", "why?")];
        _ = template.Render(messages, options);
        _ = template.RenderWithPrefix(messages[..2], "I am", options with { AddGenerationPrompt = false });
    }

    private static IReadOnlyList<byte[]> Made(string folder, string name, params Action<string>[] makers) => [.. makers.Select(make =>
    {
        string path = Path.Combine(folder, name);
        make(path);
        return System.IO.File.ReadAllBytes(path);
    })];

    private static IReadOnlyList<byte[]> SafetensorsSeeds(string folder) => Made(folder, "seed.safetensors",
        p => new SafetensorsWriter().SetMetadata("format", "pt").Add("weight", [2, 3], new float[6]).Add("ids", [2], new long[2]).AddRaw("h", "BF16", [1], new byte[2]).Write(p),
        p => new SafetensorsWriter().AddRaw("a", "F16", [3], new byte[6]).AddRaw("b", "BOOL", [2], new byte[] { 0, 1 }).AddRaw("c", "F64", [1], new byte[8]).AddRaw("d", "U8", [0], Array.Empty<byte>()).Write(p));

    private static IReadOnlyList<byte[]> ShardSeeds(string folder) =>
        [Encoding.UTF8.GetBytes("""{"metadata":{"total_size":12},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}""")];

    private static IReadOnlyList<byte[]> GgufSeeds(string folder) => Made(folder, "seed.gguf",
        p => new GgufWriter("llama", 64).Add("a.text", "é").Add("a.texts", ["x", "yz"]).Add("a.flag", true).Add("a.ints", [1, 2])
            .AddTensor("t", [2, 3], new float[6]).AddRawTensor("q", "Q8_0", [1, 32], new byte[34]).AddHalfTensor("h", [1], [1f]).Write(p),
        p => new GgufWriter("gpt2", 32).Add("n", 3u).Add("f", 1.5f).AddRawTensor("a", "Q4_0", [1, 32], new byte[18]).AddRawTensor("b", "Q4_1", [1, 32], new byte[20]).AddRawTensor("c", "Q5_0", [1, 32], new byte[22]).Write(p));

    private static IReadOnlyList<byte[]> VectorSeeds(string folder) => Made(folder, "seed.gguf",
        p => ControlVectorFile.Write(p, new ControlVector("qwen3", [KeyValuePair.Create("model.layers.0", new Direction([1, 2, 3, 4])), KeyValuePair.Create("model.layers.1", new Direction([0, -1, 0, 1]))])),
        p => ControlVectorFile.Write(p, new ControlVector("llama", [KeyValuePair.Create("model.layers.2", new Direction([1, 2, 3, 4], 2))]), keepComponents: true));

    private static IReadOnlyList<byte[]> EventSeeds(string folder)
    {
        string made = Directory.CreateDirectory(Path.Combine(folder, "seed-events")).FullName, file;
        using (EventWriter writer = EventWriter.Create(made, DateTimeOffset.UnixEpoch))
        {
            file = writer.FilePath;
            writer.Scalars(1, DateTimeOffset.UnixEpoch, [KeyValuePair.Create("loss", 0.5), KeyValuePair.Create("lr", 1e-3)]);
            writer.Text("note", "some *text*", 2, DateTimeOffset.UnixEpoch);
            writer.Restart(3, DateTimeOffset.UnixEpoch);
        }
        byte[] bytes = System.IO.File.ReadAllBytes(file);
        Directory.Delete(made, recursive: true);
        return [bytes];
    }

    private static IReadOnlyList<byte[]> WandbSeeds(string folder)
    {
        string made = Directory.CreateDirectory(Path.Combine(folder, "seed-wandb")).FullName, file;
        using (WandbRun run = WandbRun.Create(made, "p", "n", [KeyValuePair.Create("rank", "4")], DateTimeOffset.UnixEpoch))
        {
            file = run.FilePath;
            run.History(1, [KeyValuePair.Create("loss", 0.5)], DateTimeOffset.UnixEpoch);
            run.Summary([KeyValuePair.Create("best", "0.25")]);
            run.Exit(0, DateTimeOffset.UnixEpoch);
        }
        byte[] bytes = System.IO.File.ReadAllBytes(file);
        Directory.Delete(made, recursive: true);
        return [bytes];
    }

    private static string[] Configs =>
    [
        """{"model_type":"llama","hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":100,"max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":10000.0,"hidden_act":"silu","tie_word_embeddings":true,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":32},"eos_token_id":[1,2]}""",
        """{"model_type":"qwen3","hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"vocab_size":100,"max_position_embeddings":64,"rms_norm_eps":1e-6,"rope_theta":1000000,"hidden_act":"silu","attention_bias":false,"tie_word_embeddings":false,"sliding_window":null,"use_sliding_window":false}""",
        """{"model_type":"gemma3_text","hidden_size":64,"intermediate_size":128,"num_hidden_layers":6,"num_attention_heads":4,"num_key_value_heads":1,"head_dim":16,"vocab_size":100,"max_position_embeddings":64,"rms_norm_eps":1e-6,"rope_theta":1000000,"rope_local_base_freq":10000,"hidden_activation":"gelu_pytorch_tanh","query_pre_attn_scalar":16,"sliding_window":16,"layer_types":["sliding_attention","sliding_attention","sliding_attention","sliding_attention","sliding_attention","full_attention"]}""",
        """{"model_type":"qwen3_moe","hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"vocab_size":100,"max_position_embeddings":64,"rms_norm_eps":1e-6,"rope_theta":10000,"hidden_act":"silu","num_experts":8,"num_experts_per_tok":2,"moe_intermediate_size":32,"norm_topk_prob":true,"decoder_sparse_step":1,"mlp_only_layers":[]}""",
        """{"model_type":"gpt2","n_embd":64,"n_layer":2,"n_head":4,"vocab_size":100,"n_positions":64,"layer_norm_epsilon":1e-5,"activation_function":"gelu_new"}""",
        """{"model_type":"phi3","hidden_size":64,"intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":4,"vocab_size":100,"max_position_embeddings":64,"original_max_position_embeddings":32,"rms_norm_eps":1e-5,"rope_theta":10000.0,"hidden_act":"silu","rope_scaling":{"type":"longrope","short_factor":[1,1,1,1,1,1,1,1],"long_factor":[2,2,2,2,2,2,2,2]},"sliding_window":16}""",
    ];
}
