using Repeng.Kernels;

namespace Repeng.Runtime.Chat;

/// <summary>How a chat template's thinking is switched.</summary>
public enum ThinkingSwitch
{
    /// <summary>Not at all: the model thinks always, or never.</summary>
    None,

    /// <summary>A variable of the template.</summary>
    Variable,

    /// <summary>A word in the system message that the template looks for.</summary>
    System,
}

/// <summary>
/// What a chat template knows of thinking: its tags, how thinking is switched on and off, and whether the prompt for an answer
/// opens the block itself. All of it is found by reading and rendering the template, none by the name of a model.
/// </summary>
public sealed class ChatThinking
{
    private const string On = "/think", Off = "/no_think";
    private static readonly string[] s_variables = ["enable_thinking", "thinking"];
    private static readonly ChatMessage[] s_probe = [new("user", "Hi")];

    private readonly ChatTemplate _template;
    private readonly ChatRenderOptions _options;
    private readonly Lazy<(ThinkingSwitch Kind, string? Variable)> _switch;

    /// <summary>Of a template, rendered with these special tokens.</summary>
    public ChatThinking(ChatTemplate template, IReadOnlyDictionary<string, object?> specialTokens)
    {
        // One clock for all renderings: they are compared.
        (_template, _options) = (template, new ChatRenderOptions { SpecialTokens = specialTokens, Now = DateTime.Now });
        Tags = ThinkTags.Detect(template.Text);
        _switch = new(FindSwitch);
    }

    /// <summary>The tags that the template names; null where it names none that are known.</summary>
    public ThinkTags? Tags { get; }

    /// <summary>How thinking is switched.</summary>
    public ThinkingSwitch Switch => _switch.Value.Kind;

    /// <summary>Name of the variable that switches it, where one does.</summary>
    public string? Variable => _switch.Value.Variable;

    /// <summary>Messages and variables with the switch in the position that is asked for; null leaves it as the template has it.</summary>
    /// <exception cref="UserErrorException">The template has no switch, and does not do what is asked for without one.</exception>
    public (IReadOnlyList<ChatMessage> Messages, IReadOnlyDictionary<string, object?> Variables) Apply(IReadOnlyList<ChatMessage> messages, bool? enable)
    {
        if (enable is not { } on)
            return (messages, _options.Variables);
        switch (Switch)
        {
            case ThinkingSwitch.Variable:
                return (messages, With(Variable!, on));
            case ThinkingSwitch.System:
                return (WithSystem(messages, on ? On : Off), _options.Variables);
            default:
                // A model that always thinks, or always may, does what is asked for.
                if (on && Tags is not null)
                    return (messages, _options.Variables);
                throw new UserErrorException($"{_template.SourceName}: the chat template has no switch for thinking (none of the variables {string.Join(", ", s_variables)} changes what it renders, and it does not look for {Off}), so it cannot be switched {(on ? "on" : "off")}; leave --{(on ? "" : "no-")}enable_thinking out");
        }
    }

    /// <summary>Whether the prompt for an answer leaves a block open, so that the model's first word is a thought already.</summary>
    public bool OpensBlock(ThinkTags tags, bool? enable) => State(tags, Prompt(s_probe, enable).Tail) == BlockState.Open;

    /// <summary>
    /// A conversation up to inside of an open block of the assistant's turn, where <paramref name="begun"/> are the model's first thoughts. A template
    /// that opens the block itself has it opened once. The switch, where there is one, is on.
    /// </summary>
    /// <exception cref="UserErrorException">The template closes the block before any answer, and no switch turns that off.</exception>
    public string RenderInside(IReadOnlyList<ChatMessage> messages, string begun, ThinkTags tags)
    {
        (string prompt, string tail) = Prompt(messages, Switch == ThinkingSwitch.None ? null : true);
        return State(tags, tail) switch
        {
            BlockState.Open => prompt + begun,
            BlockState.Closed => throw new UserErrorException($"{_template.SourceName}: the chat template closes the block of thoughts ({tags.Close}) before every answer, so that no suffix can stand in it; leave --thinking out"),
            _ => prompt + tags.Open + Newline(tags) + begun,
        };
    }

    /// <summary>What closes a block so that an answer can begin: the tag with the newlines that go with it.</summary>
    public string Closing(ThinkTags tags) => Newline(tags).Length == 0 ? tags.Close : $"\n{tags.Close}\n\n";

    private enum BlockState
    {
        Absent,
        Open,
        Closed,
    }

    // Looked for in what the template adds for the answer, not in what a person has said.
    private static BlockState State(ThinkTags tags, string tail)
    {
        int open = tail.LastIndexOf(tags.Open, StringComparison.Ordinal), close = tail.LastIndexOf(tags.Close, StringComparison.Ordinal);
        return open > close ? BlockState.Open : close >= 0 ? BlockState.Closed : BlockState.Absent;
    }

    // Some families write their tags without a newline; a template that names the tag shows which. In a template's text a newline is mostly "\n" in quotes.
    private string Newline(ThinkTags tags)
    {
        string text = _template.Text;
        bool named = text.Contains(tags.Open, StringComparison.Ordinal);
        return !named || text.Contains(tags.Open + "\\n", StringComparison.Ordinal) || text.Contains(tags.Open + "\n", StringComparison.Ordinal) ? "\n" : "";
    }

    private (string Prompt, string Tail) Prompt(IReadOnlyList<ChatMessage> messages, bool? enable)
    {
        (IReadOnlyList<ChatMessage> said, IReadOnlyDictionary<string, object?> variables) = Apply(messages, enable);
        ChatRenderOptions options = _options with { Variables = variables };
        string without = _template.Render(said, options), prompt = _template.Render(said, options with { AddGenerationPrompt = true });
        return (prompt, prompt[prompt.AsSpan().CommonPrefixLength(without)..]);
    }

    private (ThinkingSwitch, string?) FindSwitch()
    {
        ChatRenderOptions options = _options with { AddGenerationPrompt = true };
        foreach (string name in s_variables)
            if (_template.Text.Contains(name, StringComparison.Ordinal)
                && _template.Render(s_probe, options with { Variables = With(name, true) }) != _template.Render(s_probe, options with { Variables = With(name, false) }))
                return (ThinkingSwitch.Variable, name);
        // The template must read the word: one that only passes it on would leave it to the model's luck.
        return _template.Text.Contains(Off, StringComparison.Ordinal) ? (ThinkingSwitch.System, null) : (ThinkingSwitch.None, null);
    }

    private static Dictionary<string, object?> With(string name, bool value) => new() { [name] = value };

    private static ChatMessage[] WithSystem(IReadOnlyList<ChatMessage> messages, string word) => messages.Count > 0 && messages[0].Role == "system"
        ? [messages[0] with { Content = $"{messages[0].Content}\n{word}" }, .. messages.Skip(1)]
        : [new ChatMessage("system", word), .. messages];
}
