using System.Runtime.CompilerServices;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// One-sided Jacobi (Hestenes): rotates pairs of rows until all are orthogonal; their lengths are the singular values.
/// Small singular values come out with as many correct digits as the matrix holds.
/// </summary>
internal static unsafe class JacobiSvd
{
    private const int MaxSweeps = 60;

    /// <summary>
    /// For a [n, length], n ≤ length: afterwards rows = combine·(rows before), the rows are orthogonal in descending
    /// order of length, values[i] is the length of row i, and combine [n, n] is orthogonal.
    /// </summary>
    public static void Orthogonalise(double* rows, double* combine, double* values, int n, int length)
    {
        new Span<double>(combine, checked(n * n)).Clear();
        for (int i = 0; i < n; i++)
            combine[(long)i * n + i] = 1;
        double threshold = Math.ScaleB(1, -52) * Math.Sqrt(length);
        bool rotated = true;
        for (int sweep = 0; rotated; sweep++)
        {
            if (sweep == MaxSweeps)
                throw new ArithmeticException($"the Jacobi iteration of a {n}×{length} matrix did not converge in {MaxSweeps} sweeps; is it finite?");
            rotated = false;
            for (int i = 0; i < n; i++)
                values[i] = VectorMath.Dot(rows + (long)i * length, rows + (long)i * length, length);
            for (int i = 0; i < n; i++)
                for (int j = i + 1; j < n; j++)
                    rotated |= RotatePair(rows, combine, values, i, j, n, length, threshold);
        }
        for (int i = 0; i < n; i++)
            values[i] = VectorMath.Norm(rows + (long)i * length, length);
        Sort(rows, combine, values, n, length);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static bool RotatePair(double* rows, double* combine, double* squares, int i, int j, int n, int length, double threshold)
    {
        double* x = rows + (long)i * length, y = rows + (long)j * length;
        double a = squares[i], b = squares[j], product = VectorMath.Dot(x, y, length);
        if (Math.Abs(product) <= threshold * Math.Sqrt(a) * Math.Sqrt(b) || product == 0)
            return false;
        // tan of the angle that makes the pair orthogonal, the smaller root for stability.
        double zeta = (b - a) / (2 * product);
        double tan = Math.CopySign(1, zeta) / (Math.Abs(zeta) + Math.Sqrt(1 + zeta * zeta));
        if (double.IsInfinity(zeta * zeta))
            tan = 0.5 / zeta;
        double cos = 1 / Math.Sqrt(1 + tan * tan), sin = cos * tan;
        VectorMath.Rotate(x, y, cos, sin, length);
        VectorMath.Rotate(combine + (long)i * n, combine + (long)j * n, cos, sin, n);
        // Updated squares would lose all digits of a row that shrinks to nothing; the sums are cheap beside the rotations.
        squares[i] = VectorMath.Dot(x, x, length);
        squares[j] = VectorMath.Dot(y, y, length);
        return true;
    }

    private static void Sort(double* rows, double* combine, double* values, int n, int length)
    {
        for (int i = 0; i < n; i++)
        {
            int largest = i;
            for (int j = i + 1; j < n; j++)
                if (values[j] > values[largest])
                    largest = j;
            if (largest == i)
                continue;
            (values[i], values[largest]) = (values[largest], values[i]);
            Swap(rows + (long)i * length, rows + (long)largest * length, length);
            Swap(combine + (long)i * n, combine + (long)largest * n, n);
        }
    }

    private static void Swap(double* a, double* b, int n)
    {
        for (int i = 0; i < n; i++)
            (a[i], b[i]) = (b[i], a[i]);
    }
}
