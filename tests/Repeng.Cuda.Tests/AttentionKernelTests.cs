using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Tests.Reference;
using Repeng.PtxEmulator;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>attention.cu against double arithmetic: every head size's kernels, masks, groups, stretches, and what they cost.</summary>
public sealed class AttentionKernelTests
{
    /// <summary>AttentionParams of kernels/attention.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Params
    {
        public ulong O, Lse, Q, K, V, FirstKey, DO, Delta, Dq, Dk, Dv, Partial;
        public int Batch, QueryLength, KeyLength, Heads, KvHeads, HeadDim, KeyStride, Window, SplitKeys, Splits;
        public float Scale, SoftCap;
        public ulong Cached;
        public int Accumulate, Reserved;
        public ulong Copy;
    }

    public static TheoryData<AttentionArgs> Cases() =>
    [
        new(new AttentionArgs(2, 20, 20, 4, 2, 16, 0.25f)),
        new(new AttentionArgs(1, 3, 70, 2, 1, 32, 0.2f, SoftCap: 5, Window: 40, KeyCapacity: 80)),
        new(new AttentionArgs(1, 40, 40, 3, 1, 50, 0.15f)),
        new(new AttentionArgs(1, 33, 37, 2, 2, 64, 0.125f, Window: 9)),
        new(new AttentionArgs(2, 18, 18, 4, 1, 96, 0.1f, SoftCap: 30)),
        new(new AttentionArgs(1, 24, 24, 2, 2, 160, 0.08f)),
        new(new AttentionArgs(1, 17, 19, 1, 1, 256, 0.0625f)),
    ];

    private static (int Padded, int Rows, int KeyRows, int SharedKeys, int SharedQueries) Shape(int headDim) => headDim switch
    {
        <= 32 => (32, 64, 64, 768 * 32 + 256, 768 * 32),
        <= 64 => (64, 64, 64, 768 * 64 + 256, 768 * 64),
        <= 128 => (128, 64, 32, 73984, 69632),
        _ => (256, 32, 16, 65664, 98304),
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void EqualsDoubleArithmetic(AttentionArgs a)
    {
        using Gpu gpu = new();
        var random = new Random(3);
        int group = a.Group, rows = a.QueryLength * group, queries = a.Batch * a.QueryLength * a.Heads, problems = a.Batch * a.KvHeads;
        int tokens = (a.Batch - 1) * a.KeyStride + a.KeyLength;
        double[] q = Noise.Doubles(random, queries * a.HeadDim), k = Noise.Doubles(random, tokens * a.KvHeads * a.HeadDim), v = Noise.Doubles(random, k.Length), g = Noise.Doubles(random, q.Length);
        // The second sequence is padded on the left so far that a few queries see nothing.
        int[] firstKey = [.. Enumerable.Range(0, a.Batch).Select(i => i == 0 ? (a.KeyLength > 30 ? 2 : 0) : a.KeyLength - a.QueryLength + 3)];
        (Dual[] output, Dual[] logSum) = AttentionReference.Forward(Dual.Of(q), Dual.Of(k), Dual.Of(v), firstKey, a);
        (int padded, int blockRows, int keyRows, int sharedKeys, int sharedQueries) = Shape(a.HeadDim);
        Params p = new()
        {
            Accumulate = 1,
            O = gpu.Empty<float>(q.Length),
            Lse = gpu.Empty<float>(queries),
            Q = gpu.Upload(q),
            K = gpu.Upload(k),
            V = gpu.Upload(v),
            FirstKey = gpu.Upload(firstKey),
            Batch = a.Batch,
            QueryLength = a.QueryLength,
            KeyLength = a.KeyLength,
            Heads = a.Heads,
            KvHeads = a.KvHeads,
            HeadDim = a.HeadDim,
            KeyStride = a.KeyStride,
            Window = a.Window,
            Scale = a.Scale,
            SoftCap = a.SoftCap,
        };
        LaunchCounters counters = gpu.Run("attention", $"attention_forward_{padded}", (Gpu.Ceil(rows, blockRows), problems, 1), 128, padded == 256 ? 98304 : 512 * padded, p);
        Assert.Equal(0, counters.BankConflicts);
        float[] o = gpu.Read(p.O, q.Length), lse = gpu.Read(p.Lse, queries);
        Close.To(3e-5, o, Dual.Values(output), "o");
        Close.To(1e-5, lse, Dual.Values(logSum), "lse");

        // The same in stretches of 32 keys.
        int splits = Gpu.Ceil(a.KeyLength, 32);
        Params s = p with { O = gpu.Empty<float>(q.Length), Lse = gpu.Empty<float>(queries), SplitKeys = 32, Splits = splits, Partial = gpu.Empty<float>(splits * problems * rows * (a.HeadDim + 2)) };
        counters = gpu.Run("attention", $"attention_split_{padded}", (Gpu.Ceil(rows, 16), problems, splits), padded == 256 ? 64 : 32, 320 * padded, s);
        Assert.Equal(0, counters.BankConflicts);
        gpu.Run("attention", "attention_join", queries, 128, s);
        Close.To(3e-5, gpu.Read(s.O, q.Length), Dual.Values(output), "o by stretches");
        Close.To(1e-5, gpu.Read(s.Lse, queries), Dual.Values(logSum), "lse by stretches");

        // With the number of keys on the device and a grid for more of them, which do not exist: the same bits.
        int more = a.KeyLength + 70, room = Gpu.Ceil(more, 32);
        ulong cached = gpu.Upload<int>([a.KeyLength - a.QueryLength]);
        Params f = p with { O = gpu.Empty<float>(q.Length), Lse = gpu.Empty<float>(queries), KeyLength = more, Cached = cached };
        gpu.Run("attention", $"attention_forward_{padded}", (Gpu.Ceil(rows, blockRows), problems, 1), 128, padded == 256 ? 98304 : 512 * padded, f);
        Assert.Equal(o, gpu.Read(f.O, q.Length));
        Assert.Equal(lse, gpu.Read(f.Lse, queries));
        Params t = f with { O = gpu.Empty<float>(q.Length), Lse = gpu.Empty<float>(queries), SplitKeys = 32, Splits = room, Partial = gpu.Empty<float>(room * problems * rows * (a.HeadDim + 2)) };
        gpu.Run("attention", $"attention_split_{padded}", (Gpu.Ceil(rows, 16), problems, room), padded == 256 ? 64 : 32, 320 * padded, t);
        gpu.Run("attention", "attention_join", queries, 128, t);
        Assert.Equal(gpu.Read(s.O, q.Length), gpu.Read(t.O, q.Length));
        Assert.Equal(gpu.Read(s.Lse, queries), gpu.Read(t.Lse, queries));

        (double[] dq, double[] dk, double[] dv) = AttentionReference.Backward(g, q, k, v, firstKey, a);
        p.DO = gpu.Upload(g);
        p.Delta = gpu.Empty<float>(queries);
        double[] startQ = Noise.Doubles(random, q.Length), startK = Noise.Doubles(random, k.Length), startV = Noise.Doubles(random, k.Length);
        (p.Dq, p.Dk, p.Dv) = (gpu.Upload(startQ), gpu.Upload(startK), gpu.Upload(startV));
        gpu.Run("attention", "attention_delta", Gpu.Ceil(queries, 8), 256, p);
        counters = gpu.Run("attention", $"attention_keys_{padded}", (Gpu.Ceil(a.KeyLength, keyRows), problems, 1), 128, sharedKeys, p);
        Assert.Equal(0, counters.BankConflicts);
        counters = gpu.Run("attention", $"attention_queries_{padded}", (Gpu.Ceil(rows, padded >= 128 ? 32 : 64), problems, 1), 128, sharedQueries, p);
        Assert.Equal(0, counters.BankConflicts);
        Check("dq", gpu.Read(p.Dq, q.Length), dq, startQ);
        Check("dk", gpu.Read(p.Dk, k.Length), dk, startK);
        Check("dv", gpu.Read(p.Dv, k.Length), dv, startV);
        static void Check(string what, float[] result, double[] gradient, double[] start) => Close.To(5e-5, result, [.. gradient.Zip(start, (x, y) => x + y)], what);
    }
}
