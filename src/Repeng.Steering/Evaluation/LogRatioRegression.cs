using Repeng.Kernels;

namespace Repeng.Steering.Evaluation;

/// <summary>
/// How a log-ratio follows the steering coefficient: linear regression on symlog(c) = sign(c)·ln(1 + |c|), over the
/// coefficients whose ratio is known. What cannot be computed is NaN: everything with fewer than three known ratios,
/// r², p and the score where the ratio is constant, the effect size where the ratio at c = 0 is known once.
/// </summary>
/// <param name="Slope">Nats per unit of symlog(c).</param>
/// <param name="Intercept">Nats at c = 0 by the line.</param>
/// <param name="R2">Squared correlation.</param>
/// <param name="PValue">Two-sided, of the slope being zero (Student's t with n − 2 degrees of freedom).</param>
/// <param name="StandardError">Of the slope.</param>
/// <param name="Min">Smallest known ratio.</param>
/// <param name="Max">Largest known ratio.</param>
/// <param name="Count">Known ratios.</param>
/// <param name="ValidFraction">Known ratios of all.</param>
/// <param name="Score">|slope|·valid²·r².</param>
/// <param name="ScoreWithRange">The score times (max − min).</param>
/// <param name="EffectSize">|slope| / √(variance of the ratio at c = 0 + 1e-8); variance 1 where no ratio at 0 is known.</param>
public sealed record LogRatioRegression(
    double Slope, double Intercept, double R2, double PValue, double StandardError, double Min, double Max,
    int Count, double ValidFraction, double Score, double ScoreWithRange, double EffectSize)
{
    // As scipy's linregress: keeps the t statistic finite on an exact line.
    private const double Tiny = 1e-20;

    /// <summary>The statistics; a ratio that is NaN is not known. One ratio a coefficient, coefficients may repeat.</summary>
    public static LogRatioRegression Of(IReadOnlyList<double> coefficients, IReadOnlyList<double> logRatios)
    {
        if (coefficients.Count != logRatios.Count || coefficients.Count == 0)
            throw new ArgumentException($"{coefficients.Count} coefficients with {logRatios.Count} log-ratios");
        int[] known = [.. Enumerable.Range(0, logRatios.Count).Where(i => !double.IsNaN(logRatios[i]))];
        double valid = (double)known.Length / logRatios.Count;
        if (known.Length < 3)
        {
            double least = known.Length == 0 ? double.NaN : known.Min(i => logRatios[i]), most = known.Length == 0 ? double.NaN : known.Max(i => logRatios[i]);
            return new LogRatioRegression(double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, least, most, known.Length, valid, double.NaN, double.NaN, double.NaN);
        }
        double[] x = [.. known.Select(i => Symlog(coefficients[i]))], y = [.. known.Select(i => logRatios[i])];
        if (x.Min() == x.Max())
            throw new UserErrorException($"all {x.Length} coefficients with a known log-ratio are {coefficients[known[0]]}: no slope can be measured; give at least two different coefficients");
        double mx = x.Average(), my = y.Average(), sxx = 0, sxy = 0, syy = 0;
        for (int i = 0; i < x.Length; i++)
            (sxx, sxy, syy) = (sxx + (x[i] - mx) * (x[i] - mx), sxy + (x[i] - mx) * (y[i] - my), syy + (y[i] - my) * (y[i] - my));
        double min = y.Min(), max = y.Max(), slope = sxy / sxx;
        // A constant ratio: the mean may be off by a rounding, so that syy is not exactly zero.
        double r = min == max ? double.NaN : Math.Clamp(sxy / Math.Sqrt(sxx * syy), -1, 1);
        if (min == max)
            (slope, my) = (0, min);
        double r2 = r * r, freedom = x.Length - 2;
        double score = Math.Abs(slope) * valid * valid * r2;
        return new LogRatioRegression(slope, my - slope * mx, r2, PValueOf(r, freedom), Math.Sqrt((1 - r2) * syy / sxx / freedom),
            min, max, x.Length, valid, score, score * (max - min), Math.Abs(slope) / Math.Sqrt(VarianceAtZero(coefficients, logRatios, known) + 1e-8));
    }

    /// <summary>sign(c)·ln(1 + |c|).</summary>
    public static double Symlog(double c) => Math.Sign(c) * Math.Log(1 + Math.Abs(c));

    private static double VarianceAtZero(IReadOnlyList<double> coefficients, IReadOnlyList<double> logRatios, int[] known)
    {
        double[] atZero = [.. known.Where(i => coefficients[i] == 0).Select(i => logRatios[i])];
        if (atZero.Length < 2)
            return atZero.Length == 0 ? 1 : double.NaN;
        double mean = atZero.Average();
        return atZero.Sum(v => (v - mean) * (v - mean)) / (atZero.Length - 1);
    }

    // P(|T| > t) = I_z(ν/2, 1/2) with z = ν/(ν + t²); from t² = ν·r²/((1 − r)(1 + r)) it follows that z = q/(q + r²), q = (1 − r)(1 + r).
    private static double PValueOf(double r, double freedom)
    {
        if (double.IsNaN(r))
            return double.NaN;
        double q = (1 - r + Tiny) * (1 + r + Tiny), sum = q + r * r;
        return IncompleteBeta(freedom / 2, q / sum, r * r / sum);
    }

    /// <summary>Regularised incomplete beta I_z(a, 1/2) for a = 1/2, 1, 3/2, …; rest = 1 − z, given apart so that it keeps its digits.</summary>
    private static double IncompleteBeta(double a, double z, double rest)
    {
        const double b = 0.5;
        // B(1/2, 1/2) = π, B(1, 1/2) = 2, B(a + 1, b) = B(a, b)·a/(a + b).
        double at = a % 1 == 0 ? 1 : 0.5, beta = at == 1 ? 2 : Math.PI;
        for (; at < a; at++)
            beta *= at / (at + b);
        if (z <= 0 || rest <= 0)
            return z <= 0 ? 0 : 1;
        double front = Math.Pow(z, a) * Math.Pow(rest, b) / beta;
        return z < (a + 1) / (a + b + 2) ? front * Fraction(a, b, z) / a : 1 - front * Fraction(b, a, rest) / b;
    }

    // Continued fraction of the incomplete beta (Abramowitz and Stegun 26.5.8), by Lentz's method.
    private static double Fraction(double a, double b, double x)
    {
        const double floor = 1e-300;
        double c = 1, d = 1 / Away(1 - (a + b) * x / (a + 1)), h = d;
        for (int m = 1; m <= 1000; m++)
        {
            double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
            d = 1 / Away(1 + even * d);
            c = Away(1 + even / c);
            h *= d * c;
            double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
            d = 1 / Away(1 + odd * d);
            c = Away(1 + odd / c);
            h *= d * c;
            if (Math.Abs(d * c - 1) < 1e-16)
                break;
        }
        return h;

        static double Away(double v) => Math.Abs(v) < floor ? floor : v;
    }
}
