namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Norm = "norm";
    private const int WarpCols = 512, RowsOfBlock = 8;

    /// <inheritdoc/>
    public void RmsNormForward(View y, View rstd, View x, View weight, int rows, int cols, float eps, float weightOffset)
    {
        const string Op = nameof(RmsNormForward);
        long size = RequireNorm(Op, rows, cols, x, weight);
        y.Require(size, DType.F32, Op, nameof(y));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        KernelArguments a = default;
        a.Add(y).Add(rstd).Add(x).Add(weight).Add(rows).Add(cols).Add(eps).Add(weightOffset);
        PerRow("rms_norm_forward", rows, cols, ref a);
    }

    /// <inheritdoc/>
    public void RmsNormBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, int rows, int cols, float weightOffset)
    {
        const string Op = nameof(RmsNormBackward);
        long size = RequireNorm(Op, rows, cols, x, weight);
        Check.Optional(dx, size, Op, nameof(dx));
        Check.Optional(dWeight, cols, Op, nameof(dWeight));
        dy.Require(size, DType.F32, Op, nameof(dy));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        if (!dx.IsEmpty)
        {
            KernelArguments a = default;
            a.Add(dx).Add(dy).Add(x).Add(weight).Add(rstd).Add(rows).Add(cols).Add(weightOffset);
            PerRow("rms_norm_backward", rows, cols, ref a);
        }
        WeightGradients(dWeight, default, dy, x, default, rstd, rows, cols);
    }

    /// <inheritdoc/>
    public void LayerNormForward(View y, View mean, View rstd, View x, View weight, View bias, int rows, int cols, float eps)
    {
        const string Op = nameof(LayerNormForward);
        long size = RequireNorm(Op, rows, cols, x, weight);
        y.Require(size, DType.F32, Op, nameof(y));
        mean.Require(rows, DType.F32, Op, nameof(mean));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        Check.Optional(bias, cols, Op, nameof(bias));
        KernelArguments a = default;
        a.Add(y).Add(mean).Add(rstd).Add(x).Add(weight).Add(bias.IsEmpty ? Zeros(cols) : bias.Address).Add(rows).Add(cols).Add(eps);
        PerRow("layer_norm_forward", rows, cols, ref a);
    }

    /// <inheritdoc/>
    public void LayerNormBackward(View dx, View dWeight, View dBias, View dy, View x, View weight, View mean, View rstd, int rows, int cols)
    {
        const string Op = nameof(LayerNormBackward);
        long size = RequireNorm(Op, rows, cols, x, weight);
        Check.Optional(dx, size, Op, nameof(dx));
        Check.Optional(dWeight, cols, Op, nameof(dWeight));
        Check.Optional(dBias, cols, Op, nameof(dBias));
        dy.Require(size, DType.F32, Op, nameof(dy));
        mean.Require(rows, DType.F32, Op, nameof(mean));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        if (!dx.IsEmpty)
        {
            KernelArguments a = default;
            a.Add(dx).Add(dy).Add(x).Add(weight).Add(mean).Add(rstd).Add(rows).Add(cols);
            PerRow("layer_norm_backward", rows, cols, ref a);
        }
        WeightGradients(dWeight, dBias, dy, x, mean, rstd, rows, cols);
    }

    /// <inheritdoc/>
    public void Rope(View y, View x, View cos, View sin, View positions, int rows, int heads, int headDim, int rotaryDim, bool interleaved, bool inverse, bool accumulate)
    {
        Check.Rope(y, x, cos, sin, positions, rows, heads, headDim, rotaryDim, accumulate);
        KernelArguments a = default;
        a.Add(y).Add(x).Add(cos).Add(sin).Add(positions).Add(heads).Add(headDim).Add(rotaryDim).Add(interleaved ? 1 : 0).Add(inverse ? 1 : 0).Add(accumulate ? 1 : 0);
        Kernel("rope", "rope").Launch(new((uint)rows), new(Threads), 0, ref a);
    }

    private void PerRow(string kernel, int rows, int cols, ref KernelArguments arguments)
    {
        bool warp = cols <= WarpCols;
        Kernel(Norm, kernel + (warp ? "_warp" : "_block")).Launch(new(warp ? Blocks(rows, RowsOfBlock) : (uint)rows), new(Threads), 0, ref arguments);
    }

    private void WeightGradients(View dWeight, View dBias, View dy, View x, View mean, View rstd, int rows, int cols)
    {
        if (rows == 0 || (dWeight.IsEmpty && dBias.IsEmpty))
            return;
        uint chunks = Blocks(rows, ColChunk);
        long partial = (long)chunks * cols;
        nint weights = Scratch(sizeof(double) * 2 * partial), biases = weights + (nint)(sizeof(double) * partial);
        KernelArguments a = default;
        a.Add(weights).Add(dBias.IsEmpty ? 0 : biases).Add(dy).Add(x).Add(mean).Add(rstd).Add(rows).Add(cols);
        Kernel(Norm, "norm_weight_partial").Launch(new(Blocks(cols, 32), chunks), new(Threads), 0, ref a);
        if (!dWeight.IsEmpty)
            SumPartials(dWeight, weights, cols, cols, (int)chunks, cols, partial, accumulate: true);
        if (!dBias.IsEmpty)
            SumPartials(dBias, biases, cols, cols, (int)chunks, cols, partial, accumulate: true);
    }

    // A LayerNorm without a bias reads zeros, in memory of the op.
    private nint Zeros(int cols)
    {
        nint zeros = Scratch(sizeof(float) * (long)cols);
        Context.Fill(zeros, 0, cols);
        return zeros;
    }

    private static long RequireNorm(string op, int rows, int cols, View x, View weight)
    {
        if (rows < 0 || cols < 1)
            throw new ArgumentException($"{op}: sizes out of range: {rows} rows of {cols}");
        long size = (long)rows * cols;
        x.Require(size, DType.F32, op, nameof(x));
        weight.Require(cols, DType.F32, op, nameof(weight));
        return size;
    }
}
