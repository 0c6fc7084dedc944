using System.Text.Json;
using Repeng.Runtime.Chat.Jinja;

namespace Repeng.Runtime.Chat;

/// <summary>
/// A chat template: a Jinja text that turns a conversation into the prompt a model was trained on. Renders exactly as
/// Hugging Face's <c>apply_chat_template</c> does (transformers 4.57, Jinja 3.1 with <c>trim_blocks</c>,
/// <c>lstrip_blocks</c>, loop controls and the immutable sandbox). Safe to share between threads.
/// </summary>
public sealed class ChatTemplate
{
    // The mark that Hugging Face puts behind the final message to find the place to cut at.
    private const string ContinuationTag = "CONTINUE_FINAL_MESSAGE_TAG ";
    private const string Messages = "messages";

    private readonly Statement[] _body;
    private readonly ChatTemplateLimits _limits;

    private ChatTemplate(string text, string sourceName, Statement[] body, ChatTemplateLimits limits)
    {
        Text = text;
        SourceName = sourceName;
        _body = body;
        _limits = limits;
    }

    /// <summary>The template as it was given.</summary>
    public string Text { get; }

    /// <summary>What error messages call the template, such as the path of the file it came from.</summary>
    public string SourceName { get; }

    /// <summary>Reads a template.</summary>
    /// <param name="template">The Jinja text.</param>
    /// <param name="sourceName">What error messages call it.</param>
    /// <param name="limits">Bounds on reading and rendering; <see cref="ChatTemplateLimits.Default"/> when null.</param>
    /// <exception cref="ChatTemplateException">The text is no valid template, or it is too long or too deeply nested.</exception>
    public static ChatTemplate Parse(string template, string sourceName, ChatTemplateLimits? limits = null)
    {
        ArgumentNullException.ThrowIfNull(template);
        ArgumentNullException.ThrowIfNull(sourceName);
        ChatTemplateLimits bounds = limits ?? ChatTemplateLimits.Default;
        Statement[] body = Guarded(sourceName, null, () => Parser.Parse(template, bounds));
        return new ChatTemplate(template, sourceName, body, bounds);
    }

    /// <summary>Renders a conversation of plain text turns.</summary>
    /// <param name="messages">The turns, oldest first; at least one.</param>
    /// <param name="options">What to render with; <see cref="ChatRenderOptions.Default"/> when null.</param>
    /// <returns>The prompt. It holds the special tokens as text, so it is tokenized without adding others.</returns>
    /// <exception cref="ChatTemplateException">The template refuses or cannot render the conversation, or a limit is passed.</exception>
    public string Render(IReadOnlyList<ChatMessage> messages, ChatRenderOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(messages);
        return Render(() => FromMessages(messages), options);
    }

    /// <summary>Renders a conversation given as a JSON array of objects with <c>role</c>, <c>content</c> and whatever else the template reads.</summary>
    /// <inheritdoc cref="Render(IReadOnlyList{ChatMessage}, ChatRenderOptions?)"/>
    public string Render(JsonElement messages, ChatRenderOptions? options = null)
        => Render(() => FromJson(messages), options);

    /// <summary>
    /// Renders a conversation plus the beginning of the assistant's answer, left open for the model to go on.
    /// <para>
    /// A prefix with text goes through <see cref="ChatRenderOptions.ContinueFinalMessage"/>, quirks included: some templates
    /// trim it. An empty prefix gives the longest common start of what two different prefixes render to: the prompt up to the
    /// place where the answer begins, with everything that the template puts before any answer (such as Qwen3's empty think
    /// block), which Hugging Face's own result for empty content is not for templates that trim. A prefix of blanks gives
    /// Hugging Face's result where that keeps this start, else the start alone.
    /// </para>
    /// </summary>
    /// <param name="messages">The turns before the answer, oldest first.</param>
    /// <param name="assistantPrefix">How the answer begins; may be empty.</param>
    /// <param name="options">What to render with; both its flags for the end of the prompt must be off.</param>
    /// <exception cref="ChatTemplateException">As for <see cref="Render(IReadOnlyList{ChatMessage}, ChatRenderOptions?)"/>.</exception>
    public string RenderWithPrefix(IReadOnlyList<ChatMessage> messages, string assistantPrefix, ChatRenderOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(messages);
        return RenderWithPrefix(() => FromMessages(messages), assistantPrefix, options);
    }

    /// <inheritdoc cref="RenderWithPrefix(IReadOnlyList{ChatMessage}, string, ChatRenderOptions?)"/>
    public string RenderWithPrefix(JsonElement messages, string assistantPrefix, ChatRenderOptions? options = null)
        => RenderWithPrefix(() => FromJson(messages), assistantPrefix, options);

    private string RenderWithPrefix(Func<PyList> messages, string prefix, ChatRenderOptions? options)
    {
        ArgumentNullException.ThrowIfNull(prefix);
        options ??= ChatRenderOptions.Default;
        if (options.AddGenerationPrompt || options.ContinueFinalMessage)
            throw Failure(ChatTemplateErrorKind.ContinueFinalMessage,
                "a prefix for the answer cannot be combined with AddGenerationPrompt or ContinueFinalMessage; leave both off");
        // One clock for all renderings, or a date in the prompt could differ between them.
        options = options with { ContinueFinalMessage = true, Now = options.Now ?? DateTime.Now };
        if (!PyText.IsBlank(prefix))
            return With(prefix);
        string start = CommonStart(With("A"), With("B"));
        if (prefix.Length == 0)
            return start;
        string asGiven = With(prefix);
        return asGiven.StartsWith(start, StringComparison.Ordinal) ? asGiven : start;

        string With(string content) => Render(
            () => new PyList([.. messages().Items, FromMessage(new ChatMessage("assistant", content))]), options);
    }

    private static string CommonStart(string a, string b) => a[..a.AsSpan().CommonPrefixLength(b)];

    private string Render(Func<PyList> readMessages, ChatRenderOptions? options)
    {
        options ??= ChatRenderOptions.Default;
        if (options.ContinueFinalMessage && options.AddGenerationPrompt)
            throw Failure(ChatTemplateErrorKind.ContinueFinalMessage,
                "ContinueFinalMessage and AddGenerationPrompt are not compatible; use the first to let the model continue the final message, "
                + "the second to add the header of a new assistant message");
        var renderer = new Renderer(_limits, options.Now ?? DateTime.Now);
        return Guarded(SourceName, renderer, () =>
        {
            PyList messages = readMessages();
            string final = "";
            if (options.ContinueFinalMessage)
                (messages, final) = Continuation(messages);
            SetVariables(renderer.Scope, messages, options);
            string prompt = renderer.Render(_body);
            return options.ContinueFinalMessage ? CutAtTag(renderer, prompt, final) : prompt;
        });
    }

    private void SetVariables(Scope scope, PyList messages, ChatRenderOptions options)
    {
        foreach ((string name, object? value) in options.SpecialTokens)
            scope.Set(name, InputValues.FromObject(value, $"special token '{name}'", _limits.MaxDepth));
        foreach ((string name, object? value) in options.Variables)
        {
            if (name is Messages or "tools" or "documents" or "add_generation_prompt" or "continue_final_message")
                throw Fault.Input($"'{name}' cannot be a template variable: it is an argument of its own");
            scope.Set(name, InputValues.FromObject(value, $"template variable '{name}'", _limits.MaxDepth));
        }
        scope.Set(Messages, messages);
        scope.Set("tools", Objects(options.Tools, "tools"));
        scope.Set("documents", Objects(options.Documents, "documents"));
        scope.Set("add_generation_prompt", options.AddGenerationPrompt);
    }

    private object? Objects(JsonElement? json, string what)
    {
        if (json is not { } given || given.ValueKind == JsonValueKind.Null)
            return null;
        if (InputValues.FromJson(given, what, _limits.MaxDepth) is not PyList list)
            throw Fault.Input($"{what} must be a JSON array, not {given.ValueKind}");
        int wrong = list.Items.FindIndex(item => item is not PyDict);
        return wrong < 0 ? list : throw Fault.Input($"{what}[{wrong}] must be a JSON object, not {TypeNames.Of(list[wrong])}");
    }

    private static PyList FromMessages(IReadOnlyList<ChatMessage> messages)
    {
        if (messages.Count == 0)
            throw Fault.Input("there are no messages; give at least one");
        return new PyList([.. messages.Select(FromMessage)]);
    }

    private static PyDict FromMessage(ChatMessage message)
    {
        var dict = new PyDict();
        dict.SetText("role", message.Role);
        dict.SetText("content", message.Content);
        return dict;
    }

    private PyList FromJson(JsonElement json)
    {
        if (InputValues.FromJson(json, Messages, _limits.MaxDepth) is not PyList list)
            throw Fault.Input($"the messages must be a JSON array, not {json.ValueKind}");
        if (list.Count == 0)
            throw Fault.Input("there are no messages; give at least one");
        int wrong = list.Items.FindIndex(item => item is not PyDict);
        return wrong < 0 ? list : throw Fault.Input($"messages[{wrong}] must be a JSON object, not {TypeNames.Of(list[wrong])}");
    }

    /// <summary>The messages with the tag behind the last text of the final one, and that text without the tag.</summary>
    private static (PyList Messages, string Final) Continuation(PyList messages)
    {
        var last = (PyDict)messages[messages.Count - 1]!;
        last.TryGetText("content", out object? content);
        switch (content)
        {
            case string text:
                return (WithLast(messages, WithField(last, "content", text + ContinuationTag)), text);
            case PyList blocks:
                for (int i = blocks.Count - 1; i >= 0; i--)
                {
                    if (blocks[i] is not PyDict block || !block.TryGetText("text", out object? value))
                        continue;
                    if (value is not string blockText)
                        break;
                    var changed = new PyList([.. blocks.Items]);
                    changed.Items[i] = WithField(block, "text", blockText + ContinuationTag);
                    return (WithLast(messages, WithField(last, "content", changed)), blockText);
                }
                break;
        }
        throw new Fault(ChatTemplateErrorKind.ContinueFinalMessage,
            $"the final message cannot be continued: its content is no text and holds none ({TypeNames.Of(content)}); end the messages with one that has text");
    }

    private static PyDict WithField(PyDict dict, string name, object? value)
    {
        PyDict copy = dict.Copy();
        copy.SetText(name, value);
        return copy;
    }

    private static PyList WithLast(PyList messages, PyDict last) => new([.. messages.Items[..^1], last]);

    private static string CutAtTag(Renderer renderer, string prompt, string final)
    {
        string bareTag = ContinuationTag.TrimEnd(' ');
        int tag = prompt.LastIndexOf(bareTag, StringComparison.Ordinal);
        if (tag < 0 || PyText.IndexOf(renderer, prompt, PyText.Strip(final, null), 0) < 0)
            throw new Fault(ChatTemplateErrorKind.ContinueFinalMessage,
                "the final message does not appear in the prompt as it was given: the template drops or rewrites parts of it; "
                + "change the message, or render with AddGenerationPrompt instead");
        bool tagIsWhole = string.CompareOrdinal(prompt, tag, ContinuationTag, 0, ContinuationTag.Length) == 0;
        string cut = prompt[..tag];
        // A template that trims the message has trimmed the tag's own space, too; then blanks before the tag are not trusted.
        return tagIsWhole ? cut : PyText.StripEnd(cut);
    }

    private ChatTemplateException Failure(ChatTemplateErrorKind kind, string detail) => new(kind, SourceName, 0, detail);

    /// <summary>Runs the engine and gives its faults a place: the line that was being rendered.</summary>
    private static T Guarded<T>(string sourceName, Renderer? renderer, Func<T> run)
    {
        try
        {
            return run();
        }
        catch (Fault fault)
        {
            bool outside = fault.Kind is ChatTemplateErrorKind.Input or ChatTemplateErrorKind.ContinueFinalMessage;
            int line = fault.Line > 0 ? fault.Line : outside ? 0 : renderer?.Line ?? 0;
            throw new ChatTemplateException(fault.Kind, sourceName, line, fault.Message, fault);
        }
        catch (InsufficientExecutionStackException e)
        {
            throw new ChatTemplateException(ChatTemplateErrorKind.Limit, sourceName, renderer?.Line ?? 0,
                "nesting is too deep for the stack of this thread", e);
        }
    }
}
