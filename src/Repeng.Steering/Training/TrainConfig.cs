using Repeng.Kernels;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Losses;

namespace Repeng.Steering.Training;

/// <summary>Everything that a training run depends on, apart from model and texts.</summary>
public sealed record TrainConfig
{
    /// <summary>Name of the set of settings that this one began with (<see cref="FromProfile"/>); "none" for settings of one's own, which begin with the values that stand here.</summary>
    public string Profile { get; init; } = "none";

    /// <summary>The adapter.</summary>
    public SvdAdapterConfig Adapter { get; init; } = new();

    /// <summary>An adapter of one of PEFT's methods in the place of <see cref="Adapter"/>; null for that.</summary>
    public PeftSettings? Peft { get; init; }

    /// <summary>Noise that PEFT's methods begin with under AntiPaSTO's loss unless said otherwise.</summary>
    public const double DefaultInitNoise = 0.01;

    /// <summary>Expression of the adapted layers.</summary>
    internal string TargetModules => Peft?.TargetModules ?? Adapter.TargetModules;

    /// <summary>The loss.</summary>
    public ContrastiveLossConfig Loss { get; init; } = new();

    /// <summary>AntiPaSTO's loss instead, on the residual stream; null for <see cref="Loss"/>.</summary>
    public AntiPastoLossConfig? AntiPasto { get; init; }

    /// <summary>Block whose output AntiPaSTO's loss reads, as a part of all blocks.</summary>
    public double LossBlockFraction { get; init; } = 0.5;

    /// <summary>What AntiPaSTO's loss is projected on: one of <see cref="LossSubspaces.Names"/>.</summary>
    public string LossSubspace { get; init; } = LossSubspaces.Default;

    /// <summary>Directions of AntiPaSTO's loss subspace; 0 for as many as make up <see cref="SubspaceEnergy"/>.</summary>
    public int SubspaceRank { get; init; } = 4;

    /// <summary>Part of the subspace's weights that its leading directions are to make up where their number is not given.</summary>
    public double SubspaceEnergy { get; init; } = 0.6;

    /// <summary>Texts, two a pair, whose activations make the subspace, at most.</summary>
    public int SubspaceRows { get; init; } = 2000;

    /// <summary>Part of the schedule in which the learning rate rises.</summary>
    public double PctStart { get; init; } = 0.3;

    /// <summary>Rows a batch, two a pair.</summary>
    public int BatchSize { get; init; } = 14;

    /// <summary>Passes over the training pairs.</summary>
    public int Epochs { get; init; } = 30;

    /// <summary>Largest learning rate of the one-cycle schedule.</summary>
    public double LearningRate { get; init; } = 1e-3;

    /// <summary>Decoupled weight decay.</summary>
    public double WeightDecay { get; init; } = 0.01;

    /// <summary>Batches an optimiser step.</summary>
    public int GradAccumSteps { get; init; } = 6;

    /// <summary>Divide accumulated gradients by their number; upstream sums them.</summary>
    public bool DivideAccumulated { get; init; } = true;

    /// <summary>Largest norm of a step's gradient; 0 for no clipping.</summary>
    public double ClipNorm { get; init; }

    /// <summary>Draw a new order of the pairs each epoch.</summary>
    public bool Shuffle { get; init; } = true;

    /// <summary>Part of the pairs kept for validation.</summary>
    public double ValidationSplit { get; init; }

    /// <summary>Validation checks without improvement after which training ends; 0 never ends early.</summary>
    public int Patience { get; init; }

    /// <summary>Optimiser steps between checkpoints; 0 writes none.</summary>
    public int CheckpointEvery { get; init; } = 25;

    /// <summary>Project the loss on all left singular vectors but the last, else on the adapter's own.</summary>
    public bool FullLossU { get; init; } = true;

    /// <summary>Which token from the end the steering direction is read at: 1 is the true last, 2 what the reference state really reads.</summary>
    public int TokenFromEnd { get; init; } = 1;

    /// <summary>Turn the adapter round after training where +c moves away from the positive persona.</summary>
    public bool CalibrateSign { get; init; } = true;

    /// <summary>Run blocks again in the backward pass instead of keeping their activations.</summary>
    public bool CheckpointActivations { get; init; }

    /// <summary>Rows of a batch, two a pair, that run together; null for all. Gradients stay those of the batch: <see cref="ContrastiveStep.MicroBatchRows"/>.</summary>
    public int? MicroBatchSize { get; init; }

    /// <summary>Measure degradation even where the loss has no coherence term.</summary>
    public bool MeasureCoherence { get; init; } = true;

    /// <summary>Key of every random draw.</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Names of the profiles.</summary>
    public static IReadOnlyList<string> Profiles { get; } = ["recommended", "upstream", "readme", "antipasto"];

    /// <summary>The profile when none is named: the one that measured best on a real model (docs/decisions.md, "Profiles: which is the default").</summary>
    public const string DefaultProfile = "readme";

    /// <summary>A profile of system.md 12.1 by name.</summary>
    public static TrainConfig FromProfile(string name) => name switch
    {
        "upstream" => new TrainConfig
        {
            Profile = name,
            Adapter = new SvdAdapterConfig { RotateU = true, RotateV = true, Scale = ScaleMethod.Mult },
            Loss = new ContrastiveLossConfig { Separation = SeparationLoss.LogSigmoid, Coherence = CoherenceLoss.None },
            DivideAccumulated = false,
            Shuffle = false,
            CalibrateSign = false,
            TokenFromEnd = 2,
        },
        "readme" => new TrainConfig
        {
            Profile = name,
            Adapter = new SvdAdapterConfig { RotateV = true, Scale = ScaleMethod.Mult },
            Loss = new ContrastiveLossConfig { Separation = SeparationLoss.Linear, Coherence = CoherenceLoss.Absolute, CoherenceWeight = 0.5f },
        },
        "recommended" => new TrainConfig
        {
            Profile = name,
            Adapter = new SvdAdapterConfig { RotateV = true, Scale = ScaleMethod.Add, MaxRotationAngle = Math.PI / 4, InitRotation = 0.003 },
            Loss = new ContrastiveLossConfig { Separation = SeparationLoss.LogSigmoid, Coherence = CoherenceLoss.Hinge, CoherenceThreshold = 0.5f, BoundaryOrder = 2, HingeFactor = 4, CoherenceWeight = 1 },
            GradAccumSteps = 1,
            ClipNorm = 1,
            ValidationSplit = 0.15,
        },
        "antipasto" => new TrainConfig
        {
            Profile = name,
            Adapter = new SvdAdapterConfig { RotateV = true, Scale = ScaleMethod.Add, MaxRotationAngle = Math.PI / 4, InitRotation = 0.003 },
            AntiPasto = new AntiPastoLossConfig(),
            PctStart = 0.1,
            LearningRate = 2e-3,
            WeightDecay = 1e-4,
            GradAccumSteps = 2,
            ClipNorm = 1,
            ValidationSplit = 0.15,
            Patience = 16,
        },
        _ => throw new UserErrorException($"profile {name} is not known; known: {string.Join(", ", Profiles)}"),
    };

    /// <summary>Throws for values that make no sense.</summary>
    public void Validate()
    {
        if (Peft is null)
            Adapter.Validate();
        else
            Peft.Validate();
        Need(AntiPasto is null || Peft is null or { InitNoise: > 0 }, $"init_noise 0: AntiPaSTO's loss has no gradient where {Peft?.Kind} begins, at the base model itself; give it some, such as {DefaultInitNoise}");
        Need(FullLossU || Peft is null, $"full_loss_u off projects the loss on an SVD adapter's singular vectors, which {Peft?.Kind} has none of; leave it on");
        Need(BatchSize >= 2 && BatchSize % 2 == 0, $"batch_size {BatchSize} counts rows, two a pair: it must be even and at least 2");
        Need(MicroBatchSize is null || (MicroBatchSize >= 2 && MicroBatchSize % 2 == 0), $"micro_batch_size {MicroBatchSize} counts rows, two a pair: it must be even and at least 2");
        Need(MicroBatchSize is null || AntiPasto is null, $"micro_batch_size {MicroBatchSize}: AntiPaSTO's term of order looks at all pairs of a batch at once; take checkpoint_activations, or a smaller batch_size with grad_accum_steps");
        Need(Epochs >= 1, $"n_epochs {Epochs} must be at least 1");
        Need(LearningRate > 0 && double.IsFinite(LearningRate), $"lr {LearningRate} must be above 0");
        Need(WeightDecay >= 0, $"weight_decay {WeightDecay} must not be negative");
        Need(GradAccumSteps >= 1, $"grad_accum_steps {GradAccumSteps} must be at least 1");
        Need(ValidationSplit is >= 0 and < 1, $"val_split {ValidationSplit} must be from 0 to below 1");
        Need(AntiPasto is not null || Loss.LastTokens is null or >= 2, $"last_n_tokens {Loss.LastTokens} must be at least 2");
        Need(Loss.BoundaryOrder >= 1, $"boundary_order {Loss.BoundaryOrder} must be at least 1");
        Need(LossSubspaces.Names.Contains(LossSubspace), $"loss_subspace {LossSubspace} is not known; known: {string.Join(", ", LossSubspaces.Names)}");
        Need(SubspaceRank >= 0, $"loss_subspace_rank {SubspaceRank} must not be negative");
        Need(SubspaceEnergy is > 0 and <= 1, $"loss_subspace_energy_frac {SubspaceEnergy} must be above 0 and at most 1");
        Need(SubspaceRows >= 2, $"init_n_samples {SubspaceRows} must be at least 2");
        Need(LossBlockFraction is >= 0 and < 1, $"loss_layer_frac {LossBlockFraction} must be from 0 to below 1");
        AntiPasto?.Validate();
        Need(TokenFromEnd >= 1, $"token_position {-TokenFromEnd} must be -1 or below");
    }

    private static void Need(bool ok, string message)
    {
        if (!ok)
            throw new UserErrorException(message);
    }
}
