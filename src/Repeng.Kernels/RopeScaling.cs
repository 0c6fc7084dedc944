namespace Repeng.Kernels;

/// <summary>How a model stretches its rotary embedding, as <c>rope_type</c> names it in config.json.</summary>
public enum RopeScalingType
{
    /// <summary>No scaling.</summary>
    Default,

    /// <summary>Position interpolation: every frequency divided by the factor.</summary>
    Linear,

    /// <summary>NTK-aware base that grows with the length, once it passes max_position_embeddings.</summary>
    Dynamic,

    /// <summary>Llama 3.1: long wavelengths divided by the factor, short ones kept, a ramp between.</summary>
    Llama3,

    /// <summary>YaRN (Peng et al.): the ramp lies over dimensions, and cos and sin carry an attention factor.</summary>
    Yarn,

    /// <summary>LongRoPE (Ding et al.): one divisor per frequency, a short list and a long one.</summary>
    LongRope,
}

/// <summary>
/// The <c>rope_scaling</c> / <c>rope_parameters</c> entry of a config. A value of 0 or null means that the config does not give it.
/// </summary>
public sealed record RopeScaling
{
    /// <summary>Which formula.</summary>
    public RopeScalingType Type { get; init; }

    /// <summary>Ratio of the stretched context to the original one (linear, dynamic, llama3, yarn; longrope where no original length is given).</summary>
    public double Factor { get; init; }

    /// <summary>Wavelengths above original length / this are divided by the factor (llama3).</summary>
    public double LowFreqFactor { get; init; }

    /// <summary>Wavelengths below original length / this stay (llama3).</summary>
    public double HighFreqFactor { get; init; }

    /// <summary>Context of pretraining in tokens (llama3, yarn, longrope).</summary>
    public int OriginalMaxPosition { get; init; }

    /// <summary>Rotations over the original context above which a frequency stays (yarn; 32 where not given).</summary>
    public double BetaFast { get; init; }

    /// <summary>Rotations over the original context below which a frequency is divided by the factor (yarn; 1 where not given).</summary>
    public double BetaSlow { get; init; }

    /// <summary>Multiplies cos and sin (yarn, longrope); computed from the factor where not given.</summary>
    public double? AttentionFactor { get; init; }

    /// <summary>Numerator's share of the attention factor (yarn); counts only together with <see cref="MscaleAllDim"/>.</summary>
    public double? Mscale { get; init; }

    /// <summary>Denominator's share of the attention factor (yarn); counts only together with <see cref="Mscale"/>.</summary>
    public double? MscaleAllDim { get; init; }

    /// <summary>Divisors of the frequencies within the original context (longrope), one per pair.</summary>
    public IReadOnlyList<double>? ShortFactors { get; init; }

    /// <summary>Divisors of the frequencies beyond the original context (longrope), one per pair.</summary>
    public IReadOnlyList<double>? LongFactors { get; init; }

    /// <summary>Whether the ends of yarn's ramp are rounded to whole dimensions.</summary>
    public bool Truncate { get; init; } = true;

    /// <summary>The type that a config's <c>rope_type</c> (or older <c>type</c>) names; <c>su</c> is the older name of longrope.</summary>
    /// <exception cref="UserErrorException">The name is none that this engine computes.</exception>
    public static RopeScalingType ParseType(string name) => name switch
    {
        "default" => RopeScalingType.Default,
        "linear" => RopeScalingType.Linear,
        "dynamic" => RopeScalingType.Dynamic,
        "llama3" => RopeScalingType.Llama3,
        "yarn" => RopeScalingType.Yarn,
        "longrope" or "su" => RopeScalingType.LongRope,
        _ => throw new UserErrorException($"rope scaling type '{name}' is not supported; known are default, linear, dynamic, llama3, yarn and longrope"),
    };
}
