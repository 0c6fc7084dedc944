namespace Repeng.Kernels.Dry;

public sealed unsafe partial class DryBackend
{
    /// <inheritdoc/>
    public void MatMul(View c, View a, View b, in MatMulArgs args)
    {
        double left = (double)args.M * args.K * (args.StrideA == 0 ? 1 : args.Batch);
        double right = (double)args.K * args.N * (args.StrideB == 0 ? 1 : args.Batch);
        double product = (double)args.M * args.N * args.Batch;
        double bytes = (left * sizeof(float)) + (right * b.ElementBytes) + (product * sizeof(float) * (args.Accumulate ? 2 : 1));
        Count(new OpCost(OpFamily.MatMul, args.Flops, (long)bytes, args.M, args.N, args.K), product);
    }

    /// <inheritdoc/>
    public void AddBias(View y, View bias, int rows, int cols)
    {
        double n = (double)rows * cols;
        Count(OpFamily.Elementwise, n, (2 * n) + cols);
    }

    /// <inheritdoc/>
    public void AddBiasBackward(View dBias, View dy, int rows, int cols)
    {
        if (dBias.IsEmpty)
            return;
        double n = (double)rows * cols;
        Count(OpFamily.Reduce, n, n + (2.0 * cols));
    }

    /// <inheritdoc/>
    /// <remarks>Two products of 2·headDim flops for every visible pair of a query and a key.</remarks>
    public void AttentionForward(View o, View lse, View q, View k, View v, View firstKey, in AttentionArgs args)
    {
        double pairs = VisiblePairs(firstKey, args) * args.Heads;
        (double queries, double keys) = AttentionSizes(args);
        Count(OpFamily.Attention, 4.0 * args.HeadDim * pairs, pairs, (long)(sizeof(float) * ((2 * queries) + (2 * keys) + (queries / args.HeadDim))));
    }

    /// <inheritdoc/>
    /// <remarks>Five products of 2·headDim flops for every visible pair: the scores again, dv, the gradient by the weights, dq, dk.</remarks>
    public void AttentionBackward(View dq, View dk, View dv, View dO, View o, View lse, View delta, View q, View k, View v, View firstKey, in AttentionArgs args, bool accumulate = true)
    {
        double pairs = VisiblePairs(firstKey, args) * args.Heads;
        (double queries, double keys) = AttentionSizes(args);
        Count(OpFamily.Attention, 10.0 * args.HeadDim * pairs, pairs, (long)(sizeof(float) * (((accumulate ? 5 : 4) * queries) + ((accumulate ? 6 : 4) * keys) + (3 * queries / args.HeadDim))));
    }

    /// <inheritdoc/>
    public void AttentionSinksForward(View o, View lse, View sinks, int rows, int heads, int headDim)
    {
        double n = (double)rows * heads;
        Count(OpFamily.Attention, n * headDim, (2 * n * (headDim + 1)) + heads);
    }

    /// <inheritdoc/>
    public void AttentionSinksBackward(View dSinks, View delta, View lse, View sinks, int rows, int heads)
    {
        double n = (double)rows * heads;
        if (!dSinks.IsEmpty)
            Count(OpFamily.Attention, n, (2 * n) + (3.0 * heads));
    }

    /// <inheritdoc/>
    public void RmsNormForward(View y, View rstd, View x, View weight, int rows, int cols, float eps, float weightOffset) => CountNorm(rows, cols, 2, 1);

    /// <inheritdoc/>
    public void RmsNormBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, int rows, int cols, float weightOffset, bool accumulate = true) =>
        CountNorm(rows, cols, 2 + (dx.IsEmpty ? 0 : accumulate ? 2 : 1), 1);

    /// <inheritdoc/>
    public void LayerNormForward(View y, View mean, View rstd, View x, View weight, View bias, int rows, int cols, float eps) => CountNorm(rows, cols, 2, 2);

    /// <inheritdoc/>
    public void LayerNormBackward(View dx, View dWeight, View dBias, View dy, View x, View weight, View mean, View rstd, int rows, int cols, bool accumulate = true) =>
        CountNorm(rows, cols, 2 + (dx.IsEmpty ? 0 : accumulate ? 2 : 1), 2);

    /// <inheritdoc/>
    public void Rope(View y, View x, View cos, View sin, View positions, int rows, int heads, int headDim, int rotaryDim, bool interleaved, bool inverse, bool accumulate)
    {
        double n = (double)rows * heads * headDim;
        Count(OpFamily.Rope, n, (n * (accumulate ? 3 : 2)) + ((double)rows * rotaryDim));
    }

    /// <inheritdoc/>
    public void Skew(View a, View p, int n, int batch, bool accumulate) => CountRotation(0, n, batch, accumulate ? 3 : 2);

    /// <inheritdoc/>
    /// <remarks>An LU decomposition (⅔n³) and a solve for n right sides (2n³).</remarks>
    public void CayleyForward(View r, View x, int n, int batch) => CountRotation(8.0 / 3, n, batch, 2);

    /// <inheritdoc/>
    /// <remarks>Two products.</remarks>
    public void CayleyBackward(View dx, View dr, View r, int n, int batch)
    {
        if (!dx.IsEmpty)
            CountRotation(4, n, batch, 4);
    }

    /// <inheritdoc/>
    /// <remarks>The number of products depends on the norm of x; eight are counted, which is what norms around 1 take.</remarks>
    public void MatrixExpForward(View r, View x, int n, int batch) => CountRotation(16, n, batch, 2);

    /// <inheritdoc/>
    /// <remarks>Three products for each one of the forward pass: the value and both factors' derivatives.</remarks>
    public void MatrixExpBackward(View dx, View dr, View x, int n, int batch)
    {
        if (!dx.IsEmpty)
            CountRotation(48, n, batch, 4);
    }

    /// <summary>Pairs of a query and a key that it sees, over all sequences. firstKey is read where it is present.</summary>
    private static double VisiblePairs(View firstKey, in AttentionArgs args)
    {
        double pairs = 0;
        for (int sequence = 0; sequence < args.Batch; sequence++)
        {
            int first = sequence < firstKey.Length ? firstKey.Ints[sequence] : 0;
            for (int query = 0; query < args.QueryLength; query++)
            {
                int at = args.KeyLength - args.QueryLength + query;
                int lowest = args.Window > 0 ? Math.Max(first, at - args.Window + 1) : first;
                pairs += Math.Max(0, at - lowest + 1);
            }
        }
        return pairs;
    }

    private static (double Queries, double Keys) AttentionSizes(in AttentionArgs args) =>
        ((double)args.Batch * args.QueryLength * args.Heads * args.HeadDim, (double)args.Batch * args.KeyLength * args.KvHeads * args.HeadDim);

    private void CountNorm(int rows, int cols, int passes, int columnOperands)
    {
        double n = (double)rows * cols;
        Count(OpFamily.Norm, n, (passes * n) + (columnOperands * ((double)rows + cols)));
    }

    private void CountRotation(double cubes, int n, int batch, int passes)
    {
        double size = (double)n * n * batch;
        Count(OpFamily.Rotation, cubes * n * size, size, (long)(passes * size * sizeof(float)));
    }
}
