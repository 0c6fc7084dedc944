namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Experts = "experts";

    /// <inheritdoc/>
    public void RouteForward(View weights, View chosen, View logits, in RouteArgs args)
    {
        RequireRoute(nameof(RouteForward), weights, chosen, logits, args);
        KernelArguments a = default;
        a.Add(weights).Add(chosen).Add(logits).Add(args.Rows).Add(args.Experts).Add(args.PerToken).Add(args.Normalise ? 1 : 0);
        Kernel(Experts, "route_forward").Launch(new(Blocks(args.Rows, RowsOfBlock)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void RouteBackward(View dLogits, View dWeights, View weights, View chosen, View logits, in RouteArgs args)
    {
        if (dLogits.IsEmpty)
            return;
        const string Op = nameof(RouteBackward);
        RequireRoute(Op, weights, chosen, logits, args);
        dLogits.Require((long)args.Rows * args.Experts, DType.F32, Op, nameof(dLogits));
        dWeights.Require((long)args.Rows * args.PerToken, DType.F32, Op, nameof(dWeights));
        KernelArguments a = default;
        a.Add(dLogits).Add(dWeights).Add(weights).Add(chosen).Add(logits).Add(args.Rows).Add(args.Experts).Add(args.PerToken).Add(args.Normalise ? 1 : 0);
        Kernel(Experts, "route_backward").Launch(new(Blocks(args.Rows, RowsOfBlock)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void CombineForward(View y, View x, View place, View weights, int rows, int perToken, int cols)
    {
        const string Op = nameof(CombineForward);
        RequireCombine(Op, place, weights, rows, perToken, cols);
        y.Require((long)rows * cols, DType.F32, Op, nameof(y));
        x.Require(0, DType.F32, Op, nameof(x));
        KernelArguments a = default;
        a.Add(y).Add(x).Add(place).Add(weights).Add(perToken).Add(cols);
        Kernel(Experts, "combine_forward").Launch(new((uint)rows), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void CombineBackward(View dx, View dWeights, View dy, View x, View place, View weights, int rows, int perToken, int cols)
    {
        const string Op = nameof(CombineBackward);
        RequireCombine(Op, place, weights, rows, perToken, cols);
        dy.Require((long)rows * cols, DType.F32, Op, nameof(dy));
        int pairs = checked(rows * perToken);
        if (!dx.IsEmpty && cols > 0)
        {
            KernelArguments a = default;
            a.Add(dx).Add(dy).Add(place).Add(weights).Add(perToken).Add(cols);
            Kernel(Experts, "combine_backward_x").Launch(new((uint)rows), new(Threads), 0, ref a);
        }
        if (!dWeights.IsEmpty)
        {
            dWeights.Require(pairs, DType.F32, Op, nameof(dWeights));
            KernelArguments a = default;
            a.Add(dWeights).Add(dy).Add(x).Add(place).Add(pairs).Add(perToken).Add(cols);
            Kernel(Experts, "combine_backward_weights").Launch(new(Blocks(pairs, RowsOfBlock)), new(Threads), 0, ref a);
        }
    }

    /// <inheritdoc/>
    public void ClampedGatedForward(View y, View gate, View up, long n, float alpha, float limit)
    {
        const string Op = nameof(ClampedGatedForward);
        Check.Size(n, Op, nameof(n));
        y.Require(n, DType.F32, Op, nameof(y));
        gate.Require(n, DType.F32, Op, nameof(gate));
        up.Require(n, DType.F32, Op, nameof(up));
        KernelArguments a = default;
        a.Add(y).Add(gate).Add(up).Add(n).Add(alpha).Add(limit);
        Kernel(Experts, "clamped_gated_forward").Launch(new(Blocks(n, FlatTile)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void ClampedGatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, float alpha, float limit)
    {
        const string Op = nameof(ClampedGatedBackward);
        Check.Size(n, Op, nameof(n));
        if (dGate.IsEmpty && dUp.IsEmpty)
            return;
        Check.Optional(dGate, n, Op, nameof(dGate));
        Check.Optional(dUp, n, Op, nameof(dUp));
        dy.Require(n, DType.F32, Op, nameof(dy));
        gate.Require(n, DType.F32, Op, nameof(gate));
        up.Require(n, DType.F32, Op, nameof(up));
        KernelArguments a = default;
        a.Add(dGate).Add(dUp).Add(dy).Add(gate).Add(up).Add(n).Add(alpha).Add(limit);
        Kernel(Experts, "clamped_gated_backward").Launch(new(Blocks(n, FlatTile)), new(Threads), 0, ref a);
    }

    private static void RequireRoute(string op, View weights, View chosen, View logits, in RouteArgs args)
    {
        Check.Size(args.Rows, op, nameof(args.Rows));
        if (args.PerToken < 1 || args.PerToken > args.Experts)
            throw new ArgumentException($"{op}: {args.PerToken} of {args.Experts} experts for a token");
        weights.Require((long)args.Rows * args.PerToken, DType.F32, op, nameof(weights));
        chosen.Require((long)args.Rows * args.PerToken, DType.I32, op, nameof(chosen));
        logits.Require((long)args.Rows * args.Experts, DType.F32, op, nameof(logits));
    }

    private static void RequireCombine(string op, View place, View weights, int rows, int perToken, int cols)
    {
        Check.Size(rows, op, nameof(rows));
        Check.Size(perToken, op, nameof(perToken));
        Check.Size(cols, op, nameof(cols));
        place.Require((long)rows * perToken, DType.I32, op, nameof(place));
        weights.Require((long)rows * perToken, DType.F32, op, nameof(weights));
    }
}
