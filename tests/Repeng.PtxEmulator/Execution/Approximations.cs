using System.Runtime.Intrinsics;

namespace Repeng.PtxEmulator.Execution;

/// <summary>
/// The approximate instructions, computed in double and rounded once: within one unit in the last place, better than the documented error of the hardware.
/// The scalar forms run the vector code, so that the interpreter and the compiler give the same bits.
/// </summary>
internal static class Approximations
{
    public static float Ex2(float x) => (float)Ex2(Vector512.Create((double)x))[0];

    public static Vector512<double> Ex2(Vector512<double> x) => Vector512.Exp(Vector512.Min(Vector512.Max(x, Vector512.Create(-1000.0)), Vector512.Create(1000.0)) * 0.693147180559945309417);

    public static float Lg2(float x) => (float)Lg2(Vector512.Create((double)x))[0];

    public static Vector512<double> Lg2(Vector512<double> x) => Vector512.Log2(x);

    public static float Rsqrt(float x) => (float)Rsqrt(Vector512.Create((double)x))[0];

    public static Vector512<double> Rsqrt(Vector512<double> x) => Vector512<double>.One / Vector512.Sqrt(x);

    public static float Sin(float x) => (float)Sin(Vector512.Create((double)x))[0];

    public static Vector512<double> Sin(Vector512<double> x) => Vector512.Sin(x);

    public static float Cos(float x) => (float)Cos(Vector512.Create((double)x))[0];

    public static Vector512<double> Cos(Vector512<double> x) => Vector512.Cos(x);

    public static float Tanh(float x) => (float)Tanh(Vector512.Create((double)x))[0];

    public static Vector512<double> Tanh(Vector512<double> x)
    {
        // Beyond 20 the result is ±1 in fp32; the clamp keeps exp finite.
        Vector512<double> e = Vector512.Exp(Vector512.Min(Vector512.Max(x, Vector512.Create(-20.0)), Vector512.Create(20.0)) * 2.0);
        Vector512<double> result = Vector512<double>.One - (Vector512.Create(2.0) / (e + Vector512<double>.One));
        return Vector512.ConditionalSelect(Vector512.Equals(x, x), result, x);
    }
}
