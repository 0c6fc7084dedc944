using System.Text.Json.Nodes;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Tokenizers;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;

namespace Repeng.Fuzz;

/// <summary>Readers that need a model: adapters of both kinds, each of their two files damaged beside a sound other one.</summary>
public static partial class FuzzTargets
{
    private const string Settings = """{"model_type":"qwen3","hidden_size":16,"intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":8,"vocab_size":40,"max_position_embeddings":64,"rms_norm_eps":1e-6,"rope_theta":10000.0,"hidden_act":"silu","attention_bias":false,"tie_word_embeddings":false,"eos_token_id":39}""";

    private static readonly Lazy<DecoderModel> s_model = new(() =>
    {
        using var weights = new ModelInitialiser(Config(), 3, 0.3);
        return ModelLoader.Load(Device.Cpu(1), Config(), weights);
    });

    private static ModelConfig Config() => Families.Read(new ConfigReader((JsonObject)JsonNode.Parse(Settings)!, "tiny"));

    private static IEnumerable<FuzzTarget> ModelTargets()
    {
        string[] words = [.. s_json, "\"peft_type\":\"", "LORA", "IA3", "VERA", "ROAD", "DELORA", "\"target_modules\":", "\"r\":", "\"lora_alpha\":", "\"use_dora\":true", "\"use_rslora\":true", "q_proj", "down_proj", "base_model.model.model.layers.0."];
        yield return new("adapter-config", w => [Saved(w, "svd", AdapterFile.ConfigName)], w => Adapter(w, ["svd"], AdapterFile.ConfigName), words);
        yield return new("adapter-weights", w => [Saved(w, "svd", AdapterFile.ModelName)], w => Adapter(w, ["svd"], AdapterFile.ModelName), words);
        yield return new("adapter-bases", w => [Saved(w, "svd", AdapterFile.BasesName)], w => Adapter(w, ["svd"], AdapterFile.BasesName), words);
        yield return new("gguf-lora", LoraSeeds, w => File(w, "lora.gguf", p => AdapterFile.LoadAny(s_model.Value, p).Dispose()),
            ["adapter", "lora", "adapter.lora.alpha", "general.architecture", "qwen3", "blk.0.attn_q.weight.lora_a", "blk.1.ffn_down.weight.lora_b", ".lora_a", ".lora_b", "token_embd.weight"]);
        string[] kinds = ["lora", "dora", "ia3", "vera", "delora", "road_2"];
        yield return new("peft-config", w => [.. kinds.Select(k => Saved(w, k, AdapterFile.ConfigName))], w => Adapter(w, ["lora"], AdapterFile.ConfigName), words);
        yield return new("peft-weights", w => [.. kinds.Select(k => Saved(w, k, AdapterFile.ModelName))], w => Adapter(w, kinds, AdapterFile.ModelName), words);
    }

    /// <summary>The folder of a kind of adapter, made when it is not there.</summary>
    private static string Folder(string work, string kind)
    {
        string folder = Path.Combine(work, "adapter-" + kind);
        if (Directory.Exists(folder))
            return folder;
        Directory.CreateDirectory(folder);
        DecoderModel model = s_model.Value;
        if (kind == "svd")
        {
            using SvdAdapter adapter = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 4, TargetModules = ".*(q_proj|down_proj)" });
            AdapterFile.Save(adapter, folder, "tiny");
        }
        else
        {
            using PeftAdapter adapter = PeftFactory.Create(model, new PeftSettings { Kind = kind, Rank = 2, GroupSize = 4, TargetModules = ".*(q_proj|down_proj)", FeedForwardModules = kind == "ia3" ? ".*down_proj" : null });
            PeftFile.Save(adapter, folder, "tiny");
        }
        return folder;
    }

    private static byte[] Saved(string work, string kind, string name) => System.IO.File.ReadAllBytes(Path.Combine(Folder(work, kind), name));

    private static Action<byte[]> Adapter(string work, string[] kinds, string name)
    {
        string[] folders = [.. kinds.Select(k => Folder(work, k))];
        return bytes =>
        {
            // Which settings stand beside the weights follows from their length, so that a run can be repeated.
            string folder = folders[bytes.Length % folders.Length];
            System.IO.File.WriteAllBytes(Path.Combine(folder, name), bytes);
            AdapterFile.LoadAny(s_model.Value, folder).Dispose();
        };
    }

    private static IReadOnlyList<byte[]> LoraSeeds(string folder)
    {
        GgufLoraFile.Layer Layer(string path, int outputs, int inputs) => new(path, outputs, inputs, new float[outputs * 2], new float[inputs * 2]);
        return Made(folder, "seed.gguf", p => GgufLoraFile.Write(p, (JsonObject)JsonNode.Parse(Settings)!, "tiny", [Layer("model.layers.0.self_attn.q_proj", 16, 16), Layer("model.layers.1.mlp.down_proj", 16, 24)], "seed"));
    }

    private static IReadOnlyList<byte[]> GgufModelSeeds(string folder)
    {
        var tokenizer = new GgufTokenizer
        {
            Model = "gpt2",
            Pre = "gpt-2",
            Tokens = ["<s>", "</s>", "a", "b", "ab", .. Enumerable.Range(0, 35).Select(i => $"t{i}")],
            Merges = ["a b"],
            TokenTypes = [3, 3, .. Enumerable.Repeat(1, 38)],
            BosId = 0,
            EosId = 1,
        };
        GgufTokenizer sentencePiece = tokenizer with
        {
            Model = "llama",
            Pre = "default",
            Merges = null,
            Tokens = ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "ab", "\u2581ab", .. tokenizer.Tokens[9..]],
            TokenTypes = [2, 3, 3, 6, .. Enumerable.Repeat(1, 36)],
            Scores = [.. Enumerable.Range(0, 40).Select(i => -(float)i)],
            UnknownId = 0,
            AddSpacePrefix = true,
        };
        GgufTokenizer unigrams = sentencePiece with { Model = "t5", PrecompiledCharsMap = TokenizerSeeds.CharsMap, RemoveExtraWhitespaces = true, AddEos = true };
        GgufTokenizer wordPieces = tokenizer with
        {
            Model = "bert",
            Pre = null,
            Merges = null,
            Tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581a", "b", "\u2581,", .. tokenizer.Tokens[7..]],
            TokenTypes = [3, 3, 3, 3, .. Enumerable.Repeat(1, 36)],
            BosId = null,
            EosId = null,
            UnknownId = 1,
            ClsId = 2,
            SepId = 3,
        };
        (string Type, GgufTokenizer Tokenizer)[] seeds = [("F32", tokenizer), ("Q8_0", tokenizer), ("Q4_0", tokenizer), ("Q4_0", sentencePiece), ("Q4_0", unigrams), ("Q4_0", wordPieces)];
        return Made(folder, "seed.gguf", [.. seeds.Select(seed => (Action<string>)(path =>
        {
            using var weights = new ModelInitialiser(Config(), 3, 0.3);
            GgufModelWriter.Write(path, (JsonObject)JsonNode.Parse(Settings)!, "tiny", weights, new GgufModelWriter.Options { Type = seed.Type, Tokenizer = seed.Tokenizer });
            // A seed that is refused would test nothing behind its error.
            using GgufModel model = GgufModel.Open(path);
            Tokenizer.FromGguf(model.Tokenizer!, path).Encode("ab a", addSpecialTokens: true);
        }))]);
    }
}
