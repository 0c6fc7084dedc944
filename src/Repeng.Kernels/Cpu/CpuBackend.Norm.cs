using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void RmsNormForward(View y, View rstd, View x, View weight, int rows, int cols, float eps, float weightOffset)
    {
        const string Op = "RmsNormForward";
        long size = CheckNorm(Op, rows, cols, x, weight);
        y.Require(size, DType.F32, Op, nameof(y));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        NormContext c = new()
        {
            Y = y.Floats,
            X = x.Floats,
            Rstd = rstd.Floats,
            Weight = weight.Floats,
            Rows = rows,
            Cols = cols,
            Eps = eps,
            WeightOffset = weightOffset,
        };
        RunNorm(&c, forward: true);
    }

    /// <inheritdoc/>
    public void RmsNormBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, int rows, int cols, float weightOffset, bool accumulate = true)
    {
        const string Op = "RmsNormBackward";
        long size = CheckNorm(Op, rows, cols, x, weight);
        Check.Optional(dx, size, Op, nameof(dx));
        Check.Optional(dWeight, cols, Op, nameof(dWeight));
        dy.Require(size, DType.F32, Op, nameof(dy));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        NormContext c = new()
        {
            X = x.Floats,
            Rstd = rstd.Floats,
            Weight = weight.Floats,
            Dy = dy.Floats,
            Dx = dx.IsEmpty ? null : dx.Floats,
            Overwrites = !accumulate,
            DWeight = dWeight.IsEmpty ? null : dWeight.Floats,
            Rows = rows,
            Cols = cols,
            WeightOffset = weightOffset,
        };
        RunNorm(&c, forward: false);
    }

    /// <inheritdoc/>
    public void LayerNormForward(View y, View mean, View rstd, View x, View weight, View bias, int rows, int cols, float eps)
    {
        const string Op = "LayerNormForward";
        long size = CheckNorm(Op, rows, cols, x, weight);
        y.Require(size, DType.F32, Op, nameof(y));
        mean.Require(rows, DType.F32, Op, nameof(mean));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        Check.Optional(bias, cols, Op, nameof(bias));
        NormContext c = new()
        {
            Y = y.Floats,
            X = x.Floats,
            Mean = mean.Floats,
            Rstd = rstd.Floats,
            Weight = weight.Floats,
            Bias = bias.IsEmpty ? null : bias.Floats,
            Centered = true,
            Rows = rows,
            Cols = cols,
            Eps = eps,
        };
        RunNorm(&c, forward: true);
    }

    /// <inheritdoc/>
    public void LayerNormBackward(View dx, View dWeight, View dBias, View dy, View x, View weight, View mean, View rstd, int rows, int cols, bool accumulate = true)
    {
        const string Op = "LayerNormBackward";
        long size = CheckNorm(Op, rows, cols, x, weight);
        Check.Optional(dx, size, Op, nameof(dx));
        Check.Optional(dWeight, cols, Op, nameof(dWeight));
        Check.Optional(dBias, cols, Op, nameof(dBias));
        dy.Require(size, DType.F32, Op, nameof(dy));
        mean.Require(rows, DType.F32, Op, nameof(mean));
        rstd.Require(rows, DType.F32, Op, nameof(rstd));
        NormContext c = new()
        {
            X = x.Floats,
            Mean = mean.Floats,
            Rstd = rstd.Floats,
            Weight = weight.Floats,
            Dy = dy.Floats,
            Centered = true,
            Dx = dx.IsEmpty ? null : dx.Floats,
            Overwrites = !accumulate,
            DWeight = dWeight.IsEmpty ? null : dWeight.Floats,
            DBias = dBias.IsEmpty ? null : dBias.Floats,
            Rows = rows,
            Cols = cols,
        };
        RunNorm(&c, forward: false);
    }

    /// <inheritdoc/>
    public void Rope(View y, View x, View cos, View sin, View positions, int rows, int heads, int headDim, int rotaryDim, bool interleaved, bool inverse, bool accumulate)
    {
        Check.Rope(y, x, cos, sin, positions, rows, heads, headDim, rotaryDim, accumulate);
        if (rows == 0)
            return;
        int half = rotaryDim / 2;
        long tabled = half == 0 ? long.MaxValue : Math.Min(cos.Length, sin.Length) / half;
        for (int r = 0; r < rows; r++)
            if (positions.Ints[r] < 0 || positions.Ints[r] >= tabled)
                throw new ArgumentException($"{nameof(Rope)}: position {positions.Ints[r]} of row {r} is outside the tables of {tabled} positions");
        RopeContext c = new()
        {
            Y = y.Floats,
            X = x.Floats,
            Cos = half == 0 ? null : cos.Floats,
            Sin = half == 0 ? null : sin.Floats,
            Positions = positions.Ints,
            Rows = rows,
            Heads = heads,
            HeadDim = headDim,
            RotaryDim = rotaryDim,
            Interleaved = interleaved,
            Inverse = inverse,
            Accumulate = accumulate,
        };
        if (VectorBits == 512)
            RunRope<Vector512<float>, Simd512>(&c);
        else if (VectorBits == 256)
            RunRope<Vector256<float>, Simd256>(&c);
        else
            RunRope<Vector128<float>, Simd128>(&c);
    }

    private void RunNorm(NormContext* c, bool forward)
    {
        if (VectorBits == 512)
            RunNorm<Vector512<float>, Simd512>(c, forward);
        else if (VectorBits == 256)
            RunNorm<Vector256<float>, Simd256>(c, forward);
        else
            RunNorm<Vector128<float>, Simd128>(c, forward);
    }

    private void RunNorm<V, S>(NormContext* c, bool forward)
        where V : struct
        where S : struct, ISimd<V>
    {
        if (c->Rows == 0)
            return;
        c->SetChunks();
        if (forward)
        {
            RunItems(c->Chunks, (long)c->Rows * c->Cols > Ranges.Heavy, &NormKernel<V, S>.ForwardChunk, c);
            return;
        }
        // No body asks for scratch of its own here, so the caller's serves as memory shared by all chunks.
        if (c->DWeight != null || c->DBias != null)
            c->Partial = (float*)_workers.Scratch(0, sizeof(float) * 2L * c->Chunks * c->Cols);
        RunItems(c->Chunks, (long)c->Rows * c->Cols > Ranges.Heavy, &NormKernel<V, S>.BackwardChunk, c);
        NormKernel<V, S>.SumPartials(c);
    }

    private void RunRope<V, S>(RopeContext* c)
        where V : struct
        where S : struct, ISimd<V>
    {
        nint* scratch = stackalloc nint[_workers.Count];
        TakeScratch(scratch, sizeof(float) * 2L * c->RotaryDim);
        c->Scratch = scratch;
        c->SetChunks();
        RunItems(c->Chunks, (long)c->Rows * c->Heads * c->HeadDim > Ranges.Heavy, &RopeKernel<V, S>.Chunk, c);
    }

    private static long CheckNorm(string op, int rows, int cols, View x, View weight)
    {
        if (rows < 0 || cols < 1)
            throw new ArgumentException($"{op}: sizes out of range: {rows} rows of {cols}");
        long size = (long)rows * cols;
        x.Require(size, DType.F32, op, nameof(x));
        weight.Require(cols, DType.F32, op, nameof(weight));
        return size;
    }
}
