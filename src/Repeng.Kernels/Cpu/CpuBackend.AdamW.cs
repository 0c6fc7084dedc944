using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void AdamW(View param, View grad, View m, View v, long n, in AdamWArgs args)
    {
        Check.Size(n, nameof(AdamW), nameof(n));
        if (args.Step < 1)
            throw new ArgumentException($"AdamW: step is {args.Step}, the first step is 1");
        if (!(args.Beta1 is >= 0 and < 1 && args.Beta2 is >= 0 and < 1))
            throw new ArgumentException($"AdamW: beta1 {args.Beta1} and beta2 {args.Beta2} must lie in [0, 1)");
        param.Require(n, DType.F32, nameof(AdamW), nameof(param));
        grad.Require(n, DType.F32, nameof(AdamW), nameof(grad));
        m.Require(n, DType.F32, nameof(AdamW), nameof(m));
        v.Require(n, DType.F32, nameof(AdamW), nameof(v));
        AdamWJob job = new()
        {
            Param = (float*)param.Address,
            Grad = (float*)grad.Address,
            M = (float*)m.Address,
            V = (float*)v.Address,
            Decay = (float)(args.LearningRate * args.WeightDecay),
            Mix1 = (float)(1 - args.Beta1),
            Beta2 = (float)args.Beta2,
            Mix2 = (float)(1 - args.Beta2),
            InverseRoot2 = (float)(1 / Math.Sqrt(1 - Math.Pow(args.Beta2, args.Step))),
            StepSize = (float)(args.LearningRate / (1 - Math.Pow(args.Beta1, args.Step))),
            Eps = (float)args.Eps,
        };
        Ranges.Elements(_workers, n, Ranges.Light, &AdamWJob.Part, &job);
    }

    private struct AdamWJob
    {
        public float* Param;
        public float* Grad;
        public float* M;
        public float* V;
        public float Decay;
        public float Mix1;
        public float Beta2;
        public float Mix2;
        public float InverseRoot2;
        public float StepSize;
        public float Eps;

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Part(void* context, long begin, long end)
        {
            AdamWJob* job = (AdamWJob*)context;
            float* param = job->Param, grad = job->Grad, m = job->M, v = job->V;
            long i = begin;
            for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
            {
                V p = Vector256.Load(param + i), first = Vector256.Load(m + i), second = Vector256.Load(v + i);
                Step(job, ref p, Vector256.Load(grad + i), ref first, ref second);
                Vector256.Store(p, param + i);
                Vector256.Store(first, m + i);
                Vector256.Store(second, v + i);
            }
            if (i < end)
            {
                int count = (int)(end - i);
                V p = SimdMath.LoadPartial(param + i, count), first = SimdMath.LoadPartial(m + i, count), second = SimdMath.LoadPartial(v + i, count);
                Step(job, ref p, SimdMath.LoadPartial(grad + i, count), ref first, ref second);
                SimdMath.StorePartial(param + i, p, count);
                SimdMath.StorePartial(m + i, first, count);
                SimdMath.StorePartial(v + i, second, count);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static void Step(AdamWJob* job, ref V p, V g, ref V first, ref V second)
        {
            // lr·λ is taken off as a product of its own: 1 − lr·λ in fp32 would round away much of a small decay.
            p = SimdMath.MulAdd(Vector256.Create(-job->Decay), p, p);
            first = SimdMath.MulAdd(g - first, Vector256.Create(job->Mix1), first);
            second = SimdMath.MulAdd(g * job->Mix2, g, second * job->Beta2);
            V denominator = SimdMath.MulAdd(Vector256.Sqrt(second), Vector256.Create(job->InverseRoot2), Vector256.Create(job->Eps));
            p -= first * job->StepSize / denominator;
        }
    }
}
