using System.Collections.Concurrent;
using System.Text.Json;
using Repeng.Runtime.Chat;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Chat;

/// <summary>Exact equality with what <c>apply_chat_template</c> gives, for every chat file that lies under the golden root.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "tokenizers")]
public sealed class GoldenChatTests
{
    private const string Absent = "absent";

    private static readonly ConcurrentDictionary<string, ChatTemplateSet> s_sets = [];
    private static readonly ConcurrentDictionary<string, JsonElement> s_files = [];

    /// <summary>Rows of file name, index and name of a case; one row "absent" when there is no file.</summary>
    public static TheoryData<string, int, string> Cases()
    {
        var rows = new TheoryData<string, int, string>();
        string folder = Golden.Path("tokenizers", "chat");
        if (Directory.Exists(folder))
            foreach (string path in Directory.EnumerateFiles(folder, "*.json").Order(StringComparer.Ordinal))
            {
                int index = 0;
                string name = Path.GetFileNameWithoutExtension(path);
                foreach (JsonElement row in CasesOf(name).EnumerateArray())
                    rows.Add(name, index++, row.GetProperty("name").GetString()!);
            }
        if (rows.Count == 0)
            rows.Add(Absent, 0, Absent);
        return rows;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void RenderedTextOrErrorIsEqual(string tokenizer, int index, string name)
    {
        Golden.Require("tokenizers", "chat", tokenizer + ".json");
        ChatTemplateSet set = s_sets.GetOrAdd(tokenizer, t => ChatTemplateSet.Load(Golden.RequireBeside("tokenizers", t)));
        JsonElement row = CasesOf(tokenizer)[index];
        Assert.Equal(name, row.GetProperty("name").GetString());
        ChatRenderOptions options = Options(row.GetProperty("kwargs"), set);
        ChatTemplate template = set.Select(hasTools: options.Tools is not null);
        JsonElement messages = row.GetProperty("messages");
        JsonElement error = row.GetProperty("error");
        if (error.ValueKind == JsonValueKind.Null)
        {
            Assert.Equal(row.GetProperty("rendered").GetString(), template.Render(messages, options));
            return;
        }
        var failure = Assert.Throws<ChatTemplateException>(() => template.Render(messages, options));
        switch (error.GetProperty("kind").GetString())
        {
            case "raise_exception":
                Assert.Equal(ChatTemplateErrorKind.RaisedByTemplate, failure.Kind);
                Assert.Equal(error.GetProperty("message").GetString(), failure.Detail);
                Assert.True(failure.Line > 0);
                break;
            case "continue_final_message":
                Assert.Equal(ChatTemplateErrorKind.ContinueFinalMessage, failure.Kind);
                break;
            case "undefined" or "type":
                Assert.True(failure.Kind is ChatTemplateErrorKind.Undefined or ChatTemplateErrorKind.Type, failure.Message);
                Assert.True(failure.Line > 0);
                break;
            case var kind:
                Assert.Fail($"error kind '{kind}' is not understood");
                break;
        }
    }

    /// <summary>Names of the chat files; one row "absent" when there is none.</summary>
    public static TheoryData<string> Tokenizers()
    {
        string[] names = [.. Cases().Select(row => row.Data.Item1).Distinct()];
        return [.. names];
    }

    /// <summary>The prompt for an empty prefix is what stands before the answer for any other prefix.</summary>
    [Theory]
    [MemberData(nameof(Tokenizers))]
    public void AnEmptyPrefixIsTheStartOfEveryOther(string tokenizer)
    {
        Golden.Require("tokenizers", "chat", tokenizer + ".json");
        ChatTemplateSet set = ChatTemplateSet.Load(Golden.RequireBeside("tokenizers", tokenizer));
        var options = new ChatRenderOptions { SpecialTokens = set.SpecialTokens, Now = new DateTime(2024, 7, 26) };
        ChatMessage[] messages = [new("user", "Pretend to be kind.")];
        ChatTemplate template = set.Select();
        string start = template.RenderWithPrefix(messages, "", options);
        Assert.Equal(start + "The meaning", template.RenderWithPrefix(messages, "The meaning", options));
        Assert.Equal(start + "I", template.RenderWithPrefix(messages, "I", options));
    }

    /// <summary>The arguments of apply_chat_template that are its own, and all others as template variables.</summary>
    private static ChatRenderOptions Options(JsonElement kwargs, ChatTemplateSet set)
    {
        var options = new ChatRenderOptions { SpecialTokens = set.SpecialTokens };
        var variables = new Dictionary<string, object?>();
        foreach (JsonProperty argument in kwargs.EnumerateObject())
        {
            JsonElement value = argument.Value;
            switch (argument.Name)
            {
                case "add_generation_prompt":
                    options = options with { AddGenerationPrompt = value.GetBoolean() };
                    break;
                case "continue_final_message":
                    options = options with { ContinueFinalMessage = value.GetBoolean() };
                    break;
                case "tools":
                    options = options with { Tools = value };
                    break;
                case "documents":
                    options = options with { Documents = value };
                    break;
                default:
                    variables.Add(argument.Name, value);
                    break;
            }
        }
        return options with { Variables = variables };
    }

    private static JsonElement CasesOf(string tokenizer) => s_files.GetOrAdd(tokenizer, name =>
    {
        using JsonDocument file = JsonDocument.Parse(File.ReadAllBytes(Golden.Path("tokenizers", "chat", name + ".json")));
        return file.RootElement.GetProperty("cases").Clone();
    });
}
