namespace Repeng.Kernels;

public partial interface IBackend
{
    /// <summary>
    /// y = x / sqrt(mean(x²) + eps) · (weight + weightOffset) over each row of cols elements; rstd[rows] keeps 1/sqrt(...).
    /// weightOffset is 1 for Gemma's (1 + w). Used per head too (rows = tokens·heads, cols = head size).
    /// </summary>
    void RmsNormForward(View y, View rstd, View x, View weight, int rows, int cols, float eps, float weightOffset);

    /// <summary>dx += and dWeight += (either may be empty). Reductions over rows have a fixed order.</summary>
    void RmsNormBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, int rows, int cols, float weightOffset);

    /// <summary>y = (x − mean)·rstd·weight + bias over each row; mean[rows], rstd[rows] kept.</summary>
    void LayerNormForward(View y, View mean, View rstd, View x, View weight, View bias, int rows, int cols, float eps);

    /// <summary>dx += , dWeight += , dBias += (any may be empty).</summary>
    void LayerNormBackward(View dx, View dWeight, View dBias, View dy, View x, View weight, View mean, View rstd, int rows, int cols);

    /// <summary>
    /// Rotary embedding of x [rows, heads, headDim] at positions I32 [rows]: the first rotaryDim elements of each
    /// head are rotated, the rest copied. cos, sin: [positions, rotaryDim / 2] (with any attention factor already in).
    /// Pairs are (i, i + rotaryDim/2), or (2i, 2i + 1) when interleaved. y may be x (in place) when accumulate is false.
    /// inverse rotates by the negative angle, which with accumulate (y += ) is the backward pass.
    /// </summary>
    void Rope(View y, View x, View cos, View sin, View positions, int rows, int heads, int headDim, int rotaryDim, bool interleaved, bool inverse, bool accumulate);
}
