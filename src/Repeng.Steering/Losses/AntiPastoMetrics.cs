namespace Repeng.Steering.Losses;

/// <summary>What the metrics of one batch are computed from, on the host; p pairs, k directions, n labels a row. Index 0 is c = −1, 1 is c = +1.</summary>
public sealed record AntiPastoBatch
{
    /// <summary>Projected differences positive − negative of the base model [p, k].</summary>
    public required float[] Reference { get; init; }

    /// <summary>The same at c = −1 and +1.</summary>
    public required float[][] Projected { get; init; }

    /// <summary>Norms [p] of the unprojected changes of the difference at c = −1 and +1.</summary>
    public required float[][] FullChange { get; init; }

    /// <summary>Softness of the focus in this step.</summary>
    public required float Softness { get; init; }

    /// <summary>Label log-probabilities [2, p, n] of the texts that steering moves along (negative ones at −1, positive ones at +1).</summary>
    public required float[] LogProb { get; init; }

    /// <summary>The base model's log-probabilities of the same labels.</summary>
    public required float[] ReferenceLogProb { get; init; }

    /// <summary>Total variation at the same places; empty without a coherence term.</summary>
    public required float[] TotalVariation { get; init; }

    /// <summary>Entropy of the base model at the same places, in nats.</summary>
    public required float[] Entropy { get; init; }

    /// <summary>Weights of the masked mean at the same places; 0 where a label does not count.</summary>
    public required float[] Weights { get; init; }

    /// <summary>Changes [p] of the gap of label log-probabilities at c = −1 and +1.</summary>
    public required float[][] Gap { get; init; }

    /// <summary>Mean entropy [p] of the positive texts.</summary>
    public required float[] ChosenEntropy { get; init; }

    /// <summary>Mean coherence penalty at c = −1 and +1.</summary>
    public required double[] Coherence { get; init; }

    /// <summary>Whether the order term wants +1 up and −1 down.</summary>
    public required bool Forward { get; init; }

    /// <summary>Mean projection term, weighted order term and total.</summary>
    public required (double Projection, double Monotone, double Total) Losses { get; init; }
}

/// <summary>
/// AntiPaSTO's training metrics under its own names. Everything is a mean over the pairs unless its name says
/// otherwise. One difference: coh_tv_max is the largest total variation over tokens that count; upstream's also looks at padding.
/// </summary>
public static class AntiPastoMetrics
{
    private const double Eps = 1e-3;

    /// <summary>Names, in the order of the history's columns.</summary>
    public static IReadOnlyList<string> Names { get; } =
    [
        "loss_proj", "cos_delta", "mag_ratio", "cos_pos_ref_mean", "cos_neg_ref_mean", "cos_product_mean", "focus_pos_mean", "focus_neg_mean",
        "cos_product_used_mean", "fisher_floor_rate", "fisher_std_floor", "fisher_std_min", "quad_penalty", "mag_diff",
        "loss_coh", "coh_deg", "coh_tv", "coh_tv_max", "coh_tv_thresh_frac", "coh_tv_thresh", "coh_tv_util_mean", "coh_tv_util_max",
        "mono_violation", "loss_monotonic", "mono_frac_violated", "mono_direction", "mono_util_mean", "mono_util_max", "mono_viol_fwd", "mono_viol_bwd",
        "mono_threshold_frac", "mono_threshold_floor", "mono_threshold_mean", "mono_threshold_median", "mono_threshold_min", "mono_threshold_max",
        "mono_H_ref_mean", "mono_H_ref_median", "mono_delta_logp_pos_mean", "mono_delta_logp_neg_mean", "mono_delta_logp_pos_median",
        "mono_delta_logp_neg_median", "mono_asymmetry_mean", "mono_mag_ratio", "loss_total", "delta_logp",
    ];

    /// <summary>Values of every name at c = −1 (0) and c = +1 (1).</summary>
    public static IReadOnlyDictionary<string, double>[] Compute(AntiPastoLossConfig config, AntiPastoBatch b)
    {
        var shared = new Dictionary<string, double>();
        double[] magnitude = Projection(config, b, shared);
        double[] violation = Order(config, b, shared);
        shared["loss_proj"] = b.Losses.Projection;
        shared["loss_monotonic"] = b.Losses.Monotone;
        shared["loss_total"] = b.Losses.Total;
        return [.. Enumerable.Range(0, 2).Select(side =>
        {
            var own = new Dictionary<string, double>(shared)
            {
                ["mag_diff"] = magnitude[side],
                ["mono_violation"] = violation[side],
                ["delta_logp"] = b.Gap[side].Average(),
                ["loss_coh"] = b.Coherence[side],
            };
            Coherence(config, b, side, own);
            return Names.ToDictionary(n => n, n => own[n]);
        })];
    }

    private static double[] Projection(AntiPastoLossConfig config, AntiPastoBatch b, Dictionary<string, double> to)
    {
        int p = b.Gap[0].Length, k = b.Reference.Length / p;
        (double[] deviation, double floor) = AntiPastoLoss.Deviation(config, b.Reference, p, k);
        double cosDelta = 0, magRatio = 0, product = 0, used = 0, quadratic = 0;
        double[] magnitude = new double[2], cosine = new double[2], focus = new double[2];
        for (int i = 0; i < p; i++)
        {
            var v = new double[2][];
            double[] reference = new double[k], cos = new double[2], f = new double[2], size = new double[2];
            for (int j = 0; j < k; j++)
                reference[j] = b.Reference[i * k + j] / Math.Max(deviation[j], floor);
            for (int side = 0; side < 2; side++)
            {
                double square = 0;
                v[side] = new double[k];
                for (int j = 0; j < k; j++)
                {
                    double change = b.Projected[side][i * k + j] - b.Reference[i * k + j];
                    square += change * change;
                    v[side][j] = change / Math.Max(deviation[j], floor);
                }
                size[side] = Norm(v[side]);
                cos[side] = Cosine(v[side], reference);
                f[side] = Math.Pow(Math.Min(1, Math.Sqrt(square) / (b.FullChange[side][i] + 1e-8)), 1 - b.Softness);
                magnitude[side] += size[side] / p;
                cosine[side] += cos[side] / p;
                focus[side] += f[side] / p;
            }
            double scaled = cos[0] * cos[1] * f[0] * f[1], q = 30 * scaled + config.AntisymMargin;
            cosDelta += Cosine(v[0], v[1]) / p;
            magRatio += Math.Min(size[0], size[1]) / (Math.Max(size[0], size[1]) + Eps) / p;
            product += cos[0] * cos[1] / p;
            used += scaled / p;
            quadratic += Math.Pow(Math.Max(0, q), 2) / p;
        }
        (to["cos_delta"], to["mag_ratio"], to["cos_product_mean"], to["cos_product_used_mean"], to["quad_penalty"]) = (cosDelta, magRatio, product, used, quadratic);
        (to["cos_neg_ref_mean"], to["cos_pos_ref_mean"], to["focus_neg_mean"], to["focus_pos_mean"]) = (cosine[0], cosine[1], focus[0], focus[1]);
        to["fisher_floor_rate"] = deviation.Count(s => s < floor) / (double)k;
        (to["fisher_std_floor"], to["fisher_std_min"]) = (floor, deviation.Min());
        return magnitude;
    }

    private static void Coherence(AntiPastoLossConfig config, AntiPastoBatch b, int side, Dictionary<string, double> to)
    {
        int p = b.Gap[0].Length, n = b.Weights.Length / (2 * p), first = side * p * n;
        double better = 0, tv = 0, tvMax = 0, threshold = 0, share = 0, shareMax = 0;
        for (int i = 0; i < p; i++)
        {
            double largest = 0, largestShare = 0;
            for (int at = first + i * n; at < first + (i + 1) * n; at++)
            {
                if (b.Weights[at] == 0)
                    continue;
                double w = b.Weights[at], free = AntiPastoLoss.Threshold(b.Entropy[at], config.CoherenceThreshold, config.EntropyFloor);
                better += w * (b.LogProb[at] - b.ReferenceLogProb[at]);
                threshold += w * free;
                if (b.TotalVariation.Length == 0)
                    continue;
                double moved = b.TotalVariation[at], part = moved / Math.Max(free, 1e-9);
                tv += w * moved;
                share += w * part;
                largest = Math.Max(largest, moved);
                largestShare = Math.Max(largestShare, part);
            }
            tvMax += largest;
            shareMax += largestShare;
        }
        to["coh_deg"] = better / p;
        to["coh_tv_thresh_frac"] = config.CoherenceThreshold;
        to["coh_tv_thresh"] = threshold / p;
        bool measured = b.TotalVariation.Length > 0;
        to["coh_tv"] = measured ? tv / p : double.NaN;
        to["coh_tv_max"] = measured ? tvMax / p : double.NaN;
        to["coh_tv_util_mean"] = measured ? share / p : double.NaN;
        to["coh_tv_util_max"] = measured ? shareMax / p : double.NaN;
    }

    // Returns the mean violation at −1 and at +1 in the direction that counts.
    private static double[] Order(AntiPastoLossConfig config, AntiPastoBatch b, Dictionary<string, double> to)
    {
        int p = b.ChosenEntropy.Length;
        float[] minus = b.Gap[0], plus = b.Gap[1];
        double[] margin = [.. b.ChosenEntropy.Select(h => (double)(config.MonotoneMargin * MathF.Sqrt(h) + config.MonotoneFloor))];
        double Sum(int i, bool forward) => Low(i, forward ? minus : plus) + High(i, forward ? plus : minus);
        double Low(int i, float[] x) => Math.Max(0, x[i] + margin[i]);
        double High(int i, float[] x) => Math.Max(0, margin[i] - x[i]);
        int[] pairs = [.. Enumerable.Range(0, p)];
        double Ratio(int i) => Math.Min(Math.Abs(plus[i]), Math.Abs(minus[i])) / (Math.Max(Math.Abs(plus[i]), Math.Abs(minus[i])) + 1e-6);
        to["mono_frac_violated"] = pairs.Count(i => Sum(i, b.Forward) > 0) / (double)p;
        to["mono_direction"] = b.Forward ? 1 : -1;
        to["mono_util_mean"] = pairs.Average(i => Sum(i, b.Forward) / Math.Max(margin[i], 1e-9));
        to["mono_util_max"] = pairs.Max(i => Sum(i, b.Forward) / Math.Max(margin[i], 1e-9));
        to["mono_viol_fwd"] = pairs.Average(i => Sum(i, true));
        to["mono_viol_bwd"] = pairs.Average(i => Sum(i, false));
        (to["mono_threshold_frac"], to["mono_threshold_floor"]) = (config.MonotoneMargin, config.MonotoneFloor);
        (to["mono_threshold_mean"], to["mono_threshold_median"]) = (margin.Average(), Median(margin));
        (to["mono_threshold_min"], to["mono_threshold_max"]) = (margin.Min(), margin.Max());
        double[] entropy = [.. b.ChosenEntropy.Select(h => (double)h)], up = [.. plus.Select(x => (double)x)], down = [.. minus.Select(x => (double)x)];
        (to["mono_H_ref_mean"], to["mono_H_ref_median"]) = (entropy.Average(), Median(entropy));
        (to["mono_delta_logp_pos_mean"], to["mono_delta_logp_pos_median"]) = (up.Average(), Median(up));
        (to["mono_delta_logp_neg_mean"], to["mono_delta_logp_neg_median"]) = (down.Average(), Median(down));
        (to["mono_asymmetry_mean"], to["mono_mag_ratio"]) = (pairs.Average(i => 1 - Ratio(i)), pairs.Average(Ratio));
        return b.Forward
            ? [pairs.Average(i => Low(i, minus)), pairs.Average(i => High(i, plus))]
            : [pairs.Average(i => High(i, minus)), pairs.Average(i => Low(i, plus))];
    }

    // torch's median: the lower of the two in the middle.
    private static double Median(double[] x) => x.Order().ElementAt((x.Length - 1) / 2);

    private static double Norm(double[] x) => Math.Sqrt(x.Sum(v => v * v));

    private static double Cosine(double[] a, double[] b) => a.Zip(b, (x, y) => x * y).Sum() / (Math.Max(Norm(a), 1e-8) * Math.Max(Norm(b), 1e-8));
}
