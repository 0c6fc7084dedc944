using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    // Keys and queries are told apart by fp32 indices in the mask; above this they would round.

    /// <summary>Bits of the SIMD vectors that attention, norms and rotary embedding use: 128, 256 or 512.</summary>
    internal int VectorBits { get; init; } =
        Vector512.IsHardwareAccelerated ? 512 : Vector256.IsHardwareAccelerated ? 256 : 128;

    /// <inheritdoc/>
    public void AttentionForward(View o, View lse, View q, View k, View v, View firstKey, in AttentionArgs args)
    {
        long queries = Check.AttentionForward(o, lse, q, k, v, firstKey, args);
        CheckFirstKeys(nameof(AttentionForward), firstKey, args);
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
    public void AttentionBackward(View dq, View dk, View dv, View dO, View o, View lse, View delta, View q, View k, View v, View firstKey, in AttentionArgs args, bool accumulate = true)
    {
        long queries = Check.AttentionBackward(dq, dk, dv, dO, o, lse, delta, q, k, v, firstKey, args);
        CheckFirstKeys(nameof(AttentionBackward), firstKey, args);
        // Items add up rows that others began: dk and dv of a key by all tiles of queries.
        foreach (View d in (ReadOnlySpan<View>)[dq, dk, dv])
            if (!accumulate && !d.IsEmpty)
                Fill(d, 0);
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

    private static void CheckFirstKeys(string op, View firstKey, in AttentionArgs a)
    {
        for (int b = 0; b < a.Batch; b++)
            if ((uint)firstKey.Ints[b] > (uint)a.KeyLength)
                throw new ArgumentException($"{op}: firstKey[{b}] = {firstKey.Ints[b]} is outside 0 … KeyLength = {a.KeyLength}");
    }
}
