using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;

namespace Repeng.Steering.Vectors;

/// <summary>
/// A matrix [rows, width] in double that is read some rows at a time, as often as a formula needs them, and never has to be
/// in memory as a whole. Transforms are views: they hold no rows. One thread reads at a time.
/// </summary>
public sealed class RowSource
{
    // The depth of a block of the products in double: sums over chunks then have the very bits of one product over all rows. Even, so that no pair is cut.
    private const int Chunk = 256;

    private readonly Action<int, Span<double>> _read;

    /// <summary>A matrix whose rows from a first one on are written to a span of whole rows by a function.</summary>
    public RowSource(int rows, int width, Action<int, Span<double>> read)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        (Rows, Width, _read) = (rows, width, read);
    }

    /// <summary>Number of rows.</summary>
    public int Rows { get; }

    /// <summary>Length of a row.</summary>
    public int Width { get; }

    /// <summary>Whether all rows take no more room than a square matrix of their width: then they, and not their moments, are worked with.</summary>
    internal bool Narrow => Rows < Width;

    /// <summary>Rows [n, width] that are in memory.</summary>
    public static RowSource Of(double[] values, int width) =>
        new(values.Length / width, width, (first, into) => values.AsSpan(first * width, into.Length).CopyTo(into));

    /// <summary>All rows at once.</summary>
    public double[] ToArray()
    {
        var all = new double[checked(Rows * Width)];
        if (Rows > 0)
            _read(0, all);
        return all;
    }

    /// <summary>Shows the rows in order: the number of the first, and some whole rows.</summary>
    internal void ForEachChunk(Action<int, Span<double>> see)
    {
        var buffer = new double[checked(Math.Min(Rows, Chunk) * Width)];
        for (int first = 0; first < Rows; first += Chunk)
        {
            Span<double> rows = buffer.AsSpan(0, Math.Min(Chunk, Rows - first) * Width);
            _read(first, rows);
            see(first, rows);
        }
    }

    /// <summary>Every second row, from the first (0: the positive ones) or the second (1: the negative ones).</summary>
    internal RowSource Side(int side) => Pairs((pair, row) => pair.Slice(side * Width, Width).CopyTo(row));

    /// <summary>Positive less negative row of each pair.</summary>
    internal RowSource PairDifferences() => Pairs((pair, row) =>
    {
        for (int j = 0; j < row.Length; j++)
            row[j] = pair[j] - pair[row.Length + j];
    });

    /// <summary>Every row less the middle of its pair.</summary>
    internal RowSource AboutPairs() => new(Rows, Width, (first, into) =>
    {
        // Chunks begin with a positive row.
        _read(first, into);
        for (int i = 0; i < into.Length; i += 2 * Width)
            for (int j = i; j < i + Width; j++)
                (into[j], into[j + Width]) = ((into[j] - into[j + Width]) / 2, (into[j + Width] - into[j]) / 2);
    });

    /// <summary>(x_i − mean)·scale_i, either left out where null.</summary>
    internal RowSource Shifted(double[]? mean, Func<int, double>? scale) => new(Rows, Width, (first, into) =>
    {
        _read(first, into);
        for (int i = 0; i < into.Length / Width; i++)
        {
            Span<double> row = into.Slice(i * Width, Width);
            double factor = scale?.Invoke(first + i) ?? 1;
            for (int j = 0; j < row.Length; j++)
                row[j] = factor * (mean is null ? row[j] : row[j] - mean[j]);
        }
    });

    /// <summary>Σ weight_i·x_i; all weights 1 where null.</summary>
    internal double[] Sum(Func<int, double>? weight = null)
    {
        var sum = new double[Width];
        ForEachChunk((first, rows) =>
        {
            for (int i = 0; i < rows.Length / Width; i++)
            {
                ReadOnlySpan<double> row = rows.Slice(i * Width, Width);
                double w = weight?.Invoke(first + i) ?? 1;
                for (int j = 0; j < row.Length; j++)
                    sum[j] += w * row[j];
            }
        });
        return sum;
    }

    /// <summary>Mean of the rows.</summary>
    internal double[] Mean() => Array.ConvertAll(Sum(), v => v / Rows);

    /// <summary>Σ x², and a refusal of what is not finite.</summary>
    public double SquareSum()
    {
        double sum = 0;
        ForEachChunk((_, rows) =>
        {
            foreach (double v in rows)
                sum += v * v;
        });
        return double.IsFinite(sum) ? sum : throw new UserErrorException("the rows that a direction is made of are not finite: the model overflows on one of the texts; look for it with forward --hidden-states");
    }

    /// <summary>Dot products of every row with v [width].</summary>
    internal double[] Along(ReadOnlySpan<double> v)
    {
        double[] direction = v.ToArray(), products = new double[Rows];
        ForEachChunk((first, rows) =>
        {
            for (int i = 0; i < rows.Length / Width; i++)
                products[first + i] = LayerRows.Dot(rows.Slice(i * Width, Width), direction);
        });
        return products;
    }

    /// <summary>xᵀx [width, width], summed chunk by chunk.</summary>
    internal double[] Gram(CpuWorkers workers)
    {
        var gram = new double[checked(Width * Width)];
        ForEachChunk((first, rows) => GramMatrix.AddColumns(workers, gram, rows, rows.Length / Width, Width, mirror: first + rows.Length / Width == Rows));
        return gram;
    }

    /// <summary>The k leading eigenvectors of xᵀx, unit rows of [k, width]: of the rows where they are fewer than their width, of xᵀx otherwise.</summary>
    internal double[] LeadingDirections(CpuWorkers workers, int k) => Narrow
        ? PrincipalComponents.Compute(workers, ToArray(), Rows, Width, k, centred: false).Components
        : PrincipalComponents.OfGram(workers, Gram(workers), Width, k);

    private delegate void PairToRow(ReadOnlySpan<double> pair, Span<double> row);

    private RowSource Pairs(PairToRow map)
    {
        double[] both = [];
        return new RowSource(Rows / 2, Width, (first, into) =>
        {
            if (both.Length < 2 * Math.Min(into.Length, Chunk * Width))
                both = new double[checked(2 * Math.Min(into.Length, Chunk * Width))];
            for (int from = 0; from < into.Length; from += Chunk * Width)
            {
                Span<double> part = into[from..Math.Min(into.Length, from + Chunk * Width)], pairs = both.AsSpan(0, 2 * part.Length);
                _read(2 * (first + from / Width), pairs);
                for (int i = 0; i < part.Length; i += Width)
                    map(pairs.Slice(2 * i, 2 * Width), part.Slice(i, Width));
            }
        });
    }
}
