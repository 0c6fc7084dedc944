using System.Runtime.Intrinsics;
using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.Tests;

public sealed class ExpTests
{
    [Fact]
    public void IsWithin2e7OfTheDoubleFunctionOverTheWholeRange()
    {
        double worst = 0;
        for (float x = -87.3f; x < 88.7f; x += 0.000731f)
        {
            double expected = Math.Exp(x);
            worst = Math.Max(worst, Math.Abs(SimdMath.Exp(x) - expected) / expected);
        }
        Assert.True(worst < 2e-7, $"relative error {worst:g3}");
    }

    [Fact]
    public void KeepsSubnormalResultsWithinTheirSpacing()
    {
        for (float x = -104f; x < -87.3f; x += 0.00317f)
            Assert.InRange(Math.Abs(SimdMath.Exp(x) - Math.Exp(x)), 0, 2 * (double)float.Epsilon);
    }

    [Theory]
    [InlineData(float.NegativeInfinity, 0f)]
    [InlineData(-1000f, 0f)]
    [InlineData(0f, 1f)]
    [InlineData(89f, float.PositiveInfinity)]
    [InlineData(float.PositiveInfinity, float.PositiveInfinity)]
    [InlineData(float.NaN, float.NaN)]
    public void HasTheLimits(float x, float expected) => Assert.Equal(expected, SimdMath.Exp(x));

    [Fact]
    public void GivesTheSameBitsAtEveryWidth()
    {
        for (float x = -110f; x < 95f; x += 0.0137f)
        {
            float scalar = SimdMath.Exp(x);
            Assert.Equal(scalar, SimdMath.Exp(Vector128.Create(x))[3]);
            Assert.Equal(scalar, SimdMath.Exp(Vector256.Create(x))[7]);
            Assert.Equal(scalar, SimdMath.Exp(Vector512.Create(x))[15]);
        }
    }
}
