using Repeng.Kernels;

namespace Repeng.Steering.Generation;

/// <summary>How the next token is chosen; every value is explicit, none is taken silently from a model's files.</summary>
public sealed record SamplingSettings
{
    /// <summary>Draw at random; false takes the largest processed score.</summary>
    public bool Sample { get; init; }

    /// <summary>Scores are divided by it.</summary>
    public float Temperature { get; init; } = 1;

    /// <summary>Keep the k largest (ties with the k-th too); 0 keeps all.</summary>
    public int TopK { get; init; }

    /// <summary>Keep the smallest set of tokens whose probability reaches p; 1 keeps all.</summary>
    public float TopP { get; init; } = 1;

    /// <summary>Keep tokens with at least this part of the largest probability; 0 keeps all.</summary>
    public float MinP { get; init; }

    /// <summary>Positive scores of tokens seen so far are divided by it, negative ones multiplied; 1 for none.</summary>
    public float RepetitionPenalty { get; init; } = 1;

    /// <summary>Key of the random draws.</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Throws with the value and its range when a setting makes no sense.</summary>
    public void Validate()
    {
        Check(Temperature > 0 && float.IsFinite(Temperature), "temperature", Temperature, "above 0 (0 is greedy: use --no-do_sample)");
        Check(TopK >= 0, "top_k", TopK, "0 (all) or more");
        Check(TopP is > 0 and <= 1, "top_p", TopP, "above 0 and at most 1");
        Check(MinP is >= 0 and <= 1, "min_p", MinP, "from 0 to 1");
        Check(RepetitionPenalty > 0 && float.IsFinite(RepetitionPenalty), "repetition_penalty", RepetitionPenalty, "above 0");
    }

    private static void Check(bool ok, string name, float value, string range)
    {
        if (!ok)
            throw new UserErrorException($"{name} = {value}, must be {range}");
    }
}
