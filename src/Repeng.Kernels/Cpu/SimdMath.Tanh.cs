using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

internal static partial class SimdMath
{
    /// <summary>
    /// tanh within 3e-7 relative error: below 0.625 the odd polynomial of Moshier's Cephes (tanhf), above
    /// 1 − 2 / (e²ˣ + 1), which loses nothing there. ±1 at the ends, NaN stays NaN.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static V Tanh<V, S>(V x)
        where V : struct
        where S : struct, ISimd<V>
    {
        V one = S.Set(1f);
        V z = S.Mul(x, x);
        V p = S.Set(-5.70498872745e-3f);
        p = S.Fma(p, z, S.Set(2.06390887954e-2f));
        p = S.Fma(p, z, S.Set(-5.37397155531e-2f));
        p = S.Fma(p, z, S.Set(1.33314422036e-1f));
        p = S.Fma(p, z, S.Set(-3.33332819422e-1f));
        V near = S.Fma(S.Mul(p, z), x, x);
        V size = S.Abs(x);
        V far = S.Sub(one, S.Div(S.Set(2f), S.Add(Exp2Flushed<V, S>(S.Mul(size, S.Set(2 * Log2E))), one)));
        far = S.Select(S.LessOrEqual(x, S.Set(0f)), S.Sub(S.Set(0f), far), far);
        return S.Select(S.LessOrEqual(size, S.Set(0.625f)), near, far);
    }
}
