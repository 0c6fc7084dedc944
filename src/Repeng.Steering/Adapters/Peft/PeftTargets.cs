using System.Globalization;
using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>Which linear layers a PEFT configuration adapts, with which rank and scale.</summary>
public static class PeftTargets
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(5);

    /// <summary>Linear layers of a model that the configuration selects, in the order of the forward pass; none is an error.</summary>
    public static LinearModule[] Select(DecoderModel model, PeftConfig config)
    {
        LinearModule[] found = [.. model.Linears.Values.Where(l => IsTarget(config, l.Path))];
        if (found.Length > 0)
            return found;
        string[] leaves = [.. model.Linears.Keys.Select(p => p[(p.LastIndexOf('.') + 1)..]).Distinct()];
        throw new UserErrorException($"{config.Where}: target_modules selects none of the {model.Linears.Count} linear layers of {model.Source}; their names are {string.Join(", ", leaves)} (whole path: {model.Linears.Keys.First()}), blocks 0 … {model.Config.NumLayers - 1}. Load the base model that the adapter belongs to{(config.BaseModel is null ? "" : $" ({config.BaseModel})")}");
    }

    /// <summary>Whether the configuration adapts the module of a path.</summary>
    public static bool IsTarget(PeftConfig config, string path)
    {
        if (config.ExcludeModules.Matches(path) || !config.TargetModules.Matches(path))
            return false;
        // PEFT takes a module that the list names in full whatever layers are chosen.
        if (config.Layers is null || config.TargetModules.Names(path))
            return true;
        return LayerIndex(config, path) is { } layer && config.Layers.Contains(layer);
    }

    /// <summary>Rank of a module: that of the first pattern that matches, else r.</summary>
    public static int Rank(PeftConfig config, string path) => (int)(FromPattern(config, config.RankPattern, path) ?? config.Rank);

    /// <summary>Factor of the product of a LoRA's factors: α/r, or α/√r when rank-stabilised.</summary>
    public static float LoraScale(PeftConfig config, string path)
    {
        int rank = Rank(config, path);
        double alpha = FromPattern(config, config.AlphaPattern, path) ?? config.Alpha;
        return (float)(alpha / (config.RankStabilised ? Math.Sqrt(rank) : rank));
    }

    // The first number of a path, or the number after one of the patterns.
    private static int? LayerIndex(PeftConfig config, string path)
    {
        string[] patterns = config.LayersPattern.Count == 0 ? [@"[^.]*"] : [.. config.LayersPattern];
        foreach (string pattern in patterns)
        {
            Match match = Run(config, "layers_pattern", $@"\A.*?\.(?:{pattern})\.(\d+)\.", path);
            if (match.Success && int.TryParse(match.Groups[match.Groups.Count - 1].Value, NumberStyles.None, CultureInfo.InvariantCulture, out int layer))
                return layer;
        }
        return null;
    }

    private static double? FromPattern(PeftConfig config, IReadOnlyList<(string Pattern, double Value)> patterns, string path)
    {
        foreach ((string pattern, double value) in patterns)
            if (Run(config, "rank_pattern or alpha_pattern", $@"\A(.*\.)?({pattern})$", path).Success)
                return value;
        return null;
    }

    private static Match Run(PeftConfig config, string field, string pattern, string path)
    {
        try
        {
            return Regex.Match(path, pattern, RegexOptions.CultureInvariant, s_limit);
        }
        catch (ArgumentException e)
        {
            throw config.Error(field, $"no regular expression: {e.Message.ReplaceLineEndings(" ")}");
        }
    }
}
