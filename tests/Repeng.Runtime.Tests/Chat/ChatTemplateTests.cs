using System.Text.Json;
using Repeng.Kernels;
using Repeng.Runtime.Chat;

namespace Repeng.Runtime.Tests.Chat;

/// <summary>The arguments of rendering, continued messages, prefixes, and templates of a model's folder.</summary>
public sealed class ChatTemplateTests
{
    // Keeps content as it is.
    private const string Plain = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}";

    // Trims content, as Llama's and Gemma's templates do.
    private const string Trimming = "{% for m in messages %}<{{ m.role }}>\n\n{{ m.content | trim }}</s>\n{% endfor %}";

    // Puts something between the header and every answer, as Qwen3's template does.
    private const string Thinking = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>\n\n{% endif %}{{ m.content }}</s>{% endfor %}";

    private static readonly ChatRenderOptions s_continue = new() { ContinueFinalMessage = true };

    [Fact]
    public void MessagesAsRecordsAndAsJsonRenderAlike()
    {
        ChatTemplate template = ChatTemplate.Parse(Plain, "plain");
        ChatMessage[] messages = [new("system", "Be \"kind\"."), new("user", "Grüße 😀")];
        var generate = new ChatRenderOptions { AddGenerationPrompt = true };
        string expected = "<system>\nBe \"kind\".</s>\n<user>\nGrüße 😀</s>\n<assistant>\n";
        Assert.Equal(expected, template.Render(messages, generate));
        Assert.Equal(expected, template.Render(Chats.Json("""[{"role":"system","content":"Be \"kind\"."},{"role":"user","content":"Grüße \ud83d\ude00"}]"""), generate));
        Assert.Equal(Plain, template.Text);
        Assert.Equal("plain", template.SourceName);
    }

    [Fact]
    public void VariablesWinOverSpecialTokensAndHideFunctions()
    {
        ChatTemplate template = ChatTemplate.Parse("{{ bos_token }}|{{ eos_token }}|{{ range }}|{{ tools }}|{{ documents }}|{{ pad_token }}", "t");
        var options = new ChatRenderOptions
        {
            SpecialTokens = new Dictionary<string, object?> { ["bos_token"] = "<s>", ["eos_token"] = "</s>" },
            Variables = new Dictionary<string, object?> { ["eos_token"] = "<end>", ["range"] = 3 },
            Documents = Chats.Json("""[{"title":"t"}]"""),
        };
        Assert.Equal("<s>|<end>|3|None|[{'title': 't'}]|", template.Render(Chats.Hello, options));
    }

    [Fact]
    public void WrongInputIsNamed()
    {
        ChatTemplate template = ChatTemplate.Parse(Plain, "t");
        AssertInput("there are no messages", () => template.Render([]));
        AssertInput("there are no messages", () => template.Render(Chats.Json("[]")));
        AssertInput("must be a JSON array", () => template.Render(Chats.Json("{}")));
        AssertInput("messages[1] must be a JSON object", () => template.Render(Chats.Json("""[{"role":"user"}, "x"]""")));
        AssertInput("tools[0] must be a JSON object", () => template.Render(Chats.Hello, new ChatRenderOptions { Tools = Chats.Json("[1]") }));
        AssertInput("documents must be a JSON array", () => template.Render(Chats.Hello, new ChatRenderOptions { Documents = Chats.Json("{}") }));
        AssertInput("'messages' cannot be a template variable", () => template.Render(Chats.Hello, Chats.With(("messages", 1))));
        AssertInput("a Uri cannot be given", () => template.Render(Chats.Hello, Chats.With(("x", new Uri("http://localhost")))));
        AssertInput("no valid Unicode", () => template.Render(Chats.Json("""[{"role":"user","content":"\ud800"}]""")));

        static void AssertInput(string part, Action act)
        {
            var error = Assert.Throws<ChatTemplateException>(act);
            Assert.Equal((ChatTemplateErrorKind.Input, 0), (error.Kind, error.Line));
            Assert.Contains(part, error.Message);
        }
    }

    [Theory]
    [InlineData(Plain, "The sky ", "<user>\nHi</s>\n<assistant>\nThe sky ")]
    [InlineData(Plain, "", "<user>\nHi</s>\n<assistant>\n")]
    [InlineData(Trimming, " The sky ", "<user>\n\nHi</s>\n<assistant>\n\nThe sky")]
    // The quirk of the original: nothing but blanks is before the tag, and the template trimmed it.
    [InlineData(Trimming, "", "<user>\n\nHi</s>\n<assistant>")]
    [InlineData(Trimming, " ", "<user>\n\nHi</s>\n<assistant>")]
    [InlineData(Thinking, "Yes", "<user>Hi</s><assistant><think></think>\n\nYes")]
    public void AFinalMessageIsContinued(string template, string content, string expected)
        => Assert.Equal(expected, ChatTemplate.Parse(template, "t").Render([new("user", "Hi"), new("assistant", content)], s_continue));

    [Fact]
    public void TheLastTextOfAContentListIsContinued()
    {
        ChatTemplate template = ChatTemplate.Parse("{% for m in messages %}[{% for c in m.content %}{{ c.text }};{% endfor %}]{% endfor %}", "t");
        Assert.Equal("[a;b", template.Render(Chats.Json("""[{"content":[{"text":"a"},{"text":"b"},{"type":"image"}]}]"""), s_continue));
    }

    [Theory]
    [InlineData("""[{"role":"user","content":null}]""", Plain)]
    [InlineData("""[{"role":"user"}]""", Plain)]
    [InlineData("""[{"role":"user","content":5}]""", Plain)]
    [InlineData("""[{"role":"user","content":[{"type":"image"}]}]""", Plain)]
    [InlineData("""[{"role":"user","content":"gone"}]""", "{{ messages[0].role }}")]
    [InlineData("""[{"role":"user","content":"Big"}]""", "{{ messages[0].content|lower }}")]
    public void WhatCannotBeContinuedIsAnError(string messages, string template)
    {
        var error = Assert.Throws<ChatTemplateException>(() => ChatTemplate.Parse(template, "t").Render(Chats.Json(messages), s_continue));
        Assert.Equal(ChatTemplateErrorKind.ContinueFinalMessage, error.Kind);
    }

    [Fact]
    public void ContinuingAndAskingForAnAnswerExcludeEachOther()
    {
        ChatTemplate template = ChatTemplate.Parse(Plain, "t");
        var both = new ChatRenderOptions { ContinueFinalMessage = true, AddGenerationPrompt = true };
        Assert.Equal(ChatTemplateErrorKind.ContinueFinalMessage, Assert.Throws<ChatTemplateException>(() => template.Render(Chats.Hello, both)).Kind);
        Assert.Equal(ChatTemplateErrorKind.ContinueFinalMessage, Assert.Throws<ChatTemplateException>(() => template.RenderWithPrefix(Chats.Hello, "", s_continue)).Kind);
        Assert.Equal(ChatTemplateErrorKind.ContinueFinalMessage,
            Assert.Throws<ChatTemplateException>(() => template.RenderWithPrefix(Chats.Hello, "x", new ChatRenderOptions { AddGenerationPrompt = true })).Kind);
    }

    [Theory]
    [InlineData(Plain, "Sure", "<user>\nHi</s>\n<assistant>\nSure")]
    [InlineData(Plain, "", "<user>\nHi</s>\n<assistant>\n")]
    [InlineData(Plain, " ", "<user>\nHi</s>\n<assistant>\n ")]
    [InlineData(Trimming, " Sure ", "<user>\n\nHi</s>\n<assistant>\n\nSure")]
    [InlineData(Trimming, "", "<user>\n\nHi</s>\n<assistant>\n\n")]
    [InlineData(Trimming, " \n", "<user>\n\nHi</s>\n<assistant>\n\n")]
    [InlineData(Thinking, "", "<user>Hi</s><assistant><think></think>\n\n")]
    public void AnEmptyPrefixKeepsEverythingBeforeTheAnswer(string template, string prefix, string expected)
    {
        ChatTemplate parsed = ChatTemplate.Parse(template, "t");
        Assert.Equal(expected, parsed.RenderWithPrefix(Chats.Hello, prefix));
        Assert.Equal(expected, parsed.RenderWithPrefix(Chats.Json("""[{"role":"user","content":"Hi"}]"""), prefix));
    }

    [Fact]
    public void AllRenderingsOfAPrefixSeeOneTime()
    {
        ChatTemplate template = ChatTemplate.Parse("{{ strftime_now('%f') }}{{ messages[-1].content }}", "t");
        Assert.Equal(6, template.RenderWithPrefix(Chats.Hello, "").Length);
    }

    [Fact]
    public void TemplatesAndTokensComeFromTheTokenizerConfig()
    {
        ChatTemplateSet one = ChatTemplateSet.FromTokenizerConfig(Chats.Json("""
            {"chat_template": "{{ bos_token }}{{ boi_token }}{{ additional_special_tokens }}", "bos_token": {"content": "<s>"}, "eos_token": null,
             "pad_token": "", "extra_special_tokens": {"boi_token": "<img>"}, "additional_special_tokens": ["<a>", {"content": "<b>"}]}
            """), "config");
        Assert.Equal(["additional_special_tokens", "boi_token", "bos_token"], one.SpecialTokens.Keys.Order());
        Assert.Equal("<s><img>['<a>', '<b>']", one.Select().Render(Chats.Hello, new ChatRenderOptions { SpecialTokens = one.SpecialTokens }));

        ChatTemplateSet named = ChatTemplateSet.FromTokenizerConfig(Chats.Json("""
            {"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]}
            """), "config");
        Assert.Equal("d", named.Select().Text);
        Assert.Equal("t", named.Select(hasTools: true).Text);
        Assert.Equal("r", named.Select("rag", hasTools: true).Text);
        Assert.Contains("choose one of default, rag, tool_use", Assert.Throws<UserErrorException>(() => named.Select("nope")).Message);
    }

    [Theory]
    [InlineData("""{}""", "has no chat template")]
    [InlineData("""{"chat_template": null}""", "has no chat template")]
    [InlineData("""{"chat_template": 5}""", "must be a text or a list")]
    [InlineData("""{"chat_template": [{"name": "x"}]}""", "chat_template[0] must be an object")]
    [InlineData("""{"chat_template": "x", "bos_token": 5}""", "bos_token must be a text")]
    [InlineData("""[]""", "a JSON object is needed")]
    public void MalformedConfigsAreNamed(string config, string part)
        => Assert.Contains(part, Assert.ThrowsAny<UserErrorException>(() => ChatTemplateSet.FromTokenizerConfig(Chats.Json(config), "config").Select()).Message);

    [Fact]
    public void TemplateFilesWinOverTheConfig()
    {
        string folder = Directory.CreateTempSubdirectory("chat").FullName;
        try
        {
            Assert.Contains("tokenizer_config.json", Assert.Throws<UserErrorException>(() => ChatTemplateSet.Load(folder)).Message);
            string config = Path.Combine(folder, "tokenizer_config.json");
            File.WriteAllText(config, "{");
            Assert.Contains("is not valid JSON", Assert.Throws<UserErrorException>(() => ChatTemplateSet.Load(folder)).Message);
            File.WriteAllText(config, JsonSerializer.Serialize(new { chat_template = "old", bos_token = "<s>" }));
            Assert.Equal("old", ChatTemplateSet.Load(folder).Select().Text);
            File.WriteAllText(Path.Combine(folder, "chat_template.jinja"), "new");
            Directory.CreateDirectory(Path.Combine(folder, "additional_chat_templates"));
            File.WriteAllText(Path.Combine(folder, "additional_chat_templates", "rag.jinja"), "rag");
            ChatTemplateSet set = ChatTemplateSet.Load(folder);
            Assert.Equal(("new", "rag", "<s>"), (set.Select().Text, set.Select("rag").Text, set.SpecialTokens["bos_token"]));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
