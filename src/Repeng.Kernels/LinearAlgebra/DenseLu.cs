using System.Runtime.Intrinsics;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>Gaussian elimination with partial pivoting in double on one thread, in blocks so that most of the work is matrix products.</summary>
internal static unsafe class DenseLu
{
    private const int Block = 32;

    /// <summary>
    /// Solves A·X = B in place: system is row-major [n, n + right], A in the first n columns, B in the others, which
    /// become X. Returns false when a pivot is below n·2⁻⁵²·max|A| or not a number; the contents are then undefined.
    /// scratch holds <see cref="DoubleGemm.ScratchLength"/> doubles.
    /// </summary>
    public static bool Solve(double* system, int n, int right, double* scratch)
    {
        int width = n + right;
        double largest = 0;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                largest = Math.Max(largest, Math.Abs(system[(long)i * width + j])); // Math.Max hands NaN on
        double smallestPivot = n * Math.ScaleB(1, -52) * largest;

        for (int first = 0; first < n; first += Block)
        {
            int last = Math.Min(first + Block, n);
            if (!FactorPanel(system, n, width, first, last, smallestPivot))
                return false;
            for (int i = first + 1; i < last; i++)
                for (int j = first; j < i; j++)
                    SubtractRow(system + (long)i * width, system + (long)j * width, system[(long)i * width + j], last, width);
            if (last < n)
                DoubleGemm.Multiply(system + (long)last * width + last, width,
                    new MatrixOperand(system + (long)last * width + first, width), new MatrixOperand(system + (long)first * width + last, width),
                    n - last, width - last, last - first, -1, true, scratch);
        }

        int lastBlock = (n - 1) / Block * Block;
        for (int first = lastBlock; first >= 0; first -= Block)
        {
            int last = Math.Min(first + Block, n);
            for (int i = last - 1; i >= first; i--)
            {
                double* row = system + (long)i * width;
                for (int j = i + 1; j < last; j++)
                    SubtractRow(row, system + (long)j * width, row[j], n, width);
                double inverse = 1 / row[i];
                for (int j = n; j < width; j++)
                    row[j] *= inverse;
            }
            if (first > 0)
                DoubleGemm.Multiply(system + n, width,
                    new MatrixOperand(system + first, width), new MatrixOperand(system + (long)first * width + n, width),
                    first, right, last - first, -1, true, scratch);
        }
        return true;
    }

    /// <summary>Factors the columns first … last − 1, with row exchanges over the whole width; multipliers stay below the diagonal.</summary>
    private static bool FactorPanel(double* system, int n, int width, int first, int last, double smallestPivot)
    {
        for (int k = first; k < last; k++)
        {
            int pivot = k;
            for (int i = k + 1; i < n; i++)
                if (Math.Abs(system[(long)i * width + k]) > Math.Abs(system[(long)pivot * width + k]))
                    pivot = i;
            double* pivotRow = system + (long)k * width;
            if (pivot != k)
                SwapRows(pivotRow, system + (long)pivot * width, width);
            // Written so that a NaN fails too.
            if (!(Math.Abs(pivotRow[k]) > smallestPivot))
                return false;
            double inverse = 1 / pivotRow[k];
            for (int i = k + 1; i < n; i++)
            {
                double* row = system + (long)i * width;
                row[k] *= inverse;
                SubtractRow(row, pivotRow, row[k], k + 1, last);
            }
        }
        return true;
    }

    /// <summary>row[j] −= factor·other[j] for j = from … to − 1.</summary>
    private static void SubtractRow(double* row, double* other, double factor, int from, int to)
    {
        int j = from;
        Vector256<double> minus = Vector256.Create(-factor);
        for (; j + 8 <= to; j += 8)
        {
            Vector256.FusedMultiplyAdd(minus, Vector256.Load(other + j), Vector256.Load(row + j)).Store(row + j);
            Vector256.FusedMultiplyAdd(minus, Vector256.Load(other + j + 4), Vector256.Load(row + j + 4)).Store(row + j + 4);
        }
        for (; j < to; j++)
            row[j] = Math.FusedMultiplyAdd(-factor, other[j], row[j]);
    }

    private static void SwapRows(double* a, double* b, int width)
    {
        for (int j = 0; j < width; j++)
            (a[j], b[j]) = (b[j], a[j]);
    }
}
