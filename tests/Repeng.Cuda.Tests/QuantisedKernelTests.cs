using System.Runtime.InteropServices;
using Repeng.Kernels.Quantised;
using Repeng.PtxEmulator;
using Repeng.Testing;
using static Repeng.Cuda.Tests.MatMulKernelTests;

namespace Repeng.Cuda.Tests;

/// <summary>quantised.cu against the CPU's packing, bit for bit, and its products against products of the decoded weight.</summary>
public sealed unsafe class QuantisedKernelTests
{
    /// <summary>CodesParams of kernels/quantised.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Codes
    {
        public ulong Data, Code, Absmax, ScaleCodes, NestedScales, NestedMap;
        public long Start;
        public float Offset;
        public int BlockShift, NestedShift, Reserved;
    }

    private sealed record Packed(byte[] Data, float[] Absmax, byte[] ScaleCodes, float[] Nested, float Offset, float[] Decoded);

    private static Packed Pack(FourBitCode code, float[] x, int blockSize, bool nested)
    {
        int blocks = Gpu.Ceil(x.Length, blockSize);
        byte[] data = new byte[(x.Length + 1) / 2], scaleCodes = new byte[blocks];
        float[] absmax = new float[blocks], scales = new float[Gpu.Ceil(blocks, 256)], decoded = new float[x.Length];
        float offset = 0;
        fixed (float* from = x, to = absmax, inner = scales, map = FourBitCode.DynamicCode)
        fixed (byte* bytes = data, codes = scaleCodes)
        {
            code.Quantise(from, x.Length, blockSize, bytes, to);
            if (nested)
                offset = FourBitCode.QuantiseScales(absmax, scaleCodes, scales);
            Packing packing = nested
                ? Packing.OfNestedCodes(code, (nint)bytes, (nint)codes, (nint)inner, (nint)map, offset, blockSize, 256, x.Length)
                : Packing.OfCodes(code, (nint)bytes, (nint)to, blockSize, x.Length);
            packing.Decode(0, decoded);
        }
        return new Packed(data, absmax, scaleCodes, scales, offset, decoded);
    }

    private static Codes Upload(Gpu gpu, FourBitCode code, Packed p, int blockSize, bool nested, long start = 0) => new()
    {
        Data = gpu.Upload(p.Data),
        Code = gpu.Upload(code.Values),
        Absmax = nested ? 0 : gpu.Upload(p.Absmax),
        ScaleCodes = nested ? gpu.Upload(p.ScaleCodes) : 0,
        NestedScales = nested ? gpu.Upload(p.Nested) : 0,
        NestedMap = nested ? gpu.Upload(FourBitCode.DynamicCode) : 0,
        Start = start,
        Offset = p.Offset,
        BlockShift = int.Log2(blockSize),
        NestedShift = 8,
    };

    public static TheoryData<string, int, bool> Forms() => new() { { "nf4", 64, false }, { "nf4", 64, true }, { "fp4", 128, false }, { "nf4", 32, true } };

    [Theory]
    [MemberData(nameof(Forms))]
    public void UnpacksBitForBit(string name, int blockSize, bool nested)
    {
        using Gpu gpu = new();
        FourBitCode code = FourBitCode.Find(name)!;
        foreach ((int n, long start) in new[] { (20000, 0L), (4100, 37L) })
        {
            Packed p = Pack(code, Gpu.Random(n, n), blockSize, nested);
            Codes c = Upload(gpu, code, p, blockSize, nested, start);
            int count = (int)(n - start);
            ulong y = gpu.Empty<float>(count), half = gpu.Empty<ushort>(count);
            gpu.Run("quantised", "unpack_codes_f32", Gpu.Ceil(count, 16384), 256, c, y, (long)count);
            gpu.Run("quantised", "unpack_codes_bf16", Gpu.Ceil(count, 16384), 256, c, half, (long)count);
            float[] expected = p.Decoded[(int)start..];
            Assert.Equal(expected, gpu.Read(y, count));
            Assert.Equal(Array.ConvertAll(expected, BFloat), gpu.Read<ushort>(half, count));
        }
    }

    [Fact]
    public void UnpacksRowsBitForBit()
    {
        using Gpu gpu = new();
        const int rows = 7, columns = 300;
        float[] x = Gpu.Random(rows * columns, 1), scales = new float[rows], decoded = new float[x.Length];
        sbyte[] codes = new sbyte[x.Length];
        fixed (float* from = x, s = scales)
        fixed (sbyte* q = codes)
        {
            RowCode.Quantise(from, rows, columns, q, s);
            Packing.OfRows((nint)q, (nint)s, rows, columns).Decode(0, decoded);
        }
        ulong y = gpu.Empty<float>(x.Length - 5);
        gpu.Run("quantised", "unpack_rows_f32", Gpu.Ceil(x.Length - 5, 1024), 256, y, gpu.Upload(codes), gpu.Upload(scales), 5L, x.Length - 5L, columns);
        Assert.Equal(decoded[5..], gpu.Read(y, x.Length - 5));
    }

    [Theory]
    [InlineData("nf4", 64, 6400)]
    [InlineData("nf4", 64, 1001)]
    [InlineData("fp4", 32, 4099)]
    public void PacksBitForBit(string name, int blockSize, int n)
    {
        using Gpu gpu = new();
        FourBitCode code = FourBitCode.Find(name)!;
        float[] x = Gpu.Random(n, n);
        Array.Clear(x, blockSize, blockSize);
        Packed p = Pack(code, x, blockSize, true);
        byte[] ascending = [.. Enumerable.Range(0, 16).Where(i => code.Values.IndexOf(code.Values[i]) == i).OrderBy(i => code.Values.ToArray()[i]).Select(i => (byte)i)];
        float[] midpoints = [.. Enumerable.Range(0, ascending.Length - 1).Select(i => (code.Values[ascending[i]] + code.Values[ascending[i + 1]]) / 2)];
        int blocks = Gpu.Ceil(n, blockSize);
        ulong data = gpu.Empty<byte>((n + 1) / 2), absmax = gpu.Empty<float>(blocks), status = gpu.Upload(new int[1]);
        gpu.Run("quantised", "pack_codes", Gpu.Ceil(blocks, 8), 256, data, absmax, status, gpu.Upload(x), gpu.Upload(midpoints), gpu.Upload(ascending), (long)n, blockSize, ascending.Length, code.Values.IndexOf(0f));
        Assert.Equal(0, gpu.Read<int>(status, 1)[0]);
        Assert.Equal(p.Data, gpu.Read<byte>(data, (n + 1) / 2));
        Assert.Equal(p.Absmax, gpu.Read(absmax, blocks));

        ulong offset = gpu.Empty<float>(1), codes = gpu.Empty<byte>(blocks), nested = gpu.Empty<float>(Gpu.Ceil(blocks, 256));
        gpu.Run("quantised", "scales_mean", 1, 1024, offset, absmax, (long)blocks);
        Assert.Equal(p.Offset, gpu.Read(offset, 1)[0], 1e-6f * Math.Abs(p.Offset));
        gpu.Run("quantised", "pack_scales", Gpu.Ceil(blocks, 256), 256, codes, nested, absmax, gpu.Upload(new[] { p.Offset }), gpu.Upload(FourBitCode.DynamicCode), (long)blocks);
        Assert.Equal(p.ScaleCodes, gpu.Read<byte>(codes, blocks));
        Assert.Equal(p.Nested, gpu.Read(nested, Gpu.Ceil(blocks, 256)));

        x[n / 2] = float.NaN;
        gpu.Run("quantised", "pack_codes", Gpu.Ceil(blocks, 8), 256, data, absmax, status, gpu.Upload(x), gpu.Upload(midpoints), gpu.Upload(ascending), (long)n, blockSize, ascending.Length, code.Values.IndexOf(0f));
        Assert.Equal(1, gpu.Read<int>(status, 1)[0]);
    }

    [Theory]
    [InlineData(70, 80, 96, 0, true, 64)]
    [InlineData(20, 33, 45, 3, false, 64)]
    [InlineData(3, 40, 128, 0, true, 64)]
    [InlineData(70, 100, 576, 0, true, 64)]
    [InlineData(66, 65, 640, 64, false, 128)]
    [InlineData(8, 37, 1408, 64, true, 256)]
    public void ProductsHaveTheBitsOfTheDecodedWeight(int m, int n, int k, long start, bool nested, int blockSize)
    {
        using Gpu gpu = new();
        Packed packed = Pack(FourBitCode.Nf4, Gpu.Random(n * k + start, 1), blockSize, nested);
        Codes c = Upload(gpu, FourBitCode.Nf4, packed, blockSize, nested, start);
        ulong decoded = gpu.Upload(packed.Decoded[(int)start..]);
        int grid = Gpu.Ceil(m, 64) * Gpu.Ceil(n, 64);
        Params p = new() { A = gpu.Upload(Gpu.Random(m * k, 2)), B = decoded, C = gpu.Empty<float>(m * n), M = m, N = n, K = k, LdA = k, LdB = k, LdC = n, Summed = 1 };
        Params same = p with { B = 0, C = gpu.Empty<float>(m * n) };
        gpu.Run("matmul", "matmul_nt_f32", grid, 128, p);
        LaunchCounters counters = gpu.Run("quantised", "matmul_codes_nt", grid, 128, same, c);
        Assert.Equal(gpu.Read(p.C, m * n), gpu.Read(same.C, m * n));
        if (start == 0)
            Assert.Equal(0, counters.BankConflicts);

        const int rank = 8;
        ulong z = gpu.Upload(Gpu.Random(m * rank, 3)), u = gpu.Upload(Gpu.Random(n * rank, 4));
        gpu.Run("matmul", "matmul_term_f32", grid, 128, p with { TermA = z, TermB = u, Rank = rank });
        gpu.Run("quantised", "matmul_codes_term", grid, 128, same with { TermA = z, TermB = u, Rank = rank }, c);
        Assert.Equal(gpu.Read(p.C, m * n), gpu.Read(same.C, m * n));

        // Backward: dx = dy·W, the weight [n, k] as [K, N] of the product.
        Params back = p with { A = p.C, C = gpu.Empty<float>(m * k), N = k, K = n, LdA = n, LdB = k, LdC = k };
        grid = Gpu.Ceil(m, 64) * Gpu.Ceil(k, 64);
        gpu.Run("matmul", "matmul_nn_f32", grid, 128, back);
        Params sameBack = back with { C = gpu.Empty<float>(m * k) };
        gpu.Run("quantised", "matmul_codes_nn", grid, 128, sameBack, c);
        Assert.Equal(gpu.Read(back.C, m * k), gpu.Read(sameBack.C, m * k));

        if (m <= 8)
            foreach (int rows in new[] { 4, 8 })
            {
                gpu.Run("matmul", $"matvec_f32_{rows}", Gpu.Ceil(n, 16), 256, p);
                counters = gpu.Run("quantised", $"matvec_codes_{rows}", Gpu.Ceil(n, 16), 256, same, c);
                Assert.Equal(gpu.Read(p.C, m * n), gpu.Read(same.C, m * n));
                Assert.Equal(0, counters.BankConflicts);
            }
    }
}
