namespace Repeng.Runtime.Chat.Jinja;

/// <summary>
/// A mistake found deep inside the engine, where the name of the template is not known; the public surface turns it
/// into a <see cref="ChatTemplateException"/>. A line of 0 means "the line being rendered".
/// </summary>
internal sealed class Fault(ChatTemplateErrorKind kind, string message, int line = 0) : Exception(message)
{
    public ChatTemplateErrorKind Kind { get; } = kind;

    public int Line { get; } = line;

    public static Fault Type(string message) => new(ChatTemplateErrorKind.Type, message);

    public static Fault Syntax(string message, int line) => new(ChatTemplateErrorKind.Syntax, message, line);

    public static Fault Limit(string message, int line = 0) => new(ChatTemplateErrorKind.Limit, message, line);

    public static Fault Input(string message) => new(ChatTemplateErrorKind.Input, message);
}
