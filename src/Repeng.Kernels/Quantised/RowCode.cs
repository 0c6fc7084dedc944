namespace Repeng.Kernels.Quantised;

/// <summary>LLM.int8's weights (Dettmers et al., 2022): a row's signed bytes and its largest magnitude.</summary>
public static unsafe class RowCode
{
    /// <summary>
    /// Quantises the rows of a matrix, on all cores: scale = max|row|, q = round half to even of w·(127/scale); a row of zeros
    /// has scale 0.
    /// </summary>
    /// <param name="source">[rows, columns].</param>
    /// <param name="rows">Rows.</param>
    /// <param name="columns">Elements of a row.</param>
    /// <param name="codes">rows · columns signed bytes.</param>
    /// <param name="scales">One a row.</param>
    /// <exception cref="UserErrorException">A value is not finite.</exception>
    public static void Quantise(float* source, long rows, int columns, sbyte* codes, float* scales)
    {
        long bad = -1;
        Parallel.For(0, rows, row =>
        {
            float* x = source + row * columns;
            sbyte* q = codes + row * columns;
            float largest = 0;
            bool finite = true;
            for (int i = 0; i < columns; i++)
            {
                float magnitude = MathF.Abs(x[i]);
                finite &= magnitude <= float.MaxValue;
                largest = magnitude > largest ? magnitude : largest;
            }
            if (!finite)
            {
                Volatile.Write(ref bad, row);
                return;
            }
            scales[row] = largest;
            float factor = 127 / largest;
            for (int i = 0; i < columns; i++)
                q[i] = largest == 0 ? (sbyte)0 : (sbyte)Math.Clamp(MathF.Round(x[i] * factor, MidpointRounding.ToEven), -127, 127);
        });
        if (bad >= 0)
            throw new UserErrorException($"row {bad} of {rows} holds a value that is not finite: only finite values can be quantised; the weight is damaged");
    }
}
