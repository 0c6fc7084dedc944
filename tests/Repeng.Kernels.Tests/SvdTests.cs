using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Kernels.Tests.Reference;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Truncated singular value decompositions of matrices with known decompositions, and the properties that any must have.</summary>
public sealed class SvdTests
{
    /// <summary>rows, cols, r, ratio of neighbouring singular values; sizes on both sides of every choice of method.</summary>
    public static TheoryData<int, int, int, double> Known() => new()
    {
        { 1, 1, 1, 0.5 }, { 1, 6, 1, 0.5 }, { 6, 1, 1, 0.5 }, { 2, 2, 2, 0.5 }, { 7, 5, 5, 0.6 }, { 5, 9, 3, 0.6 },
        { 64, 160, 8, 0.9 }, { 160, 64, 64, 0.95 }, { 160, 160, 12, 0.95 },
        { 161, 161, 1, 0.9 }, { 161, 400, 26, 0.95 }, { 400, 161, 27, 0.95 }, { 300, 210, 8, 0.98 }, { 210, 300, 16, 0.98 }, { 230, 230, 200, 0.99 },
    };

    [Theory]
    [MemberData(nameof(Known))]
    public void FindsAKnownDecomposition(int rows, int cols, int r, double ratio)
    {
        int k = Math.Min(rows, cols);
        double[] values = SvdReference.Geometric(k, 3, ratio);
        (double[] w, double[] u, double[] v) = SvdReference.Make(rows, cols, values, seed: rows + cols);
        using CpuWorkers workers = new();
        TruncatedSvd svd = TopSvd.Compute(workers, Narrow(w), rows, cols, r);
        Check(svd, w, values);
        double[] foundU = RotationReference.Widen(svd.U), foundV = RotationReference.Widen(svd.V);
        for (int t = 0; t < r; t++)
        {
            // fp32 rounding of w turns a vector by at most its size over the distance to the neighbours.
            double tolerance = 1e-6 * values[0] / (values[t] * (1 - ratio));
            double cosU = SvdReference.ColumnDot(foundU, t, u, t, rows, r, k), cosV = SvdReference.ColumnDot(foundV, t, v, t, cols, r, k);
            Assert.True(Math.Abs(Math.Abs(cosU) - 1) < tolerance && Math.Abs(Math.Abs(cosV) - 1) < tolerance, $"vector {t}: cos {cosU:R} and {cosV:R}");
            Assert.True(cosU * cosV > 0, $"vector {t}: u and v differ in sign");
        }
    }

    [Fact]
    public void FindsEveryCopyOfAMultipleSingularValue()
    {
        // 20 copies are more than the block of the Krylov iteration can show at once.
        double[] values = new double[240];
        for (int i = 0; i < values.Length; i++)
            values[i] = i < 20 ? 2 : i < 30 ? 1.5 : Math.Pow(0.97, i - 30);
        (double[] w, _, _) = SvdReference.Make(300, 240, values, seed: 9);
        using CpuWorkers workers = new();
        Check(TopSvd.Compute(workers, Narrow(w), 300, 240, 32), w, values);
    }

    [Theory]
    [InlineData(40, 30, 12)]
    [InlineData(260, 200, 20)]
    [InlineData(200, 260, 90)]
    public void MissingRankLeavesOrthonormalVectors(int rows, int cols, int r)
    {
        // Rank 5 in exact small integers, then nothing at all: σ = 0 needs vectors too.
        double[] left = Array.ConvertAll(RotationReference.Random(rows * 5, 1), x => Math.Round(4 * x)), right = Array.ConvertAll(RotationReference.Random(5 * cols, 2), x => Math.Round(4 * x));
        double[] w = new double[rows * cols];
        for (int i = 0; i < rows; i++)
            for (int t = 0; t < 5; t++)
                for (int j = 0; j < cols; j++)
                    w[i * cols + j] += left[i * 5 + t] * right[t * cols + j];
        using CpuWorkers workers = new();
        TruncatedSvd svd = TopSvd.Compute(workers, Narrow(w), rows, cols, r);
        Check(svd, w, null);
        Assert.True(svd.S[4] > 1 && svd.S[5] < 1e-5 * svd.S[0], $"σ₅ = {svd.S[4]}, σ₆ = {svd.S[5]}");

        TruncatedSvd zero = TopSvd.Compute(workers, new float[rows * cols], rows, cols, r);
        Check(zero, new double[rows * cols], new double[r]);
    }

    [Theory]
    [InlineData(1e-30)]
    [InlineData(1e30)]
    public void ScaleDoesNotMatter(double scale)
    {
        double[] values = SvdReference.Geometric(180, scale, 0.97);
        (double[] w, _, _) = SvdReference.Make(200, 180, values, seed: 4);
        using CpuWorkers workers = new();
        Check(TopSvd.Compute(workers, Narrow(w), 200, 180, 8), w, values);
    }

    [Fact]
    public void SmallSingularValuesKeepTheirDigits()
    {
        // Given in double; the Gram matrix would lose everything below 10⁻⁸ of the largest.
        double[] values = SvdReference.Geometric(12, 1, 0.1);
        (double[] w, _, _) = SvdReference.Make(20, 12, values, seed: 5);
        using CpuWorkers workers = new();
        TruncatedSvd svd = TopSvd.Compute(workers, w, 20, 12, 12);
        for (int i = 0; i < 12; i++)
            Assert.Equal(1, svd.S[i] / values[i], 1e-3);
    }

    [Fact]
    public void SameBitsAtAnyThreadCount()
    {
        foreach ((int rows, int cols, int r) in new[] { (50, 40, 10), (333, 222, 9), (222, 333, 70) })
        {
            float[] w = Narrow(RotationReference.Random(rows * cols, seed: rows));
            using CpuWorkers one = new(1), three = new(3);
            TruncatedSvd a = TopSvd.Compute(one, w, rows, cols, r), b = TopSvd.Compute(three, w, rows, cols, r);
            Assert.Equal(a.U, b.U);
            Assert.Equal(a.S, b.S);
            Assert.Equal(a.V, b.V);
            LastSingularVector lastOne = LastSingularVector.Compute(one, w, rows, cols), lastThree = LastSingularVector.Compute(three, w, rows, cols);
            Assert.Equal(lastOne.U, lastThree.U);
            Assert.Equal(lastOne.Sigma, lastThree.Sigma);
        }
    }

    [Fact]
    public void WrongInputsAreNamed()
    {
        using CpuWorkers workers = new(1);
        UserErrorException tooMany = Assert.Throws<UserErrorException>(() => TopSvd.Compute(workers, new float[6], 2, 3, 3));
        Assert.Contains("r = 3", tooMany.Message);
        Assert.Contains("2×3", tooMany.Message);
        Assert.Contains("1 … 2", tooMany.Message);
        Assert.Throws<UserErrorException>(() => TopSvd.Compute(workers, new float[6], 2, 3, 0));
        Assert.Throws<UserErrorException>(() => TopSvd.Compute(workers, new float[0], 0, 3, 1));
        Assert.Throws<ArgumentException>(() => TopSvd.Compute(workers, new float[5], 2, 3, 1));
        float[] bad = new float[6];
        bad[4] = float.NaN;
        Assert.Contains("(1, 1)", Assert.Throws<UserErrorException>(() => TopSvd.Compute(workers, bad, 2, 3, 1)).Message);
        Assert.Contains("(1, 1)", Assert.Throws<UserErrorException>(() => LastSingularVector.Compute(workers, bad, 2, 3)).Message);
    }

    internal static float[] Narrow(double[] values) => Array.ConvertAll(values, x => (float)x);

    /// <summary>Singular values (where known), orthonormality, both residuals and the sign convention.</summary>
    private static void Check(TruncatedSvd svd, double[] w, double[]? values)
    {
        int r = svd.Rank;
        double[] u = RotationReference.Widen(svd.U), s = RotationReference.Widen(svd.S), v = RotationReference.Widen(svd.V);
        Assert.Equal(svd.Rows * r, u.Length);
        Assert.Equal(svd.Columns * r, v.Length);
        Assert.Equal(r, s.Length);
        double scale = s[0] > 0 ? s[0] : 1;
        for (int i = 0; i < r; i++)
        {
            if (values is not null)
                Assert.True(Math.Abs(s[i] - values[i]) <= 5e-7 * scale, $"σ_{i} = {s[i]:R}, made with {values[i]:R}");
            Assert.True(s[i] >= 0 && (i == 0 || s[i] <= s[i - 1]), $"σ_{i} = {s[i]:R} is out of order");
        }
        Assert.InRange(SvdReference.OrthogonalityError(u, svd.Rows, r), 0, 1e-6);
        Assert.InRange(SvdReference.OrthogonalityError(v, svd.Columns, r), 0, 1e-6);
        Assert.InRange(SvdReference.Residual(w, svd.Rows, svd.Columns, u, s, v) / scale, 0, 1e-6);
        Assert.InRange(svd.Residual, 0, 1e-7);
        for (int t = 0; t < r; t++)
        {
            double largest = 0;
            for (int i = 0; i < svd.Rows; i++)
                largest = Math.Abs(u[i * r + t]) > Math.Abs(largest) * (1 + 1e-6) ? u[i * r + t] : largest;
            Assert.True(largest > 0, $"column {t} of U has its largest element {largest}");
        }
    }
}
