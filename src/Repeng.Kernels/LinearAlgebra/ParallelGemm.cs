using Repeng.Kernels.Cpu;

namespace Repeng.Kernels.LinearAlgebra;

/// <summary>
/// Matrix products in double over all workers, which share out tiles of the result. An element is summed in the same order
/// in whatever tile it lies, so its bits do not depend on the number of threads.
/// </summary>
internal static unsafe class ParallelGemm
{
    private const int TileRows = 192;
    private const int TileColumns = 192;

    // Few rows are one tile, and wide tiles read memory in long runs; the width gives every worker three tiles or more.
    private const int ThinRows = 96;
    private const int LeastThinColumns = 64;
    private const int MostThinColumns = 512;

    /// <summary>c = alpha·a·b, or c += alpha·a·b with accumulate; as <see cref="DoubleGemm.Multiply"/>.</summary>
    public static void Multiply(CpuWorkers workers, double* c, long ldc, MatrixOperand a, MatrixOperand b, int m, int n, int k, double alpha = 1, bool accumulate = false)
    {
        if (m <= 0 || n <= 0)
            return;
        int tileColumns = m > ThinRows ? TileColumns : Math.Clamp((n / (3 * workers.Count) + 63) & ~63, LeastThinColumns, MostThinColumns);
        Call call = new() { C = c, Ldc = ldc, A = a, B = b, M = m, N = n, K = k, Alpha = alpha, Accumulate = accumulate };
        (call.TileRows, call.TileColumns, call.Across) = (m <= ThinRows ? m : TileRows, tileColumns, Tiles(n, tileColumns));
        nint* scratch = stackalloc nint[workers.Count];
        call.Scratch = Reserve(workers, scratch);
        workers.Run(Tiles(m, call.TileRows) * call.Across, &TileItem, &call);
    }

    /// <summary>
    /// The lower triangle of c += alpha·a·aᵀ (or = without accumulate) for a [n, k]; elements above the diagonal may be
    /// written too, and are then undefined.
    /// </summary>
    public static void MultiplySymmetric(CpuWorkers workers, double* c, long ldc, MatrixOperand a, int n, int k, double alpha = 1, bool accumulate = false)
    {
        if (n <= 0)
            return;
        Call call = new() { C = c, Ldc = ldc, A = a, B = a.Transposed, M = n, N = n, K = k, Alpha = alpha, Accumulate = accumulate };
        (call.TileRows, call.TileColumns) = (TileRows, TileRows);
        nint* scratch = stackalloc nint[workers.Count];
        call.Scratch = Reserve(workers, scratch);
        int down = Tiles(n, TileRows);
        workers.Run(down * (down + 1) / 2, &LowerTileItem, &call);
    }

    /// <summary>Copies the lower triangle of c [n, n] to the upper one.</summary>
    public static void Mirror(double* c, int n)
    {
        const int Side = 32;
        for (int i0 = 0; i0 < n; i0 += Side)
            for (int j0 = 0; j0 <= i0; j0 += Side)
                for (int i = i0; i < Math.Min(n, i0 + Side); i++)
                    for (int j = j0; j < Math.Min(i, j0 + Side); j++)
                        c[(long)j * n + i] = c[(long)i * n + j];
    }

    private static int Tiles(int length, int tile) => (length + tile - 1) / tile;

    private static nint* Reserve(CpuWorkers workers, nint* table)
    {
        for (int worker = 0; worker < workers.Count; worker++)
            table[worker] = (nint)workers.Scratch(worker, DoubleGemm.ScratchLength * sizeof(double));
        return table;
    }

    private static void TileItem(void* context, int item, int worker)
    {
        Call* call = (Call*)context;
        MultiplyTile(call, item / call->Across, item % call->Across, worker);
    }

    private static void LowerTileItem(void* context, int item, int worker)
    {
        int row = (int)((Math.Sqrt(8.0 * item + 1) - 1) / 2);
        MultiplyTile((Call*)context, row, item - row * (row + 1) / 2, worker);
    }

    private static void MultiplyTile(Call* call, int tileRow, int tileColumn, int worker)
    {
        int row = tileRow * call->TileRows, column = tileColumn * call->TileColumns;
        DoubleGemm.Multiply(call->C + row * call->Ldc + column, call->Ldc, call->A.At(row, 0), call->B.At(0, column),
            Math.Min(call->TileRows, call->M - row), Math.Min(call->TileColumns, call->N - column), call->K,
            call->Alpha, call->Accumulate, (double*)call->Scratch[worker]);
    }

    private struct Call
    {
        public double* C;
        public long Ldc;
        public MatrixOperand A;
        public MatrixOperand B;
        public int M;
        public int N;
        public int K;
        public double Alpha;
        public bool Accumulate;
        public int TileRows;
        public int TileColumns;
        public int Across;
        public nint* Scratch;
    }
}
