using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Repeng.PtxEmulator.Execution;

namespace Repeng.PtxEmulator.Compilation;

internal static unsafe partial class VectorOps
{
    /// <summary>Subnormal fp32 become zeros of their sign.</summary>
    [MethodImpl(Inline)]
    private static Vector512<float> Flush(Vector512<float> v)
        => Vector512.ConditionalSelect(Vector512.LessThan(Vector512.Abs(v), Vector512.Create(1.17549435e-38f)), v & Vector512.Create(-0f), v);

    private readonly struct OpFma32 : IThree<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a, Vector512<float> b, Vector512<float> c) => Vector512.FusedMultiplyAdd(a, b, c); }
    private readonly struct OpFma64 : IThree<double> { [MethodImpl(Inline)] public static Vector512<double> Do(Vector512<double> a, Vector512<double> b, Vector512<double> c) => Vector512.FusedMultiplyAdd(a, b, c); }
    private readonly struct OpDiv<T> : ITwo<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => a / b; }
    private readonly struct OpMinNumber : ITwo<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a, Vector512<float> b) => Vector512.MinNumber(a, b); }
    private readonly struct OpMaxNumber : ITwo<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a, Vector512<float> b) => Vector512.MaxNumber(a, b); }
    private readonly struct OpSqrt : IOne<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a) => Vector512.Sqrt(a); }
    private readonly struct OpRcp : IOne<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a) => Vector512<float>.One / a; }
    private readonly struct OpNeg32 : IOne<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a) => a ^ Vector512.Create(-0f); }
    private readonly struct OpAbs32 : IOne<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a) => Vector512.Abs(a); }
    private readonly struct OpNeg64 : IOne<double> { [MethodImpl(Inline)] public static Vector512<double> Do(Vector512<double> a) => a ^ Vector512.Create(-0d); }
    private readonly struct OpFlush1<TOp> : IOne<float> where TOp : IOne<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a) => Flush(TOp.Do(Flush(a))); }
    private readonly struct OpFlush2<TOp> : ITwo<float> where TOp : ITwo<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a, Vector512<float> b) => Flush(TOp.Do(Flush(a), Flush(b))); }
    private readonly struct OpFlush3<TOp> : IThree<float> where TOp : IThree<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a, Vector512<float> b, Vector512<float> c) => Flush(TOp.Do(Flush(a), Flush(b), Flush(c))); }
    private readonly struct OpGt<T> : ICompare<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => Vector512.GreaterThan(a, b); }
    private readonly struct OpGe<T> : ICompare<T> { [MethodImpl(Inline)] public static Vector512<T> Do(Vector512<T> a, Vector512<T> b) => Vector512.GreaterThanOrEqual(a, b); }
    private readonly struct OpNan32 : ICompare<float> { [MethodImpl(Inline)] public static Vector512<float> Do(Vector512<float> a, Vector512<float> b) => ~(Vector512.Equals(a, a) & Vector512.Equals(b, b)); }

    [MethodImpl(Inline)] public static void add_f32(float* d, float* a, float* b) => Map<float, OpAdd<float>>(d, a, b);
    [MethodImpl(Inline)] public static void sub_f32(float* d, float* a, float* b) => Map<float, OpSub<float>>(d, a, b);
    [MethodImpl(Inline)] public static void mul_f32(float* d, float* a, float* b) => Map<float, OpMul<float>>(d, a, b);
    [MethodImpl(Inline)] public static void div_f32(float* d, float* a, float* b) => Map<float, OpDiv<float>>(d, a, b);
    [MethodImpl(Inline)] public static void fma_f32(float* d, float* a, float* b, float* c) => Map<float, OpFma32>(d, a, b, c);
    [MethodImpl(Inline)] public static void min_f32(float* d, float* a, float* b) => Map<float, OpMinNumber>(d, a, b);
    [MethodImpl(Inline)] public static void max_f32(float* d, float* a, float* b) => Map<float, OpMaxNumber>(d, a, b);
    [MethodImpl(Inline)] public static void neg_f32(float* d, float* a) => Map<float, OpNeg32>(d, a);
    [MethodImpl(Inline)] public static void abs_f32(float* d, float* a) => Map<float, OpAbs32>(d, a);
    [MethodImpl(Inline)] public static void sqrt_f32(float* d, float* a) => Map<float, OpSqrt>(d, a);
    [MethodImpl(Inline)] public static void rcp_f32(float* d, float* a) => Map<float, OpRcp>(d, a);
    [MethodImpl(Inline)] public static void add_ftz_f32(float* d, float* a, float* b) => Map<float, OpFlush2<OpAdd<float>>>(d, a, b);
    [MethodImpl(Inline)] public static void sub_ftz_f32(float* d, float* a, float* b) => Map<float, OpFlush2<OpSub<float>>>(d, a, b);
    [MethodImpl(Inline)] public static void mul_ftz_f32(float* d, float* a, float* b) => Map<float, OpFlush2<OpMul<float>>>(d, a, b);
    [MethodImpl(Inline)] public static void div_ftz_f32(float* d, float* a, float* b) => Map<float, OpFlush2<OpDiv<float>>>(d, a, b);
    [MethodImpl(Inline)] public static void fma_ftz_f32(float* d, float* a, float* b, float* c) => Map<float, OpFlush3<OpFma32>>(d, a, b, c);
    [MethodImpl(Inline)] public static void sqrt_ftz_f32(float* d, float* a) => Map<float, OpFlush1<OpSqrt>>(d, a);
    [MethodImpl(Inline)] public static void rcp_ftz_f32(float* d, float* a) => Map<float, OpFlush1<OpRcp>>(d, a);
    [MethodImpl(Inline)] public static void add_f64(double* d, double* a, double* b) => Map<double, OpAdd<double>>(d, a, b);
    [MethodImpl(Inline)] public static void sub_f64(double* d, double* a, double* b) => Map<double, OpSub<double>>(d, a, b);
    [MethodImpl(Inline)] public static void mul_f64(double* d, double* a, double* b) => Map<double, OpMul<double>>(d, a, b);
    [MethodImpl(Inline)] public static void div_f64(double* d, double* a, double* b) => Map<double, OpDiv<double>>(d, a, b);
    [MethodImpl(Inline)] public static void fma_f64(double* d, double* a, double* b, double* c) => Map<double, OpFma64>(d, a, b, c);
    [MethodImpl(Inline)] public static void neg_f64(double* d, double* a) => Map<double, OpNeg64>(d, a);

    [MethodImpl(Inline)] public static uint setp_eq_f32(float* a, float* b) => Test<float, OpEq<float>>(a, b);
    [MethodImpl(Inline)] public static uint setp_lt_f32(float* a, float* b) => Test<float, OpLt<float>>(a, b);
    [MethodImpl(Inline)] public static uint setp_le_f32(float* a, float* b) => Test<float, OpLe<float>>(a, b);
    [MethodImpl(Inline)] public static uint setp_gt_f32(float* a, float* b) => Test<float, OpGt<float>>(a, b);
    [MethodImpl(Inline)] public static uint setp_ge_f32(float* a, float* b) => Test<float, OpGe<float>>(a, b);
    [MethodImpl(Inline)] public static uint setp_nan_f32(float* a, float* b) => Test<float, OpNan32>(a, b);
    [MethodImpl(Inline)] public static uint setp_num_f32(float* a, float* b) => ~setp_nan_f32(a, b);
    [MethodImpl(Inline)] public static uint setp_ne_f32(float* a, float* b) => ~(setp_nan_f32(a, b) | setp_eq_f32(a, b));
    [MethodImpl(Inline)] public static uint setp_equ_f32(float* a, float* b) => setp_nan_f32(a, b) | setp_eq_f32(a, b);
    [MethodImpl(Inline)] public static uint setp_neu_f32(float* a, float* b) => ~setp_eq_f32(a, b);
    [MethodImpl(Inline)] public static uint setp_ltu_f32(float* a, float* b) => ~setp_ge_f32(a, b);
    [MethodImpl(Inline)] public static uint setp_leu_f32(float* a, float* b) => ~setp_gt_f32(a, b);
    [MethodImpl(Inline)] public static uint setp_gtu_f32(float* a, float* b) => ~setp_le_f32(a, b);
    [MethodImpl(Inline)] public static uint setp_geu_f32(float* a, float* b) => ~setp_lt_f32(a, b);

    /// <summary>A function in double, eight lanes at a time, rounded to fp32.</summary>
    private interface IApproximate
    {
        static abstract Vector512<double> Do(Vector512<double> x);
    }

    private readonly struct Ex2 : IApproximate { public static Vector512<double> Do(Vector512<double> x) => Approximations.Ex2(x); }
    private readonly struct Lg2 : IApproximate { public static Vector512<double> Do(Vector512<double> x) => Approximations.Lg2(x); }
    private readonly struct Rsqrt : IApproximate { public static Vector512<double> Do(Vector512<double> x) => Approximations.Rsqrt(x); }
    private readonly struct Sin : IApproximate { public static Vector512<double> Do(Vector512<double> x) => Approximations.Sin(x); }
    private readonly struct Cos : IApproximate { public static Vector512<double> Do(Vector512<double> x) => Approximations.Cos(x); }
    private readonly struct Tanh : IApproximate { public static Vector512<double> Do(Vector512<double> x) => Approximations.Tanh(x); }

    [MethodImpl(Inline)]
    private static void Approximate<TOp>(float* d, float* a, bool flush) where TOp : IApproximate
    {
        for (int k = 0; k < 32; k += 16)
        {
            Vector512<float> x = Vector512.Load(a + k);
            if (flush)
                x = Flush(x);
            (Vector512<double> low, Vector512<double> high) = Vector512.Widen(x);
            Vector512<float> y = Vector512.Narrow(TOp.Do(low), TOp.Do(high));
            (flush ? Flush(y) : y).Store(d + k);
        }
    }

    public static void ex2_f32(float* d, float* a) => Approximate<Ex2>(d, a, false);

    public static void ex2_ftz_f32(float* d, float* a) => Approximate<Ex2>(d, a, true);

    public static void lg2_f32(float* d, float* a) => Approximate<Lg2>(d, a, false);

    public static void lg2_ftz_f32(float* d, float* a) => Approximate<Lg2>(d, a, true);

    public static void rsqrt_f32(float* d, float* a) => Approximate<Rsqrt>(d, a, false);

    public static void rsqrt_ftz_f32(float* d, float* a) => Approximate<Rsqrt>(d, a, true);

    public static void sin_f32(float* d, float* a) => Approximate<Sin>(d, a, false);

    public static void cos_f32(float* d, float* a) => Approximate<Cos>(d, a, false);

    public static void tanh_f32(float* d, float* a) => Approximate<Tanh>(d, a, false);
}
