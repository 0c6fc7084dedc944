namespace Repeng.Kernels.Tests;

public sealed class PhiloxTests
{
    // Known answers of Random123 (kat_vectors, philox4x32 with 10 rounds).
    [Theory]
    [InlineData(0u, 0u, 0u, 0u, 0u, 0u, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u)]
    [InlineData(~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu)]
    [InlineData(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u,
        0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u)]
    public void GivesTheKnownAnswers(uint c0, uint c1, uint c2, uint c3, uint k0, uint k1, uint x0, uint x1, uint x2, uint x3)
        => Assert.Equal((x0, x1, x2, x3), Philox.Block(c0, c1, c2, c3, k0, k1));

    [Fact]
    public void PutsIndexAndStreamIntoTheCounterAndTheSeedIntoTheKey()
    {
        Assert.Equal((0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u),
            Philox.Block(seed: 0x299f31d0a4093822, stream: 0x0370734413198a2e, block: 0x85a308d3243f6a88));
    }

    [Fact]
    public void SequenceDrawsTheWordsOfItsStreamAndResumesAnywhere()
    {
        var whole = new PhiloxSequence(7, 3);
        uint[] words = [.. Enumerable.Range(0, 23).Select(_ => whole.NextUInt32())];
        for (int i = 0; i < words.Length; i++)
        {
            Assert.Equal(words[i], Philox.UInt32(7, 3, (ulong)i));
            Assert.Equal(words[i], new PhiloxSequence(7, 3, (ulong)i).NextUInt32());
        }

        Assert.Equal(23ul, whole.Position);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(6)]
    public void FillsEqualSingleDraws(int start)
    {
        float[] uniform = new float[21], normal = new float[21];
        Philox.FillUniform(uniform, 5, 9, (ulong)start);
        Philox.FillNormal(normal, 5, 9, (ulong)start);
        for (int i = 0; i < uniform.Length; i++)
        {
            Assert.Equal(Philox.Uniform(5, 9, (ulong)(start + i)), uniform[i]);
            Assert.Equal(Philox.Normal(5, 9, (ulong)(start + i)), normal[i]);
        }
    }

    [Fact]
    public void UniformIsFlatAndBelowOne()
    {
        const int n = 200_000;
        float[] values = new float[n];
        Philox.FillUniform(values, 1, 2);
        int[] bins = new int[10];
        foreach (float value in values)
        {
            Assert.InRange(value, 0f, 0.99999994f);
            bins[(int)(value * 10)]++;
        }

        // Chi-square with 9 degrees of freedom: 27.9 is its 99.9th percentile.
        double expected = n / 10.0;
        Assert.InRange(bins.Sum(b => (b - expected) * (b - expected) / expected), 0, 27.9);
    }

    [Fact]
    public void NormalHasTheMomentsOfAStandardNormal()
    {
        const int n = 200_000;
        float[] values = new float[n];
        Philox.FillNormal(values, 1, 2);
        double mean = values.Average(v => (double)v);
        double variance = values.Average(v => (double)v * v) - mean * mean;
        double fourth = values.Average(v => Math.Pow(v, 4));
        double lag = 0;
        for (int i = 1; i < n; i++)
            lag += (double)values[i] * values[i - 1];
        Assert.InRange(mean, -0.01, 0.01);
        Assert.InRange(variance, 0.98, 1.02);
        Assert.InRange(fourth, 2.9, 3.1);
        Assert.InRange(lag / n, -0.01, 0.01);
    }

    [Fact]
    public void BoundedIsFlatAlsoWhereAModuloWouldBeBiased()
    {
        // 3·2³⁰: a modulo of 32 random bits would hit the first third twice as often as the others.
        const uint bound = 3u << 30;
        int[] thirds = new int[3];
        const int n = 60_000;
        for (ulong i = 0; i < n; i++)
            thirds[Philox.Bounded(11, 4, i, bound) >> 30]++;
        foreach (int count in thirds)
            Assert.InRange(count, n / 3 - 500, n / 3 + 500);
        Assert.Equal(0u, Philox.Bounded(1, 1, 1, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Philox.Bounded(1, 1, 1, 0));
    }

    [Fact]
    public void ShuffleKeepsEveryElementAndFavoursNoPlace()
    {
        var draw = new PhiloxSequence(2, 2);
        int[] firstPlace = new int[5];
        int[] items = new int[5];
        for (int repeat = 0; repeat < 20_000; repeat++)
        {
            for (int i = 0; i < items.Length; i++)
                items[i] = i;
            draw.Shuffle<int>(items);
            Assert.Equal(10, items.Sum());
            firstPlace[items[0]]++;
        }

        foreach (int count in firstPlace)
            Assert.InRange(count, 3800, 4200);
    }
}
