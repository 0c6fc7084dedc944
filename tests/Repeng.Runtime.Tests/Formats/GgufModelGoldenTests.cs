using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>Whole GGUF models: logits from the translated tensors and config, tokenizer lists, the real model's config.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "gguf")]
public sealed class GgufModelGoldenTests
{
    // The folder's README: logits of the dequantised weights in an fp32 model.
    private const double Tolerance = 1e-4;

    public static TheoryData<string> Models() => [.. Golden.Files("gguf", "*.gguf").Select(n => n == Golden.Absent ? n : Path.GetFileNameWithoutExtension(n))];

    /// <summary>Of these the family that the plain reference knows; others are held against their logits with the real engine (Steering's GgufGoldenTests).</summary>
    public static TheoryData<string> LlamaModels() => [.. Golden.OrAbsent(Models().Select(r => r.Data).Where(n => n != Golden.Absent && IsLlama(n)))];

    [Theory]
    [MemberData(nameof(LlamaModels))]
    public void LogitsFollowFromTheTranslatedModel(string name)
    {
        string folder = Path.GetDirectoryName(Golden.Require("gguf", name + ".gguf"))!;
        string path = Path.Combine(folder, name + ".gguf");
        using GgufModel model = GgufModel.Open(path);
        using SafetensorsFile expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        long[] ids = expected.ReadI64("input_ids"), mask = expected.ReadI64("attention_mask");
        float[] logits = expected.ReadF32($"{name}.logits");
        long[] shape = expected.Info($"{name}.logits").Shape;
        (int batch, int tokens, int vocabulary) = ((int)shape[0], (int)shape[1], (int)shape[2]);
        var plain = new PlainLlama(model.Tensors, new JsonFields(model.Config, path));
        for (int b = 0; b < batch; b++)
        {
            int start = Array.IndexOf(mask, 1L, b * tokens, tokens) - b * tokens;
            double[] actual = [.. plain.Logits(ids.AsSpan(b * tokens + start, tokens - start)).SelectMany(row => row)];
            Close.To(Tolerance, [.. actual.Select(v => (float)v)], logits.AsSpan((b * tokens + start) * vocabulary, (tokens - start) * vocabulary), $"{name} row {b}");
        }
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void TokenizerListsEqualTheHuggingFaceFile(string name)
    {
        string folder = Path.GetDirectoryName(Golden.Require("gguf", name + ".gguf"))!;
        using GgufFile file = GgufFile.Open(Path.Combine(folder, name + ".gguf"));
        GgufTokenizer tokenizer = GgufTokenizer.Read(file)!;
        JsonFields json = JsonFile.ReadObject(Path.Combine(folder, "tokenizer.json"));
        JsonFields bpe = json.Object("model");
        foreach ((string token, JsonNode? id) in bpe.Object("vocab").Json)
            Assert.Equal(token, tokenizer.Tokens[id!.GetValue<int>()]);
        foreach (JsonNode? added in json.OptionalArray("added_tokens")!)
            Assert.Equal(added!["content"]!.GetValue<string>(), tokenizer.Tokens[added["id"]!.GetValue<int>()]);
        string[] merges = [.. bpe.OptionalArray("merges")!.Select(m => m is JsonArray pair ? string.Join(' ', pair.Select(p => p!.GetValue<string>())) : m!.GetValue<string>())];
        Assert.Equal(merges, tokenizer.Merges);
    }

    [Fact]
    [Trait("Golden", "smollm2")]
    public void ConfigOfTheRealModelEqualsTheReference()
    {
        JsonFields expected = JsonFile.ReadObject(Golden.Require("smollm2", "config.json"));
        string folder = Golden.RequireBeside("models");
        int judged = 0;
        foreach (string path in Directory.EnumerateFiles(folder, "*.gguf", SearchOption.AllDirectories))
        {
            using GgufModel model = GgufModel.Open(path);
            if (model.Config["hidden_size"]!.GetValue<long>() != expected.Integer("hidden_size"))
                continue;
            judged++;
            foreach ((string field, JsonNode? value) in expected.Json)
                Assert.True(JsonNode.DeepEquals(JsonNode.Parse(model.Config[field]?.ToJsonString() ?? "null"), Normal(value)), $"{field} is {model.Config[field]?.ToJsonString()}, the reference has {value?.ToJsonString()}");
            long[] q = model.Tensors.Info("model.layers.0.self_attn.q_proj.weight").Shape;
            Assert.Equal([expected.Integer("num_attention_heads") * expected.Integer("head_dim"), expected.Integer("hidden_size")], q);
            Assert.Equal(expected.Boolean("tie_word_embeddings"), !model.Tensors.Contains("lm_head.weight"));
            Assert.Equal(expected.Integer("vocab_size"), model.Tokenizer!.Tokens.Length);
            Assert.NotNull(model.Tokenizer.ChatTemplate);
        }
        Assert.True(judged > 0, $"no GGUF model below {folder} has the reference's hidden size of {expected.Integer("hidden_size")}");
    }

    private static bool IsLlama(string name)
    {
        using GgufFile file = GgufFile.Open(Golden.Path("gguf", name + ".gguf"));
        return file.Architecture == "llama";
    }

    // 100000.0 in the reference and 100000 written by .NET are the same number with other text.
    private static JsonNode? Normal(JsonNode? value) =>
        value is JsonValue number && number.GetValueKind() == System.Text.Json.JsonValueKind.Number ? JsonNode.Parse(JsonValue.Create(number.GetValue<double>()).ToJsonString()) : value?.DeepClone();
}
