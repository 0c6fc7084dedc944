using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// A setting such as target_modules: an expression that the whole path must match, the word all-linear, or a list of which
/// one entry must be the path or end it after a dot (PEFT's check_target_module_exists).
/// </summary>
public sealed class ModuleSelector
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(5);
    private readonly Regex? _expression;
    private readonly string[] _names = [];

    /// <summary>Reads a field; absent or null selects nothing.</summary>
    public ModuleSelector(JsonFields fields, string name)
    {
        if (fields.Json[name] is JsonArray)
        {
            _names = fields.OptionalTexts(name)!;
            return;
        }
        if (fields.OptionalText(name) is not { Length: > 0 } text)
            return;
        IsAllLinear = text == "all-linear";
        try
        {
            _expression = IsAllLinear ? null : new Regex($@"\A(?:{text})\z", RegexOptions.CultureInvariant, s_limit);
        }
        catch (ArgumentException e)
        {
            throw fields.Error(name, $"{FileErrors.Quote(text)} is no regular expression: {e.Message.ReplaceLineEndings(" ")}");
        }
    }

    /// <summary>Every linear layer but the output head.</summary>
    public bool IsAllLinear { get; }

    /// <summary>The setting is one expression.</summary>
    public bool IsExpression => _expression is not null;

    /// <summary>Nothing is selected.</summary>
    public bool IsEmpty => _names.Length == 0 && _expression is null && !IsAllLinear;

    /// <summary>Whether a dotted path is selected.</summary>
    public bool Matches(string path) => IsAllLinear || Names(path) || Array.Exists(_names, n => path.EndsWith("." + n, StringComparison.Ordinal)) || _expression is not null && _expression.IsMatch(path);

    /// <summary>Whether the path itself is an entry of the list.</summary>
    public bool Names(string path) => Array.IndexOf(_names, path) >= 0;
}
