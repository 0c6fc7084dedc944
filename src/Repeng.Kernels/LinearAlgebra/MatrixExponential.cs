using System.Runtime.Intrinsics;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// The matrix exponential and its Fréchet derivative in double on one thread, by scaling and squaring of a Taylor
/// polynomial (Higham, Functions of Matrices, chapter 10). The polynomial of degree m = q·t is evaluated as one of
/// degree t in x^q (Paterson and Stockmeyer), which takes q + t − 2 products. The derivative is that of the same
/// algorithm, product by product, so forward and backward agree to rounding.
/// </summary>
internal static unsafe class MatrixExponential
{
    private const int MaxPower = 4;

    /// <summary>Doubles of scratch for <see cref="Exp"/> of an n×n matrix.</summary>
    public static long ExpScratch(int n) => (MaxPower + 1) * Padded(n) + DoubleGemm.ScratchLength;

    /// <summary>Doubles of scratch for <see cref="Frechet"/> of an n×n matrix.</summary>
    public static long FrechetScratch(int n) => (2 * MaxPower + 3) * Padded(n) + DoubleGemm.ScratchLength;

    /// <summary>Doubles between two n×n matrices in scratch, so that each starts on a cache line.</summary>
    public static long Padded(int n) => ((long)n * n + 7) & ~7L;

    /// <summary>r = e^x for x [n, n], which is overwritten. False when x is not finite.</summary>
    public static bool Exp(double* r, double* x, int n, double* scratch)
    {
        if (!Plan(x, n, out int power, out int terms, out int squarings))
            return false;
        long size = Padded(n);
        double* other = scratch;
        double** powers = stackalloc double*[MaxPower + 1];
        powers[1] = x;
        for (int j = 2; j <= power; j++)
            powers[j] = scratch + (j - 1) * size;
        double* gemm = scratch + (MaxPower + 1) * size;

        Scale(x, n, squarings);
        for (int j = 2; j <= power; j++)
            Product(powers[j], powers[j - 1], x, n, false, gemm);

        // The result moves to the other buffer with each product; start where it will end in r.
        double* now = ((terms - 1 + squarings) & 1) == 0 ? r : other, next = now == r ? other : r;
        Polynomial(now, powers, power, (terms - 1) * power, power + 1, true, n);
        for (int t = terms - 2; t >= 0; t--)
        {
            Polynomial(next, powers, power, t * power, power, true, n);
            Product(next, now, powers[power], n, true, gemm);
            Swap(ref now, ref next);
        }
        for (int s = 0; s < squarings; s++)
        {
            Product(next, now, now, n, false, gemm);
            Swap(ref now, ref next);
        }
        return true;
    }

    /// <summary>l = L(x, e), the derivative of e^x in direction e; x and e [n, n] are overwritten. False when x is not finite.</summary>
    public static bool Frechet(double* l, double* x, double* e, int n, double* scratch)
    {
        if (!Plan(x, n, out int power, out int terms, out int squarings))
            return false;
        long size = Padded(n);
        double** powers = stackalloc double*[MaxPower + 1];
        double** tangents = stackalloc double*[MaxPower + 1];
        powers[1] = x;
        tangents[1] = e;
        for (int j = 2; j <= power; j++)
        {
            powers[j] = scratch + (j - 2) * size;
            tangents[j] = scratch + (MaxPower + j - 2) * size;
        }
        double* value = scratch + 2 * MaxPower * size, nextValue = value + size, otherTangent = nextValue + size;
        double* gemm = otherTangent + size;

        Scale(x, n, squarings);
        Scale(e, n, squarings);
        for (int j = 2; j <= power; j++)
        {
            Product(powers[j], powers[j - 1], x, n, false, gemm);
            Product(tangents[j], tangents[j - 1], x, n, false, gemm);
            Product(tangents[j], powers[j - 1], e, n, true, gemm);
        }

        double* tangent = ((terms - 1 + squarings) & 1) == 0 ? l : otherTangent, nextTangent = tangent == l ? otherTangent : l;
        Polynomial(value, powers, power, (terms - 1) * power, power + 1, true, n);
        Polynomial(tangent, tangents, power, (terms - 1) * power, power + 1, false, n);
        for (int t = terms - 2; t >= 0; t--)
        {
            Polynomial(nextTangent, tangents, power, t * power, power, false, n);
            Product(nextTangent, tangent, powers[power], n, true, gemm);
            Product(nextTangent, value, tangents[power], n, true, gemm);
            Polynomial(nextValue, powers, power, t * power, power, true, n);
            Product(nextValue, value, powers[power], n, true, gemm);
            Swap(ref value, ref nextValue);
            Swap(ref tangent, ref nextTangent);
        }
        for (int s = 0; s < squarings; s++)
        {
            Product(nextTangent, tangent, value, n, false, gemm);
            Product(nextTangent, value, tangent, n, true, gemm);
            Swap(ref tangent, ref nextTangent);
            if (s == squarings - 1)
                break;
            Product(nextValue, value, value, n, false, gemm);
            Swap(ref value, ref nextValue);
        }
        return true;
    }

    /// <summary>
    /// Chooses q (power), t (terms) and s (squarings) with the fewest products, such that the first neglected term,
    /// θ^m/(m+1)! relative to x, is below 2⁻⁵³ at the scaled norm θ = ‖x‖₁/2^s.
    /// </summary>
    private static bool Plan(double* x, int n, out int power, out int terms, out int squarings)
    {
        double norm = OneNorm(x, n);
        (power, terms, squarings) = (0, 0, 0);
        if (!double.IsFinite(norm))
            return false;
        int fewest = int.MaxValue;
        for (int candidate = 0; candidate < 5; candidate++)
        {
            (int q, int t) = candidate switch { 0 => (2, 2), 1 => (3, 2), 2 => (3, 3), 3 => (4, 3), _ => (4, 4) };
            int degree = q * t;
            double theta = Math.Pow(Math.ScaleB(1, -53) / InverseFactorial(degree + 1), 1.0 / degree);
            int s = norm <= theta ? 0 : (int)Math.Ceiling(Math.Log2(norm / theta));
            if (q + t - 2 + s < fewest)
            {
                fewest = q + t - 2 + s;
                (power, terms, squarings) = (q, t, s);
            }
        }
        return true;
    }

    private static double OneNorm(double* x, int n)
    {
        double largest = 0;
        for (int j = 0; j < n; j++)
        {
            double sum = 0;
            for (int i = 0; i < n; i++)
                sum += Math.Abs(x[(long)i * n + j]);
            largest = Math.Max(largest, sum);
        }
        return largest;
    }

    private static double InverseFactorial(int k)
    {
        double f = 1;
        for (int i = 2; i <= k; i++)
            f /= i;
        return f;
    }

    private static void Scale(double* x, int n, int squarings)
    {
        double factor = Math.ScaleB(1, -squarings);
        for (long i = 0; i < (long)n * n; i++)
            x[i] *= factor;
    }

    /// <summary>to = Σ_{j = 0 … count − 1} matrix_j/(first + j)!, where matrix_0 is the identity (absent in a tangent).</summary>
    private static void Polynomial(double* to, double** matrices, int power, int first, int count, bool identity, int n)
    {
        double* coefficient = stackalloc double[MaxPower + 1];
        for (int j = 0; j <= power; j++)
            coefficient[j] = j < count ? InverseFactorial(first + j) : 0;
        long length = (long)n * n, i = 0;
        for (; i + 4 <= length; i += 4)
        {
            Vector256<double> sum = Vector256.Create(coefficient[1]) * Vector256.Load(matrices[1] + i);
            for (int j = 2; j < count; j++)
                sum = Vector256.FusedMultiplyAdd(Vector256.Create(coefficient[j]), Vector256.Load(matrices[j] + i), sum);
            sum.Store(to + i);
        }
        for (; i < length; i++)
        {
            double sum = coefficient[1] * matrices[1][i];
            for (int j = 2; j < count; j++)
                sum = Math.FusedMultiplyAdd(coefficient[j], matrices[j][i], sum);
            to[i] = sum;
        }
        for (int d = 0; d < n && identity; d++)
            to[(long)d * n + d] += coefficient[0];
    }

    private static void Swap(ref double* a, ref double* b)
    {
        double* was = a;
        a = b;
        b = was;
    }

    private static void Product(double* c, double* a, double* b, int n, bool accumulate, double* gemm)
        => DoubleGemm.Multiply(c, n, new MatrixOperand(a, n), new MatrixOperand(b, n), n, n, n, 1, accumulate, gemm);
}
