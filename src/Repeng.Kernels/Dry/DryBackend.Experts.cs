namespace Repeng.Kernels.Dry;

public sealed unsafe partial class DryBackend
{
    /// <inheritdoc/>
    /// <remarks>The choice is written, since what follows depends on it: the experts in turn, so that each gets as many tokens as the next.</remarks>
    public void RouteForward(View weights, View chosen, View logits, in RouteArgs args)
    {
        Count(OpFamily.Elementwise, (double)args.Rows * args.Experts, (double)args.Rows * (args.Experts + (2 * args.PerToken)));
        Span<int> experts = chosen.HostInts;
        for (int i = 0; i < experts.Length; i++)
            experts[i] = i % args.Experts;
    }

    /// <inheritdoc/>
    public void RouteBackward(View dLogits, View dWeights, View weights, View chosen, View logits, in RouteArgs args)
    {
        double n = (double)args.Rows * (args.Normalise ? args.PerToken : args.Experts);
        if (!dLogits.IsEmpty)
            Count(OpFamily.Elementwise, n, (3 * n) + (3.0 * args.Rows * args.PerToken));
    }

    /// <inheritdoc/>
    public void CombineForward(View y, View x, View place, View weights, int rows, int perToken, int cols) =>
        Count(OpFamily.Rows, (double)rows * cols, ((double)rows * cols * (perToken + 1)) + (2.0 * rows * perToken));

    /// <inheritdoc/>
    public void CombineBackward(View dx, View dWeights, View dy, View x, View place, View weights, int rows, int perToken, int cols)
    {
        double n = (double)rows * cols, each = n * perToken, small = (double)rows * perToken;
        if (!dx.IsEmpty)
            Count(OpFamily.Rows, each, n + (2 * each) + (2 * small));
        if (!dWeights.IsEmpty)
            Count(OpFamily.Rows, each, n + each + (3 * small));
    }

    /// <inheritdoc/>
    public void ClampedGatedForward(View y, View gate, View up, long n, float alpha, float limit) => Count(OpFamily.Elementwise, n, 3.0 * n);

    /// <inheritdoc/>
    public void ClampedGatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, float alpha, float limit)
    {
        int gradients = (dGate.IsEmpty ? 0 : 1) + (dUp.IsEmpty ? 0 : 1);
        if (gradients > 0)
            Count(OpFamily.Elementwise, (double)gradients * n, (3.0 + (2 * gradients)) * n);
    }
}
