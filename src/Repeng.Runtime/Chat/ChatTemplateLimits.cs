namespace Repeng.Runtime.Chat;

/// <summary>
/// Bounds on what a chat template may cost. Templates come out of model files and messages out of the network, so both
/// are treated as hostile: whoever passes a bound gets a <see cref="ChatTemplateException"/> of kind
/// <see cref="ChatTemplateErrorKind.Limit"/>, never a hang or a crash.
/// </summary>
public sealed record ChatTemplateLimits
{
    /// <summary>The bounds used when none are given.</summary>
    public static ChatTemplateLimits Default { get; } = new();

    /// <summary>Longest template, in UTF-16 units.</summary>
    public int MaxTemplateLength { get; init; } = 1 << 20;

    /// <summary>Deepest nesting of statements and of brackets in the template's text.</summary>
    public int MaxSyntaxNesting { get; init; } = 100;

    /// <summary>Deepest nesting while rendering: expressions, macro calls, and values inside values (also of the messages).</summary>
    public int MaxDepth { get; init; } = 1000;

    /// <summary>Most steps: one per evaluated expression, loop turn, visited element, and per 16 characters searched or compared.</summary>
    public long MaxSteps { get; init; } = 50_000_000;

    /// <summary>Longest text, rendered or intermediate, in UTF-16 units.</summary>
    public int MaxTextLength { get; init; } = 1 << 24;

    /// <summary>Most that all intermediate values may add up to: a UTF-16 unit counts 1, a list or dict element 16.</summary>
    public long MaxAllocation { get; init; } = 1L << 27;
}
