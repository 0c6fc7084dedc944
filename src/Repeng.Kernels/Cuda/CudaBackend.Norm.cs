namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Norm = "norm";
    private const int WarpCols = 512, RowsOfBlock = 8, HeadsOfBlock = 32;

    /// <inheritdoc/>
    public void RmsNormForward(View y, View rstd, View x, View weight, int rows, int cols, float eps, float weightOffset)
    {
        const string Op = nameof(RmsNormForward);
        long size = RequireNorm(Op, rows, cols, x, weight);
        x.Require(size, DType.F32, Op, nameof(x));
        bool half = y.Type == DType.BF16;
        y.Require(size, Held(y), Op, nameof(y));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        // Norms of heads are followed by rotary embedding, not by a product.
        nint copy = half ? y.Address : cols > WarpCols ? RoomForCopy(y, rows, cols) : 0;
        KernelArguments a = default;
        a.Add(half ? default : y).Add(rstd).Add(x).Add(weight).Add(rows).Add(cols).Add(eps).Add(weightOffset).Add(copy);
        PerRow("rms_norm_forward", rows, cols, ref a);
        if (copy != 0 && !half)
            Copied(y.Address, size);
    }

    /// <inheritdoc/>
    public void RmsNormBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, int rows, int cols, float weightOffset, bool accumulate = true)
    {
        const string Op = nameof(RmsNormBackward);
        long size = RequireNorm(Op, rows, cols, x, weight);
        x.Require(size, DType.F32, Op, nameof(x));
        Check.Optional(dx, size, Op, nameof(dx));
        Check.Optional(dWeight, cols, Op, nameof(dWeight));
        dy.Require(size, DType.F32, Op, nameof(dy));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        if (!dx.IsEmpty)
        {
            // What the layer before it in the residual stream reads.
            nint copy = cols > WarpCols ? RoomForCopy(dx, rows, cols) : 0;
            KernelArguments a = default;
            a.Add(dx).Add(dy).Add(x).Add(weight).Add(rstd).Add(rows).Add(cols).Add(weightOffset).Add(accumulate ? 1 : 0).Add(copy);
            PerRow("rms_norm_backward", rows, cols, ref a);
            if (copy != 0)
                Copied(dx.Address, size);
        }
        WeightGradients(dWeight, default, dy, x, default, rstd, rows, cols);
    }

    /// <inheritdoc/>
    public void LayerNormForward(View y, View mean, View rstd, View x, View weight, View bias, int rows, int cols, float eps)
    {
        const string Op = nameof(LayerNormForward);
        long size = RequireNorm(Op, rows, cols, x, weight);
        x.Require(size, DType.F32, Op, nameof(x));
        y.Require(size, DType.F32, Op, nameof(y));
        mean.Require(rows, DType.F32, Op, nameof(mean));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        Check.Optional(bias, cols, Op, nameof(bias));
        KernelArguments a = default;
        a.Add(y).Add(mean).Add(rstd).Add(x).Add(weight).Add(bias.IsEmpty ? Zeros(cols) : bias.Address).Add(rows).Add(cols).Add(eps);
        PerRow("layer_norm_forward", rows, cols, ref a);
    }

    /// <inheritdoc/>
    public void LayerNormBackward(View dx, View dWeight, View dBias, View dy, View x, View weight, View mean, View rstd, int rows, int cols, bool accumulate = true)
    {
        const string Op = nameof(LayerNormBackward);
        long size = RequireNorm(Op, rows, cols, x, weight);
        x.Require(size, DType.F32, Op, nameof(x));
        Check.Optional(dx, size, Op, nameof(dx));
        Check.Optional(dWeight, cols, Op, nameof(dWeight));
        Check.Optional(dBias, cols, Op, nameof(dBias));
        dy.Require(size, DType.F32, Op, nameof(dy));
        mean.Require(rows, DType.F32, Op, nameof(mean));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        if (!dx.IsEmpty)
        {
            KernelArguments a = default;
            a.Add(dx).Add(dy).Add(x).Add(weight).Add(mean).Add(rstd).Add(rows).Add(cols).Add(accumulate ? 1 : 0);
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

    /// <inheritdoc/>
    public void NormRopeForward(View y, View rstd, View x, View weight, View cos, View sin, View positions, in NormRopeArgs args)
    {
        const string Op = nameof(NormRopeForward);
        (int rows, int heads, int dim, int rotaryDim, bool interleaved, float eps, float offset) = args;
        long size = RequireNorm(Op, args.Lines, dim, x, weight);
        Check.Rope(y, AsWide(x), cos, sin, positions, rows, heads, dim, rotaryDim, accumulate: false);
        y.Require(size, DType.F32, Op, nameof(y));
        rstd.Require(args.Lines, DType.F32, Op, nameof(rstd));
        if (!TurnsHeads(args, y, x, weight, cos, sin))
        {
            RmsNormForward(y, rstd, x.Type == DType.BF16 ? Widened(x, ref _widenedA, true) : x, weight, args.Lines, dim, eps, offset);
            Rope(y, y, cos, sin, positions, rows, heads, dim, rotaryDim, interleaved, inverse: false, accumulate: false);
            return;
        }
        KernelArguments a = default;
        a.Add(y).Add(rstd).Add(x).Add(weight).Add(cos).Add(sin).Add(positions).Add(args.Lines).Add(heads).Add(eps).Add(offset).Add(HalvesOf(x));
        Kernel(Norm, $"rms_norm_rope_forward_{dim}").Launch(new(Blocks(args.Lines, HeadsOfBlock)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void NormRopeBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, View cos, View sin, View positions, View room, in NormRopeArgs args, bool accumulate)
    {
        const string Op = nameof(NormRopeBackward);
        (int rows, int heads, int dim, int rotaryDim, bool interleaved, _, float offset) = args;
        long size = RequireNorm(Op, args.Lines, dim, x, weight);
        Check.Rope(dy, AsWide(x), cos, sin, positions, rows, heads, dim, rotaryDim, accumulate: false);
        if (!dx.IsEmpty)
            dx.Require(size, Held(dx), Op, nameof(dx));
        rstd.Require(args.Lines, DType.F32, Op, nameof(rstd));
        // The gradient by the weight needs what the norm gave its own.
        if (!dWeight.IsEmpty || !TurnsHeads(args, dx, dy, x, weight, cos, sin))
        {
            room.Require(size, DType.F32, Op, nameof(room));
            Rope(room, dy, cos, sin, positions, rows, heads, dim, rotaryDim, interleaved, inverse: true, accumulate: false);
            View wide = dx.Type == DType.BF16 ? Widened(dx, ref _widenedC, accumulate) : dx;
            RmsNormBackward(wide, dWeight, room, x.Type == DType.BF16 ? Widened(x, ref _widenedA, true) : x, weight, rstd, args.Lines, dim, offset, accumulate);
            if (dx.Type == DType.BF16)
                Cast("cast_f32_bf16", dx, wide);
            return;
        }
        if (dx.IsEmpty)
            return;
        KernelArguments a = default;
        a.Add(dx).Add(dy).Add(x).Add(weight).Add(rstd).Add(cos).Add(sin).Add(positions).Add(args.Lines).Add(heads).Add(offset).Add(accumulate ? 1 : 0).Add(HalvesOf(x) + (2 * HalvesOf(dx)));
        Kernel(Norm, $"rms_norm_rope_backward_{dim}").Launch(new(Blocks(args.Lines, HeadsOfBlock)), new(Threads), 0, ref a);
    }

    // A view of as many elements, for checks of sizes alone.
    private static View AsWide(View v) => new(v.Address, v.Length, v.Type == DType.BF16 ? DType.F32 : v.Type);

    // Whether a warp turns a head where it norms it.
    private static bool TurnsHeads(in NormRopeArgs args, params ReadOnlySpan<View> operands)
    {
        foreach (View v in operands)
            if ((v.Address & 15) != 0)
                return false;
        return args is { HeadDim: 32 or 64 or 128 or 256, Interleaved: false } && args.RotaryDim == args.HeadDim;
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
        x.Require(size, Held(x), op, nameof(x));
        weight.Require(cols, DType.F32, op, nameof(weight));
        return size;
    }
}
