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

    [Fact]
    public void Exp2IsWithin2e7AndFlushesWhatIsNotNormal()
    {
        double worst = 0;
        for (float x = -125.9f; x < 127f; x += 0.000731f)
            worst = Math.Max(worst, Math.Abs(Exp2(x) - Math.Pow(2, x)) / Math.Pow(2, x));
        Assert.True(worst < 2e-7, $"relative error {worst:g3}");
        Assert.Equal(1, Exp2(0));
        Assert.Equal(0, Exp2(float.NegativeInfinity));
        Assert.Equal(0, Exp2(-127));
        Assert.Equal(MathF.Pow(2, 127), Exp2(float.PositiveInfinity));
        Assert.Equal(float.NaN, Exp2(float.NaN));

        static float Exp2(float x)
        {
            float result = SimdMath.Exp2Flushed<Vector128<float>, Simd128>(Vector128.Create(x))[0];
            Assert.Equal(result, SimdMath.Exp2Flushed<Vector256<float>, Simd256>(Vector256.Create(x))[7]);
            Assert.Equal(result, SimdMath.Exp2Flushed<Vector512<float>, Simd512>(Vector512.Create(x))[15]);
            return result;
        }
    }

    [Fact]
    public void TanhIsWithin3e7OfTheDoubleFunction()
    {
        double worst = 0;
        for (float x = -12f; x < 12f; x += 0.000371f)
            worst = Math.Max(worst, Math.Abs(Tanh(x) - Math.Tanh(x)) / Math.Abs(Math.Tanh(x)));
        Assert.True(worst < 3e-7, $"relative error {worst:g3}");
        Assert.Equal(0, Tanh(0));
        Assert.Equal(1, Tanh(float.PositiveInfinity));
        Assert.Equal(-1, Tanh(float.NegativeInfinity));
        Assert.Equal(float.NaN, Tanh(float.NaN));
        Assert.Equal(1e-30f, Tanh(1e-30f));

        static float Tanh(float x) => SimdMath.Tanh<Vector256<float>, Simd256>(Vector256.Create(x))[5];
    }
}
