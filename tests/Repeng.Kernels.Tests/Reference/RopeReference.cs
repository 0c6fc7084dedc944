namespace Repeng.Kernels.Tests.Reference;

/// <summary>Rotary embedding in double: pairs as complex numbers, turned by e^{±iφ} scaled by the tables' length.</summary>
public static class RopeReference
{
    public static Dual[] Apply(Dual[] x, double[] cos, double[] sin, int[] positions, int heads, int headDim, int rotaryDim, bool interleaved, bool inverse)
    {
        var y = (Dual[])x.Clone();
        int half = rotaryDim / 2;
        for (int r = 0; r < positions.Length; r++)
            for (int h = 0; h < heads; h++)
                for (int i = 0; i < half; i++)
                {
                    int at = (r * heads + h) * headDim;
                    int first = at + (interleaved ? 2 * i : i), second = at + (interleaved ? 2 * i + 1 : i + half);
                    double c = cos[positions[r] * half + i], s = sin[positions[r] * half + i] * (inverse ? -1 : 1);
                    y[first] = x[first] * c - x[second] * s;
                    y[second] = x[first] * s + x[second] * c;
                }
        return y;
    }
}
