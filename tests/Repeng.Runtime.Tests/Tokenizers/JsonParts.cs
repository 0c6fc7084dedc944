using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

/// <summary>Small tokenizer.json files put together in code.</summary>
internal static class JsonParts
{
    public const string ByteLevel = """{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}""";

    /// <summary>A whole-word vocabulary whose ids are the positions of the words.</summary>
    public static JsonObject WordLevel(params string[] words) => new()
    {
        ["type"] = "WordLevel",
        ["vocab"] = Vocabulary(words),
        ["unk_token"] = words[0],
    };

    /// <summary>A BPE model whose ids are the positions of the tokens; merges are "a b".</summary>
    public static JsonObject Bpe(string[] tokens, params string[] merges) => new()
    {
        ["type"] = "BPE",
        ["vocab"] = Vocabulary(tokens),
        ["merges"] = new JsonArray([.. merges.Select(m => (JsonNode)m)]),
    };

    /// <summary>A BPE model over U+2581 (id 0), the unknown token (1) and the 256 byte tokens: its ids show every piece byte by byte.</summary>
    public static JsonObject Bytes()
    {
        JsonObject model = Bpe(["\u2581", "<unk>", .. Enumerable.Range(0, 256).Select(b => $"<0x{b:X2}>")]);
        model["byte_fallback"] = true;
        model["unk_token"] = "<unk>";
        return model;
    }

    public static JsonObject File(JsonObject model, string? normalizer = null, string? preTokenizer = null, string? decoder = null, string? post = null, params JsonObject[] added) => new()
    {
        ["version"] = "1.0",
        ["added_tokens"] = new JsonArray([.. added]),
        ["normalizer"] = Parse(normalizer),
        ["pre_tokenizer"] = Parse(preTokenizer),
        ["post_processor"] = Parse(post),
        ["decoder"] = Parse(decoder),
        ["model"] = model,
    };

    public static JsonObject Added(int id, string content, bool special = false) => new()
    {
        ["id"] = id,
        ["content"] = content,
        ["single_word"] = false,
        ["lstrip"] = false,
        ["rstrip"] = false,
        ["normalized"] = false,
        ["special"] = special,
    };

    public static Tokenizer Load(JsonObject file, string? config = null) => Tokenizer.FromJson(file.ToJsonString(), config);

    public static string Quote(string text) => JsonSerializer.Serialize(text);

    private static JsonObject Vocabulary(string[] tokens) => new(tokens.Select((t, i) => KeyValuePair.Create(t, (JsonNode?)i)));

    private static JsonNode? Parse(string? json) => json is null ? null : JsonNode.Parse(json);
}
