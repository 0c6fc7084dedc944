using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void Unary(View y, View x, long n, UnaryOp op, float p = 0)
    {
        Check.Size(n, nameof(Unary), nameof(n));
        y.Require(n, DType.F32, nameof(Unary), nameof(y));
        x.Require(n, DType.F32, nameof(Unary), nameof(x));
        UnaryJob job = new() { X = (float*)x.Address, Y = (float*)y.Address, P = p };
        Ranges.Elements(_workers, n, Ranges.Heavy, UnaryJob.ValueBody(op), &job);
    }

    /// <inheritdoc/>
    public void UnaryBackward(View dx, View dy, View x, View y, long n, UnaryOp op, float p = 0)
    {
        Check.Size(n, nameof(UnaryBackward), nameof(n));
        if (dx.IsEmpty)
            return;
        dx.Require(n, DType.F32, nameof(UnaryBackward), nameof(dx));
        dy.Require(n, DType.F32, nameof(UnaryBackward), nameof(dy));
        bool readsOutput = op.BackwardReadsOutput();
        if (readsOutput)
            y.Require(n, DType.F32, nameof(UnaryBackward), nameof(y));
        else
            x.Require(n, DType.F32, nameof(UnaryBackward), nameof(x));
        // Only one of the two is read; the other may be absent and the pointer to the present one stands in.
        UnaryJob job = new() { Dx = (float*)dx.Address, Dy = (float*)dy.Address, X = (float*)(readsOutput ? y : x).Address, P = p };
        Ranges.Elements(_workers, n, Ranges.Heavy, UnaryJob.DerivativeBody(op), &job);
    }

    /// <inheritdoc/>
    public void AddScaled(View y, View x, long n, float p)
    {
        Check.Size(n, nameof(AddScaled), nameof(n));
        y.Require(n, DType.F32, nameof(AddScaled), nameof(y));
        x.Require(n, DType.F32, nameof(AddScaled), nameof(x));
        // The same arithmetic as the backward pass of a scale: y += x·p.
        UnaryJob job = new() { Dx = (float*)y.Address, Dy = (float*)x.Address, X = (float*)x.Address, P = p };
        Ranges.Elements(_workers, n, Ranges.Light, &UnaryJob.Backward<ScaleFunction>, &job);
    }

    private struct UnaryJob
    {
        public float* X;
        public float* Y;
        public float* Dx;
        public float* Dy;
        public float P;

        public static delegate*<void*, long, long, void> ValueBody(UnaryOp op)
        {
            switch (op)
            {
                case UnaryOp.Scale: return &Forward<ScaleFunction>;
                case UnaryOp.Offset: return &Forward<OffsetFunction>;
                case UnaryOp.Exp: return &Forward<ExpFunction>;
                case UnaryOp.Log: return &Forward<LogFunction>;
                case UnaryOp.Log1p: return &Forward<Log1pFunction>;
                case UnaryOp.Sqrt: return &Forward<SqrtFunction>;
                case UnaryOp.Square: return &Forward<SquareFunction>;
                case UnaryOp.Power: return &Forward<PowerFunction>;
                case UnaryOp.Reciprocal: return &Forward<ReciprocalFunction>;
                case UnaryOp.Abs: return &Forward<AbsFunction>;
                case UnaryOp.Relu: return &Forward<ReluFunction>;
                case UnaryOp.Min: return &Forward<MinFunction>;
                case UnaryOp.Max: return &Forward<MaxFunction>;
                case UnaryOp.Tanh: return &Forward<TanhFunction>;
                case UnaryOp.SoftCap: return &Forward<SoftCapFunction>;
                case UnaryOp.Sigmoid: return &Forward<SigmoidFunction>;
                case UnaryOp.LogSigmoid: return &Forward<LogSigmoidFunction>;
                case UnaryOp.Silu: return &Forward<SiluFunction>;
                case UnaryOp.Gelu: return &Forward<GeluFunction>;
                case UnaryOp.GeluTanh: return &Forward<GeluTanhFunction>;
                default: throw Check.Unknown(op, nameof(Unary));
            }
        }

        public static delegate*<void*, long, long, void> DerivativeBody(UnaryOp op)
        {
            switch (op)
            {
                case UnaryOp.Scale: return &Backward<ScaleFunction>;
                case UnaryOp.Offset: return &Backward<OffsetFunction>;
                case UnaryOp.Exp: return &Backward<ExpFunction>;
                case UnaryOp.Log: return &Backward<LogFunction>;
                case UnaryOp.Log1p: return &Backward<Log1pFunction>;
                case UnaryOp.Sqrt: return &Backward<SqrtFunction>;
                case UnaryOp.Square: return &Backward<SquareFunction>;
                case UnaryOp.Power: return &Backward<PowerFunction>;
                case UnaryOp.Reciprocal: return &Backward<ReciprocalFunction>;
                case UnaryOp.Abs: return &Backward<AbsFunction>;
                case UnaryOp.Relu: return &Backward<ReluFunction>;
                case UnaryOp.Min: return &Backward<MinFunction>;
                case UnaryOp.Max: return &Backward<MaxFunction>;
                case UnaryOp.Tanh: return &Backward<TanhFunction>;
                case UnaryOp.SoftCap: return &Backward<SoftCapFunction>;
                case UnaryOp.Sigmoid: return &Backward<SigmoidFunction>;
                case UnaryOp.LogSigmoid: return &Backward<LogSigmoidFunction>;
                case UnaryOp.Silu: return &Backward<SiluFunction>;
                case UnaryOp.Gelu: return &Backward<GeluFunction>;
                case UnaryOp.GeluTanh: return &Backward<GeluTanhFunction>;
                default: throw Check.Unknown(op, nameof(UnaryBackward));
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Forward<TFunction>(void* context, long begin, long end) where TFunction : struct, IUnaryFunction
        {
            UnaryJob* job = (UnaryJob*)context;
            float* x = job->X, y = job->Y;
            V p = Vector256.Create(job->P);
            long i = begin;
            for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
                Vector256.Store(TFunction.Value(Vector256.Load(x + i), p), y + i);
            if (i < end)
                SimdMath.StorePartial(y + i, TFunction.Value(SimdMath.LoadPartial(x + i, (int)(end - i)), p), (int)(end - i));
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Backward<TFunction>(void* context, long begin, long end) where TFunction : struct, IUnaryFunction
        {
            UnaryJob* job = (UnaryJob*)context;
            float* x = job->X, dx = job->Dx, dy = job->Dy;
            V p = Vector256.Create(job->P);
            long i = begin;
            for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
            {
                V v = Vector256.Load(x + i);
                Vector256.Store(SimdMath.MulAdd(Vector256.Load(dy + i), TFunction.Derivative(v, v, p), Vector256.Load(dx + i)), dx + i);
            }
            if (i < end)
            {
                int count = (int)(end - i);
                V v = SimdMath.LoadPartial(x + i, count);
                V sum = SimdMath.MulAdd(SimdMath.LoadPartial(dy + i, count), TFunction.Derivative(v, v, p), SimdMath.LoadPartial(dx + i, count));
                SimdMath.StorePartial(dx + i, sum, count);
            }
        }
    }
}
