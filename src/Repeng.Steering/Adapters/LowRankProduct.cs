namespace Repeng.Steering.Adapters;

/// <summary>Products of low rank added to weights on the host, summed in double and rounded once.</summary>
internal static class LowRankProduct
{
    /// <summary>w [out, in] += left [out, r] · right [r, in].</summary>
    public static void AddTo(float[] w, int inputs, ReadOnlySpan<double> left, ReadOnlySpan<double> right)
    {
        int outputs = w.Length / inputs, r = left.Length / outputs;
        var row = new double[inputs];
        for (int o = 0; o < outputs; o++)
        {
            Span<float> target = w.AsSpan(o * inputs, inputs);
            for (int i = 0; i < inputs; i++)
                row[i] = target[i];
            for (int q = 0; q < r; q++)
            {
                double f = left[o * r + q];
                ReadOnlySpan<double> from = right.Slice(q * inputs, inputs);
                for (int i = 0; i < inputs; i++)
                    row[i] += f * from[i];
            }
            for (int i = 0; i < inputs; i++)
                target[i] = (float)row[i];
        }
    }
}
