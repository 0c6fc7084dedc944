using Repeng.Kernels;

namespace Repeng.Steering.Evaluation;

/// <summary>Log-odds of the same questions, in nats, at c = −1, 0 and +1; NaN where there is none.</summary>
/// <param name="Negative">At c = −1.</param>
/// <param name="Zero">At c = 0.</param>
/// <param name="Positive">At c = +1.</param>
public sealed record SweepLogOdds(IReadOnlyList<double> Negative, IReadOnlyList<double> Zero, IReadOnlyList<double> Positive)
{
    internal SweepLogOdds Swapped => new(Positive, Zero, Negative);
}

/// <summary>
/// How well steering turns the answers it is meant to turn and leaves others alone (wassname/AntiPaSTO,
/// antipasto/metrics.py). Answers change side where the sign of their log-odds does; each counts with its share of Σ|y₀|.
/// Directions are made canonical first: where the mean log-odds of the target at c = −1 lie above those at +1, the two
/// are exchanged, in both sets. What cannot be computed is NaN: everything but the mass ratio where the choice mass at
/// either side is below <see cref="LeastMass"/>.
/// </summary>
/// <param name="F1">100·<see cref="MassRatio"/>·2PR/(P + R).</param>
/// <param name="Raw">The same without the mass ratio.</param>
/// <param name="Net">Correct − wrong, by weight; may be negative.</param>
/// <param name="Correct">Weight of target answers with y₀ &lt; 0 and y₊ &gt; 0.</param>
/// <param name="Wrong">Weight of target answers with y₀ &gt; 0 and y₊ &lt; 0.</param>
/// <param name="Arbitrary">Weight of answers of the other set whose sign is not that of c = 0 at −1 or at +1.</param>
/// <param name="CorrectRate">As <paramref name="Correct"/>, by count.</param>
/// <param name="WrongRate">As <paramref name="Wrong"/>, by count.</param>
/// <param name="ArbitraryRate">As <paramref name="Arbitrary"/>, by count.</param>
/// <param name="Precision">P = max(0, net)/(max(0, net) + arbitrary).</param>
/// <param name="Recall">R = max(0, net).</param>
/// <param name="MassRatio">(min(mass at −1, mass at +1)/mass of the reference)².</param>
public sealed record SteeringF1(
    double F1, double Raw, double Net, double Correct, double Wrong, double Arbitrary, double CorrectRate, double WrongRate, double ArbitraryRate,
    double Precision, double Recall, double MassRatio)
{
    /// <summary>Least choice mass at c = ±1 of a model that still answers.</summary>
    public const double LeastMass = 0.05;

    /// <summary>Nothing is known.</summary>
    public static SteeringF1 Undefined { get; } = new(double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN);

    // The original adds this to some of its denominators.
    private const double Tiny = 1e-9;

    /// <summary>The metric.</summary>
    /// <param name="target">Questions whose answers are to turn, as log-odds toward the target.</param>
    /// <param name="arbitrary">Questions whose answers are to stay.</param>
    /// <param name="massPositive">Mean probability of all answers at c = +1.</param>
    /// <param name="massNegative">The same at c = −1.</param>
    /// <param name="massReference">The same without steering.</param>
    public static SteeringF1 Of(SweepLogOdds target, SweepLogOdds arbitrary, double massPositive, double massNegative, double massReference)
    {
        foreach ((SweepLogOdds sweep, string name) in new[] { (target, "target"), (arbitrary, "arbitrary") })
            if (sweep.Negative.Count != sweep.Zero.Count || sweep.Positive.Count != sweep.Zero.Count)
                throw new ArgumentException($"the {name} set has {sweep.Negative.Count}, {sweep.Zero.Count} and {sweep.Positive.Count} log-odds at c = -1, 0, +1");
        if (target.Zero.Count == 0 || arbitrary.Zero.Count == 0)
            throw new UserErrorException($"Steering F1 needs questions that are to turn and others that are to stay; there are {target.Zero.Count} and {arbitrary.Zero.Count}");
        double least = Math.Min(massPositive, massNegative), ratio = least / (massReference + Tiny);
        ratio *= ratio;
        if (!(least >= LeastMass))
            return Undefined with { MassRatio = ratio };
        if (KnownMean(target.Positive) < KnownMean(target.Negative))
            (target, arbitrary) = (target.Swapped, arbitrary.Swapped);
        (double correct, double correctRate) = Share(target, static (_, zero, plus) => zero < 0 && plus > 0);
        (double wrong, double wrongRate) = Share(target, static (_, zero, plus) => zero > 0 && plus < 0);
        (double turned, double turnedRate) = Share(arbitrary, static (minus, zero, plus) => Sign(minus) != Sign(zero) || Sign(plus) != Sign(zero));
        double net = correct - wrong, recall = Math.Max(0, net);
        double precision = recall > 0 ? recall / (recall + turned) : 0;
        double raw = recall > 0 ? 200 * precision * recall / (precision + recall) : 0;
        return new SteeringF1(raw * ratio, raw, net, correct, wrong, turned, correctRate, wrongRate, turnedRate, precision, recall, ratio);
    }

    /// <summary>
    /// Part of the target whose answer at c = −1 is another than at +1, over that part of the other set (log-odds of exactly
    /// zero, or not known, are no answer). NaN where nothing turns in the other set.
    /// </summary>
    public static double Focus(SweepLogOdds target, SweepLogOdds arbitrary)
    {
        double others = Turned(arbitrary);
        return others == 0 ? double.NaN : Turned(target) / others;

        static double Turned(SweepLogOdds s) => s.Negative.Zip(s.Positive).Count(y => (y.First < 0 && y.Second > 0) || (y.First > 0 && y.Second < 0)) / (double)s.Negative.Count;
    }

    // Upstream measures y₀ in its own standard deviation before it makes shares of it. In exact numbers that changes
    // nothing; it sets the scale of what is added to the denominator.
    private static (double Weight, double Rate) Share(SweepLogOdds sweep, Func<double, double, double, bool> counts)
    {
        double mean = KnownMean(sweep.Zero), squares = 0, all = 0, weight = 0;
        int known = 0, count = 0;
        for (int i = 0; i < sweep.Zero.Count; i++)
        {
            double y = sweep.Zero[i], size = double.IsNaN(y) ? 0 : Math.Abs(y);
            all += size;
            if (!double.IsNaN(y))
                (squares, known) = (squares + (y - mean) * (y - mean), known + 1);
            if (!counts(sweep.Negative[i], y, sweep.Positive[i]))
                continue;
            weight += size;
            count++;
        }
        double added = Tiny * (Math.Sqrt(squares / Math.Max(1, known)) + Tiny);
        return (weight / (all + added), (double)count / sweep.Zero.Count);
    }

    // A sign that is not known is unlike every other, as NaN is in the original's comparison.
    private static double Sign(double y) => double.IsNaN(y) ? double.NaN : Math.Sign(y);

    private static double KnownMean(IReadOnlyList<double> values)
    {
        double sum = 0;
        int count = 0;
        foreach (double v in values)
            if (!double.IsNaN(v))
                (sum, count) = (sum + v, count + 1);
        return sum / count;
    }
}
