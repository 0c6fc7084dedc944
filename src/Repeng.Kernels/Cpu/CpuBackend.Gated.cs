using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void GatedForward(View y, View gate, View up, long n, UnaryOp op)
    {
        Check.Size(n, nameof(GatedForward), nameof(n));
        y.Require(n, DType.F32, nameof(GatedForward), nameof(y));
        gate.Require(n, DType.F32, nameof(GatedForward), nameof(gate));
        up.Require(n, DType.F32, nameof(GatedForward), nameof(up));
        GatedJob job = new() { Y = (float*)y.Address, Gate = (float*)gate.Address, Up = (float*)up.Address };
        delegate*<void*, long, long, void> body;
        switch (op)
        {
            case UnaryOp.Silu: body = &GatedJob.Forward<SiluFunction>; break;
            case UnaryOp.Gelu: body = &GatedJob.Forward<GeluFunction>; break;
            case UnaryOp.GeluTanh: body = &GatedJob.Forward<GeluTanhFunction>; break;
            default: throw Check.Unknown(op, nameof(GatedForward));
        }
        Ranges.Elements(_workers, n, body, &job);
    }

    /// <inheritdoc/>
    public void GatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, UnaryOp op)
    {
        Check.Size(n, nameof(GatedBackward), nameof(n));
        dy.Require(n, DType.F32, nameof(GatedBackward), nameof(dy));
        gate.Require(n, DType.F32, nameof(GatedBackward), nameof(gate));
        if (!dGate.IsEmpty)
        {
            dGate.Require(n, DType.F32, nameof(GatedBackward), nameof(dGate));
            up.Require(n, DType.F32, nameof(GatedBackward), nameof(up));
        }
        if (!dUp.IsEmpty)
            dUp.Require(n, DType.F32, nameof(GatedBackward), nameof(dUp));
        GatedJob job = new()
        {
            DGate = dGate.IsEmpty ? null : (float*)dGate.Address,
            DUp = dUp.IsEmpty ? null : (float*)dUp.Address,
            Dy = (float*)dy.Address,
            Gate = (float*)gate.Address,
            Up = (float*)up.Address,
        };
        delegate*<void*, long, long, void> body;
        switch (op)
        {
            case UnaryOp.Silu: body = &GatedJob.Backward<SiluFunction>; break;
            case UnaryOp.Gelu: body = &GatedJob.Backward<GeluFunction>; break;
            case UnaryOp.GeluTanh: body = &GatedJob.Backward<GeluTanhFunction>; break;
            default: throw Check.Unknown(op, nameof(GatedBackward));
        }
        Ranges.Elements(_workers, n, body, &job);
    }

    private struct GatedJob
    {
        public float* Y;
        public float* Gate;
        public float* Up;
        public float* DGate;
        public float* DUp;
        public float* Dy;

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Forward<TFunction>(void* context, long begin, long end) where TFunction : struct, IUnaryFunction
        {
            GatedJob* job = (GatedJob*)context;
            float* gate = job->Gate, up = job->Up, y = job->Y;
            long i = begin;
            for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
                Vector256.Store(TFunction.Value(Vector256.Load(gate + i), V.Zero) * Vector256.Load(up + i), y + i);
            if (i < end)
            {
                int count = (int)(end - i);
                SimdMath.StorePartial(y + i, TFunction.Value(SimdMath.LoadPartial(gate + i, count), V.Zero) * SimdMath.LoadPartial(up + i, count), count);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Backward<TFunction>(void* context, long begin, long end) where TFunction : struct, IUnaryFunction
        {
            GatedJob* job = (GatedJob*)context;
            float* gate = job->Gate, up = job->Up, dy = job->Dy;
            if (job->DGate != null)
            {
                float* dGate = job->DGate;
                long i = begin;
                for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
                {
                    V g = Vector256.Load(gate + i);
                    V outer = Vector256.Load(dy + i) * Vector256.Load(up + i);
                    Vector256.Store(SimdMath.MulAdd(outer, TFunction.Derivative(g, g, V.Zero), Vector256.Load(dGate + i)), dGate + i);
                }
                if (i < end)
                {
                    int count = (int)(end - i);
                    V g = SimdMath.LoadPartial(gate + i, count);
                    V outer = SimdMath.LoadPartial(dy + i, count) * SimdMath.LoadPartial(up + i, count);
                    SimdMath.StorePartial(dGate + i, SimdMath.MulAdd(outer, TFunction.Derivative(g, g, V.Zero), SimdMath.LoadPartial(dGate + i, count)), count);
                }
            }
            if (job->DUp != null)
            {
                float* dUp = job->DUp;
                long i = begin;
                for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
                    Vector256.Store(SimdMath.MulAdd(Vector256.Load(dy + i), TFunction.Value(Vector256.Load(gate + i), V.Zero), Vector256.Load(dUp + i)), dUp + i);
                if (i < end)
                {
                    int count = (int)(end - i);
                    V value = TFunction.Value(SimdMath.LoadPartial(gate + i, count), V.Zero);
                    SimdMath.StorePartial(dUp + i, SimdMath.MulAdd(SimdMath.LoadPartial(dy + i, count), value, SimdMath.LoadPartial(dUp + i, count)), count);
                }
            }
        }
    }
}
