using Repeng.Kernels.Cpu;
using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;

namespace Repeng.Kernels.Tests;

/// <summary>Attention against the double reference, and the reference against its own derivative.</summary>
public sealed class AttentionTests
{
    private const double ForwardTolerance = 1e-4, BackwardTolerance = 1e-3;

    // What fp32 sums of this length should reach; the tolerances above are what the project promises.
    private const double ExpectedForward = 3e-6, ExpectedBackward = 1e-5;

    /// <summary>Shapes that meet every branch, then seeded random ones.</summary>
    private static IEnumerable<(AttentionArgs Args, int[] FirstKey)> Shapes(int random)
    {
        static AttentionArgs Of(int batch, int queries, int keys, int heads, int kvHeads, int dim, float cap = 0, int window = 0, int capacity = 0) =>
            new(batch, queries, keys, heads, kvHeads, dim, 1 / MathF.Sqrt(dim), cap, window, capacity);
        yield return (Of(1, 1, 1, 1, 1, 16), [0]);
        yield return (Of(2, 49, 49, 1, 1, 16), [0, 7]);
        yield return (Of(1, 130, 130, 3, 1, 32), [0]);
        yield return (Of(2, 50, 50, 6, 2, 64, cap: 3), [0, 49]);
        yield return (Of(2, 100, 100, 2, 2, 24, window: 7), [60, 0]);
        yield return (Of(1, 61, 97, 4, 2, 40, window: 50, capacity: 120), [3]);
        yield return (Of(2, 1, 203, 6, 2, 64, capacity: 256), [0, 150]);
        yield return (Of(1, 1, 77, 8, 1, 17, cap: 20, window: 9), [0]);
        yield return (Of(2, 3, 70, 2, 1, 33), [69, 70]);
        yield return (Of(2, 1, 700, 6, 2, 33, cap: 4, capacity: 720), [0, 520]);
        yield return (Of(1, 4, 530, 2, 1, 16, window: 270), [0]);
        yield return (Of(2, 2, 513, 4, 1, 48), [512, 511]);
        yield return (Of(1, 1, 300, 9, 1, 24), [10]);
        // Large enough that the splits are joined by several threads.
        yield return (Of(4, 1, 1100, 16, 8, 64), [0, 900, 1100, 1]);
        yield return (Of(1, 20, 20, 70, 1, 19), [0]);
        yield return (Of(1, 33, 33, 2, 1, 256), [0]);
        yield return (Of(1, 20, 20, 3, 3, 1), [2]);

        var r = new Random(20240717);
        for (int i = 0; i < random; i++)
        {
            int kvHeads = r.Next(1, 4), keys = r.Next(1, 120), batch = r.Next(1, 4);
            int queries = r.Next(4) == 0 ? 1 : r.Next(1, keys + 1);
            var args = new AttentionArgs(batch, queries, keys, kvHeads * r.Next(1, 5), kvHeads, r.Next(1, 100), (float)(0.05 + 0.3 * r.NextDouble()),
                r.Next(3) == 0 ? (float)(0.5 + 20 * r.NextDouble()) : 0, r.Next(3) == 0 ? r.Next(1, keys + 3) : 0, r.Next(2) == 0 ? 0 : keys + r.Next(0, 9));
            var firstKey = new int[batch];
            for (int b = 0; b < batch; b++)
                firstKey[b] = r.Next(2) == 0 ? 0 : r.Next(0, keys + 1);
            yield return (args, firstKey);
        }
    }

    [Fact]
    public void ReferenceBackwardIsTheAdjointOfItsForward()
    {
        int seed = 0;
        foreach ((AttentionArgs large, int[] firstKey) in Shapes(20))
        {
            AttentionArgs args = large with { HeadDim = Math.Min(large.HeadDim, 5) };
            if ((long)args.Batch * args.QueryLength * args.KeyLength * args.Heads > 20000)
                continue;
            Problem p = new(args, firstKey, ++seed);
            (double[] dq, double[] dk, double[] dv) = AttentionReference.Backward(p.DO, p.Q, p.K, p.V, firstKey, args);
            GradientJudge.Check(x => AttentionReference.Forward(x[0], x[1], x[2], firstKey, args).Output, [p.Q, p.K, p.V], p.DO, [dq, dk, dv], seed);
        }
        Assert.True(seed > 10);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(128)]
    [InlineData(256)]
    [InlineData(512)]
    public void MatchesTheReference(int vectorBits)
    {
        using CpuBackend backend = vectorBits == 0 ? new(2) : new(2) { VectorBits = vectorBits };
        int seed = 100;
        foreach ((AttentionArgs args, int[] firstKey) in Shapes(vectorBits == 0 ? 60 : 8))
        {
            Problem p = new(args, firstKey, ++seed);
            Result actual = Run(backend, p);
            (Dual[] o, Dual[] lse) = AttentionReference.Forward(Dual.Of(p.Q), Dual.Of(p.K), Dual.Of(p.V), firstKey, args);
            (double[] dq, double[] dk, double[] dv) = AttentionReference.Backward(p.DO, p.Q, p.K, p.V, firstKey, args);
            string what = $"{args} from {string.Join(' ', firstKey)}";
            Close.To(Math.Min(ForwardTolerance, ExpectedForward), actual.O, Dual.Values(o), "o of " + what);
            Close.To(Math.Min(ForwardTolerance, ExpectedForward), actual.Lse, Dual.Values(lse), "lse of " + what);
            Close.To(Math.Min(BackwardTolerance, ExpectedBackward), actual.Dq, Plus(dq, p.DqBefore), "dq of " + what);
            Close.To(Math.Min(BackwardTolerance, ExpectedBackward), actual.Dk, Plus(dk, p.DkBefore), "dk of " + what);
            Close.To(Math.Min(BackwardTolerance, ExpectedBackward), actual.Dv, Plus(dv, p.DvBefore), "dv of " + what);
        }
    }

    [Fact]
    public void SurvivesScoresFarOutOfTheRangeOfExp()
    {
        using CpuBackend backend = new(1);
        var args = new AttentionArgs(1, 60, 60, 2, 1, 16, 40f);
        Problem p = new(args, [0], 5);
        Result actual = Run(backend, p);
        (Dual[] o, _) = AttentionReference.Forward(Dual.Of(p.Q), Dual.Of(p.K), Dual.Of(p.V), [0], args);
        // Scores near ±1000 carry an fp32 rounding of 1e-4 each, which the softmax turns into relative error.
        Close.To(2e-3, actual.O, Dual.Values(o), "o");
        Assert.All(actual.Dq, x => Assert.True(float.IsFinite(x)));
    }

    [Fact]
    public void AnInvisibleQueryIsZeroAndItsOperandsDoNotMatter()
    {
        using CpuBackend backend = new(2);
        var args = new AttentionArgs(2, 60, 60, 4, 2, 24, 0.2f);
        Problem clean = new(args, [55, 60], 6), dirty = new(args, [55, 60], 6);
        int perToken = args.Heads * args.HeadDim, perKey = args.KvHeads * args.HeadDim;
        for (int t = 0; t < 120; t++)
        {
            if (t is >= 55 and < 60)
                continue;
            Array.Fill(dirty.Q, double.NaN, t * perToken, perToken);
            Array.Fill(dirty.DO, double.NaN, t * perToken, perToken);
            Array.Fill(dirty.K, double.NaN, t * perKey, perKey);
            Array.Fill(dirty.V, double.NaN, t * perKey, perKey);
        }
        Result a = Run(backend, clean), b = Run(backend, dirty);
        AssertSame(a, b);
        Assert.All(a.O.AsSpan(0, 55 * perToken).ToArray(), x => Assert.Equal(0, x));
        Assert.All(a.Lse.AsSpan(60 * args.Heads).ToArray(), x => Assert.Equal(float.NegativeInfinity, x));
    }

    [Fact]
    public void GivesTheSameBitsAtAnyThreadCount()
    {
        int seed = 300;
        foreach ((AttentionArgs args, int[] firstKey) in Shapes(10))
        {
            Problem p = new(args, firstKey, ++seed);
            Result? first = null;
            foreach (int threads in (int[])[1, 2, 3])
            {
                using CpuBackend backend = new(threads);
                Result result = Run(backend, p);
                if (first is not null)
                    AssertSame(first, result);
                first ??= result;
            }
        }
    }

    [Fact]
    public void AStepOnTheCacheEqualsTheLastRowOfTheWholeSequence()
    {
        using CpuBackend backend = new(2);
        using TestMemory memory = new(backend);
        var whole = new AttentionArgs(2, 90, 90, 6, 2, 48, 0.15f, Window: 40);
        Problem p = new(whole, [0, 11], 7);
        float[] all = Run(backend, p).O;
        int row = whole.Heads * whole.HeadDim;
        var lastQ = new double[2 * row];
        for (int b = 0; b < 2; b++)
            p.Q.AsSpan((b * 90 + 89) * row, row).CopyTo(lastQ.AsSpan(b * row));
        AttentionArgs step = whole with { QueryLength = 1, KeyCapacity = 90 };
        View o = memory.Empty(2 * row), lse = memory.Empty(2 * whole.Heads);
        backend.AttentionForward(o, lse, memory.Of(lastQ), memory.Of(p.K), memory.Of(p.V), memory.Of(p.FirstKey), step);
        for (int b = 0; b < 2; b++)
            Close.To(3e-6, memory.Read(o).AsSpan(b * row, row), all.AsSpan((b * 90 + 89) * row, row), $"sequence {b}");
    }

    [Fact]
    public void SkipsAbsentGradients()
    {
        using CpuBackend backend = new(2);
        Problem p = new(new AttentionArgs(2, 60, 60, 4, 2, 20, 0.2f), [0, 5], 8);
        Result all = Run(backend, p), q = Run(backend, p, wants: 1), k = Run(backend, p, wants: 2), v = Run(backend, p, wants: 4);
        Assert.Equal(all.Dq, q.Dq);
        Assert.Equal(all.Dk, k.Dk);
        Assert.Equal(all.Dv, v.Dv);
    }

    [Fact]
    public void AllocatesNothing()
    {
        using CpuBackend backend = new(1);
        using TestMemory memory = new(backend);
        var args = new AttentionArgs(2, 60, 60, 4, 2, 20, 0.2f, 10f);
        Problem p = new(args, [0, 5], 8);
        View o = memory.Empty(p.Q.Length), lse = memory.Empty(2 * 60 * 4), delta = memory.Empty(2 * 60 * 4), grad = memory.Of(p.DO), firstKey = memory.Of(p.FirstKey);
        View q = memory.Of(p.Q), k = memory.Of(p.K), v = memory.Of(p.V), dq = memory.Zeros(p.Q.Length), dk = memory.Zeros(p.K.Length), dv = memory.Zeros(p.V.Length);
        Allocation.AssertNone(() =>
        {
            backend.AttentionForward(o, lse, q, k, v, firstKey, args);
            backend.AttentionBackward(dq, dk, dv, grad, o, lse, delta, q, k, v, firstKey, args);
            backend.AttentionForward(o, lse, q, k, v, firstKey, args with { QueryLength = 1 });
        });
    }

    [Fact]
    public void RefusesArgumentsOutOfRange()
    {
        using CpuBackend backend = new(1);
        var good = new AttentionArgs(1, 2, 4, 2, 1, 8, 1f);
        AttentionArgs[] bad =
        [
            good with { Batch = -1 }, good with { Heads = 3, KvHeads = 2 }, good with { KvHeads = 0 }, good with { HeadDim = 0 }, good with { QueryLength = 5 },
            good with { KeyCapacity = 3 }, good with { Window = -1 }, good with { SoftCap = -1 }, good with { SoftCap = float.NaN },
            good with { KeyLength = 5 }, good with { Batch = 2 }, good with { Heads = 4 }, good with { HeadDim = 9 },
        ];
        Run(good, 0);
        foreach (AttentionArgs args in bad)
            Assert.Throws<ArgumentException>(() => Run(args, 0));
        Assert.Contains("firstKey[0] = 5", Assert.Throws<ArgumentException>(() => Run(good, 5)).Message);
        Assert.Throws<ArgumentException>(() => Run(good, -1));

        void Run(AttentionArgs args, int first)
        {
            using TestMemory memory = new(backend);
            View q = memory.Zeros(2 * 2 * 8), k = memory.Zeros(4 * 8), v = memory.Zeros(4 * 8), o = memory.Empty(2 * 2 * 8), lse = memory.Empty(4);
            backend.AttentionForward(o, lse, q, k, v, memory.Of([first]), args);
            backend.AttentionBackward(memory.Zeros(32), memory.Zeros(32), memory.Zeros(32), q, o, lse, memory.Empty(4), q, k, v, memory.Of([first]), args);
        }
    }

    private sealed class Problem
    {
        internal Problem(AttentionArgs args, int[] firstKey, int seed)
        {
            var random = new Random(seed);
            (Args, FirstKey) = (args, firstKey);
            int queries = args.Batch * args.QueryLength * args.Heads * args.HeadDim, keys = args.Batch * args.KeyStride * args.KvHeads * args.HeadDim;
            (Q, K, V, DO) = (Noise.Doubles(random, queries), Noise.Doubles(random, keys), Noise.Doubles(random, keys), Noise.Doubles(random, queries));
            (DqBefore, DkBefore, DvBefore) = (Noise.Doubles(random, queries, 0.1), Noise.Doubles(random, keys, 0.1), Noise.Doubles(random, keys, 0.1));
        }

        internal AttentionArgs Args { get; }
        internal int[] FirstKey { get; }
        internal double[] Q { get; }
        internal double[] K { get; }
        internal double[] V { get; }
        internal double[] DO { get; }
        internal double[] DqBefore { get; }
        internal double[] DkBefore { get; }
        internal double[] DvBefore { get; }
    }

    private sealed record Result(float[] O, float[] Lse, float[] Delta, float[] Dq, float[] Dk, float[] Dv);

    // wants: bit 0 dq, bit 1 dk, bit 2 dv; gradients start from what the problem holds, because the op adds.
    private static Result Run(CpuBackend backend, Problem p, int wants = 7)
    {
        using TestMemory memory = new(backend);
        int rows = p.Args.Batch * p.Args.QueryLength * p.Args.Heads;
        View q = memory.Of(p.Q), k = memory.Of(p.K), v = memory.Of(p.V), firstKey = memory.Of(p.FirstKey);
        View o = memory.Empty(p.Q.Length), lse = memory.Empty(rows), delta = memory.Empty(rows);
        View dq = (wants & 1) != 0 ? memory.Of(p.DqBefore) : default, dk = (wants & 2) != 0 ? memory.Of(p.DkBefore) : default, dv = (wants & 4) != 0 ? memory.Of(p.DvBefore) : default;
        backend.AttentionForward(o, lse, q, k, v, firstKey, p.Args);
        backend.AttentionBackward(dq, dk, dv, memory.Of(p.DO), o, lse, delta, q, k, v, firstKey, p.Args);
        return new Result(memory.Read(o), memory.Read(lse), memory.Read(delta), Read(dq), Read(dk), Read(dv));

        float[] Read(View view) => view.IsEmpty ? [] : memory.Read(view);
    }

    private static void AssertSame(Result a, Result b)
    {
        Assert.Equal(a.O, b.O);
        Assert.Equal(a.Lse, b.Lse);
        Assert.Equal(a.Delta, b.Delta);
        Assert.Equal(a.Dq, b.Dq);
        Assert.Equal(a.Dk, b.Dk);
        Assert.Equal(a.Dv, b.Dv);
    }

    private static double[] Plus(double[] a, double[] b)
    {
        var sum = new double[a.Length];
        for (int i = 0; i < sum.Length; i++)
            sum[i] = a[i] + b[i];
        return sum;
    }
}
