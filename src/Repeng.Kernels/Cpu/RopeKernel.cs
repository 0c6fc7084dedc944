using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <summary>Operands of a rotary embedding.</summary>
internal unsafe struct RopeContext
{
    internal float* Y;
    internal float* X;
    internal float* Cos;
    internal float* Sin;
    internal int* Positions;
    internal nint* Scratch;
    internal int Rows, Heads, HeadDim, RotaryDim, ChunkRows, Chunks;
    internal bool Interleaved, Inverse, Accumulate;

    /// <summary>Splits the rows into chunks of about 16 Ki elements.</summary>
    internal void SetChunks()
    {
        ChunkRows = (int)Math.Max(1, 16384 / ((long)Heads * HeadDim));
        Chunks = (Rows + ChunkRows - 1) / ChunkRows;
    }
}

/// <summary>Rotary embedding, rows in parallel; the angles of a row are prepared once for all its heads.</summary>
internal static unsafe class RopeKernel<V, S>
    where V : struct
    where S : struct, ISimd<V>
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Chunk(void* context, int item, int worker)
    {
        ref readonly RopeContext c = ref *(RopeContext*)context;
        int half = c.RotaryDim / 2;
        float* cos = (float*)c.Scratch[worker];
        float* sin = cos + c.RotaryDim;
        int end = Math.Min(c.Rows, (item + 1) * c.ChunkRows);
        for (int row = item * c.ChunkRows; row < end; row++)
        {
            Prepare(cos, sin, c, (long)c.Positions[row] * half);
            for (int head = 0; head < c.Heads; head++)
            {
                long at = ((long)row * c.Heads + head) * c.HeadDim;
                if (c.Interleaved)
                    RotatePairs(c.Y + at, c.X + at, cos, sin, c.RotaryDim, c.Accumulate);
                else
                    RotateHalves(c.Y + at, c.X + at, cos, sin, half, c.Accumulate);
                PassRest(c.Y + at + c.RotaryDim, c.X + at + c.RotaryDim, c.HeadDim - c.RotaryDim, c.Accumulate);
            }
        }
    }

    // Interleaved pairs want each cosine twice and the sine with the sign of the rotated partner: y = x·cos + swapped x·sin.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Prepare(float* cos, float* sin, in RopeContext c, long at)
    {
        for (int i = 0; i < c.RotaryDim / 2; i++)
        {
            float s = c.Inverse ? -c.Sin[at + i] : c.Sin[at + i];
            if (c.Interleaved)
            {
                cos[2 * i] = cos[2 * i + 1] = c.Cos[at + i];
                sin[2 * i] = -s;
                sin[2 * i + 1] = s;
            }
            else
            {
                cos[i] = c.Cos[at + i];
                sin[i] = s;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void RotateHalves(float* y, float* x, float* cos, float* sin, int half, bool accumulate)
    {
        int i = 0;
        for (; i + S.Width <= half; i += S.Width)
        {
            V a = S.Load(x + i), b = S.Load(x + half + i), cosine = S.Load(cos + i), sine = S.Load(sin + i);
            V first = S.Sub(S.Mul(a, cosine), S.Mul(b, sine));
            V second = S.Add(S.Mul(b, cosine), S.Mul(a, sine));
            if (accumulate)
            {
                first = S.Add(S.Load(y + i), first);
                second = S.Add(S.Load(y + half + i), second);
            }
            S.Store(first, y + i);
            S.Store(second, y + half + i);
        }
        for (; i < half; i++)
        {
            float a = x[i], b = x[half + i];
            float first = a * cos[i] - b * sin[i], second = b * cos[i] + a * sin[i];
            y[i] = accumulate ? y[i] + first : first;
            y[half + i] = accumulate ? y[half + i] + second : second;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void RotatePairs(float* y, float* x, float* cos, float* sin, int rotaryDim, bool accumulate)
    {
        int i = 0;
        for (; i + S.Width <= rotaryDim; i += S.Width)
        {
            V v = S.Load(x + i);
            V turned = S.Add(S.Mul(v, S.Load(cos + i)), S.Mul(S.SwapPairs(v), S.Load(sin + i)));
            S.Store(accumulate ? S.Add(S.Load(y + i), turned) : turned, y + i);
        }
        for (; i < rotaryDim; i += 2)
        {
            float a = x[i], b = x[i + 1];
            float first = a * cos[i] + b * sin[i], second = b * cos[i + 1] + a * sin[i + 1];
            y[i] = accumulate ? y[i] + first : first;
            y[i + 1] = accumulate ? y[i + 1] + second : second;
        }
    }

    private static void PassRest(float* y, float* x, int count, bool accumulate)
    {
        if (accumulate)
            RowMath<V, S>.Add(y, x, count);
        else if (y != x)
            RowMath<V, S>.CopyPadded(y, x, count, count);
    }
}
