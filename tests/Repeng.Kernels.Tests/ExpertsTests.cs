using Repeng.Kernels.Dry;
using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Routing, grouped products, putting experts together, gpt-oss's gated unit and attention sinks against double references.</summary>
public sealed class ExpertsTests
{
    public static TheoryData<string> BackendNames() => [.. Backends.Names];

    public static TheoryData<string, int, int, int, bool> RouteCases()
    {
        TheoryData<string, int, int, int, bool> cases = [];
        foreach (string backend in Backends.Names)
            foreach ((int rows, int experts, int k) in new[] { (1, 1, 1), (5, 4, 4), (7, 8, 2), (300, 64, 8), (33, 5, 1), (0, 3, 1) })
            {
                cases.Add(backend, rows, experts, k, true);
                cases.Add(backend, rows, experts, k, false);
            }
        return cases;
    }

    [Theory]
    [MemberData(nameof(RouteCases))]
    public void RoutingEqualsReference(string backend, int rows, int experts, int k, bool normalise)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        RouteArgs args = new(rows, experts, k, normalise);
        var random = new Random(rows + experts);
        double[] logits = Noise.Doubles(random, rows * experts, 2), dw = Noise.Doubles(random, rows * k), before = Noise.Doubles(random, rows * experts);
        int[] chosen = ExpertsReference.Chosen(logits, args);
        View vl = memory.Of(logits), vw = memory.Empty(rows * k), vc = memory.Of(new int[rows * k]), vd = memory.Of(before);
        b.RouteForward(vw, vc, vl, args);
        Assert.Equal(chosen, memory.ReadInts(vc));
        Close.To(1e-6, memory.Read(vw), Dual.Values(ExpertsReference.Weights(Dual.Of(logits), chosen, args)), "weights");
        b.RouteBackward(vd, memory.Of(dw), vw, vc, vl, args);
        double[] gradient = ExpertsReference.WeightsBackward(dw, logits, chosen, args);
        Close.To(2e-6, memory.Read(vd), [.. gradient.Zip(before, (x, y) => x + y)], "dLogits");
        if (rows is > 0 and < 50)
            GradientJudge.Check(x => ExpertsReference.Weights(x[0], chosen, args), [logits], dw, [gradient], 3);
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void EqualLogitsGoToTheLowerExpertAndNaNToNone(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View logits = memory.Of([1f, 3, 3, 1, 3, float.NaN, 0, float.NaN, -1, float.NegativeInfinity]), weights = memory.Empty(6), chosen = memory.Of(new int[6]);
        b.RouteForward(weights, chosen, logits, new RouteArgs(2, 5, 3, true));
        Assert.Equal([1, 2, 4, 1, 3, 4], memory.ReadInts(chosen));
        Assert.Throws<ArgumentException>(() => b.RouteForward(weights, chosen, logits, new RouteArgs(1, 5, 6, true)));
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void CombiningEqualsReference(string backend)
    {
        using IBackend b = Backends.Create(backend);
        foreach ((int rows, int k, int cols) in new[] { (1, 1, 1), (5, 2, 13), (40, 8, 257), (3, 3, 40_000) })
        {
            using TestMemory memory = new(b);
            var random = new Random(rows);
            double[] x = Noise.Doubles(random, rows * k * cols), w = Noise.Doubles(random, rows * k), dy = Noise.Doubles(random, rows * cols);
            double[] dxBefore = Noise.Doubles(random, x.Length), dwBefore = Noise.Doubles(random, w.Length);
            int[] place = [.. Enumerable.Range(0, rows * k)];
            random.Shuffle(place);
            View vx = memory.Of(x), vw = memory.Of(w), vp = memory.Of(place), vy = memory.Empty(rows * cols), vdx = memory.Of(dxBefore), vdw = memory.Of(dwBefore), vdy = memory.Of(dy);
            b.CombineForward(vy, vx, vp, vw, rows, k, cols);
            Close.To(1e-6, memory.Read(vy), Dual.Values(ExpertsReference.Combine(Dual.Of(x), place, Dual.Of(w), rows, k, cols)), "y");
            b.CombineBackward(vdx, vdw, vdy, vx, vp, vw, rows, k, cols);
            (double[] dx, double[] dw) = ExpertsReference.CombineBackward(dy, x, place, w, rows, k, cols);
            Close.To(1e-6, memory.Read(vdx), [.. dx.Zip(dxBefore, (p, q) => p + q)], "dx");
            Close.To(1e-5, memory.Read(vdw), [.. dw.Zip(dwBefore, (p, q) => p + q)], "dWeights");
            View alone = memory.Of(dxBefore), aloneW = memory.Of(dwBefore);
            b.CombineBackward(alone, default, vdy, default, vp, vw, rows, k, cols);
            b.CombineBackward(default, aloneW, vdy, vx, vp, vw, rows, k, cols);
            Assert.Equal(memory.Read(vdx), memory.Read(alone));
            Assert.Equal(memory.Read(vdw), memory.Read(aloneW));
            if (cols < 100)
                GradientJudge.Check(i => ExpertsReference.Combine(i[0], place, i[1], rows, k, cols), [x, w], dy, [dx, dw], 4);
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void ClampedGatedUnitEqualsReference(string backend)
    {
        using IBackend b = Backends.Create(backend);
        foreach (int n in new[] { 1, 7, 8, 70, 50_001 })
        {
            using TestMemory memory = new(b);
            var random = new Random(n);
            const float Alpha = 1.702f, Limit = 1.25f;
            double[] gate = Noise.Doubles(random, n), up = Noise.Doubles(random, n), dy = Noise.Doubles(random, n), before = Noise.Doubles(random, n);
            (gate[0], up[0]) = (Limit, -Limit); // what is at the limit has a gradient
            View vg = memory.Of(gate), vu = memory.Of(up), vdy = memory.Of(dy), vy = memory.Empty(n), vdg = memory.Of(before), vdu = memory.Of(before);
            b.ClampedGatedForward(vy, vg, vu, n, Alpha, Limit);
            Close.To(2e-6, memory.Read(vy), Dual.Values(ExpertsReference.ClampedGated(Dual.Of(gate), Dual.Of(up), Alpha, Limit)), "y");
            b.ClampedGatedBackward(vdg, vdu, vdy, vg, vu, n, Alpha, Limit);
            (double[] dg, double[] du) = ExpertsReference.ClampedGatedBackward(dy, gate, up, Alpha, Limit);
            Close.To(2e-6, memory.Read(vdg), [.. dg.Zip(before, (p, q) => p + q)], "dGate");
            Close.To(2e-6, memory.Read(vdu), [.. du.Zip(before, (p, q) => p + q)], "dUp");
            View alone = memory.Of(before);
            b.ClampedGatedBackward(default, alone, vdy, vg, vu, n, Alpha, Limit);
            Assert.Equal(memory.Read(vdu), memory.Read(alone));
            (gate[0], up[0], dg[0], du[0]) = (Limit + 1, -Limit - 1, 0, 0); // at the limit itself a difference goes over the edge
            GradientJudge.Check(x => ExpertsReference.ClampedGated(x[0], x[1], Alpha, Limit), [gate, up], dy, [dg, du], 5);
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void AttentionWithSinksEqualsReference(string backend)
    {
        using IBackend b = Backends.Create(backend);
        foreach ((AttentionArgs a, int[] first) in new (AttentionArgs, int[])[]
        {
            (new(1, 1, 1, 1, 1, 4, 0.5f), [0]), (new(2, 7, 7, 4, 2, 5, 0.4f), [0, 3]), (new(1, 9, 12, 6, 2, 3, 0.7f, Window: 4), [1]), (new(2, 4, 4, 2, 1, 8, 0.3f), [0, 4]),
        })
        {
            using TestMemory memory = new(b);
            var random = new Random(a.Heads);
            int rows = a.Batch * a.QueryLength;
            double[] q = Noise.Doubles(random, rows * a.Heads * a.HeadDim), dO = Noise.Doubles(random, q.Length), sinks = Noise.Doubles(random, a.Heads), before = Noise.Doubles(random, a.Heads);
            double[] k = Noise.Doubles(random, a.Batch * a.KeyLength * a.KvHeads * a.HeadDim), v = Noise.Doubles(random, k.Length);
            View vq = memory.Of(q), vk = memory.Of(k), vv = memory.Of(v), vs = memory.Of(sinks), vf = memory.Of(first), o = memory.Empty(q.Length), lse = memory.Empty(rows * a.Heads);
            b.AttentionForward(o, lse, vq, vk, vv, vf, a);
            b.AttentionSinksForward(o, lse, vs, rows, a.Heads, a.HeadDim);
            Dual[] expected = ExpertsReference.SinkAttention(Dual.Of(q), Dual.Of(k), Dual.Of(v), Dual.Of(sinks), first, a);
            // Attention on the device splits values and gradients into two bf16 parts (attention.cu); the limits are 1e-4 and 1e-3 there.
            bool split = backend != "cpu";
            double forward = split ? 1e-4 : 3e-6, backward = split ? 1e-3 : 2e-5;
            Close.To(forward, memory.Read(o), Dual.Values(expected), $"o of {a}");
            View dq = memory.Zeros(q.Length), dk = memory.Zeros(k.Length), dv = memory.Zeros(k.Length), ds = memory.Of(before), delta = memory.Empty(rows * a.Heads);
            b.AttentionBackward(dq, dk, dv, memory.Of(dO), o, lse, delta, vq, vk, vv, vf, a);
            b.AttentionSinksBackward(ds, delta, lse, vs, rows, a.Heads);
            Close.To(backward, memory.Read(dq), Derivative(0), $"dq of {a}");
            Close.To(backward, memory.Read(dk), Derivative(1), $"dk of {a}");
            Close.To(backward, memory.Read(dv), Derivative(2), $"dv of {a}");
            Close.To(backward, memory.Read(ds), [.. Derivative(3).Zip(before, (x, y) => x + y)], $"dSinks of {a}");

            // The derivative of ⟨dO, o⟩ by every element of one input, exact by duals.
            double[] Derivative(int which)
            {
                double[][] inputs = [q, k, v, sinks];
                return [.. Enumerable.Range(0, inputs[which].Length).Select(i =>
                {
                    Dual[][] duals = [.. inputs.Select(x => Dual.Of(x))];
                    duals[which][i] = new Dual(inputs[which][i], 1);
                    return GradientJudge.Inner(dO, Dual.Slopes(ExpertsReference.SinkAttention(duals[0], duals[1], duals[2], duals[3], first, a)));
                })];
            }
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void GroupedProductsAreTheBitsOfSingleOnes(string backend)
    {
        foreach (int threads in new[] { 1, 2, 5 })
        {
            using IBackend b = Backends.Create(backend, threads);
            foreach ((int n, int k, bool transB, bool accumulate) in new[] { (33, 40, true, false), (48, 700, true, true), (40, 33, false, false), (5, 9, true, false) })
            {
                using TestMemory memory = new(b);
                var random = new Random(n);
                int[] counts = [3, 0, 1, 40, 9, 0, 17, 1, .. Enumerable.Range(0, 70).Select(i => i % 13), 300];
                int rows = counts.Sum() + 2;
                double[] a = Noise.Doubles(random, rows * k), before = Noise.Doubles(random, rows * n);
                View va = memory.Of(a), one = memory.Of(before), all = memory.Of(before);
                var groups = new List<MatMulGroup>();
                int start = 1; // the first and the last row belong to no group
                foreach (int count in counts)
                {
                    View w = groups.Count % 3 == 1 ? memory.Of([.. Noise.Doubles(random, n * k).Select(x => (ushort)(BitConverter.SingleToUInt32Bits((float)x) >> 16))], DType.BF16) : memory.Of(Noise.Doubles(random, n * k));
                    groups.Add(new MatMulGroup(start, count, w));
                    start += count;
                }
                var args = new GroupArgs(n, k, transB, accumulate);
                GroupArgs.OneByOne(b, one, va, [.. groups], args);
                b.MatMulGroups(all, va, [.. groups], args);
                Assert.Equal(memory.Read(one), memory.Read(all));
                Assert.Equal([.. before.Take(n).Select(x => (float)x)], memory.Read(all)[..n]);
            }
        }
    }

    [Fact]
    public void ADryRunCountsGroupsAsTheirProductsAndRoutesEvenly()
    {
        using DryBackend dry = new();
        using TestMemory memory = new(dry);
        View v = memory.Zeros(4000), chosen = memory.Of(new int[24]);
        dry.Reset();
        ((IBackend)dry).MatMulGroups(v, v, [new(0, 5, v), new(5, 0, v), new(5, 7, v)], new GroupArgs(20, 30));
        Assert.Equal(2 * 12 * 20 * 30, dry.Flops);
        Assert.Equal(2, dry[OpFamily.MatMul].Calls);
        dry.RouteForward(v, chosen, v, new RouteArgs(8, 4, 3, true));
        Assert.True(dry[OpFamily.Elementwise] is { Calls: 1, Elements: 32, Bytes: > 0 });
        int[] experts = memory.ReadInts(chosen);
        Assert.All(experts.Chunk(3), token => Assert.Equal(3, token.Distinct().Count()));
        Assert.All(Enumerable.Range(0, 4), e => Assert.Equal(6, experts.Count(x => x == e)));
    }
}
