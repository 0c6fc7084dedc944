using Repeng.Kernels;

namespace Repeng.Steering.Evaluation;

/// <summary>How a search for a budget's coefficient ended.</summary>
public enum BudgetOutcome
{
    /// <summary>The curve crosses the budget at the coefficient.</summary>
    Reached,

    /// <summary>Even at the largest coefficient that was tried the curve is below the budget.</summary>
    NeverReached,

    /// <summary>Even at the smallest coefficient that was tried the curve is above the budget.</summary>
    AlwaysExceeded,
}

/// <summary>A measured point of a curve.</summary>
public readonly record struct BudgetPoint(double Coefficient, double Value);

/// <summary>Result of <see cref="BudgetSearch"/>.</summary>
/// <param name="Outcome">How it ended.</param>
/// <param name="Coefficient">Where the curve reaches the budget: its value there is at most the budget (but for the tolerance); NaN unless reached.</param>
/// <param name="Value">The curve there, or at the last point that was tried.</param>
/// <param name="Points">Everything that was measured, by rising coefficient.</param>
public sealed record BudgetResult(BudgetOutcome Outcome, double Coefficient, double Value, IReadOnlyList<BudgetPoint> Points)
{
    // Curves of quantiles wiggle a little by themselves.
    private const double Wiggle = 0.02;

    /// <summary>
    /// First measured fall of the curve by more than 2 % of the budget, at coefficients up to twice the result's; null where it rises
    /// throughout. With a fall the budget may be crossed more than once, and between measured points (they lie
    /// up to a factor of two apart, of four far below the budget) even before.
    /// </summary>
    public (BudgetPoint From, BudgetPoint To)? Fall(double budget)
    {
        double end = double.IsNaN(Coefficient) ? double.PositiveInfinity : 2 * Coefficient;
        for (int i = 1; i < Points.Count && Points[i].Coefficient <= end; i++)
            if (Points[i].Value < Points[i - 1].Value - Wiggle * budget)
                return (Points[i - 1], Points[i]);
        return null;
    }
}

/// <summary>
/// The smallest coefficient at which a curve that starts at about zero and mostly rises reaches a budget: halving or doubling
/// from a start until the budget lies between two coefficients, then between them, in ln c, by turns where the line through both
/// ends in ln c and ln y meets the budget, and in the middle.
/// </summary>
public static class BudgetSearch
{
    /// <summary>Largest factor on the start that is tried, and the inverse of the smallest.</summary>
    public const double Reach = 1 << 16;

    /// <summary>Relative to the budget; a part of a nat in a hundred is far below what another set of texts would change.</summary>
    public const double Tolerance = 0.01;

    // A guess within this factor of the budget is near enough; further ones move by at most the root of the other factor.
    private const double Near = 4, LargestJump = 64;
    private const int Guesses = 6;

    private const double FarBelow = 0.01;

    // Where the curve jumps no coefficient meets the budget; the bracket then ends this narrow.
    private const double Narrow = 1e-4;

    /// <summary>Searches. Infinite values count as above the budget; a NaN is an error.</summary>
    /// <param name="curve">Value at a coefficient above 0.</param>
    /// <param name="budget">What is to be reached: above 0.</param>
    /// <param name="start">First coefficient that is tried: above 0.</param>
    /// <param name="tolerance">Part of the budget that the result may miss it by.</param>
    public static BudgetResult Find(Func<double, double> curve, double budget, double start = 1, double tolerance = Tolerance)
    {
        if (!(budget > 0) || !double.IsFinite(budget))
            throw new UserErrorException($"a budget of {budget} nats cannot be reached; it must be a number above 0");
        if (!(start > 0) || !double.IsFinite(start))
            throw new ArgumentException($"a search cannot start at {start}");
        var points = new SortedDictionary<double, double>();
        double low = start, high = start, lowest = start / Reach, highest = start * Reach;
        if (At(start) > budget)
            do
            {
                (high, low) = (low, low / 2);
                if (low < lowest)
                    return End(BudgetOutcome.AlwaysExceeded, high);
            }
            while (At(low) > budget);
        else
            do
            {
                // Far below the budget a curve that grows like c², as KL does, cannot cross it within a factor of four.
                (low, high) = (high, points[high] < FarBelow * budget ? high * 4 : high * 2);
                if (high > highest)
                    return End(BudgetOutcome.NeverReached, low);
            }
            while (At(high) <= budget);
        for (bool line = true; points[low] < (1 - tolerance) * budget && high / low > 1 + Narrow; line = !line)
        {
            double part = line && points[low] > 0 && double.IsFinite(points[high]) ? Math.Log(budget / points[low]) / Math.Log(points[high] / points[low]) : 0.5;
            double middle = low * Math.Pow(high / low, Math.Clamp(part, 0.05, 0.95)), value = At(middle);
            if (value <= (1 + tolerance) * budget)
                low = middle;
            else
                high = middle;
        }
        return new BudgetResult(BudgetOutcome.Reached, low, points[low], Points());

        double At(double c)
        {
            double value = curve(c);
            points[c] = double.IsNaN(value) ? throw new ArgumentException($"the curve at {c} is not a number") : value;
            return value;
        }

        BudgetPoint[] Points() => [.. points.Select(p => new BudgetPoint(p.Key, p.Value))];

        BudgetResult End(BudgetOutcome outcome, double at) => new(outcome, double.NaN, points[at], Points());
    }

    /// <summary>A start near the budget for a curve that grows about as c² from 0, as KL does: the root of budget over value, until both are within a factor of four.</summary>
    public static double Guess(Func<double, double> curve, double budget, double start = 1)
    {
        double at = start;
        for (int i = 0; i < Guesses; i++)
        {
            double value = curve(at);
            if (value >= budget / Near && value <= budget * Near)
                return at;
            // Neither nothing nor infinity says how far it is.
            at *= Math.Clamp(Math.Sqrt(budget / value), 1 / LargestJump, LargestJump);
        }
        return at;
    }
}
