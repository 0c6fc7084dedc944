namespace Repeng.Kernels;

/// <summary>Sizes of <see cref="IBackend.NormRopeForward"/>: x is [Rows, Heads, HeadDim]; the rest as for RMSNorm of each head and for rotary embedding.</summary>
public readonly record struct NormRopeArgs(int Rows, int Heads, int HeadDim, int RotaryDim, bool Interleaved, float Eps, float WeightOffset)
{
    /// <summary>Heads of all rows: rows of the norm.</summary>
    public int Lines => checked(Rows * Heads);
}

public partial interface IBackend
{
    /// <summary>
    /// y = x / sqrt(mean(x²) + eps) · (weight + weightOffset) over each row of cols elements; rstd[rows] keeps 1/sqrt(...).
    /// weightOffset is 1 for Gemma's (1 + w). Used per head too (rows = tokens·heads, cols = head size).
    /// </summary>
    void RmsNormForward(View y, View rstd, View x, View weight, int rows, int cols, float eps, float weightOffset);

    /// <summary>dx += and dWeight += (either may be empty). Reductions over rows have a fixed order. Without accumulate dx is overwritten, with the bits of adding to zeros.</summary>
    void RmsNormBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, int rows, int cols, float weightOffset, bool accumulate = true);

    /// <summary>y = (x − mean)·rstd·weight + bias over each row; mean[rows], rstd[rows] kept.</summary>
    void LayerNormForward(View y, View mean, View rstd, View x, View weight, View bias, int rows, int cols, float eps);

    /// <summary>dx += , dWeight += , dBias += (any may be empty). Without accumulate dx is overwritten, with the bits of adding to zeros.</summary>
    void LayerNormBackward(View dx, View dWeight, View dBias, View dy, View x, View weight, View mean, View rstd, int rows, int cols, bool accumulate = true);

    /// <summary>
    /// Rotary embedding of x [rows, heads, headDim] at positions I32 [rows]: the first rotaryDim elements of each
    /// head are rotated, the rest copied. cos, sin: [positions, rotaryDim / 2] (with any attention factor already in).
    /// Pairs are (i, i + rotaryDim/2), or (2i, 2i + 1) when interleaved. y may be x (in place) when accumulate is false.
    /// inverse rotates by the negative angle, which with accumulate (y += ) is the backward pass.
    /// </summary>
    void Rope(View y, View x, View cos, View sin, View positions, int rows, int heads, int headDim, int rotaryDim, bool interleaved, bool inverse, bool accumulate);

    /// <summary>
    /// RMSNorm of each head and rotary embedding of the result, as one op: y [Rows, Heads, HeadDim], rstd [Rows · Heads]. The bits are those of
    /// <see cref="RmsNormForward"/> and <see cref="Rope"/>, which this method calls; a backend may do both in one go.
    /// </summary>
    void NormRopeForward(View y, View rstd, View x, View weight, View cos, View sin, View positions, in NormRopeArgs args)
    {
        RmsNormForward(y, rstd, x, weight, args.Lines, args.HeadDim, args.Eps, args.WeightOffset);
        Rope(y, y, cos, sin, positions, args.Rows, args.Heads, args.HeadDim, args.RotaryDim, args.Interleaved, inverse: false, accumulate: false);
    }

    /// <summary>dx += (= without accumulate) and dWeight += (either may be empty) of <see cref="NormRopeForward"/>. room: as many elements as x, overwritten.</summary>
    void NormRopeBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, View cos, View sin, View positions, View room, in NormRopeArgs args, bool accumulate)
    {
        Rope(room, dy, cos, sin, positions, args.Rows, args.Heads, args.HeadDim, args.RotaryDim, args.Interleaved, inverse: true, accumulate: false);
        RmsNormBackward(dx, dWeight, room, x, weight, rstd, args.Lines, args.HeadDim, args.WeightOffset, accumulate);
    }
}
