using Repeng.Kernels.Quantised;

namespace Repeng.Cuda.Tests;

/// <summary>blocks.cu against the CPU's decoders, bit for bit, on blocks of random bytes with finite scales.</summary>
public sealed unsafe class BlockKernelTests
{
    [Theory]
    [InlineData("Q4_0", 0)]
    [InlineData("Q4_1", 0, 2)]
    [InlineData("Q5_0", 0)]
    [InlineData("Q5_1", 0, 2)]
    [InlineData("Q8_0", 0)]
    [InlineData("Q2_K", 80, 82)]
    [InlineData("Q3_K", 108)]
    [InlineData("Q4_K", 0, 2)]
    [InlineData("Q5_K", 0, 2)]
    [InlineData("Q6_K", 208)]
    [InlineData("IQ4_NL", 0)]
    [InlineData("IQ4_XS", 0)]
    [InlineData("MXFP4")]
    public void DecodesBitForBit(string name, params int[] halves)
    {
        using Gpu gpu = new();
        BlockType type = BlockType.Find(name)!;
        int blocks = 2048 / type.Elements, n = blocks * type.Elements;
        byte[] data = new byte[blocks * type.Bytes];
        new Random(1).NextBytes(data);
        // Exponents of all ones would be infinite or no number.
        for (int block = 0; block < blocks; block++)
        {
            foreach (int at in halves)
                data[block * type.Bytes + at + 1] &= 0xBB;
            if (name == "MXFP4")
                data[block * type.Bytes] = (byte)(block * 2);
        }
        float[] expected = new float[n];
        fixed (byte* from = data)
        fixed (float* to = expected)
            type.Decode(from, to, n);
        const int first = 19;
        ulong y = gpu.Empty<float>(n - first), half = gpu.Empty<ushort>(n - first), device = gpu.Upload(data, 1);
        gpu.Run("blocks", $"unpack_{name.ToLowerInvariant()}_f32", 1, 128, y, device, (long)first, (long)(n - first));
        gpu.Run("blocks", $"unpack_{name.ToLowerInvariant()}_bf16", 1, 128, half, device, (long)first, (long)(n - first));
        Assert.Equal(Array.ConvertAll(expected[first..], BitConverter.SingleToInt32Bits), Array.ConvertAll(gpu.Read(y, n - first), BitConverter.SingleToInt32Bits));
        Assert.Equal(Array.ConvertAll(expected[first..], MatMulKernelTests.BFloat), gpu.Read<ushort>(half, n - first));
    }
}
