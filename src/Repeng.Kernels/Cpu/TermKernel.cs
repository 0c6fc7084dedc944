using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

/// <summary>db[n] += f(dy[n], a[n], b[n]).</summary>
internal unsafe struct TermKernel
{
    private float* _db;
    private float* _dy;
    private float* _a;
    private float* _b;

    public static void Run<TTerm>(CpuWorkers workers, float* db, float* dy, float* a, float* b, long n) where TTerm : struct, IGradientTerm
    {
        TermKernel job = new() { _db = db, _dy = dy, _a = a, _b = b };
        Ranges.Elements(workers, n, Ranges.Light, &Part<TTerm>, &job);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Part<TTerm>(void* context, long begin, long end) where TTerm : struct, IGradientTerm
    {
        TermKernel* job = (TermKernel*)context;
        float* db = job->_db, dy = job->_dy, a = job->_a, b = job->_b;
        long i = begin;
        for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
            Vector256.Store(Vector256.Load(db + i) + TTerm.Term(Vector256.Load(dy + i), Vector256.Load(a + i), Vector256.Load(b + i)), db + i);
        if (i < end)
        {
            int count = (int)(end - i);
            V term = TTerm.Term(SimdMath.LoadPartial(dy + i, count), SimdMath.LoadPartial(a + i, count), SimdMath.LoadPartial(b + i, count));
            SimdMath.StorePartial(db + i, SimdMath.LoadPartial(db + i, count) + term, count);
        }
    }
}
