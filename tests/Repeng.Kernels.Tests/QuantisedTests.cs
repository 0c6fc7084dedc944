using Repeng.Kernels.Quantised;

namespace Repeng.Kernels.Tests;

/// <summary>Properties of ggml's block types that hold whatever the values; exact bytes are the golden tests' (GgufGoldenTests).</summary>
public sealed unsafe class QuantisedTests
{
    public static TheoryData<string> Decodable() => [.. BlockType.All.Where(t => t.CanDecode).Select(t => t.Name)];

    public static TheoryData<string> Encodable() => [.. BlockType.All.Where(t => t.CanEncode).Select(t => t.Name)];

    [Theory]
    [MemberData(nameof(Decodable))]
    public void EveryBlockDecodesByItself(string name)
    {
        BlockType type = BlockType.Find(name)!;
        const int Blocks = 7;
        var bytes = new byte[Blocks * type.Bytes];
        new Random(11).NextBytes(bytes);
        float[] together = Decode(type, bytes);
        for (int block = 0; block < Blocks; block++)
        {
            // One byte off, so that nothing relies on alignment.
            byte[] alone = [0, .. bytes.AsSpan(block * type.Bytes, type.Bytes)];
            var values = new float[type.Elements];
            fixed (byte* p = alone)
            fixed (float* to = values)
                type.Decode(p + 1, to, type.Elements);
            for (int i = 0; i < values.Length; i++)
                Assert.Equal(BitConverter.SingleToUInt32Bits(together[block * type.Elements + i]), BitConverter.SingleToUInt32Bits(values[i]));
        }
    }

    [Theory]
    [MemberData(nameof(Encodable))]
    public void WhatWasDecodedEncodesToItsOwnValues(string name)
    {
        BlockType type = BlockType.Find(name)!;
        var random = new Random(5);
        float[] source = [.. Enumerable.Range(0, 4 * 256).Select(_ => (float)(random.NextDouble() * 2 - 1))];
        Array.Clear(source, 256, 256);
        float[] once = Decode(type, Encode(type, source)), twice = Decode(type, Encode(type, once));
        float worst = 0, again = 0;
        for (int i = 0; i < source.Length; i++)
        {
            worst = Math.Max(worst, Math.Abs(once[i] - source[i]));
            again = Math.Max(again, Math.Abs(once[i] - twice[i]));
        }
        // Half of a step for values up to 1 and the rounding of the scale; the _0 types have no code for the opposite of the extreme and are a whole step off there.
        float step = name switch { "F32" => 0, "F16" or "BF16" => 1 / 256f, "Q8_0" => 1 / 127f, "Q5_0" => 2 / 16f, "Q5_1" => 2 / 31f, "Q4_0" => 2 / 8f, "Q4_1" => 2 / 15f, _ => 1 };
        Assert.True(worst <= step / 2 + (step > 0 ? 1 / 1024f : 0), $"{name}: a value is off by {worst}");
        // Codes are computed with the unrounded scale: a second time changes at most the scale's last bits, or one code by a tie.
        Assert.True(again <= (name[^1] == '1' ? step : 0.002f), $"{name}: encoding again moves a value by {again}");
        for (int i = 256; i < 512; i++)
            Assert.Equal(0, once[i]);
    }

    [Fact]
    public void HugeAndTinyValuesEncode()
    {
        foreach (BlockType type in BlockType.All.Where(t => t.CanEncode))
        {
            float[] tiny = [.. Enumerable.Range(0, 256).Select(i => i % 3 == 0 ? 1e-44f : 0f)];
            Assert.All(Decode(type, Encode(type, tiny)), v => Assert.InRange(v, -1e-37f, 1e-37f));
        }
    }

    [Fact]
    public void GridsAscendAndAreOfTheirSizes()
    {
        foreach ((IqGrid grid, int count, int length) in new[]
        {
            (IqGrid.IQ2_XXS, 256, 8), (IqGrid.IQ2_XS, 512, 8), (IqGrid.IQ2_S, 1024, 8), (IqGrid.IQ3_XXS, 256, 4), (IqGrid.IQ3_S, 512, 4), (IqGrid.IQ1_S, 2048, 8),
        })
        {
            Assert.Equal((count, length), (grid.Count, grid.Length));
            sbyte[][] points = [.. Enumerable.Range(0, count).Select(i => grid.Values[(i * length)..((i + 1) * length)])];
            for (int i = 1; i < count; i++)
            {
                // Ordered by the last value first.
                int j = length - 1;
                while (j > 0 && points[i][j] == points[i - 1][j])
                    j--;
                Assert.True(points[i][j] > points[i - 1][j], $"point {i} of the grid of {count}");
            }
        }
    }

    [Fact]
    public void UnknownTypesAndPartsOfBlocksAreRefused()
    {
        Assert.Null(BlockType.Find("Q4_2"));
        Assert.Null(BlockType.Find(4u));
        Assert.Throws<ArgumentOutOfRangeException>(() => BlockType.Find("Q4_K")!.SizeOf(255));
        Assert.Throws<NotSupportedException>(() => BlockType.Find("Q8_K")!.Decode(null, null, 0));
        Assert.Throws<NotSupportedException>(() => BlockType.Find("Q4_K")!.Encode(null, null, 0));
    }

    private static float[] Decode(BlockType type, byte[] bytes)
    {
        var values = new float[bytes.Length / type.Bytes * type.Elements];
        fixed (byte* p = bytes)
        fixed (float* to = values)
            type.Decode(p, to, values.Length);
        return values;
    }

    private static byte[] Encode(BlockType type, float[] values)
    {
        var bytes = new byte[type.SizeOf(values.Length)];
        fixed (float* p = values)
        fixed (byte* to = bytes)
            type.Encode(p, to, values.Length);
        return bytes;
    }
}
