using System.CommandLine;

namespace Repeng.Cli;

/// <summary>A command line that cannot be read.</summary>
public sealed class UsageException(string message) : Exception(message);

/// <summary>
/// Brings a command line into one spelling before it is parsed: --like-this becomes --like_this, --x and --no-x of a
/// boolean become --x=true and --x=false, and a value is tied to its option so that it may begin with a dash.
/// What is not an option of the verb stays as it is and is complained about by the parser.
/// </summary>
public static class ArgumentNormaliser
{
    /// <summary>Same meaning, one spelling.</summary>
    public static string[] Normalise(Command root, IReadOnlyList<string> args)
    {
        var result = new List<(string Name, string[] Tokens)>();
        Command command = root;
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
                        value = args[++i];
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
            else
                result.Add(("", [token]));
        }
        return [.. result.SelectMany(r => r.Tokens)];
    }

    /// <summary>The option with that canonical name or alias.</summary>
    public static Option? Find(Command command, string name) => command.Options.FirstOrDefault(o => o.Name == name || o.Aliases.Contains(name));

    /// <summary>A name as it is defined: dashes inside become underscores.</summary>
    public static string Canonical(string name) => "--" + name[2..].Replace('-', '_');

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
