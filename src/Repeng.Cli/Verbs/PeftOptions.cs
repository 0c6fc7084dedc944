using System.CommandLine;
using Repeng.Kernels;
using Repeng.Steering.Adapters.Peft;

namespace Repeng.Cli.Verbs;

/// <summary>Options of the adapters that PEFT knows, in the place of the SVD rotation.</summary>
public sealed class PeftOptions
{
    private const string Svd = "svd";

    private readonly Option<string?> _type = Opt.Choice("--adapter_type", "what is trained: svd (default), the rotation of singular vectors, or one of PEFT's methods, written in its format", [Svd, .. PeftSettings.Kinds]);
    private readonly Option<double?> _alpha = Opt.Number("--lora_alpha", "alpha of lora, rslora and dora (default 8)");
    private readonly Option<string?> _init = Opt.Choice("--lora_init", "start of a LoRA's A (default uniform)", "uniform", "gaussian");
    private readonly Option<double?> _lambda = Opt.Number("--delora_lambda", "strength that delora begins with (default 15)");
    private readonly Option<double?> _dInitial = Opt.Number("--d_initial", "inner scale that vera begins with (default 0.1)");
    private readonly Option<double?> _noise = Opt.Number("--init_noise", $"deviation of noise on what begins at zero or one (default 0, as PEFT; {Steering.Training.TrainConfig.DefaultInitNoise} with AntiPaSTO's loss, which has no gradient at the base model)");
    private readonly Option<int?> _group = Opt.Int("--group_size", "outputs that road rotates together (default 64)");
    private readonly Option<string?> _feedForward = Opt.Text("--feedforward_modules", "REGEX", "modules whose input ia3 scales, whole path (default: those that project back from the MLP)");

    /// <summary>All of them.</summary>
    public IReadOnlyList<Option> All => [_type, _alpha, _init, _lambda, _dInitial, _group, _feedForward, _noise];

    /// <summary>The method asked for; null for the SVD rotation.</summary>
    public string? Kind(ParseResult p) => p.GetValue(_type) is { } type and not Svd ? type : null;

    /// <summary>The settings; null for the SVD rotation. Refuses options that the method does not read.</summary>
    public PeftSettings? Settings(ParseResult p, string targets, Option<int?> rankOption, ulong seed, bool antiPasto, IEnumerable<Option> ofSvd)
    {
        string? kind = Kind(p);
        (Option Option, string[] Kinds)[] uses =
        [
            (_alpha, ["lora", "rslora", "dora"]), (_init, ["lora", "rslora", "dora"]), (_lambda, ["delora"]), (_dInitial, ["vera"]),
            (_group, ["road_1", "road_2", "road_4"]), (_feedForward, ["ia3"]), (_noise, [.. PeftSettings.Kinds]), (rankOption, [Svd, "lora", "rslora", "dora", "vera", "delora"]),
            .. ofSvd.Select(o => (o, new[] { Svd })),
        ];
        foreach ((Option option, string[] kinds) in uses)
            if (p.GetResult(option) is { Implicit: false } && !kinds.Contains(kind ?? Svd))
                throw new UserErrorException($"{option.Name} beside --adapter_type {kind ?? Svd}: it belongs to {string.Join(", ", kinds)}; leave it out");
        if (kind is null)
            return null;
        var defaults = new PeftSettings { Kind = kind };
        return defaults with
        {
            // PEFT's own defaults: VeRA's factors are shared and may be wide.
            Rank = p.GetValue(rankOption) ?? (kind == "vera" ? 256 : defaults.Rank),
            Alpha = p.GetValue(_alpha) ?? defaults.Alpha,
            GaussianInit = p.GetValue(_init) == "gaussian",
            Lambda = p.GetValue(_lambda) ?? defaults.Lambda,
            DInitial = p.GetValue(_dInitial) ?? defaults.DInitial,
            GroupSize = p.GetValue(_group) ?? defaults.GroupSize,
            FeedForwardModules = p.GetValue(_feedForward),
            InitNoise = p.GetValue(_noise) ?? (antiPasto ? Steering.Training.TrainConfig.DefaultInitNoise : 0),
            TargetModules = targets,
            Seed = seed,
        };
    }
}
