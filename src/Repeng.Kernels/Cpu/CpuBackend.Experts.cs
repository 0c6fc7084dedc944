using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Row = Repeng.Kernels.Cpu.RowMath<System.Runtime.Intrinsics.Vector256<float>, Repeng.Kernels.Cpu.Simd256>;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    // Logits or elements of one item, some 10 µs of work.
    private const int RouteItem = 2048, CombineItem = 16384;

    /// <inheritdoc/>
    public void RouteForward(View weights, View chosen, View logits, in RouteArgs args)
    {
        RouteJob job = Prepare(nameof(RouteForward), weights, chosen, logits, args);
        _workers.Run(job.Items, &RouteJob.Forward, &job);
    }

    /// <inheritdoc/>
    public void RouteBackward(View dLogits, View dWeights, View weights, View chosen, View logits, in RouteArgs args)
    {
        if (dLogits.IsEmpty)
            return;
        RouteJob job = Prepare(nameof(RouteBackward), weights, chosen, logits, args);
        dLogits.Require((long)args.Rows * args.Experts, DType.F32, nameof(RouteBackward), nameof(dLogits));
        dWeights.Require((long)args.Rows * args.PerToken, DType.F32, nameof(RouteBackward), nameof(dWeights));
        Check.Indices((int*)chosen.Address, args.Rows * args.PerToken, args.Experts, nameof(RouteBackward), nameof(chosen));
        job.DLogits = (float*)dLogits.Address;
        job.DWeights = (float*)dWeights.Address;
        _workers.Run(job.Items, &RouteJob.Backward, &job);
    }

    /// <inheritdoc/>
    public void CombineForward(View y, View x, View place, View weights, int rows, int perToken, int cols)
    {
        y.Require((long)rows * cols, DType.F32, nameof(CombineForward), nameof(y));
        CombineJob job = Prepare(nameof(CombineForward), x, place, weights, rows, perToken, cols);
        job.Y = (float*)y.Address;
        _workers.Run(job.Items, &CombineJob.Forward, &job);
    }

    /// <inheritdoc/>
    public void CombineBackward(View dx, View dWeights, View dy, View x, View place, View weights, int rows, int perToken, int cols)
    {
        if (dx.IsEmpty && dWeights.IsEmpty)
            return;
        dy.Require((long)rows * cols, DType.F32, nameof(CombineBackward), nameof(dy));
        CombineJob job = Prepare(nameof(CombineBackward), dx.IsEmpty ? x : dx, place, weights, rows, perToken, cols);
        job.Y = (float*)dy.Address;
        if (!dx.IsEmpty)
            job.DX = (float*)dx.Address;
        if (!dWeights.IsEmpty)
        {
            dWeights.Require((long)rows * perToken, DType.F32, nameof(CombineBackward), nameof(dWeights));
            job.X = (float*)x.Address;
            x.Require(dx.IsEmpty ? x.Length : dx.Length, DType.F32, nameof(CombineBackward), nameof(x));
            job.DWeights = (float*)dWeights.Address;
        }
        _workers.Run(job.Items, &CombineJob.Backward, &job);
    }

    /// <inheritdoc/>
    public void ClampedGatedForward(View y, View gate, View up, long n, float alpha, float limit)
    {
        const string Op = nameof(ClampedGatedForward);
        Check.Size(n, Op, nameof(n));
        y.Require(n, DType.F32, Op, nameof(y));
        gate.Require(n, DType.F32, Op, nameof(gate));
        up.Require(n, DType.F32, Op, nameof(up));
        ClampedJob job = new() { Y = (float*)y.Address, Gate = (float*)gate.Address, Up = (float*)up.Address, Alpha = alpha, Limit = limit };
        Ranges.Elements(_workers, n, Ranges.Heavy, &ClampedJob.Forward, &job);
    }

    /// <inheritdoc/>
    public void ClampedGatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, float alpha, float limit)
    {
        const string Op = nameof(ClampedGatedBackward);
        Check.Size(n, Op, nameof(n));
        dy.Require(n, DType.F32, Op, nameof(dy));
        gate.Require(n, DType.F32, Op, nameof(gate));
        up.Require(n, DType.F32, Op, nameof(up));
        Check.Optional(dGate, n, Op, nameof(dGate));
        Check.Optional(dUp, n, Op, nameof(dUp));
        ClampedJob job = new()
        {
            Y = (float*)dy.Address,
            Gate = (float*)gate.Address,
            Up = (float*)up.Address,
            DGate = dGate.IsEmpty ? null : (float*)dGate.Address,
            DUp = dUp.IsEmpty ? null : (float*)dUp.Address,
            Alpha = alpha,
            Limit = limit,
        };
        Ranges.Elements(_workers, n, Ranges.Heavy, &ClampedJob.Backward, &job);
    }

    private static RouteJob Prepare(string op, View weights, View chosen, View logits, in RouteArgs args)
    {
        Check.Size(args.Rows, op, nameof(args.Rows));
        if (args.PerToken < 1 || args.PerToken > args.Experts)
            throw new ArgumentException($"{op}: {args.PerToken} of {args.Experts} experts for a token");
        weights.Require((long)args.Rows * args.PerToken, DType.F32, op, nameof(weights));
        chosen.Require((long)args.Rows * args.PerToken, DType.I32, op, nameof(chosen));
        logits.Require((long)args.Rows * args.Experts, DType.F32, op, nameof(logits));
        return new RouteJob { Args = args, Weights = (float*)weights.Address, Chosen = (int*)chosen.Address, Logits = (float*)logits.Address, PerItem = Math.Max(1, RouteItem / args.Experts) };
    }

    private static CombineJob Prepare(string op, View x, View place, View weights, int rows, int perToken, int cols)
    {
        Check.Size(rows, op, nameof(rows));
        Check.Size(perToken, op, nameof(perToken));
        Check.Size(cols, op, nameof(cols));
        long places = (long)rows * perToken;
        place.Require(places, DType.I32, op, nameof(place));
        weights.Require(places, DType.F32, op, nameof(weights));
        x.Require(0, DType.F32, op, nameof(x));
        Check.Indices((int*)place.Address, checked((int)places), cols == 0 ? long.MaxValue : x.Length / cols, op, nameof(place));
        return new CombineJob { X = (float*)x.Address, Place = (int*)place.Address, Weights = (float*)weights.Address, Rows = rows, PerToken = perToken, Cols = cols, PerItem = Math.Max(1, CombineItem / Math.Max(1, cols * perToken)) };
    }

    private struct RouteJob
    {
        public RouteArgs Args;
        public float* Weights, Logits, DLogits, DWeights;
        public int* Chosen;
        public int PerItem;

        public readonly int Items => (Args.Rows + PerItem - 1) / PerItem;

        public static void Forward(void* context, int item, int worker)
        {
            RouteJob* job = (RouteJob*)context;
            int experts = job->Args.Experts, k = job->Args.PerToken;
            for (int row = item * job->PerItem; row < Math.Min(job->Args.Rows, (item + 1) * job->PerItem); row++)
            {
                float* logits = job->Logits + (long)row * experts, weights = job->Weights + (long)row * k;
                int* chosen = job->Chosen + (long)row * k;
                for (int j = 0; j < k; j++)
                    chosen[j] = Best(logits, experts, chosen, j);
                double max = logits[chosen[0]], sum = 0;
                for (int j = 0; j < k; j++)
                    weights[j] = (float)Math.Exp(logits[chosen[j]] - max);
                if (job->Args.Normalise)
                    for (int j = 0; j < k; j++)
                        sum += weights[j];
                else
                    sum = Sum(logits, experts, max);
                for (int j = 0; j < k; j++)
                    weights[j] = (float)(weights[j] / sum);
            }
        }

        public static void Backward(void* context, int item, int worker)
        {
            RouteJob* job = (RouteJob*)context;
            int experts = job->Args.Experts, k = job->Args.PerToken;
            for (int row = item * job->PerItem; row < Math.Min(job->Args.Rows, (item + 1) * job->PerItem); row++)
            {
                float* logits = job->Logits + (long)row * experts, d = job->DLogits + (long)row * experts;
                float* weights = job->Weights + (long)row * k, dWeights = job->DWeights + (long)row * k;
                int* chosen = job->Chosen + (long)row * k;
                double s = 0;
                for (int j = 0; j < k; j++)
                    s += (double)dWeights[j] * weights[j];
                if (!job->Args.Normalise)
                {
                    double max = logits[chosen[0]], sum = Sum(logits, experts, max);
                    for (int e = 0; e < experts; e++)
                        d[e] = (float)(d[e] - Math.Exp(logits[e] - max) / sum * s);
                    s = 0;
                }
                for (int j = 0; j < k; j++)
                    d[chosen[j]] = (float)(d[chosen[j]] + weights[j] * (dWeights[j] - s));
            }
        }

        private static double Sum(float* logits, int experts, double max)
        {
            double sum = 0;
            for (int e = 0; e < experts; e++)
                sum += Math.Exp(logits[e] - max);
            return sum;
        }

        // The expert with the largest logit that is not among the first `taken` chosen ones.
        private static int Best(float* logits, int experts, int* chosen, int taken)
        {
            int best = -1;
            for (int e = 0; e < experts; e++)
            {
                if (best >= 0 && !(logits[e] > logits[best]) && !(float.IsNaN(logits[best]) && !float.IsNaN(logits[e])))
                    continue;
                bool free = true;
                for (int j = 0; j < taken; j++)
                    free &= chosen[j] != e;
                if (free)
                    best = e;
            }
            return best;
        }
    }

    private struct CombineJob
    {
        // Y is dy in the backward pass.
        public float* Y, X, Weights, DX, DWeights;
        public int* Place;
        public int Rows, PerToken, Cols, PerItem;

        public readonly int Items => (Rows + PerItem - 1) / PerItem;

        public static void Forward(void* context, int item, int worker)
        {
            CombineJob* job = (CombineJob*)context;
            int k = job->PerToken, cols = job->Cols;
            for (int row = item * job->PerItem; row < Math.Min(job->Rows, (item + 1) * job->PerItem); row++)
            {
                float* y = job->Y + (long)row * cols;
                new Span<float>(y, cols).Clear();
                for (int j = 0; j < k; j++)
                    Row.AddScaled(y, job->X + (long)job->Place[row * k + j] * cols, job->Weights[row * k + j], cols);
            }
        }

        public static void Backward(void* context, int item, int worker)
        {
            CombineJob* job = (CombineJob*)context;
            int k = job->PerToken, cols = job->Cols;
            for (int row = item * job->PerItem; row < Math.Min(job->Rows, (item + 1) * job->PerItem); row++)
            {
                float* dy = job->Y + (long)row * cols;
                for (int j = 0; j < k; j++)
                {
                    long at = (long)job->Place[row * k + j] * cols;
                    if (job->DX != null)
                        Row.AddScaled(job->DX + at, dy, job->Weights[row * k + j], cols);
                    if (job->DWeights != null)
                        job->DWeights[row * k + j] += Row.Dot(dy, job->X + at, cols);
                }
            }
        }
    }

    private struct ClampedJob
    {
        // Y is dy in the backward pass.
        public float* Y, Gate, Up, DGate, DUp;
        public float Alpha, Limit;

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Forward(void* context, long begin, long end)
        {
            ClampedJob* job = (ClampedJob*)context;
            V alpha = Vector256.Create(job->Alpha), limit = Vector256.Create(job->Limit);
            for (long i = begin; i < end; i += SimdMath.Lanes)
            {
                int count = (int)Math.Min(SimdMath.Lanes, end - i);
                V g = AtMost(SimdMath.LoadFirst(job->Gate + i, count), limit);
                V u = -AtMost(-AtMost(SimdMath.LoadFirst(job->Up + i, count), limit), limit);
                SimdMath.StoreFirst(job->Y + i, (u + V.One) * (g * SimdMath.Sigmoid(alpha * g)), count);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Backward(void* context, long begin, long end)
        {
            ClampedJob* job = (ClampedJob*)context;
            V alpha = Vector256.Create(job->Alpha), limit = Vector256.Create(job->Limit);
            for (long i = begin; i < end; i += SimdMath.Lanes)
            {
                int count = (int)Math.Min(SimdMath.Lanes, end - i);
                V dy = SimdMath.LoadFirst(job->Y + i, count), gate = SimdMath.LoadFirst(job->Gate + i, count), up = SimdMath.LoadFirst(job->Up + i, count);
                V g = AtMost(gate, limit), u = -AtMost(-AtMost(up, limit), limit);
                V sigmoid = SimdMath.Sigmoid(alpha * g, out V complement);
                if (job->DGate != null)
                {
                    V slope = sigmoid * SimdMath.MulAdd(alpha * g, complement, V.One) * (u + V.One);
                    V d = Vector256.ConditionalSelect(Vector256.LessThanOrEqual(gate, limit), dy * slope, V.Zero);
                    SimdMath.StoreFirst(job->DGate + i, SimdMath.LoadFirst(job->DGate + i, count) + d, count);
                }
                if (job->DUp != null)
                {
                    V d = Vector256.ConditionalSelect(Vector256.LessThanOrEqual(Vector256.Abs(up), limit), dy * (g * sigmoid), V.Zero);
                    SimdMath.StoreFirst(job->DUp + i, SimdMath.LoadFirst(job->DUp + i, count) + d, count);
                }
            }
        }

        // min that lets NaN through.
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static V AtMost(V x, V limit) => Vector256.ConditionalSelect(Vector256.GreaterThan(x, limit), limit, x);
    }
}
