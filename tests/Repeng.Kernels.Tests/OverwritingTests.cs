using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Backward ops that write gradients rather than add to them: the bits of adding to zeros, whatever was in memory.</summary>
public sealed class OverwritingTests
{
    public static TheoryData<string> BackendNames() => [.. Backends.Names];

    public static TheoryData<string, int, int, int, int, int, int, int> Attentions()
    {
        TheoryData<string, int, int, int, int, int, int, int> cases = [];
        foreach (string backend in Backends.Names)
            foreach ((int queries, int keys, int capacity, int heads, int kvHeads, int dim, int window) in new[] { (5, 5, 0, 4, 2, 4, 0), (7, 7, 0, 2, 2, 40, 3), (3, 9, 12, 2, 1, 8, 0), (70, 70, 0, 2, 1, 33, 0), (4, 4, 0, 1, 1, 129, 0) })
                cases.Add(backend, queries, keys, capacity, heads, kvHeads, dim, window);
        return cases;
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void GatedUnits(string backend)
    {
        using IBackend b = Backends.Create(backend);
        foreach (UnaryOp op in new[] { UnaryOp.Silu, UnaryOp.Gelu, UnaryOp.GeluTanh })
            foreach (int n in new[] { 1, 7, 64, 1500, 4096 })
            {
                using TestMemory memory = new(b);
                View dy = memory.Of(ReduceReference.Random(n, 1)), gate = memory.Of(ReduceReference.Random(n, 2)), up = memory.Of(ReduceReference.Random(n, 3));
                foreach ((bool first, bool second) in new[] { (true, true), (true, false), (false, true) })
                    Same(memory, [first ? n : 0, second ? n : 0], (d, accumulate) => b.GatedBackward(d[0], d[1], dy, gate, up, n, op, accumulate), $"{op} of {n}");
            }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void Norms(string backend)
    {
        using IBackend b = Backends.Create(backend);
        foreach ((int rows, int cols) in new[] { (3, 2), (5, 7), (9, 64), (4, 129), (3, 520), (2, 4100) })
        {
            using TestMemory memory = new(b);
            int n = rows * cols;
            View x = memory.Of(ReduceReference.Random(n, 1)), dy = memory.Of(ReduceReference.Random(n, 2)), weight = memory.Of(ReduceReference.Random(cols, 3)), bias = memory.Zeros(cols), y = memory.Empty(n), mean = memory.Empty(rows), rstd = memory.Empty(rows);
            // The gradient by the weight is added to in either case.
            View weights = memory.Zeros(cols);
            b.RmsNormForward(y, rstd, x, weight, rows, cols, 1e-6f, 1);
            Same(memory, [n], (d, accumulate) => b.RmsNormBackward(d[0], weights, dy, x, weight, rstd, rows, cols, 1, accumulate), $"RMSNorm, {rows} × {cols}");
            float[] twice = memory.Read(weights);
            View once = memory.Zeros(cols);
            b.RmsNormBackward(default, once, dy, x, weight, rstd, rows, cols, 1);
            Close.To(1e-6, twice, [.. memory.Read(once).Select(v => 2.0 * v)], "weights");
            b.LayerNormForward(y, mean, rstd, x, weight, bias, rows, cols, 1e-5f);
            Same(memory, [n], (d, accumulate) => b.LayerNormBackward(d[0], default, default, dy, x, weight, mean, rstd, rows, cols, accumulate), $"LayerNorm, {rows} × {cols}");
        }
    }

    [Theory]
    [MemberData(nameof(Attentions))]
    public void Attention(string backend, int queries, int keys, int capacity, int heads, int kvHeads, int dim, int window)
    {
        const int Batch = 2;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        AttentionArgs args = new(Batch, queries, keys, heads, kvHeads, dim, 0.3f, 0, window, capacity);
        int q = Batch * queries * heads * dim, k = Batch * args.KeyStride * kvHeads * dim, lines = Batch * queries * heads;
        View qs = memory.Of(ReduceReference.Random(q, 1)), ks = memory.Of(ReduceReference.Random(k, 2)), vs = memory.Of(ReduceReference.Random(k, 3)), dO = memory.Of(ReduceReference.Random(q, 4));
        View o = memory.Empty(q), lse = memory.Empty(lines), delta = memory.Empty(lines), first = memory.Of([0, 1]);
        b.AttentionForward(o, lse, qs, ks, vs, first, args);
        foreach (int left in new[] { -1, 0, 1, 2 })
            Same(memory, [left == 0 ? 0 : q, left == 1 ? 0 : k, left == 2 ? 0 : k], (d, accumulate) => b.AttentionBackward(d[0], d[1], d[2], dO, o, lse, delta, qs, ks, vs, first, args, accumulate), $"all but {left}");
    }

    // Gradients of these lengths (0: not wanted), once added to zeros and once over NaN.
    private static void Same(TestMemory memory, int[] lengths, Action<View[], bool> run, string what)
    {
        View[] added = [.. lengths.Select(n => n == 0 ? default : memory.Zeros(n))], written = [.. lengths.Select(n => n == 0 ? default : memory.Empty(n))];
        run(added, true);
        run(written, false);
        for (int i = 0; i < lengths.Length; i++)
            if (lengths[i] > 0)
                Assert.True(memory.Read(added[i]).SequenceEqual(memory.Read(written[i])), $"{what}: gradient {i}");
        Assert.Contains(added, v => !v.IsEmpty && memory.Read(v).Any(x => x != 0));
    }
}
