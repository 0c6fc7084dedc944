using System.CommandLine;
using Repeng.Kernels;
using Repeng.Steering.Losses;
using Repeng.Steering.Training;

namespace Repeng.Cli.Verbs;

/// <summary>The options of AntiPaSTO's loss, under AntiPaSTO's names.</summary>
public sealed class AntiPastoOptions
{
    private readonly Option<string?> _subspace = Opt.Choice("--loss_subspace", $"antipasto: what the residual stream is projected on (default {LossSubspaces.Default}; on the demo {LossSubspaces.Uncentred})", [.. LossSubspaces.Names]);
    private readonly Option<int?> _rank = Opt.Int("--loss_subspace_rank", "antipasto: leading directions of the subspace; 0 for as many as make up --loss_subspace_energy_frac (default 4)");
    private readonly Option<double?> _energy = Opt.Number("--loss_subspace_energy_frac", "antipasto: part of the subspace's weights, with rank 0 (default 0.6)");
    private readonly Option<double?> _layer = Opt.Number("--loss_layer_frac", "antipasto: block whose output the loss reads, as a part of all blocks (default 0.5)");
    private readonly Option<int?> _rows = Opt.Int("--init_n_samples", "antipasto: texts, two a pair, that make the subspace, at most (default 2000)");
    private readonly Option<bool?> _coherence = Opt.Flag("--coh", "antipasto: the total-variation barrier (default on)");
    private readonly Option<double?> _coherenceWeight = Opt.Number("--coh_weight", "antipasto: weight inside the barrier's logarithm (default 10)");
    private readonly Option<double?> _coherenceThreshold = Opt.Number("--coh_thresh", "antipasto: free total variation as a part of √entropy (default 0.9)");
    private readonly Option<double?> _entropyFloor = Opt.Number("--coh_entropy_floor", "antipasto: nats added to that entropy (default 0.02, on the demo 0.04)");
    private readonly Option<bool?> _monotone = Opt.Flag("--mono", "antipasto: the order term (default on)");
    private readonly Option<double?> _monotoneWeight = Opt.Number("--mono_weight", "antipasto: weight of the order term (default 30)");
    private readonly Option<double?> _margin = Opt.Number("--mono_margin", "antipasto: margin of the order as a part of √entropy (default 0.5)");
    private readonly Option<double?> _marginFloor = Opt.Number("--mono_threshold_floor", "antipasto: nats added to that margin (default 0.04)");
    private readonly Option<double?> _softness = Opt.Number("--focus_softness", "antipasto: 0 counts only what lies in the subspace, 1 does not look (default 0.25)");
    private readonly Option<double?> _orth = Opt.Number("--orth_weight", "antipasto: weight of the orthogonality term (default 0)");
    private readonly Option<double?> _antisym = Opt.Number("--antisym_margin", "antipasto: added to the scaled product of cosines (default 0)");

    /// <summary>All of them, in the order of the help.</summary>
    public IReadOnlyList<Option> All =>
        [_subspace, _rank, _energy, _layer, _rows, _coherence, _coherenceWeight, _coherenceThreshold, _entropyFloor, _monotone, _monotoneWeight, _margin, _marginFloor, _softness, _orth, _antisym];

    /// <summary>The first that was given, or null.</summary>
    public Option? Given(ParseResult p) => All.FirstOrDefault(o => p.GetResult(o) is { Implicit: false });

    /// <summary>Settings with what was said; preset is null where a profile was asked for by name.</summary>
    public TrainConfig Apply(ParseResult p, TrainConfig c, TrainPreset? preset)
    {
        if (c.AntiPasto is not { } a)
            return Given(p) is { } idle
                ? throw new UserErrorException($"{idle.Name} belongs to AntiPaSTO's loss, and the profile {c.Profile} has another; add --profile antipasto or leave it out")
                : c;
        return c with
        {
            LossSubspace = p.GetValue(_subspace) ?? preset?.LossSubspace ?? c.LossSubspace,
            SubspaceRank = p.GetValue(_rank) ?? c.SubspaceRank,
            SubspaceEnergy = p.GetValue(_energy) ?? c.SubspaceEnergy,
            LossBlockFraction = p.GetValue(_layer) ?? c.LossBlockFraction,
            SubspaceRows = p.GetValue(_rows) ?? c.SubspaceRows,
            AntiPasto = a with
            {
                Coherence = p.GetValue(_coherence) ?? a.Coherence,
                CoherenceWeight = (float)(p.GetValue(_coherenceWeight) ?? a.CoherenceWeight),
                CoherenceThreshold = (float)(p.GetValue(_coherenceThreshold) ?? a.CoherenceThreshold),
                EntropyFloor = (float)(p.GetValue(_entropyFloor) ?? preset?.EntropyFloor ?? a.EntropyFloor),
                Monotone = p.GetValue(_monotone) ?? a.Monotone,
                MonotoneWeight = (float)(p.GetValue(_monotoneWeight) ?? a.MonotoneWeight),
                MonotoneMargin = (float)(p.GetValue(_margin) ?? a.MonotoneMargin),
                MonotoneFloor = (float)(p.GetValue(_marginFloor) ?? a.MonotoneFloor),
                FocusSoftness = (float)(p.GetValue(_softness) ?? a.FocusSoftness),
                OrthWeight = (float)(p.GetValue(_orth) ?? a.OrthWeight),
                AntisymMargin = (float)(p.GetValue(_antisym) ?? a.AntisymMargin),
            },
        };
    }
}
