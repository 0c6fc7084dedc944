using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    // Keys and queries are told apart by fp32 indices in the mask; above this they would round.
    private const int LongestSequence = 1 << 24;

    /// <summary>Bits of the SIMD vectors that attention, norms and rotary embedding use: 128, 256 or 512.</summary>
    internal int VectorBits { get; init; } =
        Vector512.IsHardwareAccelerated ? 512 : Vector256.IsHardwareAccelerated ? 256 : 128;

    /// <inheritdoc/>
    public void AttentionForward(View o, View lse, View q, View k, View v, View firstKey, in AttentionArgs args)
    {
        const string Op = "AttentionForward";
        (long queries, long keys, long rows) = CheckAttention(Op, args);
        o.Require(queries, DType.F32, Op, nameof(o));
        lse.Require(rows, DType.F32, Op, nameof(lse));
        q.Require(queries, DType.F32, Op, nameof(q));
        k.Require(keys, DType.F32, Op, nameof(k));
        v.Require(keys, DType.F32, Op, nameof(v));
        CheckFirstKeys(Op, firstKey, args);
        if (queries == 0)
            return;
        AttentionContext context = new()
        {
            Args = args,
            Q = q.Floats,
            K = k.Floats,
            V = v.Floats,
            O = o.Floats,
            Lse = lse.Floats,
            FirstKey = firstKey.Ints,
        };
        if (VectorBits == 512)
            RunAttentionForward<Vector512<float>, Simd512>(ref context);
        else if (VectorBits == 256)
            RunAttentionForward<Vector256<float>, Simd256>(ref context);
        else
            RunAttentionForward<Vector128<float>, Simd128>(ref context);
    }

    /// <inheritdoc/>
    public void AttentionBackward(View dq, View dk, View dv, View dO, View o, View lse, View delta, View q, View k, View v, View firstKey, in AttentionArgs args)
    {
        const string Op = "AttentionBackward";
        (long queries, long keys, long rows) = CheckAttention(Op, args);
        RequireOptional(Op, dq, queries, nameof(dq));
        RequireOptional(Op, dk, keys, nameof(dk));
        RequireOptional(Op, dv, keys, nameof(dv));
        dO.Require(queries, DType.F32, Op, nameof(dO));
        o.Require(queries, DType.F32, Op, nameof(o));
        lse.Require(rows, DType.F32, Op, nameof(lse));
        delta.Require(rows, DType.F32, Op, nameof(delta));
        q.Require(queries, DType.F32, Op, nameof(q));
        k.Require(keys, DType.F32, Op, nameof(k));
        v.Require(keys, DType.F32, Op, nameof(v));
        CheckFirstKeys(Op, firstKey, args);
        if (queries == 0)
            return;
        AttentionContext context = new()
        {
            Args = args,
            Q = q.Floats,
            K = k.Floats,
            V = v.Floats,
            O = o.Floats,
            Lse = lse.Floats,
            FirstKey = firstKey.Ints,
            DO = dO.Floats,
            Delta = delta.Floats,
            DQ = dq.IsEmpty ? null : dq.Floats,
            DK = dk.IsEmpty ? null : dk.Floats,
            DV = dv.IsEmpty ? null : dv.Floats,
        };
        if (VectorBits == 512)
            RunAttentionBackward<Vector512<float>, Simd512>(ref context);
        else if (VectorBits == 256)
            RunAttentionBackward<Vector256<float>, Simd256>(ref context);
        else
            RunAttentionBackward<Vector128<float>, Simd128>(ref context);
    }

    private void RunAttentionForward<V, S>(ref AttentionContext context)
        where V : struct
        where S : struct, ISimd<V>
    {
        nint* scratch = stackalloc nint[_workers.Count];
        context.Scratch = scratch;
        fixed (AttentionContext* c = &context)
        {
            if (!AttentionKernel<V, S>.IsDecode(context.Args))
            {
                TakeScratch(scratch, AttentionKernel<V, S>.ForwardScratchBytes(context.Args));
                RunItems(AttentionKernel<V, S>.ForwardItems(context.Args), IsHeavy(context.Args), &AttentionKernel<V, S>.ForwardItem, c);
                return;
            }
            // The splits' sums lie behind the calling thread's own scratch, where every worker may reach them.
            long own = (AttentionKernel<V, S>.DecodeScratchBytes(context.Args) + 63) & ~63L;
            _workers.Scratch(0, own + AttentionKernel<V, S>.DecodePartialBytes(context.Args));
            TakeScratch(scratch, own);
            context.Partial = (float*)(scratch[0] + own);
            RunItems(AttentionKernel<V, S>.DecodeItems(context.Args), Work(context.Args) > 1 << 15, &AttentionKernel<V, S>.DecodeItem, c);
            RunItems(context.Args.Batch * context.Args.KvHeads, AttentionKernel<V, S>.DecodePartialBytes(context.Args) > 1 << 16, &AttentionKernel<V, S>.JoinItem, c);
        }
    }

    private void RunAttentionBackward<V, S>(ref AttentionContext context)
        where V : struct
        where S : struct, ISimd<V>
    {
        nint* scratch = stackalloc nint[_workers.Count];
        TakeScratch(scratch, AttentionKernel<V, S>.BackwardScratchBytes(context.Args));
        context.Scratch = scratch;
        fixed (AttentionContext* c = &context)
            RunItems(context.Args.Batch * context.Args.KvHeads, IsHeavy(context.Args), &AttentionKernel<V, S>.BackwardItem, c);
    }

    // Below some 10 µs of work, waking the other threads costs more than it saves; which thread runs an item changes no bit.
    private void RunItems(int items, bool worthWaking, delegate*<void*, int, int, void> body, void* context)
    {
        if (worthWaking)
            _workers.Run(items, body, context);
        else
            for (int item = 0; item < items; item++)
                body(context, item, 0);
    }

    private static bool IsHeavy(in AttentionArgs a) => Work(a) > 1 << 17;

    private static double Work(in AttentionArgs a) => (double)a.Batch * a.Heads * a.QueryLength * a.KeyLength * a.HeadDim;

    // A body sees only unmanaged memory, so every worker's scratch is taken before the loop starts.
    private void TakeScratch(nint* scratch, long bytes)
    {
        for (int i = 0; i < _workers.Count; i++)
            scratch[i] = (nint)_workers.Scratch(i, bytes);
    }

    private static (long Queries, long Keys, long Rows) CheckAttention(string op, in AttentionArgs a)
    {
        if (a.Batch < 0 || a.QueryLength < 0 || a.Heads < 1 || a.KvHeads < 1 || a.HeadDim < 1 || a.Window < 0 || !(a.SoftCap >= 0))
            throw new ArgumentException($"{op}: sizes out of range: batch {a.Batch}, {a.QueryLength} queries, {a.Heads} heads on {a.KvHeads} key heads of {a.HeadDim}, window {a.Window}, soft cap {a.SoftCap}");
        if (a.Heads % a.KvHeads != 0)
            throw new ArgumentException($"{op}: {a.Heads} query heads cannot share {a.KvHeads} key heads evenly");
        if (a.QueryLength > a.KeyLength || a.KeyLength > LongestSequence)
            throw new ArgumentException($"{op}: {a.QueryLength} queries end at key {a.KeyLength}; needs QueryLength ≤ KeyLength ≤ {LongestSequence}");
        if (a.KeyCapacity != 0 && a.KeyCapacity < a.KeyLength)
            throw new ArgumentException($"{op}: KeyCapacity {a.KeyCapacity} is below KeyLength {a.KeyLength}");
        long rows = (long)a.Batch * a.QueryLength * a.Heads;
        // The last sequence's keys need not be followed by the rest of its capacity.
        long tokens = a.Batch == 0 ? 0 : (a.Batch - 1L) * a.KeyStride + a.KeyLength;
        return (rows * a.HeadDim, tokens * a.KvHeads * a.HeadDim, rows);
    }

    private static void CheckFirstKeys(string op, View firstKey, in AttentionArgs a)
    {
        firstKey.Require(a.Batch, DType.I32, op, nameof(firstKey));
        for (int b = 0; b < a.Batch; b++)
            if ((uint)firstKey.Ints[b] > (uint)a.KeyLength)
                throw new ArgumentException($"{op}: firstKey[{b}] = {firstKey.Ints[b]} is outside 0 … KeyLength = {a.KeyLength}");
    }
}
