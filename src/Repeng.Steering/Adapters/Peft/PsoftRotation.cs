namespace Repeng.Steering.Adapters.Peft;

/// <summary>The rotation R of PSOFT from what its file stores.</summary>
internal static class PsoftRotation
{
    public const string WeightKey = "psoft_R.weight";
    public const string VectorA = "psoft_R.vector_a";
    public const string VectorB = "psoft_R.vector_b";

    /// <summary>diag(b)·R·diag(a), R [r, r] from the r(r − 1)/2 values above the diagonal of Q.</summary>
    public static double[] Compute(PeftConfig config, double[] upper, double[]? a, double[]? b)
    {
        int r = config.Rank;
        var q = new double[r * r];
        for (int i = 0, at = 0; i < r; i++)
            for (int j = i + 1; j < r; j++, at++)
                (q[i * r + j], q[j * r + i]) = (upper[at], -upper[at]);
        double[] rotation = config.Flag("use_cayley_neumann") ? Neumann(config, q, r) : Cayley(q, r);
        for (int i = 0; i < r; i++)
            for (int j = 0; j < r; j++)
                rotation[i * r + j] *= (b?[i] ?? 1) * (a?[j] ?? 1);
        return rotation;
    }

    // (I + Q)(I − Q)⁻¹; the factors commute, so that one system gives it.
    private static double[] Cayley(double[] q, int r)
    {
        double[] left = Identity(r), right = Identity(r);
        for (int i = 0; i < q.Length; i++)
        {
            left[i] -= q[i];
            right[i] += q[i];
        }
        // I − Q has a positive definite symmetric part for skew Q, so that elimination cannot break down.
        for (int p = 0; p < r; p++)
        {
            int best = Enumerable.Range(p, r - p).MaxBy(i => Math.Abs(left[i * r + p]));
            for (int j = 0; j < r; j++)
            {
                (left[p * r + j], left[best * r + j]) = (left[best * r + j], left[p * r + j]);
                (right[p * r + j], right[best * r + j]) = (right[best * r + j], right[p * r + j]);
            }
            for (int i = 0; i < r; i++)
            {
                if (i == p)
                    continue;
                double f = left[i * r + p] / left[p * r + p];
                for (int j = 0; j < r; j++)
                {
                    left[i * r + j] -= f * left[p * r + j];
                    right[i * r + j] -= f * right[p * r + j];
                }
            }
        }
        for (int i = 0; i < r; i++)
            for (int j = 0; j < r; j++)
                right[i * r + j] /= left[i * r + i];
        return right;
    }

    // I + 2Q + 2Q² + … + 2Q^(t−2) + Q^(t−1) as PEFT sums it, which for t = 3 already goes to Q³.
    private static double[] Neumann(PeftConfig config, double[] q, int r)
    {
        int terms = (int)config.Number("num_cayley_neumann_terms", 5);
        if (terms < 1)
            throw config.Error("num_cayley_neumann_terms", $"{terms} must be at least 1");
        double norm = Math.Sqrt(q.Sum(x => x * x));
        if (config.Json["cayley_neumann_eps"] is not null && config.Number("cayley_neumann_eps", 0) is var limit && norm > limit)
            q = [.. q.Select(x => x * limit / norm)];
        double[] sum = Identity(r), power = q;
        if (terms > 1)
            Add(q, 2);
        if (terms > 2)
        {
            power = Multiply(q, q, r);
            Add(power, 2);
            for (int k = 3; k < terms - 1; k++)
            {
                power = Multiply(power, q, r);
                Add(power, 2);
            }
            Add(Multiply(power, q, r), 1);
        }
        return sum;

        void Add(double[] x, double f)
        {
            for (int i = 0; i < sum.Length; i++)
                sum[i] += f * x[i];
        }
    }

    private static double[] Identity(int r)
    {
        var one = new double[r * r];
        for (int i = 0; i < r; i++)
            one[i * r + i] = 1;
        return one;
    }

    private static double[] Multiply(double[] x, double[] y, int r)
    {
        var z = new double[r * r];
        for (int i = 0; i < r; i++)
            for (int k = 0; k < r; k++)
                for (int j = 0; j < r; j++)
                    z[i * r + j] += x[i * r + k] * y[k * r + j];
        return z;
    }
}
