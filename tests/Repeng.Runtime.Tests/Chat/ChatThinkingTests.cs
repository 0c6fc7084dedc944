using System.Text.Json;
using Repeng.Kernels;
using Repeng.Runtime.Chat;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Chat;

/// <summary>Tags, switches and open blocks of thoughts, as templates of several families have them.</summary>
public sealed class ChatThinkingTests
{
    private const string Turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}";

    // A variable puts an empty block before the answer.
    private const string ByVariable = Turns + "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}";

    // The block is opened by the prompt itself, always.
    private const string OpensAlways = Turns + "{% if add_generation_prompt %}<assistant><think>\n{% endif %}";

    // Thinking is off unless a variable of another name is set, and the prompt says either.
    private const string OffUnlessAsked = Turns + "{% if add_generation_prompt %}<assistant>{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}";

    // A word in the system message.
    private const string BySystem = "{% set ns = namespace(off=false) %}{% for m in messages %}{% if '/no_think' in m.content %}{% set ns.off = true %}{% endif %}{% endfor %}" + Turns
        + "{% if add_generation_prompt %}<assistant>{% if ns.off %}<think></think>{% endif %}{% endif %}";

    private const string Bracketed = Turns + "{% if add_generation_prompt %}<assistant>{% endif %}{# thoughts stand in [THINK]…[/THINK] #}";

    private const string ClosesAlways = Turns + "{% if add_generation_prompt %}<assistant><think>\n\n</think>\n\n{% endif %}";

    private const string Plain = Turns + "{% if add_generation_prompt %}<assistant>{% endif %}";

    [Theory]
    [InlineData(ByVariable, "<think>", ThinkingSwitch.Variable, "enable_thinking", false)]
    [InlineData(OpensAlways, "<think>", ThinkingSwitch.None, null, true)]
    [InlineData(OffUnlessAsked, "<think>", ThinkingSwitch.Variable, "thinking", false)]
    [InlineData(BySystem, "<think>", ThinkingSwitch.System, null, false)]
    [InlineData(Bracketed, "[THINK]", ThinkingSwitch.None, null, false)]
    [InlineData(Plain, null, ThinkingSwitch.None, null, false)]
    public void A_template_says_what_it_knows_of_thinking(string template, string? open, ThinkingSwitch kind, string? variable, bool opens)
    {
        ChatThinking thinking = Of(template);
        Assert.Equal((open, kind, variable), (thinking.Tags?.Open, thinking.Switch, thinking.Variable));
        Assert.Equal(opens, thinking.OpensBlock(thinking.Tags ?? ThinkTags.Known[0], null));
    }

    [Theory]
    [InlineData(ByVariable, "<user>Hi</s><assistant><think>\nI know")]
    [InlineData(OpensAlways, "<user>Hi</s><assistant><think>\nI know")]
    [InlineData(OffUnlessAsked, "<user>Hi</s><assistant><think>I know")]
    [InlineData(BySystem, "<system>/think</s><user>Hi</s><assistant><think>I know")]
    [InlineData(Bracketed, "<user>Hi</s><assistant>[THINK]I know")]
    public void Thoughts_begin_inside_of_one_open_block(string template, string expected)
    {
        ChatThinking thinking = Of(template);
        Assert.Equal(expected, thinking.RenderInside(Chats.Hello, "I know", thinking.Tags!));
    }

    [Fact]
    public void What_a_person_says_opens_no_block() =>
        Assert.Equal("<user><think> hm</s><assistant><think>\nI", Of(ByVariable).RenderInside([new("user", "<think> hm")], "I", ThinkTags.Known[0]));

    [Fact]
    public void A_template_without_tags_takes_those_it_is_given()
    {
        Assert.Equal("<user>Hi</s><assistant><plan>\nI", Of(Plain).RenderInside(Chats.Hello, "I", ThinkTags.Parse("plan")));
        Assert.Equal("\n</plan>\n\n", Of(Plain).Closing(ThinkTags.Parse("plan")));
        Assert.Equal("[/THINK]", Of(Bracketed).Closing(ThinkTags.Parse("[THINK]")));
    }

    [Fact]
    public void A_block_that_is_always_closed_is_refused() =>
        Assert.Contains("closes the block", Assert.Throws<UserErrorException>(() => Of(ClosesAlways).RenderInside(Chats.Hello, "I", ThinkTags.Known[0])).Message);

    [Fact]
    public void A_switch_reaches_the_template_or_is_an_error()
    {
        Assert.Equal("{enable_thinking: False}", Describe(Of(ByVariable), false));
        Assert.Equal("{thinking: True}", Describe(Of(OffUnlessAsked), true));
        Assert.Equal("system: Be kind.\n/no_think", Describe(Of(BySystem), false, new ChatMessage("system", "Be kind.")));
        Assert.Equal("", Describe(Of(OpensAlways), true));
        Assert.Equal("", Describe(Of(Plain), null));
        Assert.Contains("cannot be switched off", Assert.Throws<UserErrorException>(() => Of(OpensAlways).Apply(Chats.Hello, false)).Message);
        Assert.Contains("cannot be switched on", Assert.Throws<UserErrorException>(() => Of(Plain).Apply(Chats.Hello, true)).Message);

        static string Describe(ChatThinking thinking, bool? enable, params ChatMessage[] before)
        {
            (IReadOnlyList<ChatMessage> messages, IReadOnlyDictionary<string, object?> variables) = thinking.Apply([.. before, .. Chats.Hello], enable);
            return string.Concat(variables.Select(v => $"{{{v.Key}: {v.Value}}}").Concat(messages.Where(m => m.Role == "system").Select(m => $"system: {m.Content}")));
        }
    }

    [Theory]
    [InlineData("<think>", "<think>", "</think>")]
    [InlineData("plan", "<plan>", "</plan>")]
    [InlineData("<inner_voice>", "<inner_voice>", "</inner_voice>")]
    [InlineData("[REASON]", "[REASON]", "[/REASON]")]
    [InlineData("◁think▷", "◁think▷", "◁/think▷")]
    [InlineData("<|thoughts|> <|answer|>", "<|thoughts|>", "<|answer|>")]
    public void Tags_are_read_from_an_option(string text, string open, string close) => Assert.Equal(new ThinkTags(open, close), ThinkTags.Parse(text));

    [Theory]
    [InlineData("")]
    [InlineData("<|thoughts|>")]
    [InlineData("</think>")]
    [InlineData("<a> <b> <c>")]
    [InlineData("<a> x<a>")]
    public void Tags_that_cannot_be_told_are_an_error(string text) => Assert.Contains("think tag", Assert.Throws<UserErrorException>(() => ThinkTags.Parse(text)).Message);

    [Theory]
    [InlineData("Yes.", false, false, false, 0)]
    [InlineData("<think>hm", false, true, false, 0)]
    [InlineData("hm", true, true, false, 0)]
    [InlineData("hm</think>Yes.", true, false, true, 10)]
    [InlineData("hm</think>Yes.", false, false, true, 10)]
    [InlineData("<think>a</think>b<think>c</think>d", false, false, true, 33)]
    [InlineData("<think>a</think>b<think>c", false, true, true, 16)]
    public void A_text_is_open_or_closed_after_its_last_tag(string text, bool before, bool open, bool closed, int start) =>
        Assert.Equal((open, closed, start), ThinkTags.Known[0].Scan(text, before));

    /// <summary>Names of the tokenizers whose chats lie under the golden root; "absent" when there are none.</summary>
    public static TheoryData<string> Tokenizers()
    {
        string folder = Golden.Path("tokenizers", "chat");
        string[] names = Directory.Exists(folder) ? [.. Directory.EnumerateFiles(folder, "*.json").Select(f => Path.GetFileNameWithoutExtension(f)!).Order(StringComparer.Ordinal)] : [];
        return [.. names.Length > 0 ? names : ["absent"]];
    }

    /// <summary>The prompts that the original rendered for an answer with thinking on, with the block opened behind them.</summary>
    [Theory]
    [MemberData(nameof(Tokenizers))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "tokenizers")]
    public void Real_templates_open_the_block_behind_the_prompt_that_the_original_renders(string name)
    {
        string file = Golden.Require("tokenizers", "chat", name + ".json");
        ChatTemplateSet set = ChatTemplateSet.Load(Golden.RequireBeside("tokenizers", name));
        ChatTemplate template = set.Select();
        var thinking = new ChatThinking(template, set.SpecialTokens);
        if (thinking.Tags is not { } tags)
        {
            Assert.DoesNotContain("think", template.Text);
            Assert.Throws<UserErrorException>(() => thinking.Apply(Chats.Hello, false));
            return;
        }
        Assert.Equal(ThinkingSwitch.Variable, thinking.Switch);
        int compared = 0;
        foreach (JsonElement row in Chats.Json(File.ReadAllText(file)).GetProperty("cases").EnumerateArray())
        {
            JsonElement kwargs = row.GetProperty("kwargs");
            string[] keys = [.. kwargs.EnumerateObject().Select(k => k.Name)];
            if (!keys.Contains("add_generation_prompt") || !kwargs.GetProperty("add_generation_prompt").GetBoolean() || keys.Except(["add_generation_prompt", thinking.Variable]).Any()
                || row.GetProperty("rendered").GetString() is not { } rendered || row.GetProperty("messages").EnumerateArray().Any(m => m.EnumerateObject().Any(f => f.Name is not ("role" or "content") || f.Value.ValueKind != JsonValueKind.String)))
                continue;
            ChatMessage[] messages = [.. row.GetProperty("messages").EnumerateArray().Select(m => new ChatMessage(m.GetProperty("role").GetString()!, m.GetProperty("content").GetString()!))];
            bool off = kwargs.TryGetProperty(thinking.Variable!, out JsonElement on) && !on.GetBoolean();
            string inside = thinking.RenderInside(messages, "I", tags);
            if (!off)
                Assert.Equal(rendered + tags.Open + "\nI", inside);
            (IReadOnlyList<ChatMessage> said, IReadOnlyDictionary<string, object?> variables) = thinking.Apply(messages, on.ValueKind == JsonValueKind.Undefined ? null : !off);
            Assert.Equal(rendered, template.Render(said, new ChatRenderOptions { AddGenerationPrompt = true, SpecialTokens = set.SpecialTokens, Variables = variables }));
            compared++;
        }
        Assert.True(compared > 0, $"{file}: no chat of plain texts for an answer");
    }

    private static ChatThinking Of(string template) => new(ChatTemplate.Parse(template, "t"), new Dictionary<string, object?>());
}
