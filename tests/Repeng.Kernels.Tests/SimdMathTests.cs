using System.Runtime.Intrinsics;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.Tests.Reference;

namespace Repeng.Kernels.Tests;

/// <summary>Accuracy of the vectorised functions against double arithmetic, relative to each value.</summary>
public sealed class SimdMathTests
{
    private delegate Vector256<float> Function(Vector256<float> x);

    [Fact]
    public void LogIsAccurateOverEveryExponent() => Judge(SimdMath.Log, Math.Log, Positive(), 1.5e-7);

    [Fact]
    public void LogIsAccurateAroundOne() => Judge(SimdMath.Log, Math.Log, Line(0.5f, 2f), 1.5e-7);

    [Fact]
    public void Log1pIsAccurate()
    {
        Judge(SimdMath.Log1p, ElementwiseReference.LogOnePlus, Positive(), 2e-7);
        Judge(SimdMath.Log1p, ElementwiseReference.LogOnePlus, Positive().Where(x => x < 0.9999f).Select(x => -x), 2e-7);
        Judge(SimdMath.Log1p, ElementwiseReference.LogOnePlus, Line(-0.9999f, 3f), 2e-7);
    }

    [Fact]
    public void TanhIsAccurate()
    {
        Judge(SimdMath.Tanh, Math.Tanh, Line(-12f, 12f), 2.5e-7);
        Judge(SimdMath.Tanh, Math.Tanh, Positive(), 2.5e-7);
    }

    [Fact]
    public void SigmoidIsAccurate() => Judge(SimdMath.Sigmoid, ElementwiseReference.Sigmoid, Line(-87f, 87f), 3e-7);

    [Fact]
    public void LogSigmoidIsAccurate() =>
        Judge(SimdMath.LogSigmoid, x => ElementwiseReference.Value(UnaryOp.LogSigmoid, x, 0), Line(-90f, 86f), 3e-7);

    [Fact]
    public void SiluIsAccurate() => Judge(SimdMath.Silu, x => ElementwiseReference.Value(UnaryOp.Silu, x, 0), Line(-87f, 87f), 3e-7);

    [Fact]
    public void GeluKeepsItsRelativeAccuracyInTheTail() =>
        Judge(Gelu, x => ElementwiseReference.Value(UnaryOp.Gelu, x, 0), Line(-12.8f, 20f), 5e-7);

    [Fact]
    public void GeluTanhIsAccurate()
    {
        // The argument 2u of the sigmoid is rounded, and the tail e^2u turns that into a relative error of |2u| ulp.
        Judge(SimdMath.GeluTanh, x => ElementwiseReference.Value(UnaryOp.GeluTanh, x, 0), Line(-1f, 30f), 5e-7);
        Judge(SimdMath.GeluTanh, x => ElementwiseReference.Value(UnaryOp.GeluTanh, x, 0), Line(-5f, -1f), 3e-6);
    }

    [Fact]
    public void DerivativesAreAccurateOverTheirScale()
    {
        JudgeScaled(SiluDerivative, x => ElementwiseReference.Derivative(UnaryOp.Silu, x, 0));
        JudgeScaled(GeluDerivative, x => ElementwiseReference.Derivative(UnaryOp.Gelu, x, 0));
        JudgeScaled(GeluTanhDerivative, x => ElementwiseReference.Derivative(UnaryOp.GeluTanh, x, 0));
    }

    [Fact]
    public void LimitsAreExact()
    {
        const float Inf = float.PositiveInfinity;
        Same(SimdMath.Log, (0, -Inf), (-0f, -Inf), (1, 0), (Inf, Inf), (-1, float.NaN), (-Inf, float.NaN), (float.NaN, float.NaN));
        Same(SimdMath.Log1p, (0, 0), (-0f, -0f), (-1, -Inf), (Inf, Inf), (-2, float.NaN), (1e-30f, 1e-30f), (float.Epsilon, float.Epsilon), (float.NaN, float.NaN));
        Same(SimdMath.Tanh, (0, 0), (-0f, -0f), (20, 1), (-20, -1), (Inf, 1), (-Inf, -1), (1e-30f, 1e-30f), (float.Epsilon, float.Epsilon), (float.NaN, float.NaN));
        Same(SimdMath.Sigmoid, (0, 0.5f), (Inf, 1), (-Inf, 0), (200, 1), (-200, 0), (float.NaN, float.NaN));
        Same(SimdMath.LogSigmoid, (Inf, 0), (-Inf, -Inf), (-1e30f, -1e30f), (1e30f, 0), (-200, -200), (float.NaN, float.NaN));
        Same(SimdMath.Silu, (0, 0), (1e30f, 1e30f), (-1e30f, 0), (float.NaN, float.NaN));
        Same(Gelu, (0, 0), (1e30f, 1e30f), (-1e30f, 0), (Inf, Inf), (float.NaN, float.NaN));
        Same(SimdMath.GeluTanh, (0, 0), (1e30f, 1e30f), (-1e30f, 0), (Inf, Inf), (float.NaN, float.NaN));
        Same(SiluDerivative, (0, 0.5f), (1e30f, 1), (-1e30f, 0), (float.NaN, float.NaN));
        Same(GeluDerivative, (0, 0.5f), (1e30f, 1), (-1e30f, 0), (float.NaN, float.NaN));
        Same(GeluTanhDerivative, (0, 0.5f), (1e30f, 1), (-1e30f, 0), (float.NaN, float.NaN));
    }

    [Fact]
    public void EveryHalfIsWidenedExactly()
    {
        for (int bits = 0; bits <= ushort.MaxValue; bits++)
        {
            float half = SimdMath.WidenHalf(Vector128.Create((ushort)bits))[5], expected = (float)BitConverter.UInt16BitsToHalf((ushort)bits);
            Assert.Equal(float.IsNaN(expected) ? "NaN" : Bits(expected), float.IsNaN(half) ? "NaN" : Bits(half));
            Assert.Equal(Bits(BitConverter.Int32BitsToSingle(bits << 16)), Bits(SimdMath.WidenBFloat16(Vector128.Create((ushort)bits))[5]));
        }
    }

    private static Vector256<float> Gelu(Vector256<float> x) => SimdMath.Gelu(x, out _);

    private static Vector256<float> SiluDerivative(Vector256<float> x)
    {
        SimdMath.Silu(x, out Vector256<float> derivative);
        return derivative;
    }

    private static Vector256<float> GeluDerivative(Vector256<float> x)
    {
        SimdMath.Gelu(x, out Vector256<float> derivative);
        return derivative;
    }

    private static Vector256<float> GeluTanhDerivative(Vector256<float> x)
    {
        SimdMath.GeluTanh(x, out Vector256<float> derivative);
        return derivative;
    }

    private static string Bits(float value) => BitConverter.SingleToUInt32Bits(value).ToString("x8");

    private static void Same(Function f, params (float X, float Expected)[] cases)
    {
        foreach ((float x, float expected) in cases)
        {
            float actual = f(Vector256.Create(x))[3];
            // Which sign a vanishing result has is left open, where the argument is not zero itself.
            bool same = x == 0 ? actual.Equals(expected) && float.IsNegative(actual) == float.IsNegative(expected) : actual == expected || (float.IsNaN(actual) && float.IsNaN(expected));
            Assert.True(same, $"{f.Method.Name}({x:g9}) = {actual:g9}, expected {expected:g9}");
        }
    }

    private static void Judge(Function f, Func<double, double> reference, IEnumerable<float> arguments, double tolerance)
    {
        foreach (float x in arguments)
        {
            double expected = reference(x), actual = f(Vector256.Create(x))[2];
            // Results below the normal range are only as close as their spacing.
            Assert.True(Math.Abs(actual - expected) <= (tolerance * Math.Abs(expected)) + float.Epsilon, $"{f.Method.Name}({x:g9}) = {actual:g9}, expected {expected:g9}, relative error {Math.Abs(actual / expected - 1):g3}");
        }
    }

    private static void JudgeScaled(Function f, Func<double, double> reference)
    {
        foreach (float x in Line(-30f, 30f))
        {
            double expected = reference(x), actual = f(Vector256.Create(x))[2];
            Assert.True(Math.Abs(actual - expected) <= 4e-7, $"{f.Method.Name}({x:g9}) = {actual:g9}, expected {expected:g9}");
        }
    }

    private static IEnumerable<float> Line(float from, float to)
    {
        for (int i = 0; i <= 60000; i++)
            yield return from + ((to - from) * i / 60000f);
    }

    private static IEnumerable<float> Positive()
    {
        for (uint bits = 1; bits < 0x7F800000; bits += 40009)
            yield return BitConverter.UInt32BitsToSingle(bits);
    }
}
