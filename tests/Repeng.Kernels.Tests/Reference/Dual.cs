namespace Repeng.Kernels.Tests.Reference;

/// <summary>
/// A double and its derivative along one direction. A reference written over duals gives the op's value and its exact
/// directional derivative, which the adjoint identity ⟨g, J·u⟩ = ⟨Jᵀ·g, u⟩ compares with the backward formula.
/// </summary>
public readonly record struct Dual(double Value, double Slope)
{
    public static implicit operator Dual(double value) => new(value, 0);
    public static Dual operator +(Dual a, Dual b) => new(a.Value + b.Value, a.Slope + b.Slope);
    public static Dual operator -(Dual a, Dual b) => new(a.Value - b.Value, a.Slope - b.Slope);
    public static Dual operator *(Dual a, Dual b) => new(a.Value * b.Value, a.Slope * b.Value + a.Value * b.Slope);
    public static Dual operator /(Dual a, Dual b) => new(a.Value / b.Value, (a.Slope * b.Value - a.Value * b.Slope) / (b.Value * b.Value));
    public static Dual Exp(Dual a) => new(Math.Exp(a.Value), Math.Exp(a.Value) * a.Slope);
    public static Dual Log(Dual a) => new(Math.Log(a.Value), a.Slope / a.Value);
    public static Dual Sqrt(Dual a) => new(Math.Sqrt(a.Value), a.Slope / (2 * Math.Sqrt(a.Value)));
    public static Dual Tanh(Dual a) => new(Math.Tanh(a.Value), (1 - Math.Tanh(a.Value) * Math.Tanh(a.Value)) * a.Slope);

    /// <summary>values[i] + slopes[i]·ε; no slopes means constants.</summary>
    public static Dual[] Of(double[] values, double[]? slopes = null)
    {
        var duals = new Dual[values.Length];
        for (int i = 0; i < duals.Length; i++)
            duals[i] = new Dual(values[i], slopes is null ? 0 : slopes[i]);
        return duals;
    }

    public static double[] Values(Dual[] duals) => Array.ConvertAll(duals, d => d.Value);

    public static double[] Slopes(Dual[] duals) => Array.ConvertAll(duals, d => d.Slope);
}

/// <summary>Judges a reference's backward formula by its forward one, in double.</summary>
public static class GradientJudge
{
    /// <summary>
    /// forward maps all inputs to the output; gradients are what the backward formula gives for <paramref name="outputGradient"/>.
    /// Adjoint identity to 1e-10 and central differences to 1e-6, each for every input alone and along one random direction.
    /// </summary>
    public static void Check(Func<Dual[][], Dual[]> forward, double[][] inputs, double[] outputGradient, double[][] gradients, int seed)
    {
        var random = new Random(seed);
        for (int which = 0; which < inputs.Length; which++)
        {
            double[] direction = Noise.Doubles(random, inputs[which].Length);
            double analytic = Inner(gradients[which], direction);

            var duals = new Dual[inputs.Length][];
            for (int i = 0; i < inputs.Length; i++)
                duals[i] = Dual.Of(inputs[i], i == which ? direction : null);
            double tangent = Inner(outputGradient, Dual.Slopes(forward(duals)));
            double scale = Math.Max(Math.Sqrt(Inner(gradients[which], gradients[which])), 1e-3);
            Assert.True(Math.Abs(tangent - analytic) <= 1e-10 * scale * direction.Length, $"input {which}: adjoint identity, {tangent:r} against {analytic:r}");

            const double Step = 1e-5;
            double difference = (Loss(Step) - Loss(-Step)) / (2 * Step);
            Assert.True(Math.Abs(difference - analytic) <= 1e-6 * Math.Max(scale, Math.Abs(analytic)), $"input {which}: central difference {difference:r} against {analytic:r}");

            double Loss(double step)
            {
                for (int i = 0; i < direction.Length; i++)
                    duals[which][i] = inputs[which][i] + step * direction[i];
                return Inner(outputGradient, Dual.Values(forward(duals)));
            }
        }
    }

    public static double Inner(double[] a, double[] b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
            sum += a[i] * b[i];
        return sum;
    }
}

/// <summary>Seeded test data, rounded to fp32 so that kernels and references see the same numbers.</summary>
public static class Noise
{
    /// <summary>Normal values of the given spread.</summary>
    public static double[] Doubles(Random random, long count, double spread = 1)
    {
        var values = new double[count];
        for (long i = 0; i < count; i++)
        {
            double radius = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble()));
            values[i] = (float)(spread * radius * Math.Cos(2 * Math.PI * random.NextDouble()));
        }
        return values;
    }
}
