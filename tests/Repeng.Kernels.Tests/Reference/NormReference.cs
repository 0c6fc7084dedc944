namespace Repeng.Kernels.Tests.Reference;

/// <summary>RMSNorm and LayerNorm in double. The backward formulas are written out per element from the definition.</summary>
public static class NormReference
{
    public static (Dual[] Y, Dual[] Mean, Dual[] Rstd) Forward(Dual[] x, Dual[] weight, Dual[]? bias, int rows, int cols, double eps, double offset, bool centered)
    {
        Dual[] y = new Dual[x.Length], means = new Dual[rows], rstds = new Dual[rows];
        for (int r = 0; r < rows; r++)
        {
            Dual mean = 0, variance = 0;
            for (int i = 0; centered && i < cols; i++)
                mean += x[r * cols + i] / cols;
            for (int i = 0; i < cols; i++)
                variance += (x[r * cols + i] - mean) * (x[r * cols + i] - mean) / cols;
            Dual rstd = 1.0 / Dual.Sqrt(variance + eps);
            for (int i = 0; i < cols; i++)
                y[r * cols + i] = (x[r * cols + i] - mean) * rstd * (weight[i] + offset) + (bias is null ? 0 : bias[i]);
            means[r] = mean;
            rstds[r] = rstd;
        }
        return (y, means, rstds);
    }

    public static (double[] Dx, double[] DWeight, double[] DBias) Backward(double[] dy, double[] x, double[] weight, int rows, int cols, double eps, double offset, bool centered)
    {
        double[] dx = new double[x.Length], dWeight = new double[cols], dBias = new double[cols];
        for (int r = 0; r < rows; r++)
        {
            double mean = 0, variance = 0;
            for (int i = 0; centered && i < cols; i++)
                mean += x[r * cols + i] / cols;
            for (int i = 0; i < cols; i++)
                variance += (x[r * cols + i] - mean) * (x[r * cols + i] - mean) / cols;
            double rstd = 1 / Math.Sqrt(variance + eps), dMean = 0, dVariance = 0;
            for (int i = 0; i < cols; i++)
            {
                double g = dy[r * cols + i] * (weight[i] + offset), d = x[r * cols + i] - mean;
                dMean -= g * rstd;
                dVariance -= 0.5 * g * d * rstd * rstd * rstd;
                dWeight[i] += dy[r * cols + i] * d * rstd;
                dBias[i] += dy[r * cols + i];
            }
            for (int i = 0; i < cols; i++)
            {
                double g = dy[r * cols + i] * (weight[i] + offset), d = x[r * cols + i] - mean;
                dx[r * cols + i] = g * rstd + dVariance * 2 * d / cols + (centered ? dMean / cols : 0);
            }
        }
        return (dx, dWeight, dBias);
    }
}
