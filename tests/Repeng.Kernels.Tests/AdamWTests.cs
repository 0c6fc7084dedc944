using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>AdamW against double arithmetic over many steps, and its invariants.</summary>
public sealed class AdamWTests
{
    public static TheoryData<string> BackendNames() => [.. Backends.Names];

    public static TheoryData<string, double, double, double, double, double> Settings()
    {
        TheoryData<string, double, double, double, double, double> cases = [];
        foreach (string backend in Backends.Names)
            foreach ((double lr, double beta1, double beta2, double eps, double decay) in new[]
            {
                (1e-3, 0.9, 0.999, 1e-8, 0.01), (3e-2, 0.9, 0.95, 1e-6, 0.0), (1e-4, 0.0, 0.0, 1e-3, 0.1), (0.5, 0.99, 0.9999, 1e-8, 0.3),
            })
                cases.Add(backend, lr, beta1, beta2, eps, decay);
        return cases;
    }

    [Theory]
    [MemberData(nameof(Settings))]
    public void ManyStepsEqualReference(string backend, double lr, double beta1, double beta2, double eps, double decay)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        foreach (int n in new[] { 1, 7, 8, 9, 31, 70, 40_003 })
        {
            double[] param = ReduceReference.Random(n, 1), m = new double[n], v = new double[n];
            View p = memory.Of(param), first = memory.Zeros(n), second = memory.Zeros(n);
            for (int step = 1; step <= 40; step++)
            {
                double[] grad = ReduceReference.Random(n, 100 + step);
                AdamWArgs args = new(lr, beta1, beta2, eps, decay, step);
                AdamWReference.Step(param, grad, m, v, args);
                b.AdamW(p, memory.Of(grad), first, second, n, args);
            }
            Close.To(2e-6, memory.Read(p), param, $"parameter, n = {n}");
            Close.To(2e-6, memory.Read(first), m, $"first moment, n = {n}");
            Close.To(2e-6, memory.Read(second), v, $"second moment, n = {n}");
        }
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void TheFirstStepIsTheLearningRateAgainstTheSign(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View p = memory.Of([1f, 1, 1, 1]), m = memory.Zeros(4), v = memory.Zeros(4);
        b.AdamW(p, memory.Of([1e-3f, -4f, 0f, 1e4f]), m, v, 4, new AdamWArgs(0.01, 0.9, 0.999, 1e-12, 0, 1));
        Close.To(1e-6, memory.Read(p), [0.99, 1.01, 1, 0.99], "parameter");
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void DecayAloneShrinksByItsProductWithTheRate(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View p = memory.Of([3f, -2f]), zero = memory.Zeros(2), m = memory.Zeros(2), v = memory.Zeros(2);
        for (int step = 1; step <= 100; step++)
            b.AdamW(p, zero, m, v, 2, new AdamWArgs(1e-2, 0.9, 0.999, 1e-8, 0.1, step));
        Close.To(1e-6, memory.Read(p), [3 * Math.Pow(0.999, 100), -2 * Math.Pow(0.999, 100)], "parameter");
    }

    [Fact]
    public void BitsDoNotDependOnThreads()
    {
        const int N = 150_003;
        Threads.AssertSameBits((b, memory, results) =>
        {
            View p = memory.Of(ReduceReference.Random(N, 1)), m = memory.Zeros(N), v = memory.Zeros(N);
            for (int step = 1; step <= 3; step++)
                b.AdamW(p, memory.Of(ReduceReference.Random(N, 1 + step)), m, v, N, new AdamWArgs(1e-2, 0.9, 0.999, 1e-8, 0.1, step));
            results.Add(("parameter", memory.Read(p)));
            results.Add(("first moment", memory.Read(m)));
            results.Add(("second moment", memory.Read(v)));
        });
    }

    [Fact]
    public void NothingIsAllocated()
    {
        using IBackend b = Backends.Create("cpu", 2);
        using TestMemory memory = new(b);
        View p = memory.Zeros(150_000), g = memory.Zeros(150_000), m = memory.Zeros(150_000), v = memory.Zeros(150_000);
        Allocation.AssertNone(() => b.AdamW(p, g, m, v, 150_000, new AdamWArgs(1e-2, 0.9, 0.999, 1e-8, 0.1, 1)));
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void WrongNumbersAreNamed(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View four = memory.Zeros(4), three = memory.Zeros(3);
        AdamWArgs good = new(1e-3, 0.9, 0.999, 1e-8, 0, 1);
        Assert.Contains("step is 0", Assert.Throws<ArgumentException>(() => b.AdamW(four, four, four, four, 4, good with { Step = 0 })).Message);
        Assert.Contains("beta1 1", Assert.Throws<ArgumentException>(() => b.AdamW(four, four, four, four, 4, good with { Beta1 = 1 })).Message);
        Assert.Equal("AdamW: operand v has 3 × F32, needs 4 × F32", Assert.Throws<ArgumentException>(() => b.AdamW(four, four, four, three, 4, good)).Message);
    }
}
