using Repeng.Kernels.Cpu;
using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;

namespace Repeng.Kernels.Tests;

/// <summary>The rotary embedding op against the double reference.</summary>
public sealed class RopeTests
{
    private const double Tolerance = 2e-6;
    private const int TablePositions = 40;

    private static IEnumerable<(int Rows, int Heads, int HeadDim, int RotaryDim)> Shapes()
    {
        yield return (1, 1, 2, 2);
        yield return (300, 9, 64, 64);
        yield return (17, 2, 64, 32);
        yield return (5, 3, 17, 6);
        yield return (5, 3, 10, 0);
        var r = new Random(12);
        for (int i = 0; i < 20; i++)
        {
            int rotary = 2 * r.Next(1, 40);
            yield return (r.Next(1, 40), r.Next(1, 5), rotary + r.Next(0, 2) * r.Next(0, 20), rotary);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ReferenceInverseIsTheAdjointOfItsForward(bool interleaved)
    {
        int seed = 0;
        foreach (var (rows, heads, dim, rotary) in Shapes())
        {
            if (rows * heads * dim > 5000)
                continue;
            Problem p = new(rows, heads, dim, rotary, ++seed);
            double[] dx = Dual.Values(RopeReference.Apply(Dual.Of(p.Dy), p.Cos, p.Sin, p.Positions, heads, dim, rotary, interleaved, inverse: true));
            GradientJudge.Check(x => RopeReference.Apply(x[0], p.Cos, p.Sin, p.Positions, heads, dim, rotary, interleaved, false), [p.X], p.Dy, [dx], seed);
        }
    }

    [Theory]
    [InlineData(false, 0)]
    [InlineData(true, 0)]
    [InlineData(false, 128)]
    [InlineData(true, 128)]
    [InlineData(false, 512)]
    [InlineData(true, 512)]
    public void MatchesTheReference(bool interleaved, int vectorBits)
    {
        using CpuBackend backend = vectorBits == 0 ? new(2) : new(2) { VectorBits = vectorBits };
        using TestMemory memory = new(backend);
        int seed = 30;
        foreach (var (rows, heads, dim, rotary) in Shapes())
            foreach (bool inverse in (bool[])[false, true])
            {
                Problem p = new(rows, heads, dim, rotary, ++seed);
                double[] expected = Dual.Values(RopeReference.Apply(Dual.Of(p.X), p.Cos, p.Sin, p.Positions, heads, dim, rotary, interleaved, inverse));
                View x = memory.Of(p.X), y = memory.Empty(p.X.Length), sum = memory.Of(p.Dy), cos = memory.Of(p.Cos), sin = memory.Of(p.Sin), positions = memory.Of(p.Positions);
                string what = $"{rows} × {heads} × {dim}, {rotary} rotated, inverse {inverse}";
                backend.Rope(y, x, cos, sin, positions, rows, heads, dim, rotary, interleaved, inverse, accumulate: false);
                Close.To(Tolerance, memory.Read(y), expected, what);
                backend.Rope(sum, x, cos, sin, positions, rows, heads, dim, rotary, interleaved, inverse, accumulate: true);
                for (int i = 0; i < expected.Length; i++)
                    expected[i] += p.Dy[i];
                Close.To(Tolerance, memory.Read(sum), expected, what + ", accumulated");
                backend.Rope(x, x, cos, sin, positions, rows, heads, dim, rotary, interleaved, inverse, accumulate: false);
                Assert.Equal(memory.Read(y), memory.Read(x));
            }
    }

    [Fact]
    public void GivesTheSameBitsAtAnyThreadCountAndAllocatesNothing()
    {
        Problem p = new(300, 9, 64, 32, 1);
        float[]? first = null;
        foreach (int threads in (int[])[1, 2, 3])
        {
            using CpuBackend backend = new(threads);
            using TestMemory memory = new(backend);
            View x = memory.Of(p.X), y = memory.Empty(p.X.Length), cos = memory.Of(p.Cos), sin = memory.Of(p.Sin), positions = memory.Of(p.Positions);
            if (threads == 1)
                Allocation.AssertNone(() => backend.Rope(y, x, cos, sin, positions, 300, 9, 64, 32, true, false, false));
            backend.Rope(y, x, cos, sin, positions, 300, 9, 64, 32, false, false, false);
            first ??= memory.Read(y);
            Assert.Equal(first, memory.Read(y));
        }
    }

    [Fact]
    public void RefusesArgumentsOutOfRange()
    {
        using CpuBackend backend = new(1);
        using TestMemory memory = new(backend);
        View x = memory.Zeros(2 * 8), y = memory.Zeros(2 * 8), table = memory.Zeros(5 * 4);
        void Run(View to, int rows, int dim, int rotary, int position, bool accumulate = false) =>
            backend.Rope(to, x, table, table, memory.Of([0, position]), rows, 1, dim, rotary, false, false, accumulate);
        Run(y, 2, 8, 8, 4);
        Assert.Contains("position 5 of row 1", Assert.Throws<ArgumentException>(() => Run(y, 2, 8, 8, 5)).Message);
        Assert.Throws<ArgumentException>(() => Run(y, 2, 8, 8, -1));
        Assert.Throws<ArgumentException>(() => Run(y, 2, 8, 7, 0));
        Assert.Throws<ArgumentException>(() => Run(y, 2, 8, 10, 0));
        Assert.Throws<ArgumentException>(() => Run(y, 3, 8, 8, 0));
        Assert.Throws<ArgumentException>(() => Run(y, -1, 8, 8, 0));
        Assert.Throws<ArgumentException>(() => Run(x, 2, 8, 8, 0, accumulate: true));
    }

    private sealed class Problem
    {
        internal Problem(int rows, int heads, int headDim, int rotaryDim, int seed)
        {
            var random = new Random(seed);
            (X, Dy) = (Noise.Doubles(random, rows * heads * headDim), Noise.Doubles(random, rows * heads * headDim));
            double[] angles = Noise.Doubles(random, TablePositions * rotaryDim / 2, 3);
            // An attention factor other than 1 stands in the tables, so a rotation need not keep lengths.
            (Cos, Sin) = (Array.ConvertAll(angles, a => (double)(float)(1.3 * Math.Cos(a))), Array.ConvertAll(angles, a => (double)(float)(1.3 * Math.Sin(a))));
            Positions = new int[rows];
            for (int i = 0; i < rows; i++)
                Positions[i] = random.Next(TablePositions);
        }

        internal double[] X { get; }
        internal double[] Dy { get; }
        internal double[] Cos { get; }
        internal double[] Sin { get; }
        internal int[] Positions { get; }
    }
}
