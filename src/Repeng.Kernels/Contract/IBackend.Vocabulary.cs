namespace Repeng.Kernels;

/// <summary>
/// Ops on the vocabulary. Logits exist only as a chunk [rows, cols] of cols vocabulary entries that begin at
/// firstColumn; running values per row carry the softmax from chunk to chunk. A soft cap, where a model has
/// one, is applied to the chunk before these ops; the backward ops take it to chain through it.
/// </summary>
public partial interface IBackend
{
    /// <summary>y[i, :] = scale·table[ids[i], :]. table [vocabulary, dim] is fp32, fp16, bf16 or packed; ids I32 [rows].</summary>
    void EmbeddingForward(View y, View table, View ids, int rows, int dim, float scale);

    /// <summary>y[n] = the elements of a packed view as fp32, n their number: the bits that its products read.</summary>
    void Unpack(View y, View packed);

    /// <summary>dTable[ids[i], :] += scale·dy[i, :], in the order of i.</summary>
    void EmbeddingBackward(View dTable, View dy, View ids, int rows, int dim, float scale);

    /// <summary>Folds a chunk into each row's running maximum max[rows] and sum[rows] of e^(x − max). Begin with max = −∞, sum = 0; log-sum-exp is max + ln sum.</summary>
    void LogSumExpChunk(View max, View sum, View logits, int rows, int cols);

    /// <summary>lse[i] = max[i] + ln sum[i].</summary>
    void LogSumExpFinish(View lse, View max, View sum, int rows);

    /// <summary>target[i] = logits[i, labels[i] − firstColumn] where the label falls into the chunk; other rows are left alone.</summary>
    void GatherLabelChunk(View target, View logits, View labels, int rows, int cols, int firstColumn);

    /// <summary>
    /// Turns a chunk of logits into the gradient by them, in place:
    /// logits[i, v] ← dLogProb[i]·([v is the label] − e^(logits − lse[i])), times 1 − (logit/softCap)² where softCap &gt; 0.
    /// </summary>
    void LogProbBackwardChunk(View logits, View lse, View dLogProb, View labels, int rows, int cols, int firstColumn, float softCap);

    /// <summary>entropy[i] += −Σ_v p ln p over the chunk, p = e^(logits − lse[i]).</summary>
    void EntropyChunk(View entropy, View logits, View lse, int rows, int cols);

    /// <summary>tv[i] += ½Σ_v |pRef − p| and dot[i] += Σ_v −½sign(pRef − p)·p over the chunk (dot is what the backward pass needs).</summary>
    void TotalVariationChunk(View tv, View dot, View logitsRef, View lseRef, View logits, View lse, int rows, int cols);

    /// <summary>
    /// Turns the chunk <paramref name="logits"/> into the gradient by them, in place:
    /// dTv[i]·p·(−½sign(pRef − p) − dot[i]), chained through the soft cap; <paramref name="add"/> [rows, cols], when not empty, is added.
    /// </summary>
    void TotalVariationBackwardChunk(View logits, View lse, View logitsRef, View lseRef, View dot, View dTv, View add, int rows, int cols, float softCap);
}
