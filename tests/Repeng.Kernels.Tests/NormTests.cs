using Repeng.Kernels.Cpu;
using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;

namespace Repeng.Kernels.Tests;

/// <summary>RMSNorm and LayerNorm against the double reference.</summary>
public sealed class NormTests
{
    private const double Tolerance = 1e-5;

    private static IEnumerable<(int Rows, int Cols)> Shapes()
    {
        // Rows of one or two elements are left out: there the gradient is a difference of equal terms, all of it rounding.
        yield return (1, 3);
        yield return (3, 5);
        yield return (700, 16);
        yield return (130, 64);
        yield return (5, 576);
        yield return (2, 4099);
        // Large enough that several threads take part.
        yield return (1100, 64);
        yield return (70, 576);
        var r = new Random(11);
        for (int i = 0; i < 20; i++)
            yield return (r.Next(1, 100), r.Next(3, 300));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ReferenceBackwardIsTheAdjointOfItsForward(bool centered)
    {
        int seed = 0;
        foreach ((int rows, int cols) in Shapes())
        {
            if (rows * cols > 5000)
                continue;
            Problem p = new(rows, cols, ++seed, centered ? 0 : seed % 2);
            (double[] dx, double[] dWeight, double[] dBias) = NormReference.Backward(p.Dy, p.X, p.Weight, rows, cols, 1e-3, p.Offset, centered);
            GradientJudge.Check(
                x => NormReference.Forward(x[0], x[1], centered ? x[2] : null, rows, cols, 1e-3, p.Offset, centered).Y,
                centered ? [p.X, p.Weight, p.Bias] : [p.X, p.Weight], p.Dy, centered ? [dx, dWeight, dBias] : [dx, dWeight], seed);
        }
    }

    [Theory]
    [InlineData(false, 0)]
    [InlineData(true, 0)]
    [InlineData(false, 128)]
    [InlineData(true, 128)]
    [InlineData(false, 256)]
    [InlineData(true, 512)]
    public void MatchesTheReference(bool centered, int vectorBits)
    {
        using CpuBackend backend = vectorBits == 0 ? new(2) : new(2) { VectorBits = vectorBits };
        int seed = 50;
        foreach ((int rows, int cols) in Shapes())
        {
            Problem p = new(rows, cols, ++seed, centered ? 0 : seed % 2);
            Result actual = Run(backend, p, centered);
            (Dual[] y, Dual[] mean, Dual[] rstd) = NormReference.Forward(Dual.Of(p.X), Dual.Of(p.Weight), centered ? Dual.Of(p.Bias) : null, rows, cols, (float)1e-3, p.Offset, centered);
            (double[] dx, double[] dWeight, double[] dBias) = NormReference.Backward(p.Dy, p.X, p.Weight, rows, cols, (float)1e-3, p.Offset, centered);
            string what = $" of {rows} × {cols}";
            Close.To(Tolerance, actual.Y, Dual.Values(y), "y" + what);
            Close.To(Tolerance, actual.Rstd, Dual.Values(rstd), "rstd" + what);
            Close.To(Tolerance, actual.Dx, Plus(dx, p.DxBefore), "dx" + what);
            Close.To(Tolerance, actual.DWeight, Plus(dWeight, p.Weight), "dWeight" + what);
            if (!centered)
                continue;
            Close.To(Tolerance, actual.Mean, Dual.Values(mean), "mean" + what);
            Close.To(Tolerance, actual.DBias, Plus(dBias, p.Bias), "dBias" + what);
        }
    }

    [Fact]
    public void LayerNormKeepsItsPrecisionFarFromZero()
    {
        using CpuBackend backend = new(1);
        Problem p = new(4, 200, 3, 0);
        for (int i = 0; i < p.X.Length; i++)
            p.X[i] = (float)(p.X[i] + 1000);
        (Dual[] y, _, _) = NormReference.Forward(Dual.Of(p.X), Dual.Of(p.Weight), Dual.Of(p.Bias), 4, 200, (float)1e-3, 0, true);
        // The mean is known to half a step of fp32 at 1000, which is 3e-5.
        Close.To(5e-5, Run(backend, p, true).Y, Dual.Values(y), "y");
    }

    [Fact]
    public void LayerNormTakesAnAbsentBias()
    {
        using CpuBackend backend = new(1);
        using TestMemory memory = new(backend);
        Problem p = new(7, 37, 9, 0);
        View y = memory.Empty(p.X.Length);
        backend.LayerNormForward(y, memory.Empty(7), memory.Empty(7), memory.Of(p.X), memory.Of(p.Weight), default, 7, 37, 1e-3f);
        (Dual[] expected, _, _) = NormReference.Forward(Dual.Of(p.X), Dual.Of(p.Weight), null, 7, 37, (float)1e-3, 0, true);
        Close.To(Tolerance, memory.Read(y), Dual.Values(expected), "y");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void GivesTheSameBitsAtAnyThreadCount(bool centered)
    {
        foreach ((int rows, int cols) in Shapes())
        {
            Problem p = new(rows, cols, rows, 0);
            Result? first = null;
            foreach (int threads in (int[])[1, 2, 3])
            {
                using CpuBackend backend = new(threads);
                Result r = Run(backend, p, centered);
                first ??= r;
                Assert.Equal(first.Y, r.Y);
                Assert.Equal(first.Rstd, r.Rstd);
                Assert.Equal(first.Mean, r.Mean);
                Assert.Equal(first.Dx, r.Dx);
                Assert.Equal(first.DWeight, r.DWeight);
                Assert.Equal(first.DBias, r.DBias);
            }
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void SkipsAbsentGradients(bool centered)
    {
        using CpuBackend backend = new(2);
        Problem p = new(600, 40, 4, 0);
        Result all = Run(backend, p, centered);
        Assert.Equal(all.Dx, Run(backend, p, centered, wants: 1).Dx);
        Assert.Equal(all.DWeight, Run(backend, p, centered, wants: 2).DWeight);
        if (centered)
            Assert.Equal(all.DBias, Run(backend, p, centered, wants: 4).DBias);
    }

    [Fact]
    public void AllocatesNothing()
    {
        using CpuBackend backend = new(1);
        using TestMemory memory = new(backend);
        const int Rows = 300, Cols = 70;
        Problem p = new(Rows, Cols, 4, 0);
        View x = memory.Of(p.X), w = memory.Of(p.Weight), y = memory.Empty(p.X.Length), mean = memory.Empty(Rows), rstd = memory.Empty(Rows), dx = memory.Zeros(p.X.Length), dw = memory.Zeros(Cols), db = memory.Zeros(Cols);
        Allocation.AssertNone(() =>
        {
            backend.RmsNormForward(y, rstd, x, w, Rows, Cols, 1e-5f, 1);
            backend.RmsNormBackward(dx, dw, y, x, w, rstd, Rows, Cols, 1);
            backend.LayerNormForward(y, mean, rstd, x, w, w, Rows, Cols, 1e-5f);
            backend.LayerNormBackward(dx, dw, db, y, x, w, mean, rstd, Rows, Cols);
        });
    }

    [Fact]
    public void RefusesArgumentsOutOfRange()
    {
        using CpuBackend backend = new(1);
        using TestMemory memory = new(backend);
        View x = memory.Zeros(12), w = memory.Zeros(4), s = memory.Zeros(3), y = memory.Zeros(12), ints = memory.Of([1, 2, 3, 4]);
        backend.RmsNormForward(y, s, x, w, 3, 4, 1e-5f, 0);
        backend.RmsNormForward(y, s, x, w, 0, 4, 1e-5f, 0);
        Assert.Throws<ArgumentException>(() => backend.RmsNormForward(y, s, x, w, 4, 4, 1e-5f, 0));
        Assert.Throws<ArgumentException>(() => backend.RmsNormForward(y, s, x, w, 2, 6, 1e-5f, 0));
        Assert.Throws<ArgumentException>(() => backend.RmsNormForward(y, s, x, w, 3, 0, 1e-5f, 0));
        Assert.Throws<ArgumentException>(() => backend.RmsNormForward(y, s, x, ints, 3, 4, 1e-5f, 0));
        Assert.Throws<ArgumentException>(() => backend.RmsNormBackward(y, s, x, x, w, s, 3, 4, 0));
        Assert.Throws<ArgumentException>(() => backend.LayerNormForward(y, s, s, x, w, s, 3, 4, 1e-5f));
        Assert.Throws<ArgumentException>(() => backend.LayerNormBackward(y, w, s, x, x, w, s, s, 3, 4));
    }

    private sealed class Problem
    {
        internal Problem(int rows, int cols, int seed, double offset)
        {
            var random = new Random(seed);
            (Rows, Cols, Offset) = (rows, cols, offset);
            (X, Dy, DxBefore) = (Noise.Doubles(random, rows * cols, 2), Noise.Doubles(random, rows * cols), Noise.Doubles(random, rows * cols, 0.1));
            (Weight, Bias) = (Noise.Doubles(random, cols), Noise.Doubles(random, cols));
        }

        internal int Rows { get; }
        internal int Cols { get; }
        internal double Offset { get; }
        internal double[] X { get; }
        internal double[] Dy { get; }
        internal double[] DxBefore { get; }
        internal double[] Weight { get; }
        internal double[] Bias { get; }
    }

    private sealed record Result(float[] Y, float[] Mean, float[] Rstd, float[] Dx, float[] DWeight, float[] DBias);

    // wants: bit 0 dx, bit 1 dWeight, bit 2 dBias; gradients start from numbers of the problem, because the ops add.
    private static Result Run(CpuBackend backend, Problem p, bool centered, int wants = 7)
    {
        using TestMemory memory = new(backend);
        View x = memory.Of(p.X), w = memory.Of(p.Weight), b = memory.Of(p.Bias), dy = memory.Of(p.Dy);
        View y = memory.Empty(p.X.Length), mean = memory.Zeros(p.Rows), rstd = memory.Empty(p.Rows);
        View dx = (wants & 1) != 0 ? memory.Of(p.DxBefore) : default, dw = (wants & 2) != 0 ? memory.Of(p.Weight) : default, db = (wants & 4) != 0 ? memory.Of(p.Bias) : default;
        if (centered)
        {
            backend.LayerNormForward(y, mean, rstd, x, w, b, p.Rows, p.Cols, 1e-3f);
            backend.LayerNormBackward(dx, dw, db, dy, x, w, mean, rstd, p.Rows, p.Cols);
        }
        else
        {
            backend.RmsNormForward(y, rstd, x, w, p.Rows, p.Cols, 1e-3f, (float)p.Offset);
            backend.RmsNormBackward(dx, dw, dy, x, w, rstd, p.Rows, p.Cols, (float)p.Offset);
        }
        return new Result(memory.Read(y), memory.Read(mean), memory.Read(rstd), Read(dx), Read(dw), Read(db));

        float[] Read(View view) => view.IsEmpty ? [] : memory.Read(view);
    }

    private static double[] Plus(double[] a, double[] b)
    {
        var sum = new double[a.Length];
        for (int i = 0; i < sum.Length; i++)
            sum[i] = a[i] + b[i];
        return sum;
    }
}
