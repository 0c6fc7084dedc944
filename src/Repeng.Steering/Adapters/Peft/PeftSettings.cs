using Repeng.Kernels;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>A new adapter of one of PEFT's methods; the defaults are PEFT's.</summary>
public sealed record PeftSettings
{
    /// <summary>One of <see cref="Kinds"/>.</summary>
    public string Kind { get; init; } = "lora";

    /// <summary>r of LoRA, VeRA and DeLoRA.</summary>
    public int Rank { get; init; } = 8;

    /// <summary>lora_alpha.</summary>
    public double Alpha { get; init; } = 8;

    /// <summary>A of LoRA from a normal distribution of deviation 1/r instead of U(±1/√in).</summary>
    public bool GaussianInit { get; init; }

    /// <summary>λ at the start of DeLoRA.</summary>
    public double Lambda { get; init; } = 15;

    /// <summary>λ_d at the start of VeRA.</summary>
    public double DInitial { get; init; } = 0.1;

    /// <summary>Outputs that RoAd rotates together.</summary>
    public int GroupSize { get; init; } = 64;

    /// <summary>
    /// Deviation of normal noise on what begins at zero or one: B, λ_b, l, α. 0 begins as PEFT does, exactly as the base model; a loss that
    /// measures the direction of the change, as AntiPaSTO's does, has no gradient there and needs some.
    /// </summary>
    public double InitNoise { get; init; }

    /// <summary>Expression for the modules whose input (IA)³ scales; null for those that project back from the MLP.</summary>
    public string? FeedForwardModules { get; init; }

    /// <summary>Expression that a linear layer's whole path must match.</summary>
    public string TargetModules { get; init; } = "";

    /// <summary>Key of the random start.</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Names of the methods.</summary>
    public static IReadOnlyList<string> Kinds { get; } = ["lora", "rslora", "dora", "ia3", "vera", "delora", "road_1", "road_2", "road_4"];

    /// <summary>Whether a method has a rank.</summary>
    internal bool HasRank => Kind is "lora" or "rslora" or "dora" or "vera" or "delora";

    /// <summary>Throws <see cref="UserErrorException"/> for values that make no sense.</summary>
    public void Validate()
    {
        if (!Kinds.Contains(Kind))
            throw new UserErrorException($"adapter_type {Kind} is not known; known: svd, {string.Join(", ", Kinds)}");
        if (Rank is < 1 or > 1 << 16)
            throw new UserErrorException($"rank {Rank} must be from 1 to {1 << 16}");
        if (!(double.IsFinite(Alpha) && Alpha > 0))
            throw new UserErrorException($"lora_alpha {Alpha} must be above 0");
        if (!(double.IsFinite(Lambda) && Lambda > 0))
            throw new UserErrorException($"delora_lambda {Lambda} must be above 0");
        if (!(double.IsFinite(InitNoise) && InitNoise >= 0))
            throw new UserErrorException($"init_noise {InitNoise} must not be negative");
        if (!double.IsFinite(DInitial) || DInitial == 0)
            throw new UserErrorException($"d_initial {DInitial} must not be 0: nothing would reach the trained factors");
        if (GroupSize < 2 || GroupSize % 2 != 0)
            throw new UserErrorException($"group_size {GroupSize} must be even and at least 2");
    }
}
