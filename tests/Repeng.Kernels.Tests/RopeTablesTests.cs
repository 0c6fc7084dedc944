namespace Repeng.Kernels.Tests;

/// <summary>Frequencies of every rope scaling against formulas written anew in double.</summary>
public sealed class RopeTablesTests
{
    private const int Max = 4096;

    [Theory]
    [InlineData(2, 10000)]
    [InlineData(64, 10000)]
    [InlineData(96, 5e6)]
    public void PlainFrequenciesAreAGeometricSeries(int dim, double theta)
    {
        (float[] actual, float attention) = RopeTables.Frequencies(dim, theta, null, Max, 10);
        Assert.Equal(1, attention);
        Check(i => Math.Exp(-2.0 * i / dim * Math.Log(theta)), actual, dim);
    }

    [Fact]
    public void LinearDividesThem()
    {
        (float[] actual, float attention) = RopeTables.Frequencies(64, 1e6, new RopeScaling { Type = RopeScalingType.Linear, Factor = 8 }, Max, 10);
        Assert.Equal(1, attention);
        Check(i => Math.Pow(1e6, -i / 32.0) / 8, actual, 64);
    }

    [Theory]
    [InlineData(100)]
    [InlineData(Max)]
    [InlineData(3 * Max)]
    public void DynamicRaisesTheBaseBeyondTheLimit(int length)
    {
        var scaling = new RopeScaling { Type = RopeScalingType.Dynamic, Factor = 2.5 };
        (float[] actual, _) = RopeTables.Frequencies(32, 10000, scaling, Max, length);
        double stretch = length <= Max ? 1 : 2.5 * length / Max - 1.5;
        double theta = 10000 * Math.Pow(stretch, 32 / 30.0);
        Check(i => Math.Pow(theta, -i / 16.0), actual, 32);
    }

    [Fact]
    public void Llama3KeepsShortWavesAndStretchesLongOnes()
    {
        var scaling = new RopeScaling { Type = RopeScalingType.Llama3, Factor = 8, LowFreqFactor = 1, HighFreqFactor = 4, OriginalMaxPosition = 8192 };
        (float[] actual, float attention) = RopeTables.Frequencies(128, 500000, scaling, 131072, 10);
        Assert.Equal(1, attention);
        int kept = 0, ramp = 0, stretched = 0;
        Check(i =>
        {
            double f = Math.Pow(500000, -i / 64.0), turns = 8192 * f / (2 * Math.PI);
            double keep = Math.Clamp((turns - 1) / 3, 0, 1);
            _ = keep == 1 ? kept++ : keep == 0 ? stretched++ : ramp++;
            return f * (keep + (1 - keep) / 8);
        }, actual, 128);
        Assert.True(kept > 0 && ramp > 0 && stretched > 0);
    }

    [Theory]
    [InlineData(4.0, 0, 0, true)]
    [InlineData(4.0, 0, 0, false)]
    [InlineData(0, 0, 0, true)]
    [InlineData(40.0, 16, 2, true)]
    public void YarnRampsOverDimensions(double factor, double fast, double slow, bool truncate)
    {
        const int Dim = 64, Original = 1024;
        var scaling = new RopeScaling { Type = RopeScalingType.Yarn, Factor = factor, OriginalMaxPosition = Original, BetaFast = fast, BetaSlow = slow, Truncate = truncate };
        (float[] actual, float attention) = RopeTables.Frequencies(Dim, 10000, scaling, 8192, 10);
        double s = factor > 0 ? factor : 8;
        Assert.Equal(1 + Math.Log(s) / 10, attention, 6);
        // A pair of dimension d turns Original · theta^(−d / (dim/2)) / 2π times; solved for d.
        double from = 32 * Math.Log(Original / (2 * Math.PI * (fast > 0 ? fast : 32)), 10000), to = 32 * Math.Log(Original / (2 * Math.PI * (slow > 0 ? slow : 1)), 10000);
        if (truncate)
            (from, to) = (Math.Floor(from), Math.Ceiling(to));
        int between = 0;
        Check(i =>
        {
            double stretch = Math.Clamp((i - from) / (to - from), 0, 1);
            between += stretch is > 0 and < 1 ? 1 : 0;
            return Math.Pow(10000, -i / 32.0) * (1 - stretch + stretch / s);
        }, actual, Dim);
        Assert.True(between > 3);
    }

    [Fact]
    public void YarnWithoutOriginalLengthTakesTheModelsOwn()
    {
        var with = new RopeScaling { Type = RopeScalingType.Yarn, Factor = 4, OriginalMaxPosition = Max };
        Assert.Equal(RopeTables.Frequencies(64, 1e4, with, 100000, 10).Frequencies, RopeTables.Frequencies(64, 1e4, with with { OriginalMaxPosition = 0 }, Max, 10).Frequencies);
    }

    [Fact]
    public void YarnsAttentionFactorComesFromItsScalesOrIsGiven()
    {
        var scaling = new RopeScaling { Type = RopeScalingType.Yarn, Factor = 40, OriginalMaxPosition = 4096, Mscale = 0.7, MscaleAllDim = 1.1 };
        double ln = Math.Log(40);
        Assert.Equal((0.07 * ln + 1) / (0.11 * ln + 1), Attention(scaling), 6);
        Assert.Equal(0.1 * ln + 1, Attention(scaling with { MscaleAllDim = null }), 6);
        Assert.Equal(0.1 * ln + 1, Attention(scaling with { Mscale = 0 }), 6);
        Assert.Equal(1.75, Attention(scaling with { AttentionFactor = 1.75 }), 6);
        Assert.Equal(1, Attention(scaling with { Factor = 0.5, Mscale = null }), 6);

        static double Attention(RopeScaling s) => RopeTables.Frequencies(64, 1e4, s, 163840, 10).AttentionFactor;
    }

    [Fact]
    public void LongRopeTakesTheListThatTheLengthCallsFor()
    {
        double[] shorts = [1, 1.1, 1.2, 1.3], longs = [2, 3, 4, 5];
        var scaling = new RopeScaling { Type = RopeScalingType.LongRope, OriginalMaxPosition = 512, ShortFactors = shorts, LongFactors = longs };
        foreach (int length in (int[])[1, 512, 513])
        {
            (float[] actual, float attention) = RopeTables.Frequencies(8, 1e4, scaling, Max, length);
            Assert.Equal(Math.Sqrt(1 + Math.Log(8) / Math.Log(512)), attention, 6);
            Check(i => Math.Pow(1e4, -i / 4.0) / (length > 512 ? longs : shorts)[i], actual, 8);
        }
        Assert.Equal(Math.Sqrt(1 + Math.Log(3) / Math.Log(Max)), RopeTables.Frequencies(8, 1e4, scaling with { OriginalMaxPosition = 0, Factor = 3 }, Max, 5).AttentionFactor, 6);
        Assert.Equal(1.25, RopeTables.Frequencies(8, 1e4, scaling with { AttentionFactor = 1.25 }, Max, 5).AttentionFactor, 6);
    }

    [Fact]
    public void TablesHoldTheScaledCosineAndSine()
    {
        var scaling = new RopeScaling { Type = RopeScalingType.Yarn, Factor = 4, OriginalMaxPosition = 16 };
        (float[] cos, float[] sin) = RopeTables.Build(33, 16, 1e4, scaling, 256);
        (float[] frequencies, float attention) = RopeTables.Frequencies(16, 1e4, scaling, 256, 33);
        Assert.Equal(33 * 8, cos.Length);
        Assert.Equal(33 * 8, sin.Length);
        for (int p = 0; p < 33; p++)
            for (int i = 0; i < 8; i++)
            {
                // fp32 rounds an angle of up to 32 by 1e-6.
                Assert.Equal(attention * Math.Cos((double)p * frequencies[i]), cos[p * 8 + i], 3e-6);
                Assert.Equal(attention * Math.Sin((double)p * frequencies[i]), sin[p * 8 + i], 3e-6);
            }
    }

    [Fact]
    public void TheLengthDefaultsToTheNumberOfPositions()
    {
        var scaling = new RopeScaling { Type = RopeScalingType.LongRope, OriginalMaxPosition = 8, ShortFactors = [1, 1], LongFactors = [2, 2] };
        Assert.Equal(RopeTables.Build(9, 4, 100, scaling, 32, 9).Cos, RopeTables.Build(9, 4, 100, scaling, 32).Cos);
        Assert.NotEqual(RopeTables.Build(9, 4, 100, scaling, 32, 8).Cos, RopeTables.Build(9, 4, 100, scaling, 32).Cos);
    }

    [Fact]
    public void RefusesImpossibleConfigs()
    {
        foreach (RopeScaling bad in (RopeScaling[])
        [
            new() { Type = RopeScalingType.Linear }, new() { Type = RopeScalingType.Linear, Factor = double.NaN },
            new() { Type = RopeScalingType.Dynamic, Factor = -1 },
            new() { Type = RopeScalingType.Llama3, Factor = 8, LowFreqFactor = 4, HighFreqFactor = 1, OriginalMaxPosition = 8 },
            new() { Type = RopeScalingType.Llama3, Factor = 8, LowFreqFactor = 1, HighFreqFactor = 4 },
            new() { Type = RopeScalingType.LongRope, OriginalMaxPosition = 512, LongFactors = [1, 1, 1, 1] },
            new() { Type = RopeScalingType.LongRope, OriginalMaxPosition = 512, ShortFactors = [1, 1, 1] },
            new() { Type = RopeScalingType.LongRope, OriginalMaxPosition = 512, ShortFactors = [1, 1, 1, 0] },
        ])
            Assert.Throws<UserErrorException>(() => RopeTables.Frequencies(8, 1e4, bad, Max, 10));
        Assert.Throws<UserErrorException>(() => RopeTables.Frequencies(7, 1e4, null, Max, 10));
        Assert.Throws<UserErrorException>(() => RopeTables.Frequencies(8, 0, null, Max, 10));
        Assert.Throws<UserErrorException>(() => RopeScaling.ParseType("xpos"));
        Assert.Equal(RopeScalingType.LongRope, RopeScaling.ParseType("su"));
    }

    private static void Check(Func<int, double> expected, float[] actual, int dim)
    {
        Assert.Equal(dim / 2, actual.Length);
        for (int i = 0; i < actual.Length; i++)
        {
            double e = expected(i);
            // A few fp32 roundings, of the exponent times the base's logarithm among them.
            Assert.True(Math.Abs(actual[i] - e) <= 2e-6 * e, $"frequency {i}: {actual[i]:r} against {e:r}");
        }
    }
}
