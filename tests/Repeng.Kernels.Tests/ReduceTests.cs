using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>Sums over an axis, rows by index and columns of matrices, against double arithmetic.</summary>
public sealed class ReduceTests
{
    private const double Tolerance = 1e-6;

    public static TheoryData<string, int, int, int> ReduceCases()
    {
        TheoryData<string, int, int, int> cases = [];
        foreach (string backend in Backends.Names)
        {
            foreach ((int outer, int n, int inner) in new[]
            {
                (1, 1, 1), (1, 7, 1), (5, 3, 1), (3, 1, 5), (2, 9, 7), (4, 5, 8), (1, 33, 33), (3, 2, 65), (130, 4, 6), (1, 1025, 40), (2, 2050, 17),
                (3, 20_011, 1), (700, 64, 1), (1, 300, 400), (1, 1_000_003, 1), (1, 100_003, 3),
            })
                cases.Add(backend, outer, n, inner);
            for (int n = 1; n <= 70; n++)
                cases.Add(backend, 3, n, 1);
            for (int inner = 2; inner <= 70; inner++)
                cases.Add(backend, 2, 3, inner);
        }
        return cases;
    }

    public static TheoryData<string, int, int, int> RowCases()
    {
        TheoryData<string, int, int, int> cases = [];
        foreach (string backend in Backends.Names)
        {
            foreach ((int tableRows, int rows, int cols) in new[] { (1, 1, 1), (5, 3, 1), (3, 40, 33), (200, 500, 130), (4, 9, 20_001) })
                cases.Add(backend, tableRows, rows, cols);
            for (int cols = 1; cols <= 70; cols++)
                cases.Add(backend, 4, 9, cols);
        }
        return cases;
    }

    public static TheoryData<string> BackendNames() => [.. Backends.Names];

    [Fact]
    public void ReferencesAreAdjoint()
    {
        foreach ((int outer, int n, int inner) in new[] { (1, 50, 1), (3, 7, 5), (2, 1, 9) })
        {
            double[] x = ReduceReference.Random(outer * n * inner, 1), dy = ReduceReference.Random(outer * inner, 2);
            double forward = ReduceReference.Dot(dy, ReduceReference.Sum(x, outer, n, inner));
            Assert.Equal(forward, ReduceReference.Dot(ReduceReference.SumBackward(dy, outer, n, inner), x), 1e-10);
        }
        int[] index = ReduceReference.RandomIndices(20, 6, 3);
        double[] table = ReduceReference.Random(6 * 5, 4), g = ReduceReference.Random(20 * 5, 5);
        Assert.Equal(ReduceReference.Dot(g, ReduceReference.Gather(table, index, 5, 0.7)), ReduceReference.Dot(ReduceReference.Scatter(g, index, 6, 5, 0.7), table), 1e-10);
    }

    [Theory]
    [MemberData(nameof(ReduceCases))]
    public void SumEqualsReference(string backend, int outer, int n, int inner)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        // An offset keeps the sums from cancelling, which leaves the rounding of long sums to be seen.
        double[] x = Array.ConvertAll(ReduceReference.Random(outer * n * inner, 1), v => (double)(float)(v + 0.3)), start = ReduceReference.Random(outer * inner, 2);
        double[] expected = ReduceReference.Sum(x, outer, n, inner);
        View xs = memory.Of(x), y = memory.Empty(expected.Length + 1, -77), sum = memory.Of(start);
        b.ReduceSum(y, xs, outer, n, inner, accumulate: false);
        float[] result = memory.Read(y);
        Assert.Equal(-77, result[^1]);
        Close.To(Tolerance, result.AsSpan(0, expected.Length), expected, $"[{outer}, {n}, {inner}]");
        b.ReduceSum(sum, xs, outer, n, inner, accumulate: true);
        for (int i = 0; i < expected.Length; i++)
            expected[i] += start[i];
        Close.To(Tolerance, memory.Read(sum), expected, $"[{outer}, {n}, {inner}] accumulated");
    }

    [Theory]
    [MemberData(nameof(ReduceCases))]
    public void SumBackwardAddsToEveryElement(string backend, int outer, int n, int inner)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] dy = ReduceReference.Random(outer * inner, 1), expected = ReduceReference.SumBackward(dy, outer, n, inner), start = ReduceReference.Random(expected.Length, 2);
        for (int i = 0; i < expected.Length; i++)
            expected[i] += start[i];
        View dx = memory.Of(start);
        b.ReduceSumBackward(dx, memory.Of(dy), outer, n, inner);
        Close.To(Tolerance, memory.Read(dx), expected, $"[{outer}, {n}, {inner}]");
        b.ReduceSumBackward(default, memory.Of(dy), outer, n, inner);
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void EmptySumsAreZero(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View y = memory.Empty(6, 5);
        b.ReduceSum(y, default, 2, 0, 3, accumulate: true);
        Assert.Equal([5f, 5, 5, 5, 5, 5], memory.Read(y));
        b.ReduceSum(y, default, 2, 0, 3, accumulate: false);
        Assert.Equal([0f, 0, 0, 0, 0, 0], memory.Read(y));
        View z = memory.Empty(2, 5);
        b.ReduceSum(z, default, 2, 0, 1, accumulate: false);
        Assert.Equal([0f, 0], memory.Read(z));
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void LongSumsOfOneSignKeepTheirDigits(string backend)
    {
        // 0.1 in fp32 summed a million times: a plain fp32 running sum is off by 1e-3.
        const int N = 1_000_000;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View x = memory.Empty(N, 0.1f), y = memory.Empty(1);
        b.ReduceSum(y, x, 1, N, 1, accumulate: false);
        Assert.Equal(1, memory.Read(y)[0] / (N * (double)0.1f), 1e-7);
        b.ReduceSum(y, x, 1, N / 10, 1, accumulate: false);
        Assert.Equal(1, memory.Read(y)[0] / (N / 10 * (double)0.1f), 1e-7);
        View columns = memory.Empty(10);
        b.ReduceSum(columns, x, 1, N / 10, 10, accumulate: false);
        foreach (float sum in memory.Read(columns))
            Assert.Equal(1, sum / (N / 10 * (double)0.1f), 1e-7);
    }

    [Theory]
    [MemberData(nameof(RowCases))]
    public void RowsByIndexEqualReference(string backend, int tableRows, int rows, int cols)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        double[] x = ReduceReference.Random(tableRows * cols, 1), dy = ReduceReference.Random(rows * cols, 2), start = ReduceReference.Random(tableRows * cols, 3);
        int[] index = ReduceReference.RandomIndices(rows, tableRows, 4);
        View y = memory.Empty(rows * cols), ids = memory.Of(index), dx = memory.Of(start);
        b.GatherRows(y, memory.Of(x), ids, rows, cols);
        Close.To(0, memory.Read(y), ReduceReference.Gather(x, index, cols), "gather");
        b.GatherRowsBackward(dx, memory.Of(dy), ids, rows, cols);
        double[] expected = ReduceReference.Scatter(dy, index, tableRows, cols);
        for (int i = 0; i < expected.Length; i++)
            expected[i] += start[i];
        Close.To(2e-6, memory.Read(dx), expected, "gather backward");
        b.GatherRowsBackward(default, memory.Of(dy), ids, rows, cols);
    }

    [Theory]
    [MemberData(nameof(RowCases))]
    public void ColumnsAreCopiedAndAdded(string backend, int srcExtra, int rows, int cols)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        int srcStride = cols + srcExtra, srcOffset = srcExtra / 2, dstStride = cols + 3, dstOffset = 2;
        double[] src = ReduceReference.Random(rows * srcStride, 1), dst = ReduceReference.Random(rows * dstStride, 2);
        foreach (bool accumulate in new[] { false, true })
        {
            double[] expected = [.. dst];
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < cols; j++)
                    expected[(r * dstStride) + dstOffset + j] = src[(r * srcStride) + srcOffset + j] + (accumulate ? dst[(r * dstStride) + dstOffset + j] : 0);
            View target = memory.Of(dst);
            b.CopyColumns(target, dstStride, dstOffset, memory.Of(src), srcStride, srcOffset, rows, cols, accumulate);
            Close.To(accumulate ? Tolerance : 0, memory.Read(target), expected, $"accumulate {accumulate}");
        }
    }

    [Fact]
    public void BitsDoNotDependOnThreads()
    {
        double[] x = ReduceReference.Random(400_000, 1);
        int[] index = ReduceReference.RandomIndices(3000, 50, 2);
        Threads.AssertSameBits((b, memory, results) =>
        {
            View xs = memory.Of(x), ids = memory.Of(index);
            foreach ((int outer, int n, int inner) in new[] { (1, 400_000, 1), (3, 100_001, 1), (4000, 99, 1), (1, 4001, 97), (7, 2100, 13), (1, 50_000, 3), (50, 3, 2000) })
            {
                View y = memory.Empty(outer * inner), dx = memory.Of(x);
                b.ReduceSum(y, xs, outer, n, inner, accumulate: false);
                b.ReduceSumBackward(dx, y, outer, n, inner);
                results.Add(($"sum [{outer}, {n}, {inner}]", memory.Read(y)));
                results.Add(($"sum backward [{outer}, {n}, {inner}]", memory.Read(dx)));
            }
            View gathered = memory.Empty(3000 * 120), scattered = memory.Zeros(50 * 120), columns = memory.Zeros(3000 * 100);
            b.GatherRows(gathered, xs, ids, 3000, 120);
            b.GatherRowsBackward(scattered, xs, ids, 3000, 120);
            b.CopyColumns(columns, 100, 3, xs, 120, 7, 3000, 91, accumulate: true);
            results.Add(("gather", memory.Read(gathered)));
            results.Add(("gather backward", memory.Read(scattered)));
            results.Add(("columns", memory.Read(columns)));
        });
    }

    [Fact]
    public void NothingIsAllocated()
    {
        using IBackend b = Backends.Create("cpu", 2);
        using TestMemory memory = new(b);
        View x = memory.Empty(200_000, 1), y = memory.Zeros(200_000), ids = memory.Of(ReduceReference.RandomIndices(900, 100, 1));
        Allocation.AssertNone(() =>
        {
            b.ReduceSum(y, x, 1, 200_000, 1, accumulate: false);
            b.ReduceSum(y, x, 10, 100, 200, accumulate: true);
            b.ReduceSumBackward(y, x, 10, 100, 100);
            b.ReduceSumBackward(y, x, 2000, 100, 1);
            b.GatherRows(y, x, ids, 900, 200);
            b.GatherRowsBackward(y, x, ids, 900, 200);
            b.CopyColumns(y, 200, 3, x, 200, 5, 900, 190, accumulate: true);
        });
    }

    [Theory]
    [MemberData(nameof(BackendNames))]
    public void OperandsAndIndicesThatDoNotFitAreNamed(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View six = memory.Zeros(6), three = memory.Zeros(3), bad = memory.Of([0, 3]), negative = memory.Of([0, -1]), good = memory.Of([0, 1]);
        Assert.Equal("ReduceSum: operand x has 3 × F32, needs 6 × F32", Assert.Throws<ArgumentException>(() => b.ReduceSum(six, three, 2, 3, 1, false)).Message);
        Assert.Contains("operand y has 3 × F32, needs 6", Assert.Throws<ArgumentException>(() => b.ReduceSum(three, six, 6, 1, 1, false)).Message);
        Assert.Contains("n is -3", Assert.Throws<ArgumentException>(() => b.ReduceSum(three, six, 1, -3, 1, false)).Message);
        Assert.Contains("operand dx", Assert.Throws<ArgumentException>(() => b.ReduceSumBackward(three, six, 2, 3, 1)).Message);
        if (Backends.ChecksIndices(backend))
        {
            Assert.Equal("GatherRows: index[1] is 3, valid are 0 … 2", Assert.Throws<ArgumentException>(() => b.GatherRows(six, six, bad, 2, 2)).Message);
            Assert.Contains("index[1] is -1", Assert.Throws<ArgumentException>(() => b.GatherRows(six, six, negative, 2, 2)).Message);
            Assert.Contains("index[1] is 3", Assert.Throws<ArgumentException>(() => b.GatherRowsBackward(six, six, bad, 2, 2)).Message);
        }
        Assert.Contains("operand y has 3", Assert.Throws<ArgumentException>(() => b.GatherRows(three, six, good, 2, 2)).Message);
        Assert.Contains("operand index", Assert.Throws<ArgumentException>(() => b.GatherRows(six, six, three, 2, 2)).Message);
        Assert.Contains("columns 1 … 3 of dst", Assert.Throws<ArgumentException>(() => b.CopyColumns(six, 3, 1, six, 3, 0, 2, 3, false)).Message);
        Assert.Contains("columns -1 … 1 of src", Assert.Throws<ArgumentException>(() => b.CopyColumns(six, 3, 0, six, 3, -1, 2, 3, false)).Message);
        Assert.Contains("operand src has 3", Assert.Throws<ArgumentException>(() => b.CopyColumns(six, 3, 0, three, 3, 0, 2, 3, false)).Message);
    }
}
