using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Kernels.Tests.Reference;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Eigen-decomposition, Cholesky factor, principal components and the product in double that they rest on.</summary>
public sealed unsafe class DenseAlgebraTests
{
    [Theory]
    [InlineData(1, 1, 1)]
    [InlineData(4, 8, 5)]
    [InlineData(13, 9, 300)]
    [InlineData(97, 70, 33)]
    [InlineData(200, 530, 7)]
    [InlineData(3, 0, 4)]
    [InlineData(5, 6, 0)]
    public void ProductEqualsPlainLoops(int m, int n, int k)
    {
        using CpuWorkers workers = new();
        double[] a = RotationReference.Random(m * k, 1), b = RotationReference.Random(k * n, 2);
        float[] narrowA = SvdTests.Narrow(a), narrowB = SvdTests.Narrow(b);
        for (int mask = 0; mask < 16; mask++)
        {
            (bool turnA, bool turnB, bool single, bool add) = ((mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0, (mask & 8) != 0);
            double[] c = RotationReference.Random(m * (n + 3), 3), expected = [.. c];
            for (int i = 0; i < m; i++)
                for (int j = 0; j < n; j++)
                {
                    double sum = 0;
                    for (int t = 0; t < k; t++)
                    {
                        int atA = turnA ? t * m + i : i * k + t, atB = turnB ? j * k + t : t * n + j;
                        sum += (single ? narrowA[atA] : a[atA]) * (single ? (double)narrowB[atB] : b[atB]);
                    }
                    expected[i * (n + 3) + j] = (add ? expected[i * (n + 3) + j] : 0) - 1.5 * sum;
                }
            fixed (double* pa = a, pb = b, pc = c)
            fixed (float* sa = narrowA, sb = narrowB)
            {
                MatrixOperand left = single ? new(sa, turnA ? m : k, turnA) : new(pa, turnA ? m : k, turnA);
                MatrixOperand right = single ? new(sb, turnB ? k : n, turnB) : new(pb, turnB ? k : n, turnB);
                ParallelGemm.Multiply(workers, pc, n + 3, left, right, m, n, k, -1.5, add);
            }
            for (int i = 0; i < c.Length; i++)
                Assert.True(Math.Abs(expected[i] - c[i]) <= 1e-13 * (k + 1), $"mask {mask}, element {i}: {c[i]:R}, expected {expected[i]:R}");
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(20)]
    [InlineData(130)]
    [InlineData(600)]
    public void EigenvaluesOfTheSecondDifference(int n)
    {
        // Tridiagonal (−1, 2, −1) has the eigenvalues 2 − 2·cos(iπ/(n + 1)); random rotations hide the structure.
        double[] a = new double[n * n], values = new double[n], vectors = new double[n * n], expected = new double[n];
        for (int i = 0; i < n; i++)
        {
            a[i * n + i] = 2;
            if (i > 0)
                a[i * n + i - 1] = a[(i - 1) * n + i] = -1;
            expected[i] = 2 - 2 * Math.Cos((n - i) * Math.PI / (n + 1));
        }
        Random random = new(n);
        for (int turn = 0; turn < 3 * n && n > 1; turn++)
            Turn(a, n, random.Next(n), random.Next(n), random.NextDouble() * 6);
        using CpuWorkers workers = new();
        SymmetricEigen.Decompose(workers, a, n, values, vectors, n);
        CheckEigen(a, n, values, vectors, n);
        for (int i = 0; i < n; i++)
            Assert.Equal(expected[i], values[i], 1e-12 * n);

        double[] fewValues = new double[n], few = new double[(n + 1) / 2 * n];
        SymmetricEigen.Decompose(workers, a, n, fewValues, few, (n + 1) / 2);
        Assert.Equal(values, fewValues);
        Assert.Equal(vectors[..few.Length], few);
    }

    [Fact]
    public void EigenvaluesThatCoincideOrDifferByMagnitudes()
    {
        using CpuWorkers workers = new();
        const int N = 60;
        foreach (Func<int, double> spectrum in new Func<int, double>[] { i => i / 20, i => Math.Pow(10, -i), i => Math.Pow(10, i - N), i => i == 0 ? 1 : 0, i => -i, _ => 0, i => 1e150 * (1 + i) })
        {
            double[] q = SvdReference.Orthonormal(N, N, seed: 6), a = new double[N * N], values = new double[N], vectors = new double[N * N];
            for (int i = 0; i < N; i++)
                for (int j = 0; j < N; j++)
                    for (int t = 0; t < N; t++)
                        a[i * N + j] += q[i * N + t] * spectrum(t) * q[j * N + t];
            SymmetricEigen.Decompose(workers, a, N, values, vectors, N);
            CheckEigen(a, N, values, vectors, N);
        }
        double[] bad = [1, 0, double.NaN, 1];
        Assert.Contains("(1, 0)", Assert.Throws<ArithmeticException>(() => SymmetricEigen.Decompose(workers, bad, 2, new double[2], new double[4], 2)).Message);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(5)]
    [InlineData(64)]
    [InlineData(65)]
    [InlineData(300)]
    public void CholeskySolves(int n)
    {
        double[] b = RotationReference.Random(n * n, seed: 3), a = new double[n * n];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                for (int t = 0; t < n; t++)
                    a[i * n + j] += b[i * n + t] * b[j * n + t] / n;
        double[] right = RotationReference.Random(3 * n, seed: 4), x = [.. right];
        using CpuWorkers workers = new();
        using Cholesky factor = Cholesky.Factor(workers, a, n, shift: 0.5);
        factor.Solve(x, 3);
        for (int r = 0; r < 3; r++)
            for (int i = 0; i < n; i++)
            {
                double image = 0.5 * x[r * n + i];
                for (int j = 0; j < n; j++)
                    image += a[i * n + j] * x[r * n + j];
                Assert.Equal(right[r * n + i], image, 1e-11);
            }
    }

    [Fact]
    public void CholeskyNamesThePivotOfAnIndefiniteMatrix()
    {
        using CpuWorkers workers = new(1);
        double[] a = [1, 0, 0, 0, 1, 2, 0, 2, 1];
        Assert.Contains("pivot 2", Assert.Throws<ArithmeticException>(() => Cholesky.Factor(workers, a, 3)).Message);
        Cholesky.Factor(workers, a, 3, shift: 1.5).Dispose();
    }

    [Theory]
    [InlineData(9, 30, 4)]
    [InlineData(40, 7, 7)]
    [InlineData(250, 180, 3)]
    [InlineData(170, 400, 5)]
    public void PrincipalComponentsOfKnownRows(int n, int d, int k)
    {
        // Rows = offset + scores·directions, with scores of zero mean: components and variances are known.
        int rank = Math.Min(n - 1, d);
        double[] values = SvdReference.Geometric(rank, 5, 0.8), offset = RotationReference.Random(d, seed: 2);
        double[] scores = CentredOrthonormal(n, rank, seed: 3), directions = SvdReference.Orthonormal(d, rank, seed: 4), x = new double[n * d];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < d; j++)
            {
                x[i * d + j] = offset[j];
                for (int t = 0; t < rank; t++)
                    x[i * d + j] += scores[i * rank + t] * values[t] * directions[j * rank + t];
            }
        using CpuWorkers workers = new();
        PrincipalComponents found = PrincipalComponents.Compute(workers, x, n, d, k);
        double total = 0;
        foreach (double v in values)
            total += v * v / (n - 1);
        Assert.Equal(total, found.TotalVariance, 1e-9 * total);
        for (int t = 0; t < Math.Min(k, rank); t++)
        {
            Assert.Equal(values[t] * values[t] / (n - 1), found.Variances[t], 1e-9 * total);
            double cos = 0, largest = 0;
            for (int j = 0; j < d; j++)
            {
                cos += found.Components[t * d + j] * directions[j * rank + t];
                largest = Math.Abs(found.Components[t * d + j]) > Math.Abs(largest) ? found.Components[t * d + j] : largest;
            }
            Assert.Equal(1, Math.Abs(cos), 1e-9);
            Assert.True(largest > 0);
        }
        for (int j = 0; j < d; j++)
            Assert.Equal(offset[j], found.Mean[j], 1e-12);

        // Without the mean taken out, the offset is a direction of its own; fp32 rows give the same to their rounding.
        PrincipalComponents narrow = PrincipalComponents.Compute(workers, SvdTests.Narrow(x), n, d, k);
        for (int t = 0; t < k; t++)
            Assert.Equal(found.Variances[t], narrow.Variances[t], 1e-6 * total);
        PrincipalComponents raw = PrincipalComponents.Compute(workers, x, n, d, 1, centred: false);
        Assert.True(raw.TotalVariance > total * (n - 1) / n * 1.01);
        Assert.All(raw.Mean, m => Assert.Equal(0, m));
    }

    [Fact]
    public void PrincipalComponentsRefuseWhatIsNotDefined()
    {
        using CpuWorkers workers = new(1);
        Assert.Contains("3 principal components", Assert.Throws<UserErrorException>(() => PrincipalComponents.Compute(workers, new float[8], 2, 4, 3)).Message);
        Assert.Throws<UserErrorException>(() => PrincipalComponents.Compute(workers, new float[4], 1, 4, 1));
        Assert.Throws<UserErrorException>(() => PrincipalComponents.Compute(workers, new double[] { 1, double.NaN, 2, 3 }, 2, 2, 1));
    }

    private static double[] CentredOrthonormal(int n, int count, int seed)
    {
        // Orthonormal to the constant vector: Gram-Schmidt with it as the first column, which is then dropped.
        double[] q = RotationReference.Random(n * (count + 1), seed), result = new double[n * count];
        for (int i = 0; i < n; i++)
            q[i * (count + 1)] = 1;
        for (int c = 0; c <= count; c++)
        {
            for (int pass = 0; pass < 2; pass++)
                for (int p = 0; p < c; p++)
                {
                    double dot = SvdReference.ColumnDot(q, c, q, p, n, count + 1, count + 1);
                    for (int i = 0; i < n; i++)
                        q[i * (count + 1) + c] -= dot * q[i * (count + 1) + p];
                }
            double norm = Math.Sqrt(SvdReference.ColumnDot(q, c, q, c, n, count + 1, count + 1));
            for (int i = 0; i < n; i++)
            {
                q[i * (count + 1) + c] /= norm;
                if (c > 0)
                    result[i * count + c - 1] = q[i * (count + 1) + c];
            }
        }
        return result;
    }

    private static void Turn(double[] a, int n, int p, int q, double angle)
    {
        if (p == q)
            return;
        (double s, double c) = Math.SinCos(angle);
        for (int k = 0; k < n; k++)
            (a[p * n + k], a[q * n + k]) = (c * a[p * n + k] - s * a[q * n + k], s * a[p * n + k] + c * a[q * n + k]);
        for (int k = 0; k < n; k++)
            (a[k * n + p], a[k * n + q]) = (c * a[k * n + p] - s * a[k * n + q], s * a[k * n + p] + c * a[k * n + q]);
    }

    private static void CheckEigen(double[] a, int n, double[] values, double[] vectors, int count)
    {
        double scale = Math.Max(Math.Abs(values[0]), Math.Abs(values[n - 1]));
        if (scale == 0)
            scale = 1;
        for (int i = 0; i < count; i++)
        {
            Assert.True(i == 0 || values[i] <= values[i - 1]);
            for (int row = 0; row < n; row++)
            {
                double image = 0;
                for (int k = 0; k < n; k++)
                    image += a[Math.Max(row, k) * n + Math.Min(row, k)] * vectors[i * n + k];
                Assert.True(Math.Abs(image - values[i] * vectors[i * n + row]) <= 1e-14 * (n + 10) * scale, $"eigenpair {i} of {n}: residual {Math.Abs(image - values[i] * vectors[i * n + row]) / scale:g3}");
            }
            for (int j = 0; j <= i; j += 1 + i / 20)
                Assert.Equal(i == j ? 1 : 0, RotationReference.Dot(vectors.AsSpan(i * n, n), vectors.AsSpan(j * n, n)), 1e-14 * (n + 10));
        }
    }
}
