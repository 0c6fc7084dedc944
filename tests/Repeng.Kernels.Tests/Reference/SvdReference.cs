namespace Repeng.Kernels.Tests.Reference;

/// <summary>Matrices whose singular value decomposition is known because they are made from it, and plain loops to judge results.</summary>
internal static class SvdReference
{
    /// <summary>w = Σ_i values[i]·u_i·v_iᵀ [rows, cols] with orthonormal u [rows, k] and v [cols, k].</summary>
    public static (double[] W, double[] U, double[] V) Make(int rows, int cols, double[] values, int seed)
    {
        int k = values.Length;
        double[] u = Orthonormal(rows, k, seed), v = Orthonormal(cols, k, seed + 1), w = new double[rows * cols];
        for (int i = 0; i < rows; i++)
            for (int t = 0; t < k; t++)
            {
                double factor = u[i * k + t] * values[t];
                for (int j = 0; j < cols; j++)
                    w[i * cols + j] += factor * v[j * k + t];
            }
        return (w, u, v);
    }

    /// <summary>Random orthonormal columns [length, count] by Gram-Schmidt, done twice.</summary>
    public static double[] Orthonormal(int length, int count, int seed)
    {
        double[] q = RotationReference.Random(length * count, seed);
        for (int c = 0; c < count; c++)
        {
            for (int pass = 0; pass < 2; pass++)
                for (int p = 0; p < c; p++)
                {
                    double dot = ColumnDot(q, c, q, p, length, count, count);
                    for (int i = 0; i < length; i++)
                        q[i * count + c] -= dot * q[i * count + p];
                }
            double norm = Math.Sqrt(ColumnDot(q, c, q, c, length, count, count));
            for (int i = 0; i < length; i++)
                q[i * count + c] /= norm;
        }
        return q;
    }

    /// <summary>Scalar product of column i of a [length, aColumns] and column j of b [length, bColumns].</summary>
    public static double ColumnDot(double[] a, int i, double[] b, int j, int length, int aColumns, int bColumns)
    {
        double sum = 0;
        for (int t = 0; t < length; t++)
            sum += a[t * aColumns + i] * b[t * bColumns + j];
        return sum;
    }

    /// <summary>Largest element of |QᵀQ − I| for q [length, count].</summary>
    public static double OrthogonalityError(double[] q, int length, int count)
    {
        double worst = 0;
        for (int i = 0; i < count; i++)
            for (int j = 0; j <= i; j++)
                worst = Math.Max(worst, Math.Abs(ColumnDot(q, i, q, j, length, count, count) - (i == j ? 1 : 0)));
        return worst;
    }

    /// <summary>Largest of ‖w·v_i − σ_i·u_i‖ and ‖wᵀ·u_i − σ_i·v_i‖.</summary>
    public static double Residual(double[] w, int rows, int cols, double[] u, double[] s, double[] v)
    {
        int r = s.Length;
        double worst = 0;
        for (int t = 0; t < r; t++)
        {
            double[] down = new double[cols];
            double across = 0;
            for (int i = 0; i < rows; i++)
            {
                double sum = 0;
                for (int j = 0; j < cols; j++)
                {
                    sum += w[i * cols + j] * v[j * r + t];
                    down[j] += w[i * cols + j] * u[i * r + t];
                }
                sum -= s[t] * u[i * r + t];
                across += sum * sum;
            }
            double square = 0;
            for (int j = 0; j < cols; j++)
                square += (down[j] - s[t] * v[j * r + t]) * (down[j] - s[t] * v[j * r + t]);
            worst = Math.Max(worst, Math.Sqrt(Math.Max(across, square)));
        }
        return worst;
    }

    /// <summary>values[i] = first·ratio^i.</summary>
    public static double[] Geometric(int count, double first, double ratio)
    {
        double[] values = new double[count];
        for (int i = 0; i < count; i++)
            values[i] = first * Math.Pow(ratio, i);
        return values;
    }
}
