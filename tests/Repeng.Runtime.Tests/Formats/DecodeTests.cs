using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>Conversions against plain arithmetic, on every bit pattern where there are few enough, and across threads.</summary>
public sealed class DecodeTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void EveryHalfIsExact()
    {
        // An odd count, so that the end is not converted by vectors.
        var bits = new ushort[65536 + 5];
        for (int i = 0; i < bits.Length; i++)
            bits[i] = (ushort)i;
        float[] values = Read("F16", bits.Length, ToBytes(bits));
        for (int i = 0; i < bits.Length; i++)
        {
            Half half = BitConverter.UInt16BitsToHalf(bits[i]);
            if (Half.IsNaN(half))
                Assert.True(float.IsNaN(values[i]), $"0x{bits[i]:x4} gives {values[i]}");
            else
                Assert.Equal(BitConverter.SingleToUInt32Bits((float)half), BitConverter.SingleToUInt32Bits(values[i]));
        }
    }

    [Fact]
    public void EveryBf16IsExact()
    {
        var bits = new ushort[65536 + 5];
        for (int i = 0; i < bits.Length; i++)
            bits[i] = (ushort)i;
        float[] values = Read("BF16", bits.Length, ToBytes(bits));
        for (int i = 0; i < bits.Length; i++)
            Assert.Equal((uint)bits[i] << 16, BitConverter.SingleToUInt32Bits(values[i]));
    }

    [Theory]
    [InlineData("Q4_0", 18)]
    [InlineData("Q4_1", 20)]
    [InlineData("Q5_0", 22)]
    [InlineData("Q5_1", 24)]
    [InlineData("Q8_0", 34)]
    public void BlocksEqualPlainArithmeticOnAllThreads(string type, int blockBytes)
    {
        // More than one thread's share, and not a multiple of it.
        const int Blocks = 20_001;
        var bytes = new byte[Blocks * blockBytes];
        new Random(7).NextBytes(bytes);
        for (int block = 0; block < Blocks; block++)
        {
            // Finite scales: the exponent's top bit is cleared.
            bytes[block * blockBytes + 1] &= 0xBF;
            bytes[block * blockBytes + 3] &= 0xBF;
        }
        float[] values = Read(type, Blocks * 32, bytes);
        for (int i = 0; i < values.Length; i++)
        {
            float expected = Plain(type, bytes.AsSpan(i / 32 * blockBytes, blockBytes), i % 32);
            if (BitConverter.SingleToUInt32Bits(expected) != BitConverter.SingleToUInt32Bits(values[i]))
                Assert.Fail($"{type}[{i}] is {values[i]:r}, expected {expected:r}");
        }
    }

    /// <summary>One value by the definition of the block, in the order of roundings of ggml's C.</summary>
    private static float Plain(string type, ReadOnlySpan<byte> block, int i)
    {
        float d = (float)BitConverter.ToHalf(block);
        bool five = type[1] == '5', minimum = type[^1] == '1';
        if (type == "Q8_0")
            return d * (sbyte)block[2 + i];
        int at = (minimum ? 4 : 2) + (five ? 4 : 0);
        int q = i < 16 ? block[at + i] & 15 : block[at + i - 16] >> 4;
        if (five)
            q |= (int)(BitConverter.ToUInt32(block[(at - 4)..]) >> i & 1) << 4;
        if (!minimum)
            return d * (q - (five ? 16 : 8));
        float product = d * q;
        return product + (float)BitConverter.ToHalf(block[2..]);
    }

    private float[] Read(string type, long elements, byte[] bytes)
    {
        string path = _folder.File(type);
        new GgufWriter("test").AddRawTensor("t", type, [elements], bytes).Write(path);
        using GgufFile file = GgufFile.Open(path);
        return file.ReadF32("t");
    }

    private static byte[] ToBytes(ushort[] values)
    {
        var bytes = new byte[values.Length * 2];
        Buffer.BlockCopy(values, 0, bytes, 0, bytes.Length);
        return bytes;
    }
}
