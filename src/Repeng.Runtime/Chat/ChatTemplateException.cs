using Repeng.Kernels;

namespace Repeng.Runtime.Chat;

/// <summary>What kind of mistake stopped a chat template.</summary>
public enum ChatTemplateErrorKind
{
    /// <summary>The template itself refused the conversation by calling <c>raise_exception</c>.</summary>
    RaisedByTemplate,

    /// <summary>A variable, key or element that does not exist was used (Jinja's UndefinedError).</summary>
    Undefined,

    /// <summary>An operation that its values do not allow (Python's TypeError, ValueError, ZeroDivisionError and kin).</summary>
    Type,

    /// <summary>The text is no valid template, or uses a statement, filter or test that is not supported.</summary>
    Syntax,

    /// <summary>The template asked for more steps, memory, text or nesting than <see cref="ChatTemplateLimits"/> allows.</summary>
    Limit,

    /// <summary>The final message cannot be continued, or the options for it contradict each other.</summary>
    ContinueFinalMessage,

    /// <summary>The messages, tools, documents or variables given to the template have the wrong shape.</summary>
    Input,
}

/// <summary>
/// A chat template that could not be read or rendered. The message is one line: what, where, and what to do next.
/// </summary>
public sealed class ChatTemplateException : UserErrorException
{
    private const int LongestDetail = 600;

    internal ChatTemplateException(ChatTemplateErrorKind kind, string sourceName, int line, string detail, Exception? inner = null)
        : base(Compose(kind, sourceName, line, detail), inner)
    {
        Kind = kind;
        SourceName = sourceName;
        Line = line;
        Detail = detail;
    }

    /// <summary>What kind of mistake it is.</summary>
    public ChatTemplateErrorKind Kind { get; }

    /// <summary>The name given to the template when it was parsed, such as the path of its file.</summary>
    public string SourceName { get; }

    /// <summary>Line of the template, counted from 1; 0 when the mistake lies outside the template.</summary>
    public int Line { get; }

    /// <summary>The bare reason; for <see cref="ChatTemplateErrorKind.RaisedByTemplate"/> exactly the text that the template raised.</summary>
    public string Detail { get; }

    private static string Compose(ChatTemplateErrorKind kind, string sourceName, int line, string detail)
    {
        string where = line > 0 ? $"chat template {sourceName}, line {line}" : $"chat template {sourceName}";
        string what = OneLine(detail);
        return kind switch
        {
            ChatTemplateErrorKind.RaisedByTemplate => $"{where}: the template refuses this conversation: {what} (change the messages, or use another template)",
            ChatTemplateErrorKind.Undefined => $"{where}: {what} (add it to the messages, or pass it as a template variable)",
            ChatTemplateErrorKind.Type => $"{where}: {what} (check the types of the message fields and template variables)",
            ChatTemplateErrorKind.Syntax => $"{where}: {what} (correct the template, or use another one)",
            ChatTemplateErrorKind.Limit => $"{where}: {what} (shorten the messages, or raise the limit in ChatTemplateLimits if the template can be trusted)",
            ChatTemplateErrorKind.ContinueFinalMessage => $"{where}: {what}",
            _ => $"{where}: {what} (correct the messages or options)",
        };
    }

    // What a template raises is foreign text: it must neither break the line nor flood it.
    private static string OneLine(string text)
    {
        string cut = text.Length > LongestDetail ? text[..LongestDetail] + "…" : text;
        return string.Create(cut.Length, cut, static (span, source) =>
        {
            for (int i = 0; i < span.Length; i++)
                span[i] = char.IsControl(source[i]) ? ' ' : source[i];
        });
    }
}
