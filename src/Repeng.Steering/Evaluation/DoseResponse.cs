namespace Repeng.Steering.Evaluation;

/// <summary>
/// How evenly something follows the coefficient to both sides of c = 0 (after wassname/AntiPaSTO, antipasto/eval.py):
/// y is centred on its value at c = 0, Δ(c) = y(c) − y(0), and a line through the origin is laid through it. What cannot
/// be computed is NaN.
/// </summary>
/// <param name="Slope">ΣcΔ/Σc², per unit of c.</param>
/// <param name="R2">1 − Σ(Δ − slope·c)²/ΣΔ².</param>
/// <param name="T">Slope over its standard error, with one degree of freedom fewer than there are coefficients other than 0.</param>
/// <param name="Separation">y at the largest c − y at the smallest.</param>
/// <param name="Symmetry">1 − |Δ₊ + Δ₋|/(|Δ₊| + |Δ₋|), averaged over the pairs ±c: 1 where both sides move as far in opposite directions, 0 where one stays or both move the same way.</param>
/// <param name="Monotonic">y rises all the way with c, or falls all the way (equal neighbours are allowed where not all are equal); null with fewer than three known points.</param>
public sealed record DoseResponse(double Slope, double R2, double T, double Separation, double Symmetry, bool? Monotonic)
{
    /// <summary>Of one y a coefficient; NaN is not known. Without a known y at c = 0 all is NaN but separation and monotony.</summary>
    public static DoseResponse Of(IReadOnlyList<double> coefficients, IReadOnlyList<double> values)
    {
        if (coefficients.Count != values.Count || coefficients.Distinct().Count() != coefficients.Count)
            throw new ArgumentException($"{coefficients.Count} coefficients, {coefficients.Distinct().Count()} of them different, with {values.Count} values");
        (double C, double Y)[] known = [.. coefficients.Zip(values).Where(p => !double.IsNaN(p.Second)).OrderBy(p => p.First)];
        if (known.Length == 0)
            return new DoseResponse(double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, null);
        double zero = known.Where(p => p.C == 0).Select(p => p.Y).DefaultIfEmpty(double.NaN).First();
        (double C, double D)[] moved = [.. known.Where(p => p.C != 0).Select(p => (p.C, p.Y - zero))];
        double cc = moved.Sum(p => p.C * p.C), cd = moved.Sum(p => p.C * p.D), dd = moved.Sum(p => p.D * p.D);
        double slope = moved.Length == 0 ? double.NaN : cd / cc, rest = moved.Sum(p => (p.D - slope * p.C) * (p.D - slope * p.C));
        double[] symmetries = [.. moved.Where(p => p.C > 0).SelectMany(p => moved.Where(m => m.C == -p.C).Select(m => 1 - Math.Abs(p.D + m.D) / (Math.Abs(p.D) + Math.Abs(m.D))))];
        return new DoseResponse(slope, dd == 0 ? double.NaN : 1 - rest / dd, moved.Length < 2 ? double.NaN : slope / Math.Sqrt(rest / (moved.Length - 1) / cc),
            known.Length < 2 ? double.NaN : known[^1].Y - known[0].Y, symmetries.Length == 0 ? double.NaN : symmetries.Average(), IsMonotonic([.. known.Select(p => p.Y)]));
    }

    private static bool? IsMonotonic(double[] y)
    {
        if (y.Length < 3)
            return null;
        double[] steps = [.. y.Zip(y.Skip(1), (a, b) => b - a)];
        return steps.Any(s => s != 0) && (steps.All(s => s >= 0) || steps.All(s => s <= 0));
    }
}
