using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>Settings that suit a model better than the profile's own; null keeps the profile's.</summary>
public sealed record TrainPreset
{
    /// <summary>Profile to begin with when none is named.</summary>
    public string Profile { get; init; } = TrainConfig.DefaultProfile;

    /// <summary>Target expression.</summary>
    public required string TargetModules { get; init; }

    /// <summary>Rank.</summary>
    public int? Rank { get; init; }

    /// <summary>Largest learning rate.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Passes over the pairs.</summary>
    public int? Epochs { get; init; }

    /// <summary>Rows a batch.</summary>
    public int? BatchSize { get; init; }

    /// <summary>Batches an optimiser step.</summary>
    public int? GradAccumSteps { get; init; }

    /// <summary>AntiPaSTO's loss subspace.</summary>
    public string? LossSubspace { get; init; }

    /// <summary>Entropy floor of AntiPaSTO's coherence term.</summary>
    public float? EntropyFloor { get; init; }

    /// <summary>Key of every random draw.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Pairs at most; 0 for all.</summary>
    public int MaxPairs { get; init; }
}

/// <summary>What train does when it is told nothing else.</summary>
public static class TrainDefaults
{
    /// <summary>Pairs of a quick run on a real model: upstream's 32 rows.</summary>
    public const int QuickPairs = 16;

    // Upstream adapts nine of 36 blocks, from 5 to 33: between these parts of the depth.
    private const double FirstDepth = 0.15, LastDepth = 0.92;
    private const int AdaptedBlocks = 9;

    // Found by the search in docs/decisions.md ("Demo: which adapter moves truth").
    private static readonly TrainPreset s_demo = new()
    {
        Profile = "antipasto",
        TargetModules = @".*\.(0|1|2|3)\..*(o_proj|down_proj)",
        Rank = 64,
        LearningRate = 7e-3,
        Epochs = 6,
        BatchSize = 24,
        GradAccumSteps = 1,
        LossSubspace = LossSubspaces.Uncentred,
        EntropyFloor = 0.04f,
        Seed = 45,
        MaxPairs = 240,
    };

    /// <summary>The preset for a model; a quick run of the demo is its whole run, which takes half a minute.</summary>
    public static TrainPreset For(ModelConfig config, bool isDemo, bool quick)
    {
        if (isDemo)
            return s_demo;
        TrainPreset any = new() { TargetModules = Targets(config) };
        return quick ? any with { Epochs = 2, GradAccumSteps = 1, MaxPairs = QuickPairs } : any;
    }

    private static string Targets(ModelConfig config)
    {
        int n = config.NumLayers;
        IEnumerable<int> blocks = Enumerable.Range(0, AdaptedBlocks)
            .Select(i => Math.Clamp((int)Math.Round(n * (FirstDepth + (LastDepth - FirstDepth) * i / (AdaptedBlocks - 1)), MidpointRounding.AwayFromZero), 0, n - 1)).Distinct();
        // A mixture of experts has hundreds of small layers in each block, of which a token meets a few: its attention is adapted.
        if (config.Experts is not null)
            return $@".*\.({string.Join('|', blocks)})\..*(v_proj|{config.Names.Output})";
        string first = config.Gated ? config.Names.FusedGateUp ?? "gate_proj" : config.Names.Up;
        return $@".*\.({string.Join('|', blocks)})\..*({first}|{config.Names.Down})";
    }
}
