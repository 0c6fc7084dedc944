using System.Globalization;
using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Steering.Vectors;

/// <summary>
/// Layers by regular expression and range of blocks, with the meaning of the research branch's get_available_layers:
/// the expression is searched in the whole dotted name; a range is half open, in blocks or, written with a point, in parts of the depth;
/// negative numbers count from the end (upstream crashes on most of them).
/// </summary>
public static partial class LayerSelection
{
    /// <summary>One end of a range: a number of blocks or a part of the depth.</summary>
    public readonly record struct End(double Value, bool IsPart)
    {
        /// <summary>The block's number, from the end where negative. Parts are truncated towards zero, as Python's int() does.</summary>
        public int Of(int blocks)
        {
            int n = IsPart ? (int)(Value * blocks) : (int)Value;
            // −0.25 of 6 blocks is 4.5 blocks in, not "one from the end".
            if (IsPart && Value < 0)
                n = (int)((1 + Value) * blocks);
            else if (n < 0)
                n += blocks;
            return n;
        }

        /// <summary>Reads "12", "-3", "0.3", "-0.25".</summary>
        public static End Parse(string text)
        {
            if (int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int whole))
                return new End(whole, false);
            if (double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double part) && part is >= -1 and <= 1)
                return new End(part, true);
            throw new UserErrorException($"layer range end '{text}' is neither a block's number nor a part of the depth between -1 and 1");
        }
    }

    /// <summary>
    /// Names of the candidates (every parameter without ".weight", and everything that contains it) with numbers written
    /// {N}, sorted and distinct, and the full names in the order of discovery.
    /// </summary>
    /// <param name="parameters">Parameter names in the model's order.</param>
    /// <param name="blocks">Number of blocks.</param>
    /// <param name="regex">Searched in the full name, or null.</param>
    /// <param name="range">Half-open range of blocks, or null for everything.</param>
    public static (string[] Short, string[] Full) Available(IEnumerable<string> parameters, int blocks, string? regex = null, (End Low, End High)? range = null)
    {
        string[] own = [.. parameters.Select(p => p.Replace(".weight", "", StringComparison.Ordinal))];
        var seen = new HashSet<string>(StringComparer.Ordinal);
        var all = new List<string>();
        // Ancestors come after all parameters, as upstream lists them.
        foreach (string name in own.Concat(own.SelectMany(Ancestors)))
            if (seen.Add(name))
                all.Add(name);
        IEnumerable<string> kept = all;
        if (range is { } r)
        {
            HashSet<string> numbers = [.. Blocks(r, blocks).Select(b => b.ToString(CultureInfo.InvariantCulture))];
            kept = kept.Where(n => n.Split('.').Skip(1).Any(numbers.Contains));
        }
        if (regex is not null)
        {
            Regex expression = Compile(regex);
            kept = kept.Where(n => expression.IsMatch(n));
        }
        string[] full = [.. kept];
        return ([.. full.Select(n => Digits().Replace(n, "{N}")).Distinct().Order(StringComparer.Ordinal)], full);
    }

    /// <summary>Numbers of the blocks of a half-open range.</summary>
    public static IEnumerable<int> Blocks((End Low, End High) range, int blocks)
    {
        int low = Math.Clamp(range.Low.Of(blocks), 0, blocks), high = Math.Clamp(range.High.Of(blocks), 0, blocks);
        return Enumerable.Range(low, Math.Max(0, high - low));
    }

    /// <summary>
    /// Modules of a model that can be steered, whose path the expression is found in and whose block is in the range.
    /// Throws <see cref="UserErrorException"/> where there are none, with the names that there are.
    /// </summary>
    public static string[] Modules(DecoderModel model, string? regex, (End Low, End High)? range)
    {
        Regex expression = Compile(regex ?? $@"{Regex.Escape(model.Config.Prefix + model.Config.Layers)}\.\d+$");
        HashSet<int>? blocks = range is { } r ? [.. Blocks(r, model.Blocks.Count)] : null;
        string[] found = [.. model.Modules.Where(m => expression.IsMatch(m) && (blocks is null || BlockOf(model, m) is { } b && blocks.Contains(b)))];
        if (found.Length == 0)
        {
            (int low, int high) = range is { } q ? (q.Low.Of(model.Blocks.Count), q.High.Of(model.Blocks.Count)) : (0, model.Blocks.Count);
            if (low >= high)
                throw new UserErrorException($"layer range {low}:{high} (from the block before the colon up to the one behind it) holds no block of {model.Source} with its {model.Blocks.Count} blocks; write the smaller end first, such as 1:{model.Blocks.Count}");
            throw new UserErrorException($"layers '{regex}'{(range is null ? "" : $" in blocks {low} … {high - 1}")} match no module of {model.Source} with its {model.Blocks.Count} blocks; there are: {string.Join(", ", model.Modules.Select(m => Digits().Replace(m, "{N}")).Distinct())}");
        }
        return found;
    }

    /// <summary>Number of the block that a module is or lies in, or null.</summary>
    public static int? BlockOf(DecoderModel model, string module)
    {
        string before = $"{model.Config.Prefix}{model.Config.Layers}.";
        if (!module.StartsWith(before, StringComparison.Ordinal))
            return null;
        string number = module[before.Length..].Split('.')[0];
        return int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int block) ? block : null;
    }

    /// <summary>A module as a control vector names it: the number of a block, else the path.</summary>
    public static string LayerName(DecoderModel model, string module) =>
        BlockOf(model, module) is { } block && model.Blocks[block].Path == module ? block.ToString(CultureInfo.InvariantCulture) : module;

    /// <summary>Width of the output of one of <see cref="DecoderModel.Modules"/>; norms of queries and keys have all heads of a token side by side.</summary>
    public static int Width(DecoderModel model, string module) =>
        module == model.Config.HeadPath ? model.Config.VocabSize
            : model.Linears.TryGetValue(module, out LinearModule? linear) ? linear.Outputs
            : BlockOf(model, module) is { } block && model.Blocks[block].HeadNormWidth(module) is { } heads ? heads
            : model.Config.HiddenSize;

    private static Regex Compile(string regex)
    {
        try
        {
            return new Regex(regex, RegexOptions.CultureInvariant, TimeSpan.FromSeconds(5));
        }
        catch (ArgumentException e)
        {
            throw new UserErrorException($"'{regex}' is no regular expression: {e.Message}", e);
        }
    }

    private static IEnumerable<string> Ancestors(string name)
    {
        string[] parts = name.Split('.');
        for (int n = parts.Length - 1; n > 0; n--)
            yield return string.Join('.', parts[..n]);
    }

    [GeneratedRegex(@"\d+")]
    private static partial Regex Digits();
}
