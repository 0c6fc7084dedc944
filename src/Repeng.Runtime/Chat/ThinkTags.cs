using Repeng.Kernels;

namespace Repeng.Runtime.Chat;

/// <summary>The two texts between which a model thinks before it answers.</summary>
/// <param name="Open">Before the thoughts, such as <c>&lt;think&gt;</c>.</param>
/// <param name="Close">After them, such as <c>&lt;/think&gt;</c>.</param>
public sealed record ThinkTags(string Open, string Close)
{
    /// <summary>Tags that are looked for in a chat template, in this order.</summary>
    public static IReadOnlyList<ThinkTags> Known { get; } =
    [
        new("<think>", "</think>"),
        new("<thinking>", "</thinking>"),
        new("<thought>", "</thought>"),
        new("<reasoning>", "</reasoning>"),
        new("<seed:think>", "</seed:think>"),
        new("[THINK]", "[/THINK]"),
        new("<|START_THINKING|>", "<|END_THINKING|>"),
        new("<|begin_of_thought|>", "<|end_of_thought|>"),
        new("◁think▷", "◁/think▷"),
    ];

    /// <summary>The first known pair of which a template names either tag; null where it names none.</summary>
    public static ThinkTags? Detect(string template) =>
        Known.FirstOrDefault(t => template.Contains(t.Close, StringComparison.Ordinal) || template.Contains(t.Open, StringComparison.Ordinal));

    /// <summary>
    /// The tags that a person named: a known opening tag, a bare word (<c>plan</c> is &lt;plan&gt; and &lt;/plan&gt;),
    /// <c>&lt;x&gt;</c> or <c>[x]</c>, whose closing tag has a slash, or both tags with a blank between them.
    /// </summary>
    /// <exception cref="UserErrorException">The closing tag cannot be told, or one tag is part of the other.</exception>
    public static ThinkTags Parse(string text)
    {
        string[] parts = text.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        ThinkTags? tags = parts switch
        {
            [var open] when Known.FirstOrDefault(t => t.Open == open) is { } known => known,
            [var open] when open.Length > 2 && open[0] == '<' && open[^1] == '>' && open[1] is not ('/' or '|') => new ThinkTags(open, $"</{open[1..]}"),
            [var open] when open.Length > 2 && open[0] == '[' && open[^1] == ']' && open[1] != '/' => new ThinkTags(open, $"[/{open[1..]}"),
            [var word] when word.All(ch => char.IsLetterOrDigit(ch) || ch is '_' or '-') => new ThinkTags($"<{word}>", $"</{word}>"),
            [var open, var close] => new ThinkTags(open, close),
            _ => null,
        };
        if (tags is null)
            throw new UserErrorException($"think tag '{text}': the closing tag cannot be told from that; give both with a blank between them, such as '<|thoughts|> <|answer|>'");
        if (tags.Open.Contains(tags.Close, StringComparison.Ordinal) || tags.Close.Contains(tags.Open, StringComparison.Ordinal))
            throw new UserErrorException($"think tags '{tags.Open}' and '{tags.Close}': one is part of the other, so that they cannot be told apart in a text; take others");
        return tags;
    }

    /// <summary>Where a text stands after all of its tags: whether a block is open at its end, and where the text behind the last closing tag begins.</summary>
    /// <param name="text">What the model wrote.</param>
    /// <param name="open">Whether a block was open before it.</param>
    /// <returns>
    /// Open: the end lies in a block. Closed: a block was closed, by a closing tag with or without an opening one. AnswerStart: index behind the
    /// last closing tag, 0 where there is none.
    /// </returns>
    public (bool Open, bool Closed, int AnswerStart) Scan(string text, bool open)
    {
        int lastOpen = text.LastIndexOf(Open, StringComparison.Ordinal), lastClose = text.LastIndexOf(Close, StringComparison.Ordinal);
        return (lastOpen > lastClose || lastClose < 0 && open, lastClose >= 0, lastClose < 0 ? 0 : lastClose + Close.Length);
    }
}
