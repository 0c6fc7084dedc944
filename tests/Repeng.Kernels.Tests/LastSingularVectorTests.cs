using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Kernels.Tests.Reference;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>The last left singular vector on matrices with known decompositions, and where it is not defined.</summary>
public sealed class LastSingularVectorTests
{
    /// <summary>rows, cols, smallest singular value; the largest is 2, the next to last at least 0.4.</summary>
    public static TheoryData<int, int, double> Known() => new()
    {
        { 1, 1, 0.2 }, { 1, 4, 0.2 }, { 4, 1, 0.2 }, { 5, 5, 0.2 }, { 8, 5, 1e-3 }, { 5, 8, 1e-3 }, { 64, 160, 0.3 }, { 160, 64, 0.3 },
        { 200, 170, 0.2 }, { 170, 200, 0.2 }, { 220, 220, 0.1 }, { 220, 220, 1e-4 }, { 170, 260, 1e-5 }, { 260, 170, 1e-3 },
    };

    [Theory]
    [MemberData(nameof(Known))]
    public void FindsAKnownVector(int rows, int cols, double smallest)
    {
        int k = Math.Min(rows, cols);
        double[] values = new double[k];
        for (int i = 0; i < k; i++)
            values[i] = i == k - 1 ? smallest : 2 - 1.6 * i / k;
        (double[] w, double[] u, _) = SvdReference.Make(rows, cols, values, seed: rows * 3 + cols);
        using CpuWorkers workers = new();
        LastSingularVector last = LastSingularVector.Compute(workers, SvdTests.Narrow(w), rows, cols);
        double cos = SvdReference.ColumnDot(RotationReference.Widen(last.U), 0, u, k - 1, rows, 1, k);
        double largest = values[0];
        // Rounding of w to fp32 moves u_k by 2⁻²⁴ over the gap, and a·v/σ by 2⁻²⁴/σ_k more where rows > cols.
        double tolerance = 2e-6 + (rows > cols ? 3e-7 / smallest : 0);
        Assert.True(Math.Abs(cos) > 1 - tolerance, $"cos with the vector that the matrix was made with is {cos:R}");
        Assert.Equal(smallest, last.Sigma, 3e-7 * largest);
        Assert.False(last.IllDefined, $"uncertainty {last.Uncertainty:g3}");
        if (k > 1)
            Assert.Equal((values[k - 2] - smallest) / largest, last.Gap, 0.02);
    }

    [Theory]
    [InlineData(900, 200)]
    [InlineData(200, 900)]
    public void CrowdedEndOfTheSpectrum(int rows, int cols)
    {
        // A tall Gaussian matrix: its smallest singular values lie close together, far from zero.
        double[] w = Array.ConvertAll(SvdTests.Narrow(RotationReference.Random(rows * cols, seed: 21)), x => (double)x);
        int k = Math.Min(rows, cols), length = Math.Max(rows, cols);
        double[] gram = new double[k * k], values = new double[k], vectors = new double[k * k], u = new double[rows];
        for (int i = 0; i < k; i++)
            for (int j = 0; j <= i; j++)
                for (int t = 0; t < length; t++)
                    gram[i * k + j] += rows > cols ? w[t * cols + i] * w[t * cols + j] : w[i * cols + t] * w[j * cols + t];
        using CpuWorkers workers = new();
        SymmetricEigen.Decompose(workers, gram, k, values, vectors, k);
        double sigma = Math.Sqrt(values[k - 1]);
        for (int i = 0; i < rows; i++)
            if (rows > cols)
                u[i] = RotationReference.Dot(w.AsSpan(i * cols, cols), vectors.AsSpan((k - 1) * k, k)) / sigma;
            else
                u[i] = vectors[(k - 1) * k + i];
        LastSingularVector last = LastSingularVector.Compute(workers, SvdTests.Narrow(w), rows, cols);
        Assert.Equal(1, Math.Abs(RotationReference.Dot(u, RotationReference.Widen(last.U))), 1e-7);
        Assert.Equal(sigma, last.Sigma, 1e-9 * sigma);
        Assert.Equal((Math.Sqrt(values[k - 2]) - sigma) / Math.Sqrt(values[0]), last.Gap, 0.05 * last.Gap);
        Assert.InRange(last.Uncertainty, 0, 1e-8);
    }

    [Theory]
    [InlineData(6)]
    [InlineData(160)]
    [InlineData(200)]
    public void ExactlySingularSquareMatrix(int n)
    {
        // Small integers, the last row the sum of the others: u = (1, …, 1, −1)/√n with σ = 0, and defined.
        double[] w = Array.ConvertAll(RotationReference.Random(n * n, seed: n), x => Math.Round(3 * x));
        for (int j = 0; j < n; j++)
        {
            w[(n - 1) * n + j] = 0;
            for (int i = 0; i < n - 1; i++)
                w[(n - 1) * n + j] += w[i * n + j];
        }
        using CpuWorkers workers = new();
        LastSingularVector last = LastSingularVector.Compute(workers, SvdTests.Narrow(w), n, n);
        for (int i = 0; i < n; i++)
            Assert.Equal((i == n - 1 ? -1 : 1) / Math.Sqrt(n), last.U[i], 1e-6);
        Assert.InRange(last.Sigma, 0, 1e-9);
        Assert.False(last.IllDefined);
    }

    [Theory]
    [InlineData(30, 12)]
    [InlineData(300, 200)]
    public void TallMatrixWithoutFullRankIsFlagged(int rows, int cols)
    {
        // The last column is the sum of two others: the last left vector is any unit vector orthogonal to the range.
        double[] w = Array.ConvertAll(RotationReference.Random(rows * cols, seed: 8), x => Math.Round(3 * x));
        for (int i = 0; i < rows; i++)
            w[i * cols + cols - 1] = w[i * cols] + w[i * cols + 1];
        using CpuWorkers workers = new();
        LastSingularVector last = LastSingularVector.Compute(workers, SvdTests.Narrow(w), rows, cols);
        Assert.True(last.IllDefined);
        Assert.Equal(1, RotationReference.Norm(RotationReference.Widen(last.U)), 1e-6);
        for (int j = 0; j < cols; j++)
        {
            double dot = 0, size = 0;
            for (int i = 0; i < rows; i++)
            {
                dot += w[i * cols + j] * last.U[i];
                size += w[i * cols + j] * w[i * cols + j];
            }
            Assert.InRange(Math.Abs(dot) / Math.Sqrt(size), 0, 1e-6);
        }
    }

    [Theory]
    [InlineData(12)]
    [InlineData(200)]
    public void EqualSmallestValuesAreFlagged(int n)
    {
        float[] w = new float[n * n];
        for (int i = 0; i < n; i++)
            w[i * n + i] = i < n - 2 ? 2 + i : 1;
        using CpuWorkers workers = new();
        LastSingularVector last = LastSingularVector.Compute(workers, w, n, n);
        Assert.True(last.IllDefined);
        Assert.Equal(1, last.Sigma, 1e-9);
        Assert.InRange(last.Gap, 0, 1e-9);
        Assert.Equal(1, last.U[n - 2] * last.U[n - 2] + last.U[n - 1] * last.U[n - 1], 1e-5);
        Assert.True(LastSingularVector.Compute(workers, new float[n * n], n, n).IllDefined);
    }

    [Theory]
    [InlineData(70, 40)]
    [InlineData(40, 70)]
    [InlineData(50, 50)]
    public void AllColumnsButTheLastNeedOnlyTheLast(int rows, int cols)
    {
        // With U₋ all left vectors but the last: U₋·U₋ᵀ·Δ = Δ − u_k·(u_kᵀ·Δ) for Δ in the column space of W.
        int k = Math.Min(rows, cols);
        double[] w = RotationReference.Random(rows * cols, seed: 12), x = RotationReference.Random(cols, seed: 13), delta = new double[rows];
        float[] narrow = SvdTests.Narrow(w);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                delta[i] += narrow[i * cols + j] * x[j];
        using CpuWorkers workers = new();
        double[] u = RotationReference.Widen(TopSvd.Compute(workers, narrow, rows, cols, k - 1).U), last = RotationReference.Widen(LastSingularVector.Compute(workers, narrow, rows, cols).U);
        double[] projected = new double[rows];
        for (int t = 0; t < k - 1; t++)
        {
            double along = SvdReference.ColumnDot(u, t, delta, 0, rows, k - 1, 1);
            for (int i = 0; i < rows; i++)
                projected[i] += along * u[i * (k - 1) + t];
        }
        double lastAlong = RotationReference.Dot(last, delta), size = RotationReference.Norm(delta);
        Assert.True(Math.Abs(lastAlong) > 1e-4 * size, "the last direction carries nothing, so the test shows nothing");
        for (int i = 0; i < rows; i++)
            Assert.InRange(Math.Abs(projected[i] - (delta[i] - lastAlong * last[i])) / size, 0, 1e-6);
    }
}
