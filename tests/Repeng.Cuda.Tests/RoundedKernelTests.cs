using Repeng.PtxEmulator;
using Repeng.Testing;
using Params = Repeng.Cuda.Tests.MatMulKernelTests.Params;

namespace Repeng.Cuda.Tests;

/// <summary>
/// Products of operands rounded to bf16: against double arithmetic on the rounded operands, so that nothing but the order of fp32 sums is left to differ; the same bits by every
/// kernel; what they ask of memory.
/// </summary>
public sealed class RoundedKernelTests
{
    // Sums of fp32 over K ≤ 200 terms in the tensor core.
    private const double Sums = 2e-6;

    private static readonly (int Rows, int Columns, int Threads, int Shared)[] s_tiles = [(256, 192, 256, 86016), (256, 160, 256, 79872), (128, 192, 256, 81920), (128, 128, 128, 65536), (64, 64, 128, 32768)];

    public static TheoryData<int, bool> Tiles()
    {
        TheoryData<int, bool> cases = [];
        for (int i = 0; i < s_tiles.Length; i++)
        {
            cases.Add(i, true);
            cases.Add(i, false);
        }
        return cases;
    }

    private static float[] Rounded(float[] values) => Array.ConvertAll(values, v => MatMulKernelTests.Widen(MatMulKernelTests.BFloat(v)));

    private static LaunchCounters Run(Gpu gpu, int tile, bool transB, Params p)
    {
        (int rows, int columns, int threads, int shared) = s_tiles[tile];
        return gpu.Run("rounded", $"matmul_rounded_n{(transB ? 't' : 'n')}_{rows}x{columns}", (Gpu.Ceil(p.M, rows) * Gpu.Ceil(p.N, columns), 1, 1), threads, shared, p);
    }

    [Theory]
    [MemberData(nameof(Tiles))]
    public void EqualsDoubleArithmeticOnRoundedOperands(int tile, bool transB)
    {
        using Gpu gpu = new();
        // Whole tiles; ragged ones; less than a tile, with K's end within a slice; a column count that is odd (rows of C off 8 bytes).
        foreach ((int m, int n, int k) in new[] { (s_tiles[tile].Rows, s_tiles[tile].Columns, 96), (s_tiles[tile].Rows + 13, s_tiles[tile].Columns + 8, 72), (5, 24, 8), (70, transB ? 67 : 72, 200) })
        {
            float[] a = Gpu.Random(m * k, m), b = Gpu.Random(k * n, n), start = Gpu.Random(m * n, 3);
            double[] expected = MatMulKernelTests.Product(Rounded(a), Rounded(b), m, n, k, false, transB);
            Params p = new() { A = gpu.Upload(Array.ConvertAll(a, MatMulKernelTests.BFloat)), B = gpu.Upload(Array.ConvertAll(b, MatMulKernelTests.BFloat)), C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = k, LdB = transB ? k : n, LdC = n, Summed = 1 };
            Run(gpu, tile, transB, p);
            float[] product = gpu.Read(p.C, m * n);
            Close.To(Sums, product, expected, $"{m}×{n}×{k}");

            p.C = gpu.Upload(start);
            p.Accumulate = 1;
            Run(gpu, tile, transB, p);
            Assert.Equal(start.Zip(product, (x, y) => x + y), gpu.Read(p.C, m * n));
        }
    }

    [Theory]
    [MemberData(nameof(Tiles))]
    public void ALowRankTermAddsToTheSameSums(int tile, bool transB)
    {
        using Gpu gpu = new();
        foreach ((int k, int rank) in new[] { (72, 40), (8, 8), (128, 64) })
        {
            int m = s_tiles[tile].Rows + 3, n = s_tiles[tile].Columns + 8;
            float[] a = Gpu.Random(m * k, 1), b = Gpu.Random(k * n, 2), z = Gpu.Random(m * rank, 3), u = Gpu.Random(rank * n, 4);
            double[] expected = [.. MatMulKernelTests.Product(Rounded(a), Rounded(b), m, n, k, false, transB).Zip(MatMulKernelTests.Product(Rounded(z), Rounded(u), m, n, rank, false, transB), (x, y) => x + y)];
            ulong Half(float[] values) => gpu.Upload(Array.ConvertAll(values, MatMulKernelTests.BFloat));
            Params p = new() { A = Half(a), B = Half(b), C = gpu.Empty<float>(m * n), TermA = Half(z), TermB = Half(u), Rank = rank, M = m, N = n, K = k, LdA = k, LdB = transB ? k : n, LdC = n, Summed = 1 };
            Run(gpu, tile, transB, p);
            Close.To(Sums, gpu.Read(p.C, m * n), expected, $"{m}×{n}×{k}, rank {rank}");
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void EveryKernelGivesTheSameBits(bool transB)
    {
        using Gpu gpu = new();
        const int m = 130, n = 136, k = 104;
        float[] a = Gpu.Random(m * k, 1), b = Gpu.Random(k * n, 2);
        Params p = new() { A = gpu.Upload(a), B = gpu.Upload(b), C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = k, LdB = transB ? k : n, LdC = n, Summed = 1 };
        gpu.Run("matmul", $"matmul_rounded_n{(transB ? 't' : 'n')}_f32", Gpu.Ceil(m, 64) * Gpu.Ceil(n, 64), 128, p);
        float[] bits = gpu.Read(p.C, m * n);
        p.A = gpu.Upload(Array.ConvertAll(a, MatMulKernelTests.BFloat));
        p.B = gpu.Upload(Array.ConvertAll(b, MatMulKernelTests.BFloat));
        for (int tile = 0; tile < s_tiles.Length; tile++)
        {
            p.C = gpu.Empty<float>(m * n);
            Run(gpu, tile, transB, p);
            Assert.Equal(bits, gpu.Read(p.C, m * n));
        }
    }

    [Theory]
    [MemberData(nameof(Tiles))]
    public void AResultInBf16IsTheSameRounded(int tile, bool transB)
    {
        using Gpu gpu = new();
        foreach ((int m, int n, int k, int gap) in new[] { (s_tiles[tile].Rows, s_tiles[tile].Columns, 64, 0), (s_tiles[tile].Rows + 13, s_tiles[tile].Columns + 8, 72, 8), (5, 24, 8, 0) })
        {
            int ld = n + gap;
            float[] start = Rounded(Gpu.Random(m * ld, 3));
            Params p = new() { A = gpu.Upload(Array.ConvertAll(Gpu.Random(m * k, m), MatMulKernelTests.BFloat)), B = gpu.Upload(Array.ConvertAll(Gpu.Random(k * n, n), MatMulKernelTests.BFloat)), C = gpu.Upload(start), M = m, N = n, K = k, LdA = k, LdB = transB ? k : n, LdC = ld, Summed = 1 };
            foreach (bool accumulate in new[] { false, true })
            {
                p.Accumulate = accumulate ? 1 : 0;
                (p.C, p.Halves) = (gpu.Upload(start), 0);
                Run(gpu, tile, transB, p);
                ushort[] expected = Array.ConvertAll(gpu.Read(p.C, m * ld), MatMulKernelTests.BFloat);
                (p.C, p.Halves) = (gpu.Upload(Array.ConvertAll(start, MatMulKernelTests.BFloat)), 1);
                LaunchCounters counters = Run(gpu, tile, transB, p);
                Assert.Equal(expected, gpu.Read<ushort>(p.C, m * ld));
                if (gap == 0 && m == s_tiles[tile].Rows && !accumulate)
                    Assert.Equal(m * n * 2 / 32, counters.GlobalSectorsWritten);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Tiles))]
    public void FullTilesHaveNoBankConflictAndAskForNoMoreThanTheyNeed(int tile, bool transB)
    {
        using Gpu gpu = new();
        (int rows, int columns, _, _) = s_tiles[tile];
        int m = 2 * rows, n = columns, k = 256;
        Params p = new() { A = gpu.Upload(new ushort[m * k]), B = gpu.Upload(new ushort[n * k]), C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = k, LdB = transB ? k : n, LdC = n, Summed = 1 };
        LaunchCounters counters = Run(gpu, tile, transB, p);
        Assert.Equal(0, counters.BankConflicts);
        Assert.Equal((m * k * 2 + 2 * n * k * 2) / 32, counters.GlobalSectorsRead);
        Assert.Equal(m * n * 4 / 32, counters.GlobalSectorsWritten);
        Assert.Equal(2L * m * n * k, counters.MmaFlop);
    }

    [Theory]
    [MemberData(nameof(MatMulKernelTests.Layouts), MemberType = typeof(MatMulKernelTests))]
    public void SmallProductsEqualDoubleArithmeticOnRoundedOperands(bool transA, bool transB, string type)
    {
        using Gpu gpu = new();
        string kernel = $"matmul_rounded_{(transA ? 't' : 'n')}{(transB ? 't' : 'n')}_{type}";
        foreach ((int m, int n, int k, int skew) in new[] { (64, 64, 32, 0), (72, 80, 48, 0), (37, 29, 45, 0), (5, 70, 67, 1), (3, 2, 0, 0) })
        {
            float[] a = Gpu.Random(m * k, m), values = Gpu.Random(k * n, n);
            (ulong b, float[] weights) = MatMulKernelTests.Weights(gpu, type, values, skew);
            Params p = new() { A = gpu.Upload(a, skew), B = b, C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = transA ? m : k, LdB = transB ? k : n, LdC = n, Summed = 1 };
            LaunchCounters counters = gpu.Run("matmul", kernel, Gpu.Ceil(m, 64) * Gpu.Ceil(n, 64), 128, p);
            Close.To(Sums, gpu.Read(p.C, m * n), MatMulKernelTests.Product(Rounded(a), Rounded(weights), m, n, k, transA, transB), $"{kernel} {m}×{n}×{k}");
            if (m == 64)
                Assert.Equal((0L, 2L * m * n * k), (counters.BankConflicts, counters.MmaFlop));
        }
    }

    [Theory]
    [InlineData("f32", 0, 0)]
    [InlineData("f32", 5, 0)]
    [InlineData("f32", 8, 1)]
    [InlineData("f16", 0, 0)]
    [InlineData("bf16", 3, 1)]
    public void RowsAreRoundedToNearestEven(string type, int gap, int skew)
    {
        using Gpu gpu = new();
        const int rows = 37, cols = 72;
        int ld = cols + gap;
        float[] values = Gpu.Random(rows * ld, 4);
        // Halfway between two bf16 numbers, up and down.
        values[0] = BitConverter.UInt32BitsToSingle(0x3F808000);
        values[1] = BitConverter.UInt32BitsToSingle(0x3F818000);
        (ulong x, float[] held) = MatMulKernelTests.Weights(gpu, type, values, skew);
        ulong y = gpu.Empty<ushort>(rows * cols);
        gpu.Run("rounded", $"round_rows_{type}", Gpu.Ceil(rows * cols, 2048), 256, y, x, rows, cols, ld);
        Assert.Equal(Enumerable.Range(0, rows * cols).Select(i => MatMulKernelTests.BFloat(held[(i / cols * ld) + (i % cols)])), gpu.Read<ushort>(y, rows * cols));
    }
}
