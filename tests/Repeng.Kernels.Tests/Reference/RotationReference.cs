namespace Repeng.Kernels.Tests.Reference;

/// <summary>Plain double arithmetic for rotations: Gauss-Jordan inverse, Taylor series of a far-scaled matrix, block-matrix derivative.</summary>
internal static class RotationReference
{
    /// <summary>(I − x)⁻¹(I + x).</summary>
    public static double[] Cayley(ReadOnlySpan<double> x, int n)
    {
        double[] minus = new double[n * n], plus = new double[n * n];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
            {
                minus[i * n + j] = (i == j ? 1 : 0) - x[i * n + j];
                plus[i * n + j] = (i == j ? 1 : 0) + x[i * n + j];
            }
        return Multiply(Inverse(minus, n), plus, n);
    }

    /// <summary>Derivative of the Cayley transform in direction e: B·e·B·(I + x) + B·e with B = (I − x)⁻¹.</summary>
    public static double[] CayleyDerivative(ReadOnlySpan<double> x, double[] e, int n)
    {
        double[] minus = new double[n * n], plus = new double[n * n];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
            {
                minus[i * n + j] = (i == j ? 1 : 0) - x[i * n + j];
                plus[i * n + j] = (i == j ? 1 : 0) + x[i * n + j];
            }
        double[] inverse = Inverse(minus, n);
        double[] first = Multiply(inverse, e, n);
        double[] sum = Multiply(Multiply(first, inverse, n), plus, n);
        for (int i = 0; i < sum.Length; i++)
            sum[i] += first[i];
        return sum;
    }

    /// <summary>e^x: 30 Taylor terms of x/2^s with norm below 1/4, squared s times.</summary>
    public static double[] Exp(ReadOnlySpan<double> x, int n)
    {
        double norm = 0;
        for (int j = 0; j < n; j++)
        {
            double column = 0;
            for (int i = 0; i < n; i++)
                column += Math.Abs(x[i * n + j]);
            norm = Math.Max(norm, column);
        }
        int s = norm > 0.25 ? (int)Math.Ceiling(Math.Log2(norm / 0.25)) : 0;
        double[] scaled = x.ToArray(), sum = new double[n * n], term = new double[n * n];
        for (int i = 0; i < scaled.Length; i++)
            scaled[i] = Math.ScaleB(scaled[i], -s);
        for (int i = 0; i < n; i++)
            sum[i * n + i] = term[i * n + i] = 1;
        for (int k = 1; k <= 30; k++)
        {
            term = Multiply(term, scaled, n);
            for (int i = 0; i < term.Length; i++)
            {
                term[i] /= k;
                sum[i] += term[i];
            }
        }
        for (; s > 0; s--)
            sum = Multiply(sum, sum, n);
        return sum;
    }

    /// <summary>L(x, e): the upper right block of exp([[x, e], [0, x]]).</summary>
    public static double[] ExpDerivative(ReadOnlySpan<double> x, double[] e, int n)
    {
        int wide = 2 * n;
        double[] block = new double[wide * wide];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
            {
                block[i * wide + j] = block[(n + i) * wide + n + j] = x[i * n + j];
                block[i * wide + n + j] = e[i * n + j];
            }
        double[] exp = Exp(block, wide), l = new double[n * n];
        for (int i = 0; i < n; i++)
            Array.Copy(exp, i * wide + n, l, i * n, n);
        return l;
    }

    /// <summary>a·b for n×n.</summary>
    public static double[] Multiply(double[] a, double[] b, int n)
    {
        double[] c = new double[n * n];
        for (int i = 0; i < n; i++)
            for (int k = 0; k < n; k++)
            {
                double factor = a[i * n + k];
                for (int j = 0; j < n; j++)
                    c[i * n + j] += factor * b[k * n + j];
            }
        return c;
    }

    /// <summary>Inverse by Gauss-Jordan elimination with partial pivoting.</summary>
    public static double[] Inverse(double[] a, int n)
    {
        double[] left = [.. a], right = new double[n * n];
        for (int i = 0; i < n; i++)
            right[i * n + i] = 1;
        for (int k = 0; k < n; k++)
        {
            int pivot = Pivot(left, k, n);
            Swap(left, k, pivot, n);
            Swap(right, k, pivot, n);
            double scale = 1 / left[k * n + k];
            for (int j = 0; j < n; j++)
            {
                left[k * n + j] *= scale;
                right[k * n + j] *= scale;
            }
            for (int i = 0; i < n; i++)
            {
                double factor = left[i * n + k];
                for (int j = 0; j < n && i != k; j++)
                {
                    left[i * n + j] -= factor * left[k * n + j];
                    right[i * n + j] -= factor * right[k * n + j];
                }
            }
        }
        return right;
    }

    /// <summary>Determinant by Gaussian elimination with partial pivoting.</summary>
    public static double Determinant(double[] a, int n)
    {
        double[] work = [.. a];
        double product = 1;
        for (int k = 0; k < n; k++)
        {
            int pivot = Pivot(work, k, n);
            Swap(work, k, pivot, n);
            product *= pivot == k ? work[k * n + k] : -work[k * n + k];
            for (int i = k + 1; i < n; i++)
            {
                double factor = work[i * n + k] / work[k * n + k];
                for (int j = k; j < n; j++)
                    work[i * n + j] -= factor * work[k * n + j];
            }
        }
        return product;
    }

    /// <summary>batch skew-symmetric matrices with normal elements of the given standard deviation, rounded to fp32.</summary>
    public static double[] RandomSkew(int n, int batch, double scale, int seed)
    {
        double[] p = Random(n * n * batch, seed), x = new double[p.Length];
        for (int m = 0; m < batch; m++)
            for (int i = 0; i < n; i++)
                for (int j = 0; j < i; j++)
                {
                    float v = (float)(scale * p[(m * n + i) * n + j]);
                    x[(m * n + i) * n + j] = v;
                    x[(m * n + j) * n + i] = -v;
                }
        return x;
    }

    /// <summary>Standard normal numbers (Box-Muller).</summary>
    public static double[] Random(int count, int seed)
    {
        Random random = new(seed);
        double[] values = new double[count];
        for (int i = 0; i < count; i++)
            values[i] = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
        return values;
    }

    public static double[] Widen(float[] values) => Array.ConvertAll(values, v => (double)v);

    public static double Dot(ReadOnlySpan<double> a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
            sum += a[i] * b[i];
        return sum;
    }

    public static double Norm(ReadOnlySpan<double> a) => Math.Sqrt(Dot(a, a));

    private static int Pivot(double[] a, int k, int n)
    {
        int pivot = k;
        for (int i = k + 1; i < n; i++)
            if (Math.Abs(a[i * n + k]) > Math.Abs(a[pivot * n + k]))
                pivot = i;
        return pivot;
    }

    private static void Swap(double[] a, int i, int j, int n)
    {
        for (int k = 0; k < n && i != j; k++)
            (a[i * n + k], a[j * n + k]) = (a[j * n + k], a[i * n + k]);
    }
}
