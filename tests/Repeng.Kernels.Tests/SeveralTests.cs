using Repeng.Kernels.Dry;
using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Ops on many small tensors or matrices in one call, against double arithmetic and against the ops on one.</summary>
public sealed class SeveralTests
{
    // More than one launch holds, some empty, some in several blocks, some not on 16 bytes.
    private static readonly int[] s_lengths = [.. Enumerable.Range(0, 67), 1024, 2049, 40_003, 0, 4096];

    public static TheoryData<string> BackendNames() => [.. Backends.Names];

    public static TheoryData<string, int, int, int> Stacks()
    {
        TheoryData<string, int, int, int> cases = [];
        foreach (string backend in Backends.Names)
            foreach ((int batch, int rows, int cols) in new[] { (1, 1, 1), (3, 4, 8), (5, 7, 3), (2, 33, 33), (40, 6, 6), (3, 64, 64), (2, 1100, 5), (0, 4, 4), (2, 0, 4) })
                cases.Add(backend, batch, rows, cols);
        return cases;
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void CopiesEqualReference(string backend)
    {
        using IBackend b = Backends.Create(backend);
        foreach ((bool accumulate, float p) in new[] { (false, 1f), (true, 1f), (false, 0.3f), (true, -2.5f) })
            foreach (int skew in new[] { 0, 1 })
            {
                using TestMemory memory = new(b);
                View[] x = [.. s_lengths.Select((n, i) => memory.Of(ReduceReference.Random(n + skew, i)).Slice(skew, n))];
                View[] y = [.. s_lengths.Select((n, i) => memory.Of(ReduceReference.Random(n + 2 + skew, 100 + i)))];
                float[][] before = [.. y.Select(memory.Read)];
                b.CopySeveral([.. y.Select((v, i) => v.Slice(skew, s_lengths[i]))], x, accumulate, p);
                for (int i = 0; i < y.Length; i++)
                {
                    float[] from = memory.Read(x[i]), result = memory.Read(y[i]);
                    double[] expected = [.. before[i].Select((old, k) => k < skew || k >= skew + from.Length ? old : (accumulate ? old : 0) + ((double)p * from[k - skew]))];
                    Close.To(2e-7, result, expected, $"tensor {i} of {s_lengths[i]}");
                    if (!accumulate && p == 1)
                        Assert.Equal(from, result.Skip(skew).Take(from.Length));
                }
            }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void ScalingInPlaceIsTheUnaryOp(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View[] x = [.. s_lengths.Select((n, i) => memory.Of(ReduceReference.Random(n, i)))], y = [.. s_lengths.Select((n, i) => memory.Of(ReduceReference.Random(n, i)))];
        b.CopySeveral(x, x, accumulate: false, 0.7f);
        for (int i = 0; i < x.Length; i++)
        {
            b.Unary(y[i], y[i], y[i].Length, UnaryOp.Scale, 0.7f);
            Assert.Equal(memory.Read(y[i]), memory.Read(x[i]));
        }
        Assert.Contains("2 views into 1", Assert.Throws<ArgumentException>(() => b.CopySeveral([x[5]], [x[5], x[5]], accumulate: false)).Message);
    }

    [Theory]
    [MemberData(nameof(Stacks))]
    public void ColumnsAreScaledAndBack(string backend, int batch, int rows, int cols)
    {
        int n = batch * rows * cols;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] x = Narrow(ReduceReference.Random(n, 1)), s = Narrow(ReduceReference.Random(batch * cols, 2)), dy = Narrow(ReduceReference.Random(n, 3));
        double[] y = new double[n], dx = new double[n], ds = new double[batch * cols];
        Array.Fill(dx, 0.25);
        Array.Fill(ds, -0.5);
        for (int i = 0; i < n; i++)
        {
            int factor = (i / (rows * cols) * cols) + (i % cols);
            y[i] = x[i] * s[factor];
            dx[i] += dy[i] * s[factor];
            ds[factor] += dy[i] * x[i];
        }
        View xs = memory.Of(x), ss = memory.Of(s), dys = memory.Of(dy), result = memory.Empty(n), gradient = memory.Empty(n, 0.25f), factors = memory.Empty(batch * cols, -0.5f);
        b.ScaleColumns(result, xs, ss, batch, rows, cols, accumulate: false);
        b.ScaleColumns(gradient, dys, ss, batch, rows, cols, accumulate: true);
        b.ScaleColumnsBackward(factors, dys, xs, batch, rows, cols);
        Close.To(2e-7, memory.Read(result), y, "y");
        Close.To(2e-7, memory.Read(gradient), dx, "dx");
        Close.To(1e-6, memory.Read(factors), ds, "ds");
        // The bits of the matrices one after the other.
        View one = memory.Empty(n), oneFactors = memory.Empty(batch * cols, -0.5f);
        for (int i = 0; i < batch; i++)
        {
            View Matrix(View v) => v.Slice((long)i * rows * cols, (long)rows * cols);
            b.Binary(Matrix(one), Matrix(xs), ss.Slice(i * cols, cols), rows, cols, BinaryOp.Multiply, Broadcast.OverRows);
            b.BinaryBackward(default, oneFactors.Slice(i * cols, cols), Matrix(dys), Matrix(xs), default, rows, cols, BinaryOp.Multiply, Broadcast.OverRows);
        }
        Assert.Equal(memory.Read(one), memory.Read(result));
        Assert.Equal(memory.Read(oneFactors), memory.Read(factors));
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void AStepOnSeveralTensorsHasTheBitsOfOneAfterTheOther(string backend)
    {
        AdamWArgs args = new(1e-2, 0.9, 0.99, 1e-8, 0.1, 3);
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        AdamWTensor[] together = Make(), alone = Make();
        b.AdamWSeveral(together, args);
        foreach (AdamWTensor t in alone)
            b.AdamW(t.Param, t.Grad, t.M, t.V, t.Param.Length, args);
        foreach ((AdamWTensor a, AdamWTensor c) in alone.Zip(together))
        {
            Assert.Equal(memory.Read(a.Param), memory.Read(c.Param));
            Assert.Equal(memory.Read(a.M), memory.Read(c.M));
            Assert.Equal(memory.Read(a.V), memory.Read(c.V));
        }
        Assert.NotEqual(memory.Read(together[9].Grad), memory.Read(together[9].M));
        Assert.Contains("step is 0", Assert.Throws<ArgumentException>(() => b.AdamWSeveral(together, args with { Step = 0 })).Message);

        AdamWTensor[] Make() => [.. s_lengths.Select((n, i) => new AdamWTensor(Values(n, i), Values(n, 100 + i), Values(n, 200 + i), memory.Of([.. ReduceReference.Random(n, 300 + i).Select(Math.Abs)])))];

        View Values(int n, int seed) => memory.Of(ReduceReference.Random(n, seed));
    }

    [Fact]
    public void DryOnesAreCountedAsTheOpsOnOne()
    {
        using DryBackend dry = new();
        using TestMemory memory = new(dry);
        IBackend b = dry;
        View[] views = [memory.Zeros(7), memory.Zeros(90)];
        dry.Reset();
        b.CopySeveral(views, views, accumulate: true);
        Assert.Equal(new OpTotals(2, 0, 97, 3 * 4 * 97), dry[OpFamily.Elementwise]);
        b.AdamWSeveral([.. views.Select(v => new AdamWTensor(v, v, v, v))], default);
        Assert.Equal(new OpTotals(2, 0, 97, 7 * 4 * 97), dry[OpFamily.Optimiser]);
        dry.Reset();
        b.ScaleColumns(views[1], views[1], views[0], 2, 15, 3, accumulate: false);
        Assert.Equal(new OpTotals(2, 0, 90, 4 * ((2 * 90) + 6)), dry[OpFamily.Elementwise]);
    }

    private static double[] Narrow(double[] values) => Array.ConvertAll(values, v => (double)(float)v);
}
