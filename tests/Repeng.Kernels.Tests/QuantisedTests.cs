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

    public static TheoryData<string> Packed() => [.. BlockType.All.Where(t => t.CanDecode && t.IsPacked).Select(t => t.Name)];

    [Theory]
    [MemberData(nameof(Packed))]
    public void ScalesTellWhichValuesAreNotFinite(string name)
    {
        BlockType type = BlockType.Find(name)!;
        var random = new Random(3);
        int sound = 0, damaged = 0;
        for (int trial = 0; trial < 400; trial++)
        {
            // Random bytes have a scale in 32 that is not finite.
            var bytes = new byte[(1 + trial % 20) * type.Bytes];
            random.NextBytes(bytes);
            float[] values = Decode(type, bytes);
            fixed (byte* p = bytes)
            {
                int expected = Array.FindIndex(values, v => !float.IsFinite(v));
                Assert.Equal(expected, Packing.OfBlocks(type, (nint)p, values.Length).FirstNotFinite());
                (sound, damaged) = expected < 0 ? (sound + 1, damaged) : (sound, damaged + 1);
            }
        }
        // Types with scales in other forms have nothing that is not finite.
        Assert.True(sound > 0 && (damaged > 0 || type.Scales.Count == 0), $"{sound} sound, {damaged} damaged");
    }

    [Theory]
    [InlineData(1f, -1)]
    [InlineData(float.NaN, 64)]
    [InlineData(float.NegativeInfinity, 64)]
    public void ScalesOfCodesAndRowsTellToo(float scale, int expected)
    {
        byte[] codes = [.. Enumerable.Range(0, 128).Select(i => (byte)(i * 37))], nestedCodes = [0, 1, 2, 3];
        float[] scales = [1, scale, 1, 1], map = [.. Enumerable.Range(0, 256).Select(i => i == 1 ? scale : 0.5f)], nested = [1, 1];
        fixed (byte* data = codes, nestedData = nestedCodes)
        fixed (float* s = scales, m = map, n = nested)
        {
            Assert.Equal(expected, Packing.OfCodes(FourBitCode.Nf4, (nint)data, (nint)s, 64, 256).FirstNotFinite());
            Assert.Equal(expected, Packing.OfNestedCodes(FourBitCode.Nf4, (nint)data, (nint)nestedData, (nint)n, (nint)m, 0, 64, 32, 256).FirstNotFinite());
            Assert.Equal(expected < 0 ? -1 : 32, Packing.OfRows((nint)data, (nint)s, 4, 32).FirstNotFinite());
        }
    }

    [Fact]
    public void AScaleMayOverflowWithLargeCodesAlone()
    {
        sbyte[] codes = [1, 0, 1, 1, 127, 1, 1, 1];
        float[] scales = [3e38f, 3e37f];
        fixed (sbyte* data = codes)
        fixed (float* s = scales)
        {
            Assert.Equal(4, Packing.OfRows((nint)data, (nint)s, 2, 4).FirstNotFinite());
            codes[4] = 2;
            Assert.Equal(-1, Packing.OfRows((nint)data, (nint)s, 2, 4).FirstNotFinite());
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
