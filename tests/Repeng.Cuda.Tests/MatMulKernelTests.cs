using System.Runtime.InteropServices;
using Repeng.PtxEmulator;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>The matrix products of matmul.cu against double arithmetic: every layout and type, ragged shapes, epilogues, counters.</summary>
public sealed class MatMulKernelTests
{
    /// <summary>MatMulParams of kernels/matmul.cuh.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Params
    {
        public ulong A, B, C, Bias, Residual, Gate, Up, TermA, TermB;
        public long StrideA, StrideB, StrideC;
        public int M, N, K, LdA, LdB, LdC, Accumulate, Summed, Rank, Halves;
    }

    public static TheoryData<bool, bool, string> Layouts()
    {
        TheoryData<bool, bool, string> cases = [];
        foreach (bool transA in new[] { false, true })
            foreach (bool transB in new[] { false, true })
                foreach (string type in new[] { "f32", "f16", "bf16" })
                    cases.Add(transA, transB, type);
        return cases;
    }

    /// <summary>Weights of a type on the device, and their values.</summary>
    internal static (ulong Address, float[] Values) Weights(Gpu gpu, string type, float[] values, int skew = 0) => type switch
    {
        "f32" => (gpu.Upload(values, skew), values),
        "f16" => (gpu.Upload(Array.ConvertAll(values, v => (Half)v), skew), Array.ConvertAll(values, v => (float)(Half)v)),
        _ => (gpu.Upload(Array.ConvertAll(values, BFloat), skew), Array.ConvertAll(values, v => Widen(BFloat(v)))),
    };

    internal static ushort BFloat(float x)
    {
        uint bits = BitConverter.SingleToUInt32Bits(x);
        return (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }

    internal static float Widen(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);

    internal static double[] Product(float[] a, float[] b, int m, int n, int k, bool transA, bool transB, long offsetA = 0, long offsetB = 0)
    {
        var c = new double[m * n];
        for (int i = 0; i < m; i++)
            for (int l = 0; l < k; l++)
            {
                double x = a[offsetA + (transA ? l * m + i : i * k + l)];
                for (int j = 0; j < n; j++)
                    c[i * n + j] += x * b[offsetB + (transB ? j * k + l : l * n + j)];
            }
        return c;
    }

    [Theory]
    [MemberData(nameof(Layouts))]
    public void EqualsDoubleArithmetic(bool transA, bool transB, string type)
    {
        using Gpu gpu = new();
        string kernel = $"matmul_{(transA ? 't' : 'n')}{(transB ? 't' : 'n')}_{type}";
        foreach ((int m, int n, int k, int skew) in new[] { (64, 64, 32, 0), (72, 80, 48, 0), (37, 29, 45, 0), (5, 70, 67, 1), (1, 1, 1, 0), (3, 2, 0, 0) })
        {
            float[] a = Gpu.Random(m * k, m), values = Gpu.Random(k * n, n), start = Gpu.Random(m * n, 3), bias = Gpu.Random(n, 4), residual = Gpu.Random(m * n, 5);
            (ulong b, float[] weights) = Weights(gpu, type, values, skew);
            double[] expected = Product(a, weights, m, n, k, transA, transB);
            Params p = new() { A = gpu.Upload(a, skew), B = b, C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = transA ? m : k, LdB = transB ? k : n, LdC = n, Summed = 1 };
            gpu.Run("matmul", kernel, Gpu.Ceil(m, 64) * Gpu.Ceil(n, 64), 128, p);
            Close.To(1e-6, gpu.Read(p.C, m * n), expected, $"{kernel} {m}×{n}×{k}");

            p.C = gpu.Upload(start);
            p.Accumulate = 1;
            p.Bias = gpu.Upload(bias);
            p.Residual = gpu.Upload(residual);
            gpu.Run("matmul", kernel, Gpu.Ceil(m, 64) * Gpu.Ceil(n, 64), 128, p);
            for (int i = 0; i < m * n; i++)
                expected[i] += (double)start[i] + bias[i % n] + residual[i];
            Close.To(1e-6, gpu.Read(p.C, m * n), expected, $"{kernel} {m}×{n}×{k} with bias, residual, accumulation");
        }
    }

    [Fact]
    public void BatchesAndSumsOfBatches()
    {
        using Gpu gpu = new();
        const int m = 20, n = 24, k = 40, batch = 3;
        float[] a = Gpu.Random(batch * m * k, 1), b = Gpu.Random(batch * n * k, 2);
        Params p = new() { A = gpu.Upload(a), B = gpu.Upload(b), C = gpu.Empty<float>(batch * m * n), M = m, N = n, K = k, LdA = k, LdB = k, LdC = n, Summed = 1, StrideA = m * k, StrideB = n * k, StrideC = m * n };
        gpu.Run("matmul", "matmul_nt_f32", (1, batch, 1), 128, 0, p);
        double[][] products = [.. Enumerable.Range(0, batch).Select(i => Product(a, b, m, n, k, false, true, i * m * k, i * n * k))];
        Close.To(1e-6, gpu.Read(p.C, batch * m * n), products.SelectMany(x => x).ToArray(), "batch");

        p.C = gpu.Zeros(m * n);
        (p.Summed, p.StrideC, p.Accumulate) = (batch, 0, 1);
        gpu.Run("matmul", "matmul_nt_f32", 1, 128, p);
        Close.To(1e-6, gpu.Read(p.C, m * n), Enumerable.Range(0, m * n).Select(i => products.Sum(x => x[i])).ToArray(), "sum over the batch");
    }

    [Theory]
    [InlineData("f32")]
    [InlineData("f16")]
    [InlineData("bf16")]
    public void GatedProductEqualsTwoProducts(string type)
    {
        using Gpu gpu = new();
        const int m = 70, n = 52, k = 40;
        float[] a = Gpu.Random(m * k, 1);
        (ulong gate, float[] gates) = Weights(gpu, type, Gpu.Random(k * n, 2));
        (ulong up, float[] ups) = Weights(gpu, type, Gpu.Random(k * n, 3));
        Params p = new() { A = gpu.Upload(a), B = gate, Residual = up, C = gpu.Empty<float>(m * n), Gate = gpu.Empty<float>(m * n), Up = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = k, LdB = k, LdC = n, Summed = 1 };
        gpu.Run("matmul", $"matmul_gated_silu_{type}", Gpu.Ceil(m, 64) * Gpu.Ceil(n, 32), 128, p);
        double[] g = Product(a, gates, m, n, k, false, true), u = Product(a, ups, m, n, k, false, true);
        Close.To(1e-6, gpu.Read(p.Gate, m * n), g, "gate");
        Close.To(1e-6, gpu.Read(p.Up, m * n), u, "up");
        Close.To(3e-6, gpu.Read(p.C, m * n), [.. g.Zip(u, (x, y) => x / (1 + Math.Exp(-x)) * y)], "silu(gate)·up");
    }

    [Theory]
    [InlineData("f32")]
    [InlineData("f16")]
    [InlineData("bf16")]
    public void TermHasTheBitsOfSeparateProducts(string type)
    {
        using Gpu gpu = new();
        const int m = 20, n = 70, k = 48, rank = 12;
        float[] x = Gpu.Random(m * k, 1), z = Gpu.Random(m * rank, 2), u = Gpu.Random(n * rank, 3), mix = Gpu.Random(rank * rank, 4);
        (ulong w, float[] weights) = Weights(gpu, type, Gpu.Random(k * n, 5));
        int[] segment = [.. Enumerable.Range(0, m).Select(i => i < 5 ? 0 : i < 12 ? -1 : 1)];
        ulong mixes = gpu.Upload(new ulong[] { gpu.Upload(mix), 0 }), mixed = gpu.Empty<float>(m * rank);
        gpu.Run("matmul", "term_mix", Gpu.Ceil(m * rank, 256), 256, mixed, gpu.Upload(z), mixes, gpu.Upload(segment), m, rank);
        var z2 = new double[m * rank];
        for (int i = 0; i < m * rank; i++)
            z2[i] = segment[i / rank] < 0 ? 0 : segment[i / rank] == 1 ? z[i] : Enumerable.Range(0, rank).Sum(l => (double)z[i / rank * rank + l] * mix[l * rank + i % rank]);
        float[] rounded = gpu.Read(mixed, m * rank);
        Close.To(1e-6, rounded, z2, "mixed");

        Params p = new() { A = gpu.Upload(x), B = w, C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = k, LdB = k, LdC = n, Summed = 1, TermA = mixed, TermB = gpu.Upload(u), Rank = rank };
        int grid = Gpu.Ceil(m, 64) * Gpu.Ceil(n, 64);
        gpu.Run("matmul", $"matmul_term_{type}", grid, 128, p);
        float[] fused = gpu.Read(p.C, m * n);
        double[] expected = Product(x, weights, m, n, k, false, true), term = Product(rounded, u, m, n, rank, false, true);
        Close.To(1e-6, fused, [.. expected.Zip(term, (a, b) => a + b)], "term");

        Params first = p with { C = gpu.Empty<float>(m * n), TermA = 0, TermB = 0 };
        gpu.Run("matmul", $"matmul_nt_{type}", grid, 128, first);
        float[] plain = gpu.Read(first.C, m * n);
        for (int i = 0; i < m * n; i++)
            if (segment[i / n] < 0)
                Assert.Equal(plain[i], fused[i]);
        gpu.Run("matmul", "matmul_nt_f32", grid, 128, first with { A = mixed, B = p.TermB, K = rank, LdA = rank, LdB = rank, Accumulate = 1 });
        Assert.Equal(gpu.Read(first.C, m * n), fused);
    }

    [Theory]
    [InlineData("f32")]
    [InlineData("f16")]
    [InlineData("bf16")]
    public void FewRowsEqualDoubleArithmetic(string type)
    {
        using Gpu gpu = new();
        foreach ((int rows, int m, int n, int k, int skew) in new[] { (1, 1, 33, 1100, 0), (2, 2, 16, 256, 0), (4, 3, 20, 70, 1), (8, 8, 17, 37, 0) })
        {
            float[] a = Gpu.Random(m * k, m), start = Gpu.Random(m * n, 7);
            (ulong b, float[] weights) = Weights(gpu, type, Gpu.Random(k * n, n), skew);
            Params p = new() { A = gpu.Upload(a), B = b, C = gpu.Upload(start), M = m, N = n, K = k, LdA = k, LdB = k, LdC = n, Accumulate = 1, Summed = 1 };
            LaunchCounters counters = gpu.Run("matmul", $"matvec_{type}_{rows}", Gpu.Ceil(n, 16), 256, p);
            double[] expected = Product(a, weights, m, n, k, false, true);
            for (int i = 0; i < m * n; i++)
                expected[i] += start[i];
            Close.To(1e-6, gpu.Read(p.C, m * n), expected, $"{rows}: {m}×{n}×{k}");
            if (skew == 0 && k % 8 == 0)
                Assert.Equal(0, counters.BankConflicts);
        }
    }

    [Theory]
    [InlineData(1, 1104)]
    [InlineData(4, 300)]
    [InlineData(8, 2048)]
    public void FewRowsHaveTheBitsOfBFloatWeightsAndReadEachSectorOnce(int m, int k)
    {
        using Gpu gpu = new();
        const int n = 33;
        (ulong half, float[] weights) = Weights(gpu, "bf16", Gpu.Random(k * n, n));
        Params p = new() { A = gpu.Upload(Gpu.Random(m * k, m)), B = half, C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = k, LdB = k, LdC = n, Summed = 1 };
        gpu.Run("matmul", $"matvec_bf16_{m}", Gpu.Ceil(n, 16), 256, p);
        float[] expected = gpu.Read(p.C, m * n);
        p = p with { B = gpu.Upload(weights), C = gpu.Empty<float>(m * n) };
        LaunchCounters counters = gpu.Run("matmul", $"matvec_f32_{m}", Gpu.Ceil(n, 16), 256, p);
        Assert.Equal(expected, gpu.Read(p.C, m * n));
        Assert.Equal(0, counters.BankConflicts);
        if (k % 8 == 0)
            Assert.Equal(((n + (m * Gpu.Ceil(n, 16))) * k * 4) / 32, counters.GlobalSectorsRead);
    }

    [Theory]
    [MemberData(nameof(Layouts))]
    public void FullTilesHaveNoBankConflictAndReadNoMoreThanTheyNeed(bool transA, bool transB, string type)
    {
        using Gpu gpu = new();
        const int m = 128, n = 64, k = 96;
        (ulong b, _) = Weights(gpu, type, Gpu.Random(k * n, 1));
        Params p = new() { A = gpu.Upload(Gpu.Random(m * k, 2)), B = b, C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = transA ? m : k, LdB = transB ? k : n, LdC = n, Summed = 1 };
        LaunchCounters counters = gpu.Run("matmul", $"matmul_{(transA ? 't' : 'n')}{(transB ? 't' : 'n')}_{type}", 2, 128, p);
        Assert.Equal(0, counters.BankConflicts);
        int size = type == "f32" ? 4 : 2, products = type == "f32" ? 6 : type == "f16" ? 5 : 3;
        Assert.Equal((m * k * 4 + 2 * n * k * size) / 32, counters.GlobalSectorsRead);
        Assert.Equal(m * n * 4 / 32, counters.GlobalSectorsWritten);
        Assert.Equal(2L * m * n * k * products, counters.MmaFlop);
    }
}
