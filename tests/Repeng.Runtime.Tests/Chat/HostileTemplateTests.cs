using System.Text;
using System.Text.Json;
using Repeng.Runtime.Chat;

namespace Repeng.Runtime.Tests.Chat;

/// <summary>Templates and messages that try to exhaust the stack, the time or the memory.</summary>
public sealed class HostileTemplateTests
{
    private const int Many = 20_000;

    // Small bounds, so that the tests are quick; the counting is the same at any size.
    private static readonly ChatTemplateLimits s_small = new() { MaxSteps = 300_000, MaxTextLength = 1 << 18, MaxAllocation = 1 << 22 };

    public static TheoryData<string, string> DeepSyntax() => new()
    {
        { "parentheses", $"{{{{ {Repeat("(")}1{Repeat(")")} }}}}" },
        { "lists", $"{{{{ {Repeat("[")}{Repeat("]")} }}}}" },
        { "dicts", $"{{{{ {Repeat("{1:")}1{Repeat("}")} }}}}" },
        { "subscripts", $"{{{{ {Repeat("x[")}1{Repeat("]")} }}}}" },
        { "arguments", $"{{{{ {Repeat("x(")}1{Repeat(")")} }}}}" },
        { "not", $"{{{{ {Repeat("not ")}1 }}}}" },
        { "signs", $"{{{{ 1 {Repeat("- ")}1 }}}}" },
        { "inline if", $"{{{{ {Repeat("1 if 0 else ")}1 }}}}" },
        { "targets", $"{{% set {Repeat("(")}a{Repeat(")")} = 1 %}}" },
        { "if", Repeat("{% if 1 %}") + Repeat("{% endif %}") },
        { "for", Repeat("{% for i in [1] %}") + Repeat("{% endfor %}") },
        { "macro", Repeat("{% macro m() %}") + Repeat("{% endmacro %}") },
        // These are read in a loop, but make an expression as deep as it is long.
        { "sum", $"{{{{ 1{Repeat("+1")} }}}}" },
        { "and", $"{{{{ 1{Repeat(" and 1")} }}}}" },
        { "power", $"{{{{ 1{Repeat("**1")} }}}}" },
        { "attributes", $"{{{{ x{Repeat(".a")} }}}}" },
        { "filters", $"{{{{ 1{Repeat("|string")} }}}}" },
        { "filters of a block", $"{{% filter upper{Repeat("|upper")} %}}x{{% endfilter %}}" },
        { "slices", $"{{{{ 'x'{Repeat("[:]")} }}}}" },
        { "inline if, grouped from the left", $"{{{{ 1{Repeat(" if 1")} }}}}" },
    };

    public static TheoryData<string, string> Endless() => new()
    {
        { "macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}" },
        { "macros that call each other", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}" },
        { "default that calls its macro", "{% macro m(a=m()) %}{% endmacro %}{{ m() }}" },
        { "recursive loop", "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}" },
        { "loops in loops", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}" },
        { "output", "{% for a in range(100000) %}{{ 'x' * 10000 }}{% endfor %}" },
        { "doubled text", Doubling("'a'", "ns.s + ns.s") },
        { "doubled text by ~", Doubling("'a'", "ns.s ~ ns.s") },
        { "doubled list", Doubling("[1]", "ns.s + ns.s") },
        { "text put into itself", Doubling("'ab'", "ns.s.replace('a', ns.s)") },
        { "text joined by itself", Doubling("'ab'", "ns.s.join(ns.s)") },
        { "squared number", Doubling("3", "ns.s * ns.s") },
        { "power", "{{ 10 ** 1000000000 }}" },
        { "long range", "{{ range(100001) }}" },
        { "repeated text", "{{ 'ab' * 10000000000 }}" },
        { "repeated list", "{{ [1] * 10000000000 }}" },
        { "width of center", "{{ 'a'|center(1000000000) }}" },
        { "width of %", "{{ '%1000000000d' % 1 }}" },
        { "precision of %", "{{ '%.1000000000f' % 1.5 }}" },
        { "width of format", "{{ '{:1000000000}'.format(1) }}" },
        { "indent", "{{ 'a'|indent(1000000000, true) }}" },
        { "indent of JSON", "{{ [1]|tojson(indent=1000000000) }}" },
        { "printed graph", Doubling("[1]", "[ns.s, ns.s]") + "{{ ns.s }}" },
        { "graph as JSON", Doubling("[1]", "[ns.s, ns.s]") + "{{ ns.s|tojson }}" },
        { "graph as key", Doubling("(1,)", "(ns.s, ns.s)") + "{{ {ns.s: 1} }}" },
        { "compared graphs", Doubling("[1]", "[ns.s, ns.s]") + "{% set a = ns.s %}" + Doubling("[1]", "[ns.s, ns.s]") + "{{ a == ns.s }}" },
        { "value in itself", "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}" },
        { "deep value", Deep("[ns.s]") + "{{ ns.s }}" },
        { "deep value as JSON", Deep("[ns.s]") + "{{ ns.s|tojson }}" },
        { "deep key", Deep("(ns.s,)") + "{{ {}[ns.s] }}" },
        { "deep comparison", Deep("[ns.s]") + "{% set a = ns.s %}" + Deep("[ns.s]") + "{{ a == ns.s }}" },
        { "iterators on iterators", Deep("ns.s|map('string')") + "{{ ns.s|list }}" },
        { "search", "{% set a = 'a' * 200000 %}{% set b = 'a' * 100000 + 'b' %}{% for i in range(100000) %}{% if b in a %}{% endif %}{% endfor %}" },
        { "lengths", "{% set a = 'é' * 200000 %}{% for i in range(100000) %}{{ a|length }}{% endfor %}" },
        { "comparisons", "{% set a = 'x' * 200000 %}{% set b = 'x' * 200000 %}{% for i in range(100000) %}{% if a == b %}{% endif %}{% endfor %}" },
        { "sorting", "{% for i in range(100000) %}{% set a = range(1000)|sort %}{% endfor %}" },
    };

    [Theory]
    [MemberData(nameof(DeepSyntax))]
    public void DeepSyntaxIsAnErrorAndNoStackOverflow(string name, string template)
    {
        ChatTemplateException error = Chats.Fails(template);
        Assert.True(error.Kind is ChatTemplateErrorKind.Limit, $"{name}: {error.Message}");
        Assert.Equal(1, error.Line);
    }

    [Theory]
    [MemberData(nameof(Endless))]
    public void EndlessWorkIsAnError(string name, string template)
    {
        ChatTemplate parsed = ChatTemplate.Parse(template, "hostile", s_small);
        var error = Assert.Throws<ChatTemplateException>(() => parsed.Render(Chats.Hello));
        Assert.True(error.Kind is ChatTemplateErrorKind.Limit, $"{name}: {error.Message}");
    }

    [Theory]
    [InlineData("{% for a in range(99) %}{% for b in range(99) %}{{ a * b }}{% endfor %}{% endfor %}", "rendering takes more than MaxSteps = 1000 steps")]
    [InlineData("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "nesting is deeper than MaxDepth = 50 levels")]
    [InlineData("{{ 'ab' * 300 }}", "a text of 600 characters is longer than MaxTextLength = 500")]
    [InlineData("{% for i in range(60) %}0123456789{% endfor %}", "characters is longer than MaxTextLength = 500")]
    [InlineData("{{ [1] * 4000 }}", "intermediate values take more than MaxAllocation = 20000 units")]
    [InlineData("{{ ('é' * 200)|urlencode }}", "characters is longer than MaxTextLength = 500")]
    [InlineData("{{ ('a ' * 100)|wordwrap(1, wrapstring='-' * 20) }}", "characters is longer than MaxTextLength = 500")]
    [InlineData("{% set s = 'a' * 400 %}{% set l = [s|wordwrap, s|wordwrap, s|wordwrap] %}", "rendering takes more than MaxSteps = 1000 steps")]
    [InlineData("{{ range(900)|groupby(none) }}", "intermediate values take more than MaxAllocation = 20000 units")]
    public void EveryBoundSaysItsNameAndWhatToDo(string template, string says)
    {
        var limits = new ChatTemplateLimits { MaxSteps = 1000, MaxDepth = 50, MaxTextLength = 500, MaxAllocation = 20000 };
        ChatTemplateException error = Assert.Throws<ChatTemplateException>(() => ChatTemplate.Parse(template, "t.jinja", limits).Render(Chats.Hello));
        Assert.Equal(ChatTemplateErrorKind.Limit, error.Kind);
        Assert.StartsWith("chat template t.jinja, line 1: ", error.Message, StringComparison.Ordinal);
        Assert.Contains(says, error.Message, StringComparison.Ordinal);
        Assert.Contains("raise the limit in ChatTemplateLimits", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AThreadWithASmallStackIsNoDanger()
    {
        ChatTemplate template = ChatTemplate.Parse("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "hostile", new ChatTemplateLimits { MaxDepth = 1_000_000 });
        ChatTemplateException? error = null;
        var thread = new Thread(() => error = Assert.Throws<ChatTemplateException>(() => template.Render(Chats.Hello)), 256 * 1024);
        thread.Start();
        thread.Join();
        Assert.Equal(ChatTemplateErrorKind.Limit, error!.Kind);
    }

    [Fact]
    public void LongTemplatesAndDeepMessagesAreRefused()
    {
        Assert.Contains("MaxTemplateLength", Assert.Throws<ChatTemplateException>(
            () => ChatTemplate.Parse("123456", "t", new ChatTemplateLimits { MaxTemplateLength = 5 })).Message);
        string json = new StringBuilder().Insert(0, "[", 2000).Append(']', 2000).ToString();
        using JsonDocument deep = JsonDocument.Parse($$"""[{"role":"user","content":{{json}}}]""", new JsonDocumentOptions { MaxDepth = 3000 });
        Assert.Equal(ChatTemplateErrorKind.Limit, Assert.Throws<ChatTemplateException>(() => ChatTemplate.Parse("x", "t").Render(deep.RootElement)).Kind);
    }

    [Fact]
    public void OrdinaryLargeConversationsFit()
    {
        ChatTemplate template = ChatTemplate.Parse("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ loop.nextitem.role if not loop.last }}\n{% endfor %}", "t");
        ChatMessage[] messages = [.. Enumerable.Range(0, 2000).Select(i => new ChatMessage(i % 2 == 0 ? "user" : "assistant", new string('x', 500)))];
        Assert.Equal(2000 * (500 + 3) + 1000 * (4 + 9) * 2 - 4, template.Render(messages).Length);
    }

    private static string Repeat(string text) => string.Concat(Enumerable.Repeat(text, Many));

    private static string Doubling(string start, string next)
        => $"{{% set ns = namespace(s={start}) %}}{{% for i in range(60) %}}{{% set ns.s = {next} %}}{{% endfor %}}";

    private static string Deep(string next)
        => $"{{% set ns = namespace(s=(1,)) %}}{{% for i in range(5000) %}}{{% set ns.s = {next} %}}{{% endfor %}}";
}
