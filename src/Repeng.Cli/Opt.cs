using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;

namespace Repeng.Cli;

/// <summary>
/// Options of one kind each. A value that was not given is null, so that a verb can tell what a person wanted from
/// what is a default. Names are canonical with underscores; <see cref="ArgumentNormaliser"/> takes care of the other spellings.
/// </summary>
public static class Opt
{
    /// <summary>--x, --no-x, --x true, --x false.</summary>
    public static Option<bool?> Flag(string name, string description) => new(name)
    {
        Description = description,
        CustomParser = r => Parse<bool?>(r, name, "true or false", t => bool.TryParse(t, out bool b) ? b : null),
    };

    /// <summary>A whole number.</summary>
    public static Option<int?> Int(string name, string description, params string[] aliases) => new(name, aliases)
    {
        Description = description,
        HelpName = "N",
        CustomParser = r => Parse<int?>(r, name, "a whole number", t => int.TryParse(t, NumberStyles.Integer, CultureInfo.InvariantCulture, out int n) ? n : null),
    };

    /// <summary>A whole number that is not negative.</summary>
    public static Option<ulong?> Seed(string name, string description) => new(name)
    {
        Description = description,
        HelpName = "N",
        CustomParser = r => Parse<ulong?>(r, name, "a whole number from 0 on", t => ulong.TryParse(t, NumberStyles.None, CultureInfo.InvariantCulture, out ulong n) ? n : null),
    };

    /// <summary>A finite number.</summary>
    public static Option<double?> Number(string name, string description, params string[] aliases) => new(name, aliases)
    {
        Description = description,
        HelpName = "X",
        CustomParser = r => Parse(r, name, "a number", Finite),
    };

    /// <summary>Numbers, given one by one or several at once.</summary>
    public static Option<double[]?> Numbers(string name, string description) => new(name)
    {
        Description = description,
        HelpName = "X",
        AllowMultipleArgumentsPerToken = true,
        Arity = ArgumentArity.OneOrMore,
        CustomParser = r =>
        {
            var values = new List<double>();
            foreach (Token t in r.Tokens)
                foreach (string part in t.Value.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
                {
                    if (Finite(part) is { } x)
                        values.Add(x);
                    else
                        r.AddError($"{name}: '{part}' is not a number");
                }
            return [.. values];
        },
    };

    /// <summary>A text.</summary>
    public static Option<string?> Text(string name, string helpName, string description, params string[] aliases) => new(name, aliases) { Description = description, HelpName = helpName };

    /// <summary>Texts, given one by one, several at once, or with commas.</summary>
    public static Option<string[]?> Texts(string name, string helpName, string description) => new(name)
    {
        Description = description,
        HelpName = helpName,
        AllowMultipleArgumentsPerToken = true,
        Arity = ArgumentArity.OneOrMore,
        CustomParser = r => [.. r.Tokens.SelectMany(t => t.Value.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))],
    };

    /// <summary>Files or folders, given one by one or several at once; commas may be part of a name.</summary>
    public static Option<string[]?> Paths(string name, string helpName, string description) => new(name)
    {
        Description = description,
        HelpName = helpName,
        AllowMultipleArgumentsPerToken = true,
        Arity = ArgumentArity.OneOrMore,
        CustomParser = r => [.. r.Tokens.Select(t => t.Value)],
    };

    /// <summary>One of some words.</summary>
    public static Option<string?> Choice(string name, string description, params string[] words) => new(name)
    {
        Description = description,
        HelpName = string.Join('|', words),
        CustomParser = r => Parse(r, name, $"one of {string.Join(", ", words)}", t => words.Contains(t) ? t : null),
    };

    /// <summary>The values of a list that was given; null when it was not, where the parser would say an empty list.</summary>
    public static T[]? Given<T>(this ParseResult parsed, Option<T[]?> option) => parsed.GetResult(option) is { Implicit: false } ? parsed.GetValue(option) : null;

    private static double? Finite(string text) =>
        double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double x) && double.IsFinite(x) ? x : null;

    private static T? Parse<T>(ArgumentResult result, string name, string needed, Func<string, T?> read)
    {
        if (result.Tokens.Count == 0)
        {
            result.AddError($"{name} needs {needed}");
            return default;
        }
        string text = result.Tokens[^1].Value;
        T? value = read(text);
        if (value is null)
            result.AddError($"{name}: '{text}' is not {needed}");
        return value;
    }
}
