using Row = Repeng.Kernels.Cpu.RowMath<System.Runtime.Intrinsics.Vector256<float>, Repeng.Kernels.Cpu.Simd256>;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void AttentionSinksForward(View o, View lse, View sinks, int rows, int heads, int headDim)
    {
        const string Op = nameof(AttentionSinksForward);
        Check.Size(rows, Op, nameof(rows));
        o.Require((long)rows * heads * headDim, DType.F32, Op, nameof(o));
        lse.Require((long)rows * heads, DType.F32, Op, nameof(lse));
        sinks.Require(heads, DType.F32, Op, nameof(sinks));
        SinkJob job = new() { O = (float*)o.Address, Lse = (float*)lse.Address, Sinks = (float*)sinks.Address, Heads = heads, HeadDim = headDim };
        Ranges.Rows(_workers, rows * heads, headDim, Ranges.Light, &SinkJob.Forward, &job);
        SinkJob.Fold(&job, (long)rows * heads);
    }

    /// <inheritdoc/>
    public void AttentionSinksBackward(View dSinks, View delta, View lse, View sinks, int rows, int heads)
    {
        if (dSinks.IsEmpty)
            return;
        const string Op = nameof(AttentionSinksBackward);
        Check.Size(rows, Op, nameof(rows));
        dSinks.Require(heads, DType.F32, Op, nameof(dSinks));
        delta.Require((long)rows * heads, DType.F32, Op, nameof(delta));
        lse.Require((long)rows * heads, DType.F32, Op, nameof(lse));
        sinks.Require(heads, DType.F32, Op, nameof(sinks));
        float* d = dSinks.Floats, at = delta.Floats, l = lse.Floats, s = sinks.Floats;
        for (int h = 0; h < heads; h++)
        {
            double sum = 0;
            for (long i = h; i < (long)rows * heads; i += heads)
                if (!float.IsNegativeInfinity(l[i]))
                    sum += Math.Exp((double)s[h] - l[i]) * at[i];
            d[h] = (float)(d[h] - sum);
        }
    }

    private struct SinkJob
    {
        public float* O, Lse, Sinks;
        public int Heads, HeadDim;

        public static void Forward(void* context, int row, int block, int begin, int end)
        {
            SinkJob* job = (SinkJob*)context;
            float lse = job->Lse[row];
            if (float.IsNegativeInfinity(lse))
                return;
            // e^(lse − ln(e^lse + e^sink)) = 1 / (1 + e^(sink − lse)).
            float kept = (float)(1 / (1 + Math.Exp((double)job->Sinks[row % job->Heads] - lse)));
            float* o = job->O + (long)row * job->HeadDim;
            Row.Scale(o + begin, o + begin, kept, end - begin);
        }

        public static void Fold(SinkJob* job, long rows)
        {
            for (long i = 0; i < rows; i++)
            {
                double lse = job->Lse[i], sink = job->Sinks[i % job->Heads], max = Math.Max(lse, sink);
                if (!double.IsNegativeInfinity(lse))
                    job->Lse[i] = (float)(max + Math.Log(Math.Exp(lse - max) + Math.Exp(sink - max)));
            }
        }
    }
}
