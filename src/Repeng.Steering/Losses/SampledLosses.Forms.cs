namespace Repeng.Steering.Losses;

public static partial class SampledLosses
{
    // Below this length a vector is divided by it instead, as torch's cosine_similarity does.
    private const double LeastNorm = 1e-8;

    /// <summary>Inputs of a loss and what its terms have added so far.</summary>
    private sealed class Batch(int rows, int d, double[] hidden, double[] logp, double[]? reference)
    {
        public int Pairs { get; } = rows / 2;

        public double[] Logp { get; } = logp;

        public double[]? Reference { get; } = reference;

        public double[] HiddenGradient { get; } = new double[rows * d];

        public double[] LogpGradient { get; } = new double[rows];

        public double[]? ReferenceGradient { get; } = reference is null ? null : new double[rows];

        public Dictionary<string, double> Parts { get; } = new(StringComparer.Ordinal);

        public ReadOnlySpan<double> Row(int row) => hidden.AsSpan(row * d, d);

        public Span<double> Gradient(int row) => HiddenGradient.AsSpan(row * d, d);

        /// <summary>δ of a pair and its length.</summary>
        public double Difference(int pair, Span<double> delta)
        {
            ReadOnlySpan<double> positive = Row(2 * pair), negative = Row(2 * pair + 1);
            for (int i = 0; i < delta.Length; i++)
                delta[i] = positive[i] - negative[i];
            return Norm(delta);
        }

        /// <summary>Adds slope·d‖δ‖/dh to both rows of a pair.</summary>
        public void AddAlongDifference(int pair, ReadOnlySpan<double> delta, double norm, double slope)
        {
            if (norm == 0)
                return;
            Span<double> positive = Gradient(2 * pair), negative = Gradient(2 * pair + 1);
            for (int i = 0; i < delta.Length; i++)
            {
                double g = slope * delta[i] / norm;
                positive[i] += g;
                negative[i] -= g;
            }
        }

        public double[] NewRow() => new double[d];
    }

    private static void Magnitude(Batch b)
    {
        double sum = 0;
        double[] delta = b.NewRow();
        for (int pair = 0; pair < b.Pairs; pair++)
        {
            double norm = b.Difference(pair, delta);
            sum += norm;
            b.AddAlongDifference(pair, delta, norm, -1.0 / b.Pairs);
        }
        b.Parts["separation"] = -sum / b.Pairs;
    }

    private static void NllMargin(Batch b, SampledLossSettings s)
    {
        double sum = 0;
        for (int pair = 0; pair < b.Pairs; pair++)
        {
            int row = 2 * pair + (s.MarginOnNegative ? 1 : 0);
            double over = Math.Max(0, s.MarginFraction * b.Logp[row] - b.Logp[row]);
            sum += s.MarginWeight * over * over;
            // The bound is held constant, so only the second logp has a gradient.
            b.LogpGradient[row] -= 2 * s.MarginWeight * over / b.Pairs;
        }
        b.Parts["coherence"] = sum / b.Pairs;
    }

    private static void Hinge(Batch b, SampledLossSettings s)
    {
        double sum = 0;
        double[] delta = b.NewRow();
        for (int pair = 0; pair < b.Pairs; pair++)
        {
            double norm = b.Difference(pair, delta), below = s.HingeMargin - norm;
            if (below <= 0)
                continue;
            sum += below;
            b.AddAlongDifference(pair, delta, norm, -1.0 / b.Pairs);
        }
        b.Parts["separation"] = sum / b.Pairs;
    }

    private static void Cosine(Batch b)
    {
        double sum = 0;
        for (int pair = 0; pair < b.Pairs; pair++)
        {
            ReadOnlySpan<double> p = b.Row(2 * pair), n = b.Row(2 * pair + 1);
            double lengthP = Norm(p), lengthN = Norm(n), boundedP = Math.Max(lengthP, LeastNorm), boundedN = Math.Max(lengthN, LeastNorm), cos = 0;
            for (int i = 0; i < p.Length; i++)
                cos += p[i] / boundedP * (n[i] / boundedN);
            sum += cos;
            // d cos/dh₊ = (n̂ − cos·p̂)/‖h₊‖; the second part is that of the length and falls away where the bound stands in for it.
            double shrinkP = lengthP > LeastNorm ? cos : 0, shrinkN = lengthN > LeastNorm ? cos : 0;
            Span<double> gp = b.Gradient(2 * pair), gn = b.Gradient(2 * pair + 1);
            for (int i = 0; i < p.Length; i++)
            {
                double up = p[i] / boundedP, un = n[i] / boundedN;
                gp[i] += (un - shrinkP * up) / boundedP / b.Pairs;
                gn[i] += (up - shrinkN * un) / boundedN / b.Pairs;
            }
        }
        b.Parts["separation"] = sum / b.Pairs;
    }

    private static void SimPo(Batch b, SampledLossSettings s) => Preference(b, s.SimPoBeta, s.SimPoGammaOverBeta, s.LabelSmoothing);

    private static void Dpo(Batch b, SampledLossSettings s) => Preference(b, s.DpoBeta, 0, s.LabelSmoothing);

    private static void Preference(Batch b, double beta, double lead, double smoothing)
    {
        double sum = 0;
        for (int pair = 0; pair < b.Pairs; pair++)
        {
            int p = 2 * pair, n = p + 1;
            double margin = b.Logp[p] - b.Logp[n] - lead;
            if (b.Reference is { } r)
                margin -= r[p] - r[n];
            double x = beta * margin;
            sum += (1 - smoothing) * NegativeLogSigmoid(x) + smoothing * NegativeLogSigmoid(-x);
            double g = beta * (smoothing * Sigmoid(x) - (1 - smoothing) * Sigmoid(-x)) / b.Pairs;
            b.LogpGradient[p] += g;
            b.LogpGradient[n] -= g;
            if (b.ReferenceGradient is { } rg)
            {
                rg[p] -= g;
                rg[n] += g;
            }
        }
        b.Parts["separation"] = sum / b.Pairs;
    }

    private static void Kpo(Batch b, SampledLossSettings s)
    {
        double sum = 0;
        double[] delta = b.NewRow();
        for (int pair = 0; pair < b.Pairs; pair++)
        {
            // Both rows lie ‖δ‖/2 from their midpoint: ‖h₊ − m‖ − 2‖h₋ − m‖ = −‖δ‖/2.
            double norm = b.Difference(pair, delta), x = -s.KpoBeta * norm / 2;
            sum += NegativeLogSigmoid(x);
            b.AddAlongDifference(pair, delta, norm, Sigmoid(-x) * s.KpoBeta / 2 / b.Pairs);
        }
        b.Parts["separation"] = sum / b.Pairs;
    }

    // Scaled by the largest element, so that no square overflows or vanishes.
    private static double Norm(ReadOnlySpan<double> v)
    {
        double largest = 0, sum = 0;
        foreach (double x in v)
            largest = Math.Max(largest, Math.Abs(x));
        if (largest == 0)
            return 0;
        foreach (double x in v)
            sum += x / largest * (x / largest);
        return largest * Math.Sqrt(sum);
    }

    private static double Sigmoid(double x)
    {
        double e = Math.Exp(-Math.Abs(x));
        return (x >= 0 ? 1 : e) / (1 + e);
    }

    // −ln σ(x) = relu(−x) + ln(1 + e^−|x|).
    private static double NegativeLogSigmoid(double x) => Math.Max(0, -x) + Log1p(Math.Exp(-Math.Abs(x)));

    // The rounding of 1 + x is made good by the ratio (Kahan); .NET's own LogP1 takes log(1 + x) as it is.
    private static double Log1p(double x)
    {
        double u = 1 + x;
        return u == 1 ? x : Math.Log(u) * (x / (u - 1));
    }
}
