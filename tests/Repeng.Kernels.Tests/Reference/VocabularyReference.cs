namespace Repeng.Kernels.Tests.Reference;

/// <summary>What the vocabulary ops compute, over whole rows of raw logits at once and in double arithmetic.</summary>
internal static class VocabularyReference
{
    /// <summary>softCap·tanh(x / softCap), or x without a cap.</summary>
    public static double Cap(double x, double softCap) => softCap > 0 ? softCap * Math.Tanh(x / softCap) : x;

    /// <summary>ln Σ eˣ; −∞ where every x is.</summary>
    public static double LogSumExp(ReadOnlySpan<double> x)
    {
        double max = double.NegativeInfinity, sum = 0;
        foreach (double v in x)
            max = Math.Max(max, v);
        if (double.IsNegativeInfinity(max))
            return max;
        foreach (double v in x)
            sum += Math.Exp(v - max);
        return max + Math.Log(sum);
    }

    /// <summary>softmax(cap(x)).</summary>
    public static double[] Probabilities(ReadOnlySpan<double> x, double softCap)
    {
        var p = new double[x.Length];
        for (int i = 0; i < p.Length; i++)
            p[i] = Cap(x[i], softCap);
        double lse = LogSumExp(p);
        for (int i = 0; i < p.Length; i++)
            p[i] = Math.Exp(p[i] - lse);
        return p;
    }

    /// <summary>log softmax(cap(x))[label].</summary>
    public static double LogProb(ReadOnlySpan<double> x, int label, double softCap) => Math.Log(Probabilities(x, softCap)[label]);

    /// <summary>The gradient of <see cref="LogProb"/> by x.</summary>
    public static double[] LogProbGradient(ReadOnlySpan<double> x, int label, double softCap)
    {
        double[] p = Probabilities(x, softCap);
        for (int i = 0; i < p.Length; i++)
            p[i] = ((i == label ? 1 : 0) - p[i]) * CapSlope(x[i], softCap);
        return p;
    }

    /// <summary>−Σ p ln p in nats.</summary>
    public static double Entropy(ReadOnlySpan<double> x)
    {
        double sum = 0;
        foreach (double p in Probabilities(x, 0))
            if (p > 0)
                sum -= p * Math.Log(p);
        return sum;
    }

    /// <summary>½Σ |pRef − p|.</summary>
    public static double TotalVariation(ReadOnlySpan<double> x, ReadOnlySpan<double> xRef, double softCap)
    {
        double[] p = Probabilities(x, softCap), r = Probabilities(xRef, softCap);
        double sum = 0;
        for (int i = 0; i < p.Length; i++)
            sum += Math.Abs(r[i] - p[i]) / 2;
        return sum;
    }

    /// <summary>The gradient of <see cref="TotalVariation"/> by x.</summary>
    public static double[] TotalVariationGradient(ReadOnlySpan<double> x, ReadOnlySpan<double> xRef, double softCap)
    {
        double[] p = Probabilities(x, softCap), r = Probabilities(xRef, softCap);
        double dot = 0;
        for (int i = 0; i < p.Length; i++)
            dot -= Math.Sign(r[i] - p[i]) * p[i] / 2;
        var gradient = new double[p.Length];
        for (int i = 0; i < p.Length; i++)
            gradient[i] = p[i] * ((-Math.Sign(r[i] - p[i]) / 2.0) - dot) * CapSlope(x[i], softCap);
        return gradient;
    }

    private static double CapSlope(double x, double softCap) => softCap > 0 ? 1 / Math.Pow(Math.Cosh(x / softCap), 2) : 1;
}
