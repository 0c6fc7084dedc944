namespace Repeng.Kernels;

/// <summary>
/// How a router of a mixture of experts chooses for each of Rows tokens: the PerToken experts with the largest logits,
/// in falling order, the lower number first where logits are equal (NaN counts as the smallest). Weights are the
/// softmax over all Experts at the chosen ones, or, where Normalise, that divided by its sum over the chosen ones,
/// which is the softmax over the chosen logits alone.
/// </summary>
public readonly record struct RouteArgs(int Rows, int Experts, int PerToken, bool Normalise);

/// <summary>Rows [Start, Start + Count) of a matrix and the weight that they are multiplied with.</summary>
public readonly record struct MatMulGroup(int Start, int Count, View B);

/// <summary>Sizes of <see cref="IBackend.MatMulGroups"/>: each B is [N, K] with TransB (the layout of a linear layer's weight), else [K, N].</summary>
public readonly record struct GroupArgs(int N, int K, bool TransB = true, bool Accumulate = false)
{
    /// <summary><see cref="IBackend.MatMulGroups"/> by single products: what it computes, and the way of a backend that has no better one.</summary>
    public static void OneByOne(IBackend backend, View c, View a, ReadOnlySpan<MatMulGroup> groups, in GroupArgs args)
    {
        foreach (MatMulGroup g in groups)
            if (g.Count > 0)
                backend.MatMul(c.Slice((long)g.Start * args.N, (long)g.Count * args.N), a.Slice((long)g.Start * args.K, (long)g.Count * args.K), g.B,
                    args.Product(g.Count));
    }

    /// <summary>The product of a group of so many rows; a layer's.</summary>
    public MatMulArgs Product(int rows) => new(rows, N, K, TransB: TransB, Accumulate: Accumulate, Autocast: true);
}

public partial interface IBackend
{
    /// <summary>weights [Rows, PerToken] and chosen I32 [Rows, PerToken] of logits [Rows, Experts]; see <see cref="RouteArgs"/>.</summary>
    void RouteForward(View weights, View chosen, View logits, in RouteArgs args);

    /// <summary>
    /// dLogits [Rows, Experts] += the gradient by the weights; the choice itself has none. With w the weights and
    /// s = Σ dW·w: w·(dW − s) at the chosen logits where Normalise, else p·([chosen]·dW − s) at all, p their softmax.
    /// </summary>
    void RouteBackward(View dLogits, View dWeights, View weights, View chosen, View logits, in RouteArgs args);

    /// <summary>
    /// Products of groups of rows, each with its own matrix: C[rows of g] = (C +) A[rows of g]·op(B_g). Rows of no group are left alone.
    /// The bits are those of one product after the other; a backend may run them in one go.
    /// </summary>
    /// <param name="c">[rows, N].</param>
    /// <param name="a">[rows, K].</param>
    /// <param name="groups">Row ranges, disjoint; B is fp32, fp16 or bf16.</param>
    /// <param name="args">Sizes.</param>
    void MatMulGroups(View c, View a, ReadOnlySpan<MatMulGroup> groups, in GroupArgs args) => GroupArgs.OneByOne(this, c, a, groups, args);

    /// <summary>y[t, :] = Σ_j weights[t, j]·x[place[t, j], :] for t &lt; rows, j &lt; perToken in order: the outputs of a token's experts put together. place: I32 [rows, perToken], no two alike.</summary>
    void CombineForward(View y, View x, View place, View weights, int rows, int perToken, int cols);

    /// <summary>dx[place[t, j], :] += weights[t, j]·dy[t, :] and dWeights[t, j] += dy[t, :]·x[place[t, j], :] (either may be empty).</summary>
    void CombineBackward(View dx, View dWeights, View dy, View x, View place, View weights, int rows, int perToken, int cols);

    /// <summary>y[n] = (u + 1)·g·σ(alpha·g) with g = min(gate, limit), u = up cut to ±limit: the gated unit of gpt-oss.</summary>
    void ClampedGatedForward(View y, View gate, View up, long n, float alpha, float limit);

    /// <summary>dGate += and dUp += (either may be empty); what was cut has no gradient, what is at the limit has (as torch.clamp).</summary>
    void ClampedGatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, float alpha, float limit);
}
