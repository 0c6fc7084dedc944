using System.Runtime.InteropServices;
using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// Eigenvalues and eigenvectors of a real symmetric matrix in double: Householder reduction to tridiagonal form, then
/// implicit QL with Wilkinson's shift (Golub and Van Loan, Matrix Computations, 8.3).
/// </summary>
public static unsafe class SymmetricEigen
{
    private const int MaxSweeps = 60;
    private const int ColumnChunk = 512;

    /// <summary>
    /// All eigenvalues in descending order and, as the rows of vectors [count, n], the eigenvectors of the count largest.
    /// Errors are a few n·2⁻⁵²·‖a‖. Only the lower triangle of a [n, n] is read. n is at least 1.
    /// Eigenvalues below 2⁻⁵²·‖a‖ are rounding. Throws <see cref="ArithmeticException"/> when an element is not finite.
    /// </summary>
    public static void Decompose(CpuWorkers workers, ReadOnlySpan<double> a, int n, Span<double> values, Span<double> vectors, int count)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(n, 1);
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, n);
        if (a.Length < (long)n * n || values.Length < n || vectors.Length < (long)count * n)
            throw new ArgumentException($"SymmetricEigen: a has {a.Length} elements, values {values.Length}, vectors {vectors.Length} for n = {n} and {count} vectors");
        using DoubleBuffer work = new((long)n * n);
        a[..checked(n * n)].CopyTo(new Span<double>(work.At, n * n));
        fixed (double* v = values, z = vectors)
            Decompose(workers, work.At, n, v, z, count);
    }

    /// <summary>As the public one, on pointers; a is overwritten.</summary>
    internal static void Decompose(CpuWorkers workers, double* a, int n, double* values, double* vectors, int count)
    {
        for (int i = 0; i < n; i++)
            for (int j = 0; j <= i; j++)
                if (!double.IsFinite(a[(long)i * n + j]))
                    throw new ArithmeticException($"SymmetricEigen: element ({i}, {j}) of a {n}×{n} matrix is {a[(long)i * n + j]}");
        using DoubleBuffer off = new(n), factors = new(n), rotations = new((long)n * n);
        Tridiagonalise(a, values, off.At, factors.At, n);
        // QL wants the large elements at the end: a graded matrix the other way round converges slowly or not at all.
        bool reverse = Math.Abs(values[0]) > Math.Abs(values[n - 1]);
        if (reverse)
        {
            new Span<double>(values, n).Reverse();
            new Span<double>(off.At, n - 1).Reverse();
        }
        for (int i = 0; i < n; i++)
            rotations.At[(long)i * n + (reverse ? n - 1 - i : i)] = 1;
        ImplicitQl(workers, values, off.At, rotations.At, n);

        int[] order = new int[n];
        double[] found = new ReadOnlySpan<double>(values, n).ToArray();
        for (int i = 0; i < n; i++)
            order[i] = i;
        Array.Sort(order, (x, y) => found[x] != found[y] ? found[y].CompareTo(found[x]) : x.CompareTo(y));
        for (int i = 0; i < n; i++)
            values[i] = found[order[i]];
        for (int i = 0; i < count; i++)
            NativeMemory.Copy(rotations.At + (long)order[i] * n, vectors + (long)i * n, (nuint)n * sizeof(double));
        BackCall call = new() { Reflectors = a, Factors = factors.At, Vectors = vectors, N = n };
        workers.Run(count, &ReflectItem, &call);
    }

    /// <summary>
    /// a = H·t·Hᵀ with t tridiagonal (diagonal, off[i] between i and i + 1). Row i of a then holds the reflector that
    /// cleared it, in its first i elements, with factors[i] = 2/‖v‖² (0 where nothing was to clear).
    /// </summary>
    private static void Tridiagonalise(double* a, double* diagonal, double* off, double* factors, int n)
    {
        using DoubleBuffer image = new(n);
        double* p = image.At;
        for (int i = n - 1; i >= 1; i--)
        {
            double* v = a + (long)i * n;
            diagonal[i] = v[i];
            factors[i] = 0;
            double largest = 0;
            for (int k = 0; k < i; k++)
                largest = Math.Max(largest, Math.Abs(v[k]));
            double rest = 0;
            for (int k = 0; k < i - 1; k++)
                rest = Math.Max(rest, Math.Abs(v[k]));
            if (rest == 0)
            {
                off[i - 1] = v[i - 1];
                continue;
            }
            // Scaling keeps the squares of tiny and huge rows in range.
            VectorMath.Scale(v, 1 / largest, i);
            double norm = VectorMath.Norm(v, i), head = v[i - 1], turned = -Math.CopySign(norm, head);
            off[i - 1] = turned * largest;
            v[i - 1] = head - turned;
            double factor = 1 / (norm * (norm + Math.Abs(head)));
            factors[i] = factor;

            // p = factor·A·v over the lower triangle; then A -= v·wᵀ + w·vᵀ with w = p - (factor/2)(pᵀv)·v.
            new Span<double>(p, i).Clear();
            for (int j = 0; j < i; j++)
            {
                double* row = a + (long)j * n;
                p[j] += VectorMath.Dot(row, v, j + 1);
                VectorMath.Add(p, v[j], row, j);
            }
            VectorMath.Scale(p, factor, i);
            VectorMath.Add(p, -0.5 * factor * VectorMath.Dot(p, v, i), v, i);
            for (int j = 0; j < i; j++)
                VectorMath.AddTwo(a + (long)j * n, -v[j], p, -p[j], v, j + 1);
        }
        diagonal[0] = a[0];
        factors[0] = 0;
    }

    /// <summary>Diagonalises the tridiagonal matrix; row i of z is turned into its eigenvector i.</summary>
    private static void ImplicitQl(CpuWorkers workers, double* d, double* e, double* z, int n)
    {
        using DoubleBuffer turns = new(2L * n);
        e[n - 1] = 0;
        double epsilon = Math.ScaleB(1, -53), norm = 0;
        for (int i = 0; i < n; i++)
            norm = Math.Max(norm, Math.Abs(d[i]) + Math.Abs(e[i]));
        for (int low = 0; low < n; low++)
        {
            for (int sweep = 0; ; sweep++)
            {
                int high = low;
                while (high < n - 1 && Math.Abs(e[high]) > epsilon * norm)
                    high++;
                if (high == low)
                    break;
                if (sweep == MaxSweeps)
                    throw new ArithmeticException($"the QL iteration of a {n}×{n} matrix did not find eigenvalue {low} in {MaxSweeps} sweeps");
                QlSweep(workers, d, e, z, n, low, high, turns.At);
            }
        }
    }

    private static void QlSweep(CpuWorkers workers, double* d, double* e, double* z, int n, int low, int high, double* turns)
    {
        double shift = (d[low + 1] - d[low]) / (2 * e[low]);
        double g = d[high] - d[low] + e[low] / (shift + Math.CopySign(Length(shift, 1), shift));
        double sin = 1, cos = 1, moved = 0;
        int i = high - 1;
        for (; i >= low; i--)
        {
            double f = sin * e[i], b = cos * e[i];
            double r = Length(f, g);
            e[i + 1] = r;
            if (r == 0)
            {
                // The matrix splits here; what was done so far stands.
                d[i + 1] -= moved;
                e[high] = 0;
                break;
            }
            (sin, cos) = (f / r, g / r);
            g = d[i + 1] - moved;
            r = (d[i] - g) * sin + 2 * cos * b;
            moved = sin * r;
            d[i + 1] = g + moved;
            g = cos * r - b;
            turns[2 * i] = cos;
            turns[2 * i + 1] = sin;
        }
        if (i < low)
        {
            d[low] -= moved;
            e[low] = g;
            e[high] = 0;
        }
        TurnCall call = new() { Rows = z, Turns = turns, N = n, First = i + 1, Last = high - 1 };
        workers.Run((n + ColumnChunk - 1) / ColumnChunk, &TurnItem, &call);
    }

    private static double Length(double x, double y)
    {
        double large = Math.Max(Math.Abs(x), Math.Abs(y)), small = Math.Min(Math.Abs(x), Math.Abs(y));
        if (large == 0)
            return 0;
        double ratio = small / large;
        return large * Math.Sqrt(1 + ratio * ratio);
    }

    private static void TurnItem(void* context, int item, int worker)
    {
        TurnCall* call = (TurnCall*)context;
        int column = item * ColumnChunk, count = Math.Min(ColumnChunk, call->N - column);
        for (int i = call->Last; i >= call->First; i--)
            VectorMath.Rotate(call->Rows + (long)i * call->N + column, call->Rows + (long)(i + 1) * call->N + column, call->Turns[2 * i], call->Turns[2 * i + 1], count);
    }

    private static void ReflectItem(void* context, int item, int worker)
    {
        BackCall* call = (BackCall*)context;
        int n = call->N;
        double* vector = call->Vectors + (long)item * n;
        for (int i = 1; i < n; i++)
        {
            if (call->Factors[i] == 0)
                continue;
            double* reflector = call->Reflectors + (long)i * n;
            VectorMath.Add(vector, -call->Factors[i] * VectorMath.Dot(vector, reflector, i), reflector, i);
        }
    }

    private struct TurnCall
    {
        public double* Rows;
        public double* Turns;
        public int N;
        public int First;
        public int Last;
    }

    private struct BackCall
    {
        public double* Reflectors;
        public double* Factors;
        public double* Vectors;
        public int N;
    }
}
