using System.Buffers;
using System.CommandLine;

namespace Repeng.Cli;

/// <summary>A command line that cannot be read.</summary>
public sealed class UsageException(string message) : Exception(message);

/// <summary>
/// Brings a command line into one spelling before it is parsed: --like-this becomes --like_this, --x and --no-x of a
/// boolean become --x=true and --x=false, and a value is tied to its option so that it may begin with a dash.
/// A word with two dashes that is no option of the verb is refused here, since the parser would give it to an option
/// before it that takes several values; whatever else is wrong is left to the parser.
/// </summary>
public static class ArgumentNormaliser
{
    private static readonly SearchValues<char> s_nameCharacters = SearchValues.Create("abcdefghijklmnopqrstuvwxyz0123456789_-");
    private static readonly string[] s_help = ["--help", "-h", "-?"];

    /// <summary>Same meaning, one spelling.</summary>
    /// <exception cref="UsageException">An option that the verb does not have, or a boolean with a word that is none.</exception>
    public static string[] Normalise(Command root, IReadOnlyList<string> args)
    {
        var result = new List<(string Name, string[] Tokens)>();
        Command command = root;
        // Who asks for help gets it, whatever else the line says.
        bool help = args.Any(s_help.Contains);
        for (int i = 0; i < args.Count; i++)
        {
            string token = args[i];
            if (token == "--")
            {
                result.Add(("", [.. args.Skip(i)]));
                break;
            }
            if (!token.StartsWith("--", StringComparison.Ordinal))
            {
                if (command.Subcommands.FirstOrDefault(c => c.Name == token) is { } verb)
                    command = verb;
                result.Add(("", [token]));
                continue;
            }
            int equals = token.IndexOf('=', StringComparison.Ordinal);
            string name = Canonical(equals < 0 ? token : token[..equals]);
            string? value = equals < 0 ? null : token[(equals + 1)..];
            if (Find(command, name) is { } option)
            {
                if (option.ValueType == typeof(bool?))
                {
                    if (value is null && i + 1 < args.Count && bool.TryParse(args[i + 1], out _))
                        value = args[++i];
                    // The parser would take a word that is no boolean for something else.
                    if (value is not null && !bool.TryParse(value, out _))
                        throw new UsageException($"{name}: '{value}' is not true or false");
                    Emit(result, option, value ?? "true");
                }
                else if (option.Arity.MaximumNumberOfValues == 0)
                    result.Add(("", [name]));
                else
                {
                    if (value is null && i + 1 < args.Count && !IsOption(command, args[i + 1]))
                    {
                        // A text may begin with dashes; what is nearly an option is one that was misspelt.
                        if (!help && LooksLikeOption(args[i + 1]) && Near(command, args[i + 1]) is not null)
                            throw new UsageException($"{UnknownOption(command, args[i + 1])}; as the value of {name} it is written {name}={args[i + 1]}");
                        value = args[++i];
                    }
                    if (value is null)
                        result.Add(("", [name]));
                    else
                        Emit(result, option, value);
                    while (option.AllowMultipleArgumentsPerToken && i + 1 < args.Count && !args[i + 1].StartsWith("--", StringComparison.Ordinal))
                        Emit(result, option, args[++i]);
                }
            }
            else if (value is null && name.StartsWith("--no_", StringComparison.Ordinal) && Find(command, "--" + name[5..]) is { } flag && flag.ValueType == typeof(bool?))
                Emit(result, flag, "false");
            // Behind a word that is no verb, the word is what is wrong.
            else if (help || IsInherited(command, token) || command.Subcommands.Count > 0 && i > 0 && !args[i - 1].StartsWith('-') && command.Name != args[i - 1])
                result.Add(("", [token]));
            else
                throw new UsageException(UnknownOption(command, token));
        }
        return [.. result.SelectMany(r => r.Tokens)];
    }

    /// <summary>The option with that canonical name or alias.</summary>
    public static Option? Find(Command command, string name) => command.Options.FirstOrDefault(o => o.Name == name || o.Aliases.Contains(name));

    /// <summary>A name as it is defined: dashes inside become underscores.</summary>
    public static string Canonical(string name) => "--" + name[2..].Replace('-', '_');

    /// <summary>The line that refuses an option: it names the nearest that the verb has.</summary>
    public static string UnknownOption(Command command, string token)
    {
        string near = Near(command, token) is { } meant ? $", did you mean {meant}?" : Nearest.Of(Plain(token), Names(command)) is { } closest ? $"; the nearest is {closest}" : "";
        var path = new List<string>();
        for (Command? c = command; c is not null and not RootCommand; c = c.Parents.OfType<Command>().FirstOrDefault())
            path.Insert(0, c.Name);
        return $"unknown option {token}{near} ({string.Join(' ', path.Prepend(CliApp.Name))} --help lists what there is)";
    }

    private static string? Near(Command command, string token) => Nearest.To(Plain(token), Names(command));

    private static string Plain(string token) => token.StartsWith("--", StringComparison.Ordinal) ? Canonical(token.Split('=')[0]) : token;

    private static IEnumerable<string> Names(Command command) => command.Options.Where(o => !o.Hidden)
        .SelectMany(o => o.ValueType == typeof(bool?) ? o.Aliases.Concat([o.Name, "--no_" + o.Name[2..]]) : o.Aliases.Append(o.Name));

    // Help and version belong to the root, and every verb has them.
    private static bool IsInherited(Command command, string token) => command.Parents.OfType<Command>().Any(p => p.Options.Any(o => o.Recursive && (o.Name == token || o.Aliases.Contains(token))) || IsInherited(p, token));

    private static bool LooksLikeOption(string token) => token.Length > 2 && token.StartsWith("--", StringComparison.Ordinal) && token.AsSpan(2).IndexOfAnyExcept(s_nameCharacters) is -1;

    private static bool IsOption(Command command, string token)
    {
        if (!token.StartsWith("--", StringComparison.Ordinal) || token == "--")
            return token == "--";
        string name = Canonical(token.Split('=')[0]);
        return Find(command, name) is not null || name.StartsWith("--no_", StringComparison.Ordinal) && Find(command, "--" + name[5..]) is not null;
    }

    // An option that takes one value counts with its last, as customary. "--x=" would reach the parser without a
    // value, so an empty one is a token of its own.
    private static void Emit(List<(string Name, string[] Tokens)> result, Option option, string value)
    {
        if (!option.AllowMultipleArgumentsPerToken)
            result.RemoveAll(r => r.Name == option.Name);
        result.Add((option.Name, value.Length == 0 ? [option.Name, value] : [$"{option.Name}={value}"]));
    }
}
