using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

/// <summary>y (=|+=) f(a, b) over [rows, cols] with b repeated.</summary>
internal unsafe struct BroadcastKernel
{
    public float* Y;
    public float* A;
    public float* B;
    public int Cols;

    /// <summary>Rows of y that share a row of b.</summary>
    public int RowsPerB;

    public static void Run<TFunction, TMode>(CpuWorkers workers, float* y, float* a, float* b, int rows, int cols, Broadcast broadcast)
        where TFunction : struct, IBinaryFunction where TMode : struct, IStoreMode
    {
        BroadcastKernel job = new() { Y = y, A = a, B = b, Cols = cols, RowsPerB = int.MaxValue };
        switch (Simplify(rows, cols, broadcast))
        {
            case Broadcast.None: Ranges.Elements(workers, (long)rows * cols, Ranges.Light, &Flat<TFunction, TMode>, &job); break;
            case Broadcast.Scalar: Ranges.Elements(workers, (long)rows * cols, Ranges.Light, &Splat<TFunction, TMode>, &job); break;
            case Broadcast.OverRows: Ranges.Rows(workers, rows, cols, Ranges.Light, &RowOfB<TFunction, TMode>, &job); break;
            case Broadcast.OverCols: Ranges.Rows(workers, rows, cols, Ranges.Light, &ElementOfB<TFunction, TMode>, &job); break;
            default: throw Check.Unknown(broadcast, nameof(IBackend.Binary));
        }
    }

    /// <summary>y[rows, cols] += b[rows / rowsPerB, cols].</summary>
    public static void AddRepeated(CpuWorkers workers, float* y, float* b, int rows, int cols, int rowsPerB)
    {
        BroadcastKernel job = new() { Y = y, A = y, B = b, Cols = cols, RowsPerB = rowsPerB };
        Ranges.Rows(workers, rows, cols, Ranges.Light, &RowOfB<SecondFunction, Accumulate>, &job);
    }

    /// <summary>The broadcast that reads the same elements with longer loops: a single row or column needs no loop over the other axis.</summary>
    public static Broadcast Simplify(int rows, int cols, Broadcast broadcast) => broadcast switch
    {
        Broadcast.OverRows when rows == 1 => Broadcast.None,
        Broadcast.OverRows when cols == 1 => Broadcast.Scalar,
        Broadcast.OverCols when cols == 1 => Broadcast.None,
        Broadcast.OverCols when rows == 1 => Broadcast.Scalar,
        _ => broadcast,
    };

    /// <summary>Elements of b.</summary>
    public static long LengthOfB(int rows, int cols, Broadcast broadcast, string op) => broadcast switch
    {
        Broadcast.None => (long)rows * cols,
        Broadcast.OverRows => cols,
        Broadcast.OverCols => rows,
        Broadcast.Scalar => 1,
        _ => throw Check.Unknown(broadcast, op),
    };

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Flat<TFunction, TMode>(void* context, long begin, long end) where TFunction : struct, IBinaryFunction where TMode : struct, IStoreMode
    {
        BroadcastKernel* job = (BroadcastKernel*)context;
        Vectors<TFunction, TMode>(job->Y + begin, job->A + begin, job->B + begin, end - begin);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Splat<TFunction, TMode>(void* context, long begin, long end) where TFunction : struct, IBinaryFunction where TMode : struct, IStoreMode
    {
        BroadcastKernel* job = (BroadcastKernel*)context;
        Scalar<TFunction, TMode>(job->Y + begin, job->A + begin, job->B[0], end - begin);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void RowOfB<TFunction, TMode>(void* context, int row, int block, int begin, int end) where TFunction : struct, IBinaryFunction where TMode : struct, IStoreMode
    {
        BroadcastKernel* job = (BroadcastKernel*)context;
        long at = ((long)row * job->Cols) + begin;
        long atB = ((long)(row / job->RowsPerB) * job->Cols) + begin;
        Vectors<TFunction, TMode>(job->Y + at, job->A + at, job->B + atB, end - begin);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void ElementOfB<TFunction, TMode>(void* context, int row, int block, int begin, int end) where TFunction : struct, IBinaryFunction where TMode : struct, IStoreMode
    {
        BroadcastKernel* job = (BroadcastKernel*)context;
        long at = ((long)row * job->Cols) + begin;
        Scalar<TFunction, TMode>(job->Y + at, job->A + at, job->B[row], end - begin);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Vectors<TFunction, TMode>(float* y, float* a, float* b, long n) where TFunction : struct, IBinaryFunction where TMode : struct, IStoreMode
    {
        long i = 0;
        for (; i <= n - SimdMath.Lanes; i += SimdMath.Lanes)
        {
            V v = TFunction.Value(Vector256.Load(a + i), Vector256.Load(b + i));
            Vector256.Store(TMode.Accumulates ? Vector256.Load(y + i) + v : v, y + i);
        }
        if (i < n)
        {
            int count = (int)(n - i);
            V v = TFunction.Value(SimdMath.LoadPartial(a + i, count), SimdMath.LoadPartial(b + i, count));
            SimdMath.StorePartial(y + i, TMode.Accumulates ? SimdMath.LoadPartial(y + i, count) + v : v, count);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Scalar<TFunction, TMode>(float* y, float* a, float number, long n) where TFunction : struct, IBinaryFunction where TMode : struct, IStoreMode
    {
        V b = Vector256.Create(number);
        long i = 0;
        for (; i <= n - SimdMath.Lanes; i += SimdMath.Lanes)
        {
            V v = TFunction.Value(Vector256.Load(a + i), b);
            Vector256.Store(TMode.Accumulates ? Vector256.Load(y + i) + v : v, y + i);
        }
        if (i < n)
        {
            int count = (int)(n - i);
            V v = TFunction.Value(SimdMath.LoadPartial(a + i, count), b);
            SimdMath.StorePartial(y + i, TMode.Accumulates ? SimdMath.LoadPartial(y + i, count) + v : v, count);
        }
    }
}
