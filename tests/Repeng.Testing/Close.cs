using Xunit;

namespace Repeng.Testing;

/// <summary>Comparison by the error over the scale of the reference: max |a − b| / max |b|.</summary>
public static class Close
{
    /// <summary>max |actual − expected| / max |expected|; the absolute error where the reference is all zero. NaN anywhere gives NaN.</summary>
    public static double Error(ReadOnlySpan<float> actual, ReadOnlySpan<double> expected)
    {
        Assert.Equal(expected.Length, actual.Length);
        double scale = 0, worst = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            double difference = Math.Abs(actual[i] - expected[i]);
            if (double.IsNaN(difference) && !actual[i].Equals((float)expected[i]))
                return double.NaN;
            if (actual[i] == expected[i] || double.IsNaN(difference))
                continue;
            worst = Math.Max(worst, difference);
            scale = Math.Max(scale, Math.Abs(expected[i]));
        }
        foreach (double e in expected)
            if (!double.IsInfinity(e))
                scale = Math.Max(scale, Math.Abs(e));
        return scale > 0 ? worst / scale : worst;
    }

    /// <summary>As <see cref="Error(ReadOnlySpan{float}, ReadOnlySpan{double})"/>.</summary>
    public static double Error(ReadOnlySpan<float> actual, ReadOnlySpan<float> expected)
    {
        var wide = new double[expected.Length];
        for (int i = 0; i < wide.Length; i++)
            wide[i] = expected[i];
        return Error(actual, wide);
    }

    /// <summary>Fails with the numbers when the error is above the tolerance or is NaN.</summary>
    public static void To(double tolerance, ReadOnlySpan<float> actual, ReadOnlySpan<double> expected, string what)
    {
        double error = Error(actual, expected);
        Assert.True(error <= tolerance, $"{what}: error {error:g4} over the scale of the reference, allowed {tolerance:g4}");
    }

    /// <inheritdoc cref="To(double, ReadOnlySpan{float}, ReadOnlySpan{double}, string)"/>
    public static void To(double tolerance, ReadOnlySpan<float> actual, ReadOnlySpan<float> expected, string what)
    {
        double error = Error(actual, expected);
        Assert.True(error <= tolerance, $"{what}: error {error:g4} over the scale of the reference, allowed {tolerance:g4}");
    }
}
