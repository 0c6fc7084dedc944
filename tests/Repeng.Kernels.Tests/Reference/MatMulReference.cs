namespace Repeng.Kernels.Tests.Reference;

/// <summary>The plain matrix product in double precision over the op contract's arguments; judges every backend.</summary>
internal static class MatMulReference
{
    /// <summary>Result C as stored, starting from the given C (its gaps between rows are kept).</summary>
    public static double[] Product(ReadOnlySpan<double> c, ReadOnlySpan<double> a, ReadOnlySpan<double> b, in MatMulArgs args)
    {
        double[] result = c.ToArray();
        for (int batch = 0; batch < args.Batch; batch++)
        {
            for (int m = 0; m < args.M; m++)
            {
                for (int n = 0; n < args.N; n++)
                {
                    double sum = 0;
                    for (int k = 0; k < args.K; k++)
                    {
                        long atA = args.TransA ? (long)k * args.RowStrideA + m : (long)m * args.RowStrideA + k;
                        long atB = args.TransB ? (long)n * args.RowStrideB + k : (long)k * args.RowStrideB + n;
                        sum += a[(int)(batch * args.StrideA + atA)] * b[(int)(batch * args.StrideB + atB)];
                    }
                    ref double to = ref result[(int)(batch * args.StrideC + (long)m * args.RowStrideC + n)];
                    to = args.Accumulate ? to + sum : sum;
                }
            }
        }
        return result;
    }

    /// <summary>Column sums of dy[rows, cols], added to dBias.</summary>
    public static double[] ColumnSums(ReadOnlySpan<double> dBias, ReadOnlySpan<double> dy, int rows, int cols)
    {
        double[] result = dBias.ToArray();
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < cols; c++)
                result[c] += dy[r * cols + c];
        return result;
    }

    /// <summary>Elements that an operand stored as rows × columns needs.</summary>
    public static int Length(int rows, int columns, int rowStride, int batch, long stride) =>
        rows == 0 || columns == 0 || batch == 0 ? 0 : checked((int)((batch - 1) * stride + (rows - 1L) * rowStride + columns));
}
