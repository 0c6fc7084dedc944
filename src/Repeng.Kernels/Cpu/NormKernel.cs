using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <summary>Operands of a norm. What is absent or not wanted is null; Centered tells LayerNorm from RMSNorm.</summary>
internal unsafe struct NormContext
{
    internal float* Y;
    internal float* X;
    internal float* Mean;
    internal float* Rstd;
    internal float* Weight;
    internal float* Bias;
    internal float* Dy;
    internal float* Dx;
    internal float* DWeight;
    internal float* DBias;
    internal float* Partial;
    internal int Rows, Cols, ChunkRows, Chunks;
    internal float Eps, WeightOffset;
    internal bool Centered;

    // Dx is written, not added to.
    internal bool Overwrites;

    /// <summary>
    /// Splits the rows by their shape alone, so that partial sums of the weights' gradients do not depend on the number
    /// of threads: chunks of about 16 Ki elements, at most 64 of them.
    /// </summary>
    internal void SetChunks()
    {
        ChunkRows = Math.Max(Math.Max(1, 16384 / Cols), (Rows + 63) / 64);
        Chunks = (Rows + ChunkRows - 1) / ChunkRows;
    }
}

/// <summary>RMSNorm and LayerNorm, rows in parallel.</summary>
internal static unsafe class NormKernel<V, S>
    where V : struct
    where S : struct, ISimd<V>
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void ForwardChunk(void* context, int item, int worker)
    {
        ref readonly NormContext c = ref *(NormContext*)context;
        int end = Math.Min(c.Rows, (item + 1) * c.ChunkRows);
        for (int row = item * c.ChunkRows; row < end; row++)
        {
            float* x = c.X + (long)row * c.Cols;
            float mean = c.Centered ? RowMath<V, S>.Sum(x, c.Cols) / c.Cols : 0;
            float rstd = 1 / MathF.Sqrt(RowMath<V, S>.SumSquares(x, mean, c.Cols) / c.Cols + c.Eps);
            c.Rstd[row] = rstd;
            if (c.Centered)
                c.Mean[row] = mean;
            Normalise(c.Y + (long)row * c.Cols, x, mean, rstd, c);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Normalise(float* y, float* x, float mean, float rstd, in NormContext c)
    {
        V m = S.Set(mean), r = S.Set(rstd), offset = S.Set(c.WeightOffset);
        int i = 0;
        for (; i + S.Width <= c.Cols; i += S.Width)
        {
            V weight = S.Add(S.Load(c.Weight + i), offset);
            V unit = S.Mul(S.Sub(S.Load(x + i), m), r);
            S.Store(c.Bias == null ? S.Mul(unit, weight) : S.Fma(unit, weight, S.Load(c.Bias + i)), y + i);
        }
        for (; i < c.Cols; i++)
        {
            float unit = (x[i] - mean) * rstd, weight = c.Weight[i] + c.WeightOffset;
            y[i] = c.Bias == null ? unit * weight : MathF.FusedMultiplyAdd(unit, weight, c.Bias[i]);
        }
    }

    /// <summary>
    /// With u = (x − mean)·rstd and g = dy·(weight + offset): dx += rstd·(g − mean(g) − u·mean(g·u)), mean(g) being left
    /// out for RMSNorm; dWeight += Σ dy·u and dBias += Σ dy into this chunk's partial sums.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void BackwardChunk(void* context, int item, int worker)
    {
        ref readonly NormContext c = ref *(NormContext*)context;
        int end = Math.Min(c.Rows, (item + 1) * c.ChunkRows);
        float* dWeight = c.DWeight == null ? null : c.Partial + 2L * item * c.Cols;
        float* dBias = c.DBias == null ? null : c.Partial + (2L * item + 1) * c.Cols;
        if (dWeight != null)
            new Span<float>(dWeight, c.Cols).Clear();
        if (dBias != null)
            new Span<float>(dBias, c.Cols).Clear();
        for (int row = item * c.ChunkRows; row < end; row++)
        {
            float* x = c.X + (long)row * c.Cols;
            float* dy = c.Dy + (long)row * c.Cols;
            float mean = c.Centered ? c.Mean[row] : 0, rstd = c.Rstd[row];
            if (c.Dx != null && c.Overwrites)
                new Span<float>(c.Dx + (long)row * c.Cols, c.Cols).Clear();
            if (c.Dx != null)
                AddInputGradient(c.Dx + (long)row * c.Cols, dy, x, mean, rstd, c);
            if (dWeight != null)
                AddWeightGradient(dWeight, dy, x, mean, rstd, c.Cols);
            if (dBias != null)
                RowMath<V, S>.Add(dBias, dy, c.Cols);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddInputGradient(float* dx, float* dy, float* x, float mean, float rstd, in NormContext c)
    {
        V m = S.Set(mean), r = S.Set(rstd), offset = S.Set(c.WeightOffset), sumG = default, sumGu = default;
        int i = 0;
        for (; i + S.Width <= c.Cols; i += S.Width)
        {
            V g = S.Mul(S.Load(dy + i), S.Add(S.Load(c.Weight + i), offset));
            sumG = S.Add(sumG, g);
            sumGu = S.Fma(g, S.Mul(S.Sub(S.Load(x + i), m), r), sumGu);
        }
        float meanG = S.Sum(sumG), meanGu = S.Sum(sumGu);
        for (; i < c.Cols; i++)
        {
            float g = dy[i] * (c.Weight[i] + c.WeightOffset);
            meanG += g;
            meanGu = MathF.FusedMultiplyAdd(g, (x[i] - mean) * rstd, meanGu);
        }
        meanG = c.Centered ? meanG / c.Cols : 0;
        meanGu /= c.Cols;

        V mg = S.Set(meanG), mgu = S.Set(-meanGu);
        for (i = 0; i + S.Width <= c.Cols; i += S.Width)
        {
            V g = S.Mul(S.Load(dy + i), S.Add(S.Load(c.Weight + i), offset));
            V unit = S.Mul(S.Sub(S.Load(x + i), m), r);
            S.Store(S.Fma(r, S.Fma(unit, mgu, S.Sub(g, mg)), S.Load(dx + i)), dx + i);
        }
        for (; i < c.Cols; i++)
        {
            float g = dy[i] * (c.Weight[i] + c.WeightOffset);
            dx[i] = MathF.FusedMultiplyAdd(rstd, MathF.FusedMultiplyAdd((x[i] - mean) * rstd, -meanGu, g - meanG), dx[i]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AddWeightGradient(float* dWeight, float* dy, float* x, float mean, float rstd, int cols)
    {
        V m = S.Set(mean), r = S.Set(rstd);
        int i = 0;
        for (; i + S.Width <= cols; i += S.Width)
            S.Store(S.Fma(S.Load(dy + i), S.Mul(S.Sub(S.Load(x + i), m), r), S.Load(dWeight + i)), dWeight + i);
        for (; i < cols; i++)
            dWeight[i] = MathF.FusedMultiplyAdd(dy[i], (x[i] - mean) * rstd, dWeight[i]);
    }

    /// <summary>Adds the chunks' partial sums to the gradients, first chunk first.</summary>
    internal static void SumPartials(NormContext* c)
    {
        SumPartials(c->DWeight, c->Partial, c->Chunks, c->Cols);
        SumPartials(c->DBias, c->Partial + c->Cols, c->Chunks, c->Cols);
    }

    private static void SumPartials(float* gradient, float* partial, int chunks, int cols)
    {
        if (gradient == null)
            return;
        for (int chunk = 1; chunk < chunks; chunk++)
            RowMath<V, S>.Add(partial, partial + 2L * chunk * cols, cols);
        RowMath<V, S>.Add(gradient, partial, cols);
    }
}
