namespace Repeng.PtxEmulator.Tests;

/// <summary>A product on tensor cores, as a GPU kernel is written: cp.async in two stages, ldmatrix, mma.</summary>
public sealed class MatMulTests
{
    public static TheoryData<bool> Both => [false, true];

    private static ushort BFloat16(float value) => (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16);

    [Theory]
    [MemberData(nameof(Both))]
    public void Bf16_with_async_copies_and_ldmatrix(bool compile)
    {
        using var gpu = new Gpu(new EmulatorOptions { Compile = compile });
        const int k = 96;
        var random = new Random(11);
        ushort[] a = [.. Enumerable.Range(0, 64 * k).Select(_ => BFloat16((float)(random.NextDouble() - 0.5)))];
        ushort[] b = [.. Enumerable.Range(0, k * 64).Select(_ => BFloat16((float)(random.NextDouble() - 0.5)))];
        ulong c = gpu.Empty(64 * 64 * 4);
        LaunchCounters counters = gpu.Run(gpu.Kernel("mma.ptx", "matmul_bf16"), 1, 128, gpu.Upload(a), gpu.Upload(b), c, k);
        float[] result = gpu.Download<float>(c, 64 * 64);
        static double F(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);
        for (int i = 0; i < 64; i++)
            for (int j = 0; j < 64; j++)
                Assert.Equal(Enumerable.Range(0, k).Sum(t => F(a[(i * k) + t]) * F(b[(t * 64) + j])), result[(i * 64) + j], 1e-5);
        Assert.Equal(2L * 64 * 64 * k, counters.MmaFlop);
        // Padded rows: ldmatrix has no conflicts. cp.async writes rows of A of 64 bytes at a stride of 80, two rows a phase, of which four banks overlap:
        // 32 phases a step of k.
        Assert.Equal(32 * (k / 32), counters.BankConflicts);
        // Each element of A and B is read once, C written once.
        Assert.Equal(64 * k * 2 * 2 / 32, counters.GlobalSectorsRead);
        Assert.Equal(64 * 64 * 4, counters.GlobalBytesWritten);
    }
}
