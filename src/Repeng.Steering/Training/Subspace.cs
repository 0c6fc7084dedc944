using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;

namespace Repeng.Steering.Training;

/// <summary>
/// An orthonormal set of directions of the residual stream, some with weights that say how much each matters. What
/// AntiPaSTO calls intersection and difference of subspaces are its operations; neither is one of sets.
/// </summary>
public sealed class Subspace
{
    // Directions whose weight is below this part of the largest are rounding.
    private const double Negligible = 1e-6;

    private Subspace(string name, double[] rows, int rank, int width, double[]? weights) => (Name, Rows, Rank, Width, Weights) = (name, rows, rank, width, weights);

    /// <summary>For messages.</summary>
    public string Name { get; }

    /// <summary>The directions, rows of [rank, width].</summary>
    public IReadOnlyList<double> Directions => Rows;

    /// <summary>Number of directions.</summary>
    public int Rank { get; }

    /// <summary>Width of the residual stream.</summary>
    public int Width { get; }

    /// <summary>Weight of each direction, or null where all count alike.</summary>
    public IReadOnlyList<double>? Weights { get; }

    private double[] Rows { get; }

    /// <summary>
    /// The given directions [rank, width], made orthonormal in their order; those that depend on others before them go.
    /// Weights, if given, are in descending order; those that are rounding go, with their directions.
    /// </summary>
    public static Subspace Of(string name, ReadOnlySpan<double> rows, int width, ReadOnlySpan<double> weights = default)
    {
        int rank = rows.Length / width;
        while (!weights.IsEmpty && rank > 1 && !(weights[rank - 1] > Negligible * weights[0]))
            rank--;
        double[] basis = rows[..(rank * width)].ToArray();
        var kept = new List<double>();
        int count = 0;
        for (int i = 0; i < rank; i++)
        {
            Span<double> row = basis.AsSpan(count * width, width);
            rows.Slice(i * width, width).CopyTo(row);
            double before = Norm(row), after = before;
            // Twice is enough (Kahan, Parlett).
            for (int pass = 0; pass < 2; pass++)
            {
                for (int j = 0; j < count; j++)
                    Add(row, basis.AsSpan(j * width, width), -Dot(row, basis.AsSpan(j * width, width)));
                after = Norm(row);
            }
            if (!(after > 1e-8 * before))
                continue;
            for (int j = 0; j < width; j++)
                row[j] /= after;
            count++;
            if (!weights.IsEmpty)
                kept.Add(weights[i]);
        }
        if (count == 0)
            throw new UserErrorException($"loss subspace {name} is empty: all of its directions are zero or not finite; give other texts, or take another --loss_subspace");
        return new Subspace(name, basis[..(count * width)], count, width, weights.IsEmpty ? null : [.. kept]);
    }

    /// <summary>
    /// Directions between the two sets: cut each pair of principal vectors in half. With weights on both sides the
    /// principal vectors are those of the weighted overlap (a_i/Σa)·(b_j/Σb)·cos(i, j), so that what matters on both
    /// sides comes first, and the result carries those singular values as weights. Without, they are ordered by the
    /// cosine of the angle and only those above 0.5 (60°) stay, at least one.
    /// </summary>
    public static Subspace Intersect(CpuWorkers workers, string name, Subspace a, Subspace b, int most)
    {
        const double LeastCosine = 0.5;
        if (a.Rank < 2 || b.Rank < 2)
            throw new UserErrorException($"loss subspace {name}: {a.Name} has {a.Rank} and {b.Name} has {b.Rank} directions, and each needs two; give more pairs, or take another --loss_subspace");
        bool weighted = a.Weights is not null && b.Weights is not null;
        double sumA = a.Weights?.Sum() ?? 1, sumB = b.Weights?.Sum() ?? 1;
        var overlap = new double[a.Rank * b.Rank];
        for (int i = 0; i < a.Rank; i++)
            for (int j = 0; j < b.Rank; j++)
                overlap[i * b.Rank + j] = Dot(a.Row(i), b.Row(j)) * (weighted ? a.Weights![i] / sumA * (b.Weights![j] / sumB) : 1);
        int k = Math.Min(most, Math.Min(a.Rank, b.Rank));
        TruncatedSvd svd = TopSvd.Compute(workers, overlap, a.Rank, b.Rank, k);
        if (weighted)
            k = Math.Max(1, svd.S.Count(s => s > Negligible * svd.S[0]));
        else
            k = Math.Max(1, svd.S.Count(s => s > LeastCosine));
        var between = new double[k * a.Width];
        for (int q = 0; q < k; q++)
        {
            Span<double> row = between.AsSpan(q * a.Width, a.Width);
            for (int i = 0; i < a.Rank; i++)
                Add(row, a.Row(i), svd.U[i * svd.Rank + q]);
            for (int j = 0; j < b.Rank; j++)
                Add(row, b.Row(j), svd.V[j * svd.Rank + q]);
        }
        return Of(name, between, a.Width, svd.S[..k].Select(s => (double)s).ToArray());
    }

    /// <summary>What is left of a's directions when their parts in b are taken away, made orthonormal again.</summary>
    public static Subspace Outside(string name, Subspace a, Subspace b)
    {
        var left = new List<double>();
        for (int i = 0; i < a.Rank; i++)
        {
            double[] row = b.Without(a.Row(i));
            if (Norm(row) > 1e-6)
                left.AddRange(row);
        }
        if (left.Count == 0)
            throw new UserErrorException($"loss subspace {name}: nothing of {a.Name} lies outside of {b.Name}; take another --loss_subspace");
        return Of(name, left.ToArray(), a.Width);
    }

    /// <summary>x less its part in this subspace.</summary>
    public double[] Without(ReadOnlySpan<double> x)
    {
        double[] rest = x.ToArray();
        for (int i = 0; i < Rank; i++)
            Add(rest, Row(i), -Dot(x, Row(i)));
        return rest;
    }

    /// <summary>The smallest number of leading directions whose weights make up this part of all.</summary>
    public int RankForEnergy(double part)
    {
        if (Weights is null)
            throw new UserErrorException($"loss subspace {Name} has no weights to choose its rank by; give --loss_subspace_rank");
        double all = Weights.Sum() + 1e-8, sum = 0;
        for (int i = 0; i < Rank; i++)
        {
            sum += Weights[i];
            if (sum / all >= part)
                return i + 1;
        }
        return Rank;
    }

    /// <summary>The leading directions as the columns of a basis [width, k], row-major fp32.</summary>
    public float[] Basis(int k)
    {
        var basis = new float[Width * k];
        for (int i = 0; i < k; i++)
            for (int j = 0; j < Width; j++)
                basis[j * k + i] = (float)Rows[i * Width + j];
        return basis;
    }

    /// <summary>One direction [width].</summary>
    public ReadOnlySpan<double> Row(int i) => Rows.AsSpan(i * Width, Width);

    private static double Dot(ReadOnlySpan<double> a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
            sum += a[i] * b[i];
        return sum;
    }

    private static double Norm(ReadOnlySpan<double> a) => Math.Sqrt(Dot(a, a));

    private static void Add(Span<double> to, ReadOnlySpan<double> x, double scale)
    {
        for (int i = 0; i < to.Length; i++)
            to[i] += scale * x[i];
    }
}
