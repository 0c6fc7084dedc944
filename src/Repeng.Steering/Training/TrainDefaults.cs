using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>What a run takes where a person said nothing; null leaves the profile's value.</summary>
public sealed record TrainPreset
{
    /// <summary>Regular expression of the adapted layers.</summary>
    public required string TargetModules { get; init; }

    /// <summary>Singular directions.</summary>
    public int? Rank { get; init; }

    /// <summary>Largest learning rate.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Passes over the pairs.</summary>
    public int? Epochs { get; init; }

    /// <summary>Rows a batch.</summary>
    public int? BatchSize { get; init; }

    /// <summary>Pairs at most; 0 takes all.</summary>
    public int MaxPairs { get; init; }
}

/// <summary>The presets: for any model, and the best settings found for the demo model.</summary>
public static class TrainDefaults
{
    /// <summary>Pairs of a quick run: 32 rows, as the reference state has it.</summary>
    public const int QuickPairs = 16;

    // Upstream adapts nine of 36 blocks, from 5 to 33: between these parts of the depth.
    private const double FirstDepth = 0.15, LastDepth = 0.92;
    private const int AdaptedBlocks = 9;

    /// <summary>The preset for a model.</summary>
    public static TrainPreset For(ModelConfig config, bool isDemo, bool quick)
    {
        if (isDemo)
            return quick ? Demo with { Epochs = 8, MaxPairs = 96 } : Demo;
        TrainPreset any = new() { TargetModules = Targets(config) };
        return quick ? any with { Epochs = 4, MaxPairs = QuickPairs } : any;
    }

    /// <summary>The demo model's: blocks and sizes that the search in docs/decisions.md ended with.</summary>
    private static TrainPreset Demo { get; } = new()
    {
        TargetModules = @".*\.(1|2|3|4)\.mlp\.(gate_proj|down_proj)",
        Rank = 32,
        LearningRate = 3e-3,
        Epochs = 20,
        MaxPairs = 256,
    };

    /// <summary>Both outer projections of the MLPs of nine blocks, spread evenly over the depth.</summary>
    private static string Targets(ModelConfig config)
    {
        int n = config.NumLayers;
        IEnumerable<int> blocks = Enumerable.Range(0, AdaptedBlocks)
            .Select(i => Math.Clamp((int)Math.Round(n * (FirstDepth + (LastDepth - FirstDepth) * i / (AdaptedBlocks - 1)), MidpointRounding.AwayFromZero), 0, n - 1)).Distinct();
        string first = config.Gated ? config.Names.FusedGateUp ?? "gate_proj" : config.Names.Up;
        return $@".*\.({string.Join('|', blocks)})\..*({first}|{config.Names.Down})";
    }
}
