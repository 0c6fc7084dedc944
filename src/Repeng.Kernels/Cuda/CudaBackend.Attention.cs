using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Attention = "attention", AttentionRounded = "attention_rounded";

    // Decode: so few rows a key head that blocks over stretches of the keys are what fills the device. The stretch is fixed, so
    // that bits depend on the keys alone and not on the device.
    private const int DecodeRows = 16, SplitKeys = 256;

    // Rows of a block of attention_rounded.cu.
    private const int TileRows = 64;

    /// <inheritdoc/>
    public void AttentionForward(View o, View lse, View q, View k, View v, View firstKey, in AttentionArgs args) => ForwardAttention(nameof(AttentionForward), o, lse, q, k, v, firstKey, 0, args);

    // cached: where the number of keys before the queries' own lies on the device; 0 where args say how many keys there are.
    private void ForwardAttention(string op, View o, View lse, View q, View k, View v, View firstKey, nint cached, in AttentionArgs args)
    {
        long queries = Check.AttentionForward(o, lse, q, k, v, firstKey, args);
        RequireHeads(op, args);
        if (queries == 0)
            return;
        AttentionParams p = Params(args) with { O = o.Address, Lse = lse.Address, Q = q.Address, K = k.Address, V = v.Address, FirstKey = firstKey.Address, Cached = cached };
        int d = Padded(args.HeadDim), problemRows = args.QueryLength * args.Group;
        uint problems = Blocks((long)args.Batch * args.KvHeads, 1);
        KernelArguments a = default;
        if (cached == 0 && Rounds(args))
        {
            long rows = (long)args.Batch * args.QueryLength, cols = queries / rows;
            p.Copy = RoomForCopy(o, rows, cols);
            a.Add(p);
            Kernel(AttentionRounded, $"attention_forward_rounded_{d}").Launch(new(Blocks(problemRows, TileRows), problems), new(TileThreads), d == 256 ? 65536 : 256 * d, ref a);
            if (p.Copy != 0)
                Copied(o.Address, queries);
            return;
        }
        if (problemRows <= DecodeRows && args.KeyLength > SplitKeys)
        {
            p.SplitKeys = SplitKeys;
            p.Splits = (args.KeyLength + SplitKeys - 1) / SplitKeys;
            p.Partial = Scratch(sizeof(float) * (long)p.Splits * problems * problemRows * (args.HeadDim + 2));
            a.Add(p);
            Kernel(Attention, $"attention_split_{d}").Launch(new(Blocks(problemRows, 16), problems, (uint)p.Splits), new(d == 256 ? 64u : 32u), 320 * d, ref a);
            KernelArguments join = default;
            join.Add(p);
            Kernel(Attention, "attention_join").Launch(new(Blocks(queries / args.HeadDim, 1)), new(TileThreads), 0, ref join);
            return;
        }
        a.Add(p);
        Kernel(Attention, $"attention_forward_{d}").Launch(new(Blocks(problemRows, d == 256 ? 32 : 64), problems), new(TileThreads), d == 256 ? 98304 : 512 * d, ref a);
    }

    /// <inheritdoc/>
    public void AttentionBackward(View dq, View dk, View dv, View dO, View o, View lse, View delta, View q, View k, View v, View firstKey, in AttentionArgs args, bool accumulate = true)
    {
        long queries = Check.AttentionBackward(dq, dk, dv, dO, o, lse, delta, q, k, v, firstKey, args);
        RequireHeads(nameof(AttentionBackward), args);
        // Rows of a cache behind the last key belong to nobody's block.
        if (!accumulate && args.KeyStride > args.KeyLength)
        {
            ZeroGradients(dq, dk, dv);
            accumulate = true;
        }
        if (queries == 0)
        {
            if (!accumulate)
                ZeroGradients(dq, dk, dv);
            return;
        }
        AttentionParams p = Params(args) with
        {
            O = o.Address,
            Lse = lse.Address,
            Q = q.Address,
            K = k.Address,
            V = v.Address,
            FirstKey = firstKey.Address,
            DO = dO.Address,
            Delta = delta.Address,
            DQ = dq.IsEmpty ? 0 : dq.Address,
            DK = dk.IsEmpty ? 0 : dk.Address,
            DV = dv.IsEmpty ? 0 : dv.Address,
            Accumulate = accumulate ? 1 : 0,
        };
        int d = Padded(args.HeadDim);
        uint problems = Blocks((long)args.Batch * args.KvHeads, 1);
        bool rounds = Rounds(args), byQueries = !dq.IsEmpty;
        if (rounds && byQueries)
            Run($"attention_queries_rounded_{d}", new(Blocks((long)args.QueryLength * args.Group, TileRows), problems), TileThreads, d == 256 ? 98304 : 256 * d);
        else
            Run("attention_delta", new(Blocks(queries / args.HeadDim, 8)), Threads, 0);
        if (rounds)
        {
            if (!dk.IsEmpty || !dv.IsEmpty)
                Run($"attention_keys_rounded_{d}", new(Blocks(args.KeyLength, d == 256 ? 32 : 64), problems), TileThreads, d == 256 ? 70016 : (384 * d) + 384);
            return;
        }
        if (!dk.IsEmpty || !dv.IsEmpty)
        {
            (int keysOfBlock, int shared) = d switch
            {
                <= 64 => (64, 768 * d + 256),
                128 => (32, 73984),
                _ => (16, 65664),
            };
            Run($"attention_keys_{d}", new(Blocks(args.KeyLength, keysOfBlock), problems), TileThreads, shared);
        }
        if (byQueries)
        {
            (int rowsOfBlock, int shared) = d switch
            {
                <= 64 => (64, 768 * d),
                128 => (32, 69632),
                _ => (32, 98304),
            };
            Run($"attention_queries_{d}", new(Blocks((long)args.QueryLength * args.Group, rowsOfBlock), problems), TileThreads, shared);
        }

        void Run(string kernel, Dim3 grid, int threads, int shared)
        {
            KernelArguments a = default;
            a.Add(p);
            Kernel(kernel.Contains("_rounded_", StringComparison.Ordinal) ? AttentionRounded : Attention, kernel).Launch(grid, new((uint)threads), shared, ref a);
        }
    }

    /// <inheritdoc/>
    public void AttentionSinksForward(View o, View lse, View sinks, int rows, int heads, int headDim)
    {
        const string Op = nameof(AttentionSinksForward);
        Check.Size(rows, Op, nameof(rows));
        long lines = (long)rows * heads;
        o.Require(lines * headDim, DType.F32, Op, nameof(o));
        lse.Require(lines, DType.F32, Op, nameof(lse));
        sinks.Require(heads, DType.F32, Op, nameof(sinks));
        KernelArguments a = default;
        a.Add(o).Add(lse).Add(sinks).Add(lines).Add(heads).Add(headDim);
        Kernel(Attention, "attention_sinks_forward").Launch(new(Blocks(lines, RowsOfBlock)), new(Threads), 0, ref a);
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
        KernelArguments a = default;
        a.Add(dSinks).Add(delta).Add(lse).Add(sinks).Add(rows).Add(heads);
        Kernel(Attention, "attention_sinks_backward").Launch(new((uint)heads), new(Threads), 0, ref a);
    }

    private void ZeroGradients(View dq, View dk, View dv)
    {
        foreach (View d in (ReadOnlySpan<View>)[dq, dk, dv])
            if (!d.IsEmpty)
                Fill(d, 0);
    }

    // A token a sequence, and the few rows that are read by stretches of a cache, stay exact in either precision, as products of few rows do. The kernels find a
    // row's token by a multiplication that holds up to 2³² (attention_rounded.cu).
    private bool Rounds(in AttentionArgs args) =>
        Precision == CudaPrecision.Bf16 && args.QueryLength > 1 && args.QueryLength * args.Group > DecodeRows && (long)args.QueryLength * args.Group * args.Group <= 1L << 32;

    // Kernels exist for heads padded to these sizes.
    private static int Padded(int headDim) => headDim <= 32 ? 32 : headDim <= 64 ? 64 : headDim <= 128 ? 128 : 256;

    private static AttentionParams Params(in AttentionArgs args) => new()
    {
        Batch = args.Batch,
        QueryLength = args.QueryLength,
        KeyLength = args.KeyLength,
        Heads = args.Heads,
        KvHeads = args.KvHeads,
        HeadDim = args.HeadDim,
        KeyStride = args.KeyStride,
        Window = args.Window,
        Scale = args.Scale,
        SoftCap = args.SoftCap,
        Splits = 1,
    };

    private static void RequireHeads(string op, in AttentionArgs a)
    {
        if (a.HeadDim > 256)
            throw new ArgumentException($"{op}: heads of {a.HeadDim} elements; the kernels take 1 to 256");
    }

    /// <summary>Operands of the kernels; laid out as AttentionParams in kernels/attention.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct AttentionParams
    {
        public nint O;
        public nint Lse;
        public nint Q;
        public nint K;
        public nint V;
        public nint FirstKey;
        public nint DO;
        public nint Delta;
        public nint DQ;
        public nint DK;
        public nint DV;
        public nint Partial;
        public int Batch;
        public int QueryLength;
        public int KeyLength;
        public int Heads;
        public int KvHeads;
        public int HeadDim;
        public int KeyStride;
        public int Window;
        public int SplitKeys;
        public int Splits;
        public float Scale;
        public float SoftCap;
        public nint Cached;
        public int Accumulate;
        public int Reserved;
        public nint Copy;
    }
}
