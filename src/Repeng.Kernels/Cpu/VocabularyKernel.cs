using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using D = System.Runtime.Intrinsics.Vector256<double>;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Operands of the ops on a chunk of logits [rows, cols], and their loops over one block of one row. Sums go into
/// a pair of doubles per block; the op adds the blocks of a row in order.
/// </summary>
internal unsafe struct VocabularyKernel
{
    public float* Logits;
    public int Cols;
    public int Blocks;

    /// <summary>Two numbers for every block of every row.</summary>
    public double* Partial;

    public float* Lse;
    public float* LogitsRef;
    public float* LseRef;
    public float* Upstream;
    public float* Dot;
    public float* Add;
    public int* Labels;
    public int FirstColumn;
    public float SoftCap;

    public static double* Partials(CpuWorkers workers, int rows, int blocks) => (double*)workers.Scratch(0, 2L * rows * blocks * sizeof(double));

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void MaxAndSum(void* context, int row, int block, int begin, int end)
    {
        VocabularyKernel* job = (VocabularyKernel*)context;
        float* x = job->Logits + ((long)row * job->Cols) + begin;
        int n = end - begin;
        // The processor's own maximum may lose a NaN, which the sum below then shows: .NET's keeps it for some ten instructions a vector.
        V high = Vector256.Create(float.NegativeInfinity), high1 = high, high2 = high, high3 = high;
        int i = 0;
        for (; i <= n - (4 * SimdMath.Lanes); i += 4 * SimdMath.Lanes)
        {
            high = Vector256.MaxNative(high, Vector256.Load(x + i));
            high1 = Vector256.MaxNative(high1, Vector256.Load(x + i + SimdMath.Lanes));
            high2 = Vector256.MaxNative(high2, Vector256.Load(x + i + (2 * SimdMath.Lanes)));
            high3 = Vector256.MaxNative(high3, Vector256.Load(x + i + (3 * SimdMath.Lanes)));
        }
        high = Vector256.MaxNative(Vector256.MaxNative(high, high1), Vector256.MaxNative(high2, high3));
        float highest = high.GetElement(0);
        for (int lane = 1; lane < SimdMath.Lanes; lane++)
            highest = MathF.Max(highest, high.GetElement(lane));
        for (; i < n; i++)
            highest = MathF.Max(highest, x[i]);

        double* partial = job->Partial + ((((long)row * job->Blocks) + block) * 2);
        partial[0] = highest;
        V shift = Shift(highest), log2E = Vector256.Create(SimdMath.Log2E);
        D low = D.Zero, up = D.Zero;
        for (i = 0; i < n; i += SimdMath.Lanes)
        {
            // No term is above 1, and what the rounded exponent of a small one costs does not show beside that of the highest.
            V e = SimdMath.Exp2Flushed<V, Simd256>((SimdMath.LoadFirst(x + i, n - i) - shift) * log2E);
            if (n - i < SimdMath.Lanes)
                e = SimdMath.KeepFirst(e, n - i);
            low += Vector256.WidenLower(e);
            up += Vector256.WidenUpper(e);
        }
        partial[1] = SimdMath.Sum(low + up);
    }

    /// <summary>Sum over the blocks of a row of its first (0) or second (1) number.</summary>
    public readonly double RowSum(int row, int which)
    {
        double sum = 0;
        for (int block = 0; block < Blocks; block++)
            sum += Partial[((((long)row * Blocks) + block) * 2) + which];
        return sum;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void LogProbBackward(void* context, int row, int block, int begin, int end)
    {
        VocabularyKernel* job = (VocabularyKernel*)context;
        float* x = job->Logits + ((long)row * job->Cols);
        float upstream = job->Upstream[row];
        V shift = Shift(job->Lse[row]), minus = Vector256.Create(-upstream), inverseCap = InverseCap(job->SoftCap);
        long label = (long)job->Labels[row] - job->FirstColumn;
        bool here = label >= begin && label < end;
        float labelLogit = here ? x[label] : 0;
        for (int i = begin; i < end; i += SimdMath.Lanes)
        {
            V logit = SimdMath.LoadFirst(x + i, end - i);
            SimdMath.StoreFirst(x + i, minus * SimdMath.Exp(logit - shift) * CapSlope(logit, inverseCap), end - i);
        }
        if (here)
        {
            // 1 − p at the label, with the same p as everywhere else.
            V logit = Vector256.Create(labelLogit);
            x[label] = (Vector256.Create(upstream) * (V.One - SimdMath.Exp(logit - shift)) * CapSlope(logit, inverseCap)).ToScalar();
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Entropy(void* context, int row, int block, int begin, int end)
    {
        VocabularyKernel* job = (VocabularyKernel*)context;
        float* x = job->Logits + ((long)row * job->Cols);
        V shift = Shift(job->Lse[row]);
        D low = D.Zero, up = D.Zero;
        for (int i = begin; i < end; i += SimdMath.Lanes)
        {
            V logProb = SimdMath.LoadFirst(x + i, end - i) - shift;
            V p = SimdMath.Exp(logProb);
            // p ln p → 0 as p → 0, where the product would be 0·∞.
            V term = Vector256.ConditionalSelect(Vector256.Equals(p, V.Zero), V.Zero, p * logProb);
            if (end - i < SimdMath.Lanes)
                term = SimdMath.KeepFirst(term, end - i);
            low -= Vector256.WidenLower(term);
            up -= Vector256.WidenUpper(term);
        }
        job->Partial[(((long)row * job->Blocks) + block) * 2] = SimdMath.Sum(low + up);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void TotalVariation(void* context, int row, int block, int begin, int end)
    {
        VocabularyKernel* job = (VocabularyKernel*)context;
        float* x = job->Logits + ((long)row * job->Cols), r = job->LogitsRef + ((long)row * job->Cols);
        V shift = Shift(job->Lse[row]), shiftRef = Shift(job->LseRef[row]);
        D low = D.Zero, up = D.Zero, dotLow = D.Zero, dotUp = D.Zero;
        for (int i = begin; i < end; i += SimdMath.Lanes)
        {
            V p = SimdMath.Exp(SimdMath.LoadFirst(x + i, end - i) - shift);
            V difference = SimdMath.Exp(SimdMath.LoadFirst(r + i, end - i) - shiftRef) - p;
            V size = Vector256.Abs(difference), slope = HalfSign(difference) * p;
            if (end - i < SimdMath.Lanes)
            {
                size = SimdMath.KeepFirst(size, end - i);
                slope = SimdMath.KeepFirst(slope, end - i);
            }
            low += Vector256.WidenLower(size);
            up += Vector256.WidenUpper(size);
            dotLow -= Vector256.WidenLower(slope);
            dotUp -= Vector256.WidenUpper(slope);
        }
        double* partial = job->Partial + ((((long)row * job->Blocks) + block) * 2);
        partial[0] = 0.5 * SimdMath.Sum(low + up);
        partial[1] = SimdMath.Sum(dotLow + dotUp);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void TotalVariationBackward(void* context, int row, int block, int begin, int end)
    {
        VocabularyKernel* job = (VocabularyKernel*)context;
        long at = (long)row * job->Cols;
        float* x = job->Logits + at, r = job->LogitsRef + at, add = job->Add == null ? null : job->Add + at;
        V shift = Shift(job->Lse[row]), shiftRef = Shift(job->LseRef[row]), inverseCap = InverseCap(job->SoftCap);
        V upstream = Vector256.Create(job->Upstream[row]), dot = Vector256.Create(job->Dot[row]);
        for (int i = begin; i < end; i += SimdMath.Lanes)
        {
            V logit = SimdMath.LoadFirst(x + i, end - i);
            V p = SimdMath.Exp(logit - shift);
            V difference = SimdMath.Exp(SimdMath.LoadFirst(r + i, end - i) - shiftRef) - p;
            V gradient = upstream * p * (-HalfSign(difference) - dot) * CapSlope(logit, inverseCap);
            if (add != null)
                gradient += SimdMath.LoadFirst(add + i, end - i);
            SimdMath.StoreFirst(x + i, gradient, end - i);
        }
    }

    /// <summary>A row whose log-sum-exp is −∞ has no finite logit; every p is then taken as 0, not as e^(∞ − ∞).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Shift(float lse) => Vector256.Create(float.IsNegativeInfinity(lse) ? 0 : lse);

    /// <summary>1/softCap, or 0 for no soft cap, which makes the slope 1.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V InverseCap(float softCap) => Vector256.Create(softCap > 0 ? 1 / softCap : 0);

    /// <summary>1 − (logit/softCap)²: the derivative of the cap at a capped logit.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V CapSlope(V logit, V inverseCap)
    {
        V ratio = logit * inverseCap;
        V slope = (V.One - ratio) * (V.One + ratio);
        // Without a cap an infinite logit would give ∞·0.
        return Vector256.ConditionalSelect(Vector256.Equals(inverseCap, V.Zero), V.One, slope);
    }

    /// <summary>½ with the sign of x, 0 at 0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V HalfSign(V x)
    {
        V half = Vector256.Create(0.5f);
        return (Vector256.GreaterThan(x, V.Zero) & half) - (Vector256.LessThan(x, V.Zero) & half);
    }
}
