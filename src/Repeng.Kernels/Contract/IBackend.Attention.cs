namespace Repeng.Kernels;

/// <summary>
/// Shape and mask of grouped-query attention.
/// q, o: [Batch, QueryLength, Heads, HeadDim]. k, v: [Batch, KeyCapacity, KvHeads, HeadDim] of which the first
/// KeyLength tokens hold data (KeyCapacity 0 means KeyLength). Query t stands at key index KeyLength − QueryLength + t.
/// Key j is visible to the query at index i iff firstKey[b] ≤ j ≤ i, and j &gt; i − Window where Window &gt; 0
/// (the window counts the token itself). A query that sees no key gives 0 and takes part in no gradient.
/// Scores are Scale·q·k, then SoftCap·tanh(score / SoftCap) where SoftCap &gt; 0, then softmax.
/// </summary>
public readonly record struct AttentionArgs(
    int Batch, int QueryLength, int KeyLength, int Heads, int KvHeads, int HeadDim,
    float Scale, float SoftCap = 0, int Window = 0, int KeyCapacity = 0)
{
    /// <summary>Tokens between the starts of two sequences in k and v.</summary>
    public int KeyStride => KeyCapacity > 0 ? KeyCapacity : KeyLength;

    /// <summary>Query heads that share a key head.</summary>
    public int Group => Heads / KvHeads;
}

public partial interface IBackend
{
    /// <summary>
    /// o = softmax(mask(cap(scale·q·kᵀ)))·v by tiles with a running maximum (Dao et al., FlashAttention);
    /// no T×T matrix. lse [Batch, QueryLength, Heads] receives the log of each row's softmax denominator (−∞ where no key is visible).
    /// firstKey: I32 [Batch], the first real key of each left-padded sequence.
    /// </summary>
    void AttentionForward(View o, View lse, View q, View k, View v, View firstKey, in AttentionArgs args);

    /// <summary>
    /// dq, dk, dv += gradients, given dO and what the forward pass left. delta [Batch, QueryLength, Heads] is
    /// scratch (receives Σ dO·o). Deterministic: each key head sums its queries in a fixed order. Without accumulate dq, dk, dv are overwritten, with
    /// the bits of adding to zeros.
    /// </summary>
    void AttentionBackward(View dq, View dk, View dv, View dO, View o, View lse, View delta, View q, View k, View v, View firstKey, in AttentionArgs args, bool accumulate = true);

    /// <summary>
    /// Attention sinks (Xiao et al. 2023; gpt-oss): a score of each head that takes part in the softmax and has no value. From what
    /// <see cref="AttentionForward"/> left, in place: lse ← ln(e^lse + e^sink), o ← o·e^(old lse − lse). Rows that see no key stay as they are.
    /// With these o and lse <see cref="AttentionBackward"/> gives the gradients of q, k and v. o [rows, heads, headDim], lse [rows, heads], sinks [heads].
    /// </summary>
    void AttentionSinksForward(View o, View lse, View sinks, int rows, int heads, int headDim);

    /// <summary>dSinks[heads] −= Σ_rows e^(sink − lse)·delta, given lse of <see cref="AttentionSinksForward"/> and delta of <see cref="AttentionBackward"/>; summed in double in the order of the rows.</summary>
    void AttentionSinksBackward(View dSinks, View delta, View lse, View sinks, int rows, int heads);
}
