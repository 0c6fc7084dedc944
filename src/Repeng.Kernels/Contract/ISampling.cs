namespace Repeng.Kernels;

/// <summary>How next tokens are chosen, for all rows: greedy, or a draw after temperature, top-k, top-p and min-p; in transformers' order.</summary>
/// <param name="Sample">Draw; false takes the largest processed score, the first of equals.</param>
/// <param name="Temperature">Scores are divided by it.</param>
/// <param name="TopK">Keep the k largest (and what equals the k-th); 0 keeps all.</param>
/// <param name="TopP">Keep the smallest set whose probability reaches p; 1 keeps all.</param>
/// <param name="MinP">Keep tokens with at least this part of the largest probability; 0 keeps all.</param>
/// <param name="RepetitionPenalty">Positive scores of seen tokens are divided by it, negative ones multiplied; 1 for none.</param>
/// <param name="Seed">Key of the draws.</param>
public readonly record struct SampleArgs(bool Sample, float Temperature = 1, int TopK = 0, float TopP = 1, float MinP = 0, float RepetitionPenalty = 1, ulong Seed = 0);

/// <summary>
/// A backend that chooses tokens where the logits lie, so that a token a row crosses the bus instead of a vocabulary. The CPU's logits are
/// in host memory, where the generator's own sampler reads them.
/// </summary>
public interface ISampling
{
    /// <summary>
    /// tokens[r] for every row of logits: the choice of the CPU's sampler from stream r at this step; −1 where a logit of the row is not
    /// finite or all are the same.
    /// </summary>
    /// <param name="tokens">I32 [rows].</param>
    /// <param name="scores">[rows, vocabulary], overwritten: the processed scores.</param>
    /// <param name="logits">[rows, vocabulary].</param>
    /// <param name="seen">I32 [rows, length of a row]: ids that the penalty is for, each once; empty where there is no penalty.</param>
    /// <param name="seenCounts">How many of each row's ids count; empty with <paramref name="seen"/>.</param>
    /// <param name="vocabulary">Logits of a row.</param>
    /// <param name="args">How.</param>
    /// <param name="step">Number of the draw.</param>
    void Sample(View tokens, View scores, View logits, View seen, ReadOnlySpan<int> seenCounts, int vocabulary, in SampleArgs args, ulong step);
}
