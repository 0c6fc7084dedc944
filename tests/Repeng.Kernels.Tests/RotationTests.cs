using Repeng.Kernels.Cpu;
using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Rotations from skew-symmetric matrices against plain double references, and the identities that they must keep.</summary>
public sealed class RotationTests
{
    public static TheoryData<string, string, int, double> Cases()
    {
        TheoryData<string, string, int, double> cases = [];
        foreach (string backend in Backends.Fast)
            foreach (string map in new[] { "cayley", "exp" })
                foreach ((int n, double scale) in new[] { (1, 1.0), (2, 0.7), (3, 2.0), (5, 0.01), (8, 0.5), (13, 30.0), (33, 0.3), (64, 1.0), (67, 4.0) })
                    cases.Add(backend, map, n, scale);
        return cases;
    }

    public static TheoryData<string, string, int> LargeCases()
    {
        TheoryData<string, string, int> cases = [];
        foreach (string backend in Backends.Fast)
            foreach (string map in new[] { "cayley", "exp" })
                foreach (int n in new[] { 64, 128, 300 })
                    cases.Add(backend, map, n);
        return cases;
    }

    public static TheoryData<string> BackendNames() => [.. Backends.Fast];

    [Theory]
    [MemberData(nameof(Cases))]
    public void ForwardEqualsReference(string backend, string map, int n, double scale)
    {
        const int Batch = 3;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] x = RotationReference.RandomSkew(n, Batch, scale, seed: n);
        View r = memory.Empty((long)n * n * Batch);
        Forward(b, map, r, memory.Of(x), n, Batch);
        double[] expected = new double[x.Length];
        for (int m = 0; m < Batch; m++)
            Reference(map, x.AsSpan(m * n * n, n * n), n).CopyTo(expected, m * n * n);
        Close.To(2e-7, memory.Read(r), expected, $"{map} n = {n}");
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void BackwardEqualsFiniteDifferences(string backend, string map, int n, double scale)
    {
        // The directional derivative of <g, R(x)> along a random direction e, by central differences of the double
        // reference, against <dx, e>; the gradient starts at a known value, as ops add to it.
        const int Batch = 2;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] x = RotationReference.RandomSkew(n, Batch, scale, seed: 100 + n);
        double[] g = RotationReference.Random(n * n * Batch, seed: 200 + n);
        View xs = memory.Of(x), r = memory.Empty(x.Length), gs = memory.Of(g), dx = memory.Empty(x.Length, 0.25f);
        Forward(b, map, r, xs, n, Batch);
        Backward(b, map, dx, gs, r, xs, n, Batch);
        float[] gradient = memory.Read(dx);
        float[] gNarrow = memory.Read(gs);

        for (int m = 0; m < Batch; m++)
            for (int probe = 0; probe < 3; probe++)
            {
                double[] e = RotationReference.Random(n * n, seed: 300 + probe);
                double h = 1e-5 / Math.Max(1, scale);
                double[] plus = Shift(h), minus = Shift(-h);
                double wanted = 0, found = 0, size = 0;
                for (int i = 0; i < n * n; i++)
                {
                    wanted += gNarrow[m * n * n + i] * (plus[i] - minus[i]) / (2 * h);
                    double term = (gradient[m * n * n + i] - 0.25) * e[i];
                    found += term;
                    size += term * term;
                }
                Assert.True(Math.Abs(wanted - found) <= 1e-6 * Math.Max(Math.Abs(wanted), Math.Sqrt(size)),
                    $"{map} n = {n}, matrix {m}: finite difference {wanted:R}, gradient {found:R}, size {Math.Sqrt(size):g4}");

                double[] Shift(double by)
                {
                    double[] shifted = new double[n * n];
                    for (int i = 0; i < shifted.Length; i++)
                        shifted[i] = (float)x[m * n * n + i] + by * e[i];
                    return Reference(map, shifted, n);
                }
            }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void BackwardIsTheAdjointOfTheReferenceDerivative(string backend, string map, int n, double scale)
    {
        // <g, L(x, e)> = <L*(x, g), e> with L from the 2n×2n block matrix (exp) or the product formula (Cayley).
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View xs = memory.Of(RotationReference.RandomSkew(n, 1, scale, seed: 400 + n)), r = memory.Empty(n * n);
        View gs = memory.Of(RotationReference.Random(n * n, seed: 500 + n)), dx = memory.Zeros(n * n);
        Forward(b, map, r, xs, n, 1);
        Backward(b, map, dx, gs, r, xs, n, 1);
        double[] x = RotationReference.Widen(memory.Read(xs)), g = RotationReference.Widen(memory.Read(gs)), gradient = RotationReference.Widen(memory.Read(dx));
        for (int probe = 0; probe < 3; probe++)
        {
            double[] e = RotationReference.Random(n * n, seed: 600 + probe);
            double[] l = map == "exp" ? RotationReference.ExpDerivative(x, e, n) : RotationReference.CayleyDerivative(x, e, n);
            double left = RotationReference.Dot(g, l), right = RotationReference.Dot(gradient, e);
            double size = RotationReference.Norm(gradient) * RotationReference.Norm(e);
            Assert.True(Math.Abs(left - right) <= 3e-7 * size, $"{map} n = {n}: {left:R} against {right:R}, size {size:g4}");
        }
    }

    [Theory]
    [MemberData(nameof(LargeCases))]
    public void LargeAnglesStayOrthogonal(string backend, string map, int n)
    {
        foreach (double scale in new[] { 0.05, 1.0, 10.0 })
        {
            using IBackend b = Backends.Create(backend);
            using TestMemory memory = new(b);
            double[] x = RotationReference.RandomSkew(n, 1, scale, seed: 7);
            double[] negative = Array.ConvertAll(x, v => -v);
            View r = memory.Empty(n * n), back = memory.Empty(n * n);
            Forward(b, map, r, memory.Of(x), n, 1);
            Forward(b, map, back, memory.Of(negative), n, 1);
            float[] rotation = memory.Read(r), inverse = memory.Read(back);
            double worst = 0, asymmetry = 0;
            for (int i = 0; i < n; i++)
                for (int j = 0; j < n; j++)
                {
                    double sum = i == j ? -1 : 0;
                    for (int k = 0; k < n; k++)
                        sum += (double)rotation[k * n + i] * rotation[k * n + j];
                    worst = Math.Max(worst, Math.Abs(sum));
                    asymmetry = Math.Max(asymmetry, Math.Abs(rotation[i * n + j] - inverse[j * n + i]));
                }
            Assert.True(worst < 1e-6, $"{map} n = {n}, scale {scale}: largest element of RᵀR - I is {worst:g3}");
            Assert.True(asymmetry < 1e-6, $"{map} n = {n}, scale {scale}: R(-x) and R(x)ᵀ differ by {asymmetry:g3}");
            Assert.Equal(1, RotationReference.Determinant(RotationReference.Widen(rotation), n), 1e-4);
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void PlaneAnglesAreKnown(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] angles = [0, 1e-3, 0.5, 1, 3, 25];
        double[] x = new double[4 * angles.Length];
        for (int m = 0; m < angles.Length; m++)
        {
            // Half of w stands in x for Cayley: x = w/2 turns by 2·atan(w/2).
            x[4 * m + 1] = -angles[m] / 2;
            x[4 * m + 2] = angles[m] / 2;
        }
        View r = memory.Empty(x.Length);
        b.CayleyForward(r, memory.Of(x), 2, angles.Length);
        Close.To(2e-7, memory.Read(r), Turn(w => 2 * Math.Atan(w / 2)), "cayley");
        b.MatrixExpForward(r, memory.Of(x), 2, angles.Length);
        Close.To(2e-7, memory.Read(r), Turn(w => w / 2), "exp");

        double[] Turn(Func<double, double> angle)
        {
            double[] turned = new double[x.Length];
            for (int m = 0; m < angles.Length; m++)
            {
                (double sin, double cos) = Math.SinCos(angle(angles[m]));
                (turned[4 * m], turned[4 * m + 1], turned[4 * m + 2], turned[4 * m + 3]) = (cos, -sin, sin, cos);
            }
            return turned;
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void ExponentialOfGeneralMatrices(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        // Nilpotent: the series ends. Diagonal: known. Both far from skew, the second with a large norm.
        double[] x = [0, 1, 2, 0, 0, 3, 0, 0, 0, -20, 0, 0, 0, 0.5, 0, 0, 0, 3];
        double[] expected = [1, 1, 3.5, 0, 1, 3, 0, 0, 1, Math.Exp(-20), 0, 0, 0, Math.Exp(0.5), 0, 0, 0, Math.Exp(3)];
        View r = memory.Empty(x.Length);
        b.MatrixExpForward(r, memory.Of(x), 3, 2);
        Close.To(1e-7, memory.Read(r), expected, "exp");
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void SkewAndItsBackwardPass(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        const int N = 19, Batch = 4;
        double[] p = RotationReference.Random(N * N * Batch, seed: 1);
        View ps = memory.Of(p), a = memory.Empty(p.Length), sum = memory.Empty(p.Length, 2);
        b.Skew(a, ps, N, Batch, accumulate: false);
        b.Skew(sum, ps, N, Batch, accumulate: true);
        float[] narrow = memory.Read(ps), skew = memory.Read(a), added = memory.Read(sum);
        for (int m = 0; m < Batch; m++)
            for (int i = 0; i < N; i++)
                for (int j = 0; j < N; j++)
                {
                    float wanted = narrow[(m * N + i) * N + j] - narrow[(m * N + j) * N + i];
                    Assert.Equal(wanted, skew[(m * N + i) * N + j]);
                    Assert.Equal(2 + wanted, added[(m * N + i) * N + j]);
                }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void SingularAndNonFiniteMatricesAreNamed(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        const int N = 4, Batch = 5;
        double[] x = RotationReference.RandomSkew(N, Batch, 1, seed: 3);
        foreach (int m in new[] { 2, 4 })
        {
            // The eigenvalue 1 with an eigenvector that is no unit vector: rows 0 and 1 of I - x are opposite.
            Array.Clear(x, m * N * N, N * N);
            x[m * N * N + 1] = x[m * N * N + N] = 1;
        }
        View r = memory.Empty(x.Length);
        ArithmeticException e = Assert.Throws<ArithmeticException>(() => b.CayleyForward(r, memory.Of(x), N, Batch));
        Assert.Contains("matrix 2 of 5", e.Message);

        x[3 * N * N] = double.NaN;
        x[2 * N * N + 1] = 0;
        Assert.Contains("matrix 3 of 5", Assert.Throws<ArithmeticException>(() => b.CayleyForward(r, memory.Of(x), N, Batch)).Message);
        Assert.Contains("matrix 3 of 5", Assert.Throws<ArithmeticException>(() => b.MatrixExpForward(r, memory.Of(x), N, Batch)).Message);
        x[3 * N * N] = double.PositiveInfinity;
        Assert.Contains("matrix 3 of 5", Assert.Throws<ArithmeticException>(() => b.MatrixExpBackward(memory.Zeros(x.Length), r, memory.Of(x), N, Batch)).Message);
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void WrongSizesAreRefusedAndAbsentGradientsSkipped(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View small = memory.Zeros(17), large = memory.Zeros(18);
        Assert.Throws<ArgumentException>(() => b.CayleyForward(large, small, 3, 2));
        Assert.Throws<ArgumentException>(() => b.Skew(small, large, 3, 2, false));
        Assert.Throws<ArgumentOutOfRangeException>(() => b.MatrixExpForward(large, large, 0, 2));
        Assert.Throws<ArgumentOutOfRangeException>(() => b.MatrixExpForward(large, large, 513, 2));
        b.CayleyBackward(default, large, large, 3, 2);
        b.MatrixExpBackward(default, large, large, 3, 2);
        b.CayleyForward(default, default, 3, 0);
    }

    [Fact]
    public void SameBitsAtAnyThreadCountAndNoAllocation()
    {
        const int N = 40, Batch = 9;
        float[][] results = new float[6][];
        for (int threads = 1; threads <= 3; threads += 2)
        {
            using CpuBackend b = new(threads);
            using TestMemory memory = new(b);
            View x = memory.Of(RotationReference.RandomSkew(N, Batch, 1, seed: 5)), g = memory.Of(RotationReference.Random(N * N * Batch, seed: 6));
            View r = memory.Empty(x.Length), dCayley = memory.Zeros(x.Length), dExp = memory.Zeros(x.Length);
            for (int pass = 0; pass < 2; pass++)
            {
                b.CayleyForward(r, x, N, Batch);
                b.CayleyBackward(dCayley, g, r, N, Batch);
                b.MatrixExpForward(r, x, N, Batch);
                b.MatrixExpBackward(dExp, g, x, N, Batch);
                b.Skew(r, x, N, Batch, accumulate: true);
            }
            int at = threads == 1 ? 0 : 3;
            (results[at], results[at + 1], results[at + 2]) = (memory.Read(r), memory.Read(dCayley), memory.Read(dExp));
            Allocation.AssertNone(() =>
            {
                b.CayleyForward(r, x, N, Batch);
                b.CayleyBackward(dCayley, g, r, N, Batch);
                b.MatrixExpForward(r, x, N, Batch);
                b.MatrixExpBackward(dExp, g, x, N, Batch);
                b.Skew(r, x, N, Batch, accumulate: true);
            });
        }
        for (int i = 0; i < 3; i++)
            Assert.Equal(results[i], results[i + 3]);
    }

    private static void Forward(IBackend b, string map, View r, View x, int n, int batch)
    {
        if (map == "exp")
            b.MatrixExpForward(r, x, n, batch);
        else
            b.CayleyForward(r, x, n, batch);
    }

    private static void Backward(IBackend b, string map, View dx, View dr, View r, View x, int n, int batch)
    {
        if (map == "exp")
            b.MatrixExpBackward(dx, dr, x, n, batch);
        else
            b.CayleyBackward(dx, dr, r, n, batch);
    }

    private static double[] Reference(string map, ReadOnlySpan<double> x, int n)
        => map == "exp" ? RotationReference.Exp(x, n) : RotationReference.Cayley(x, n);
}
