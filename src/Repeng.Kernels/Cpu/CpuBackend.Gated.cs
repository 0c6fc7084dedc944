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
        Ranges.Elements(_workers, n, Ranges.Heavy, body, &job);
    }

    /// <inheritdoc/>
    public void GatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, UnaryOp op, bool accumulate = true)
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
            Keep = Vector256.Create(accumulate ? uint.MaxValue : 0).AsSingle(),
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
        Ranges.Elements(_workers, n, Ranges.Heavy, body, &job);
    }

    private struct GatedJob
    {
        public float* Y;
        public float* Gate;
        public float* Up;
        public float* DGate;
        public float* DUp;
        public float* Dy;

        // All bits where gradients are added to what is there, none where they are the first: zeros then stand for what memory holds.
        public V Keep;

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
        public static void Backward<TFunction>(void* context, long begin, long end) where TFunction : struct, IGateFunction
        {
            GatedJob* job = (GatedJob*)context;
            float* gate = job->Gate, up = job->Up, dy = job->Dy, dGate = job->DGate, dUp = job->DUp;
            V keep = job->Keep;
            long i = begin;
            for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
                Add<TFunction>(dGate == null ? null : dGate + i, dUp == null ? null : dUp + i, dy + i, gate + i, up + i, keep);
            if (i < end)
            {
                // The rest through padded copies, so that it goes the same way as full vectors.
                const int Lanes = SimdMath.Lanes;
                uint bytes = (uint)(end - i) * sizeof(float);
                float* padded = stackalloc float[5 * Lanes];
                Unsafe.CopyBlock(padded, gate + i, bytes);
                Unsafe.CopyBlock(padded + Lanes, dy + i, bytes);
                if (dGate != null)
                {
                    Unsafe.CopyBlock(padded + (2 * Lanes), up + i, bytes);
                    Unsafe.CopyBlock(padded + (3 * Lanes), dGate + i, bytes);
                }
                if (dUp != null)
                    Unsafe.CopyBlock(padded + (4 * Lanes), dUp + i, bytes);
                Add<TFunction>(dGate == null ? null : padded + (3 * Lanes), dUp == null ? null : padded + (4 * Lanes), padded + Lanes, padded, padded + (2 * Lanes), keep);
                if (dGate != null)
                    Unsafe.CopyBlock(dGate + i, padded + (3 * Lanes), bytes);
                if (dUp != null)
                    Unsafe.CopyBlock(dUp + i, padded + (4 * Lanes), bytes);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static void Add<TFunction>(float* dGate, float* dUp, float* dy, float* gate, float* up, V keep) where TFunction : struct, IGateFunction
        {
            V upstream = Vector256.Load(dy), value = TFunction.Both(Vector256.Load(gate), out V derivative);
            if (dGate != null)
                Vector256.Store(SimdMath.MulAdd(upstream * Vector256.Load(up), derivative, Vector256.Load(dGate) & keep), dGate);
            if (dUp != null)
                Vector256.Store(SimdMath.MulAdd(upstream, value, Vector256.Load(dUp) & keep), dUp);
        }
    }
}
