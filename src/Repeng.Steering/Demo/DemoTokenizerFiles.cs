using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Repeng.Steering.Demo;

/// <summary>
/// tokenizer.json and tokenizer_config.json of the demo model, in the format that transformers reads:
/// model WordLevel, lower-casing, blanks dropped, punctuation and digits apart, tokens joined by blanks.
/// </summary>
public static class DemoTokenizerFiles
{
    /// <summary>Context length written into tokenizer_config.json.</summary>
    public const int MaxLength = 128;

    /// <summary>
    /// The chat template: turns between marks, nothing added by default. Its line breaks are blanks,
    /// so they make no tokens.
    /// </summary>
    public const string ChatTemplate =
        "{% for message in messages %}" +
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}" +
        "{% endfor %}" +
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    private static readonly JsonSerializerOptions s_json = new()
    {
        WriteIndented = true,
        NewLine = "\n",
        // Keeps "<|im_start|>" readable; the files are never put into a web page.
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    /// <summary>Content of tokenizer.json.</summary>
    public static string TokenizerJson()
    {
        var vocabulary = DemoVocabulary.Shared;
        JsonObject words = [];
        for (int id = 0; id < vocabulary.Count; id++)
            words.Add(vocabulary.Tokens[id], id);
        JsonObject root = new()
        {
            ["version"] = "1.0",
            ["truncation"] = null,
            ["padding"] = null,
            ["added_tokens"] = AddedTokens(),
            ["normalizer"] = new JsonObject
            {
                ["type"] = "Sequence",
                ["normalizers"] = new JsonArray(
                    new JsonObject
                    {
                        ["type"] = "Replace",
                        ["pattern"] = new JsonObject { ["String"] = "\u2019" },
                        ["content"] = "'",
                    },
                    new JsonObject { ["type"] = "Lowercase" }),
            },
            ["pre_tokenizer"] = new JsonObject
            {
                ["type"] = "Sequence",
                ["pretokenizers"] = new JsonArray(
                    SplitBy("\\s+", "Removed"),
                    SplitBy("[a-z]+|[^a-z]", "Isolated")),
            },
            ["post_processor"] = null,
            ["decoder"] = null,
            ["model"] = new JsonObject
            {
                ["type"] = "WordLevel",
                ["vocab"] = words,
                ["unk_token"] = DemoVocabulary.Unknown,
            },
        };
        return root.ToJsonString(s_json) + "\n";
    }

    /// <summary>Content of tokenizer_config.json.</summary>
    public static string TokenizerConfigJson()
    {
        JsonObject added = [];
        foreach (JsonNode? token in AddedTokens())
        {
            JsonObject entry = token!.DeepClone().AsObject();
            string id = entry["id"]!.ToString();
            entry.Remove("id");
            added.Add(id, entry);
        }

        JsonObject root = new()
        {
            ["add_bos_token"] = false,
            ["added_tokens_decoder"] = added,
            ["bos_token"] = null,
            ["chat_template"] = ChatTemplate,
            ["clean_up_tokenization_spaces"] = false,
            ["eos_token"] = DemoVocabulary.TurnEnd,
            ["model_max_length"] = MaxLength,
            ["pad_token"] = DemoVocabulary.Pad,
            ["tokenizer_class"] = "PreTrainedTokenizerFast",
            ["unk_token"] = DemoVocabulary.Unknown,
        };
        return root.ToJsonString(s_json) + "\n";
    }

    /// <summary>Writes both files into an existing folder; neither is ever seen half-written.</summary>
    public static void Write(string folder)
    {
        WriteWhole(Path.Combine(folder, "tokenizer.json"), TokenizerJson());
        WriteWhole(Path.Combine(folder, "tokenizer_config.json"), TokenizerConfigJson());
    }

    /// <summary>A chat as the template renders it.</summary>
    /// <param name="turns">The turns.</param>
    /// <param name="continueFinal">Leaves the last turn open, as a prefix for the model to go on from.</param>
    public static string Render(IEnumerable<DemoTurn> turns, bool continueFinal)
    {
        string text = string.Concat(turns.Select(t => $"{DemoVocabulary.TurnStart}{t.Role}\n{t.Content}{DemoVocabulary.TurnEnd}\n"));
        return continueFinal ? text[..text.LastIndexOf(DemoVocabulary.TurnEnd, StringComparison.Ordinal)] : text;
    }

    /// <summary>Token ids of a chat as the template renders it: <see cref="Render"/> with its marks as the special tokens that they are.</summary>
    /// <param name="turns">The turns.</param>
    /// <param name="continueFinal">Leaves the last turn open, as a prefix for the model to go on from.</param>
    public static int[] EncodeChat(IReadOnlyList<DemoTurn> turns, bool continueFinal)
    {
        DemoVocabulary vocabulary = DemoVocabulary.Shared;
        int[] ids = [.. turns.SelectMany(t => (int[])[vocabulary.TurnStartId, .. vocabulary.Encode($"{t.Role}\n{t.Content}"), vocabulary.TurnEndId])];
        return continueFinal ? ids[..^1] : ids;
    }

    private static JsonObject SplitBy(string regex, string behavior) => new()
    {
        ["type"] = "Split",
        ["pattern"] = new JsonObject { ["Regex"] = regex },
        ["behavior"] = behavior,
        ["invert"] = false,
    };

    // A collection expression would call the generic Add, which needs reflection.
    private static JsonArray AddedTokens() => new(
    [
        .. DemoVocabulary.SpecialTokens.Select((token, id) => (JsonNode)new JsonObject
        {
            ["id"] = id,
            ["content"] = token,
            ["single_word"] = false,
            ["lstrip"] = false,
            ["rstrip"] = false,
            ["normalized"] = false,
            ["special"] = true,
        }),
    ]);

    private static void WriteWhole(string path, string text)
    {
        string temporary = path + ".tmp";
        using (FileStream file = new(temporary, FileMode.Create, FileAccess.Write))
        {
            file.Write(System.Text.Encoding.UTF8.GetBytes(text));
            file.Flush(flushToDisk: true);
        }

        File.Move(temporary, path, overwrite: true);
    }
}

/// <summary>A turn of a chat.</summary>
/// <param name="Role">"system", "user" or "assistant".</param>
/// <param name="Content">What is said.</param>
public sealed record DemoTurn(string Role, string Content);
