using System.CommandLine;
using Repeng.Runtime.Chat;

namespace Repeng.Cli.Verbs;

/// <summary>The options of thinking models that several verbs have.</summary>
internal static class Thinking
{
    /// <summary>--enable_thinking.</summary>
    public static Option<bool?> Enable() => Opt.Flag("--enable_thinking", "switch the chat template's thinking on or (--no-enable_thinking) off: its variable, or /think and /no_think in the system message where it reads them (default: as the template has it)");

    /// <summary>--think_tag.</summary>
    public static Option<string?> Tag() => Opt.Text("--think_tag", "TAG", "tag before thoughts, such as '<think>', or both tags with a blank between (default: found in the chat template)");

    /// <summary>The tag as it was given, checked; null where none was.</summary>
    public static string? ReadTag(ParseResult p, Option<string?> option)
    {
        if (p.GetValue(option) is not { } tag)
            return null;
        ThinkTags.Parse(tag);
        return tag;
    }
}
