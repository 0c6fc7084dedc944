using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using D = System.Runtime.Intrinsics.Vector256<double>;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Sums of terms f(dy, a, b) over an axis. Every sum is made of fixed blocks whose double partial sums are kept in
/// memory and then added in order, so that neither the number of threads nor the split of the work shows in the bits.
/// </summary>
internal unsafe struct SumKernel
{
    /// <summary>Rows of a block when columns are summed.</summary>
    private const int RowBlock = 1024;

    /// <summary>Columns that are summed side by side in registers.</summary>
    private const int Tile = 32;

    private float* _dy;
    private float* _a;
    private float* _b;
    private double* _partial;
    private long _length;
    private int _cols;
    private int _rows;
    private int _rowBlocks;
    private int _tiles;
    private long _units;
    private int _unitsPerItem;

    /// <summary>y[row] (=|+=) Σ_col f(dy, a, b[row]). b is null where f does not read it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void OverCols<TTerm>(CpuWorkers workers, float* y, float* dy, float* a, float* b, int rows, int cols, bool accumulate) where TTerm : struct, IGradientTerm
    {
        int blocks = Ranges.Blocks(cols);
        SumKernel job = new() { _dy = dy, _a = a, _b = b, _cols = cols, _rowBlocks = blocks, _partial = (double*)workers.Scratch(0, (long)rows * blocks * sizeof(double)) };
        Ranges.Rows(workers, rows, cols, Ranges.Light, &RowPart<TTerm>, &job);
        for (int row = 0; row < rows; row++)
        {
            double sum = 0;
            for (int block = 0; block < blocks; block++)
                sum += job._partial[((long)row * blocks) + block];
            y[row] = (float)(accumulate ? y[row] + sum : sum);
        }
    }

    /// <summary>y[0] += Σ f(dy, a, b[0]) over n elements.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void All<TTerm>(CpuWorkers workers, float* y, float* dy, float* a, float* b, long n) where TTerm : struct, IGradientTerm
    {
        long blocks = (n + Ranges.Block - 1) / Ranges.Block;
        SumKernel job = new() { _dy = dy, _a = a, _b = b, _length = n, _partial = (double*)workers.Scratch(0, blocks * sizeof(double)) };
        Ranges.Elements(workers, n, Ranges.Light, &FlatParts<TTerm>, &job);
        double sum = 0;
        for (long block = 0; block < blocks; block++)
            sum += job._partial[block];
        y[0] = (float)(y[0] + sum);
    }

    /// <summary>y[outer, col] (=|+=) Σ_row f(dy[outer, row, col], a[outer, row, col], b[col]). b is null where f does not read it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void OverRows<TTerm>(CpuWorkers workers, float* y, float* dy, float* a, float* b, int outer, int rows, int cols, bool accumulate) where TTerm : struct, IGradientTerm
    {
        int rowBlocks = (int)(((long)rows + RowBlock - 1) / RowBlock);
        int tiles = (int)(((long)cols + Tile - 1) / Tile);
        SumKernel job = new()
        {
            _dy = dy,
            _a = a,
            _b = b,
            _cols = cols,
            _rows = rows,
            _rowBlocks = rowBlocks,
            _tiles = tiles,
            _units = (long)outer * rowBlocks * tiles,
            _partial = (double*)workers.Scratch(0, (long)outer * rowBlocks * cols * sizeof(double)),
        };
        if (job._units > 0)
        {
            bool small = (long)outer * rows * cols < Ranges.Light || workers.Count == 1;
            long unitElements = (long)Math.Min(rows, RowBlock) * Math.Min(cols, Tile);
            long perItem = small ? job._units : Math.Clamp(Ranges.Part / unitElements, 1, job._units);
            // Sizes beyond 2³¹ units keep to the limit of the item counter.
            job._unitsPerItem = (int)Math.Min(int.MaxValue, Math.Max(perItem, (job._units / int.MaxValue) + 1));
            workers.Run((int)((job._units + job._unitsPerItem - 1) / job._unitsPerItem), &ColumnParts<TTerm>, &job);
        }
        for (int o = 0; o < outer; o++)
        {
            float* target = y + ((long)o * cols);
            double* partial = job._partial + ((long)o * rowBlocks * cols);
            for (int col = 0; col < cols; col++)
            {
                double sum = 0;
                for (int block = 0; block < rowBlocks; block++)
                    sum += partial[((long)block * cols) + col];
                target[col] = (float)(accumulate ? target[col] + sum : sum);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void RowPart<TTerm>(void* context, int row, int block, int begin, int end) where TTerm : struct, IGradientTerm
    {
        SumKernel* job = (SumKernel*)context;
        long at = ((long)row * job->_cols) + begin;
        float b = job->_b == null ? 0 : job->_b[row];
        job->_partial[((long)row * job->_rowBlocks) + block] = Contiguous<TTerm>(job->_dy + at, job->_a + at, b, end - begin);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FlatParts<TTerm>(void* context, long begin, long end) where TTerm : struct, IGradientTerm
    {
        SumKernel* job = (SumKernel*)context;
        for (long at = begin; at < end; at += Ranges.Block)
            job->_partial[at / Ranges.Block] = Contiguous<TTerm>(job->_dy + at, job->_a + at, job->_b[0], (int)Math.Min(Ranges.Block, end - at));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void ColumnParts<TTerm>(void* context, int item, int worker) where TTerm : struct, IGradientTerm
    {
        SumKernel* job = (SumKernel*)context;
        long first = (long)item * job->_unitsPerItem;
        long last = Math.Min(job->_units, first + job->_unitsPerItem);
        for (long unit = first; unit < last; unit++)
        {
            long stripe = unit / job->_tiles;
            int tile = (int)(unit - (stripe * job->_tiles));
            long outer = stripe / job->_rowBlocks;
            int rowBlock = (int)(stripe - (outer * job->_rowBlocks));
            int firstRow = rowBlock * RowBlock, col = tile * Tile;
            int rows = Math.Min(RowBlock, job->_rows - firstRow), cols = Math.Min(Tile, job->_cols - col);
            long at = (((outer * job->_rows) + firstRow) * job->_cols) + col;
            float* b = job->_b == null ? null : job->_b + col;
            Columns<TTerm>(job->_partial + (stripe * job->_cols) + col, job->_dy + at, job->_a + at, b, rows, cols, job->_cols);
        }
    }

    /// <summary>Sum over contiguous elements in four lanes groups of double.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static double Contiguous<TTerm>(float* dy, float* a, float number, int n) where TTerm : struct, IGradientTerm
    {
        V b = Vector256.Create(number);
        D s0 = D.Zero, s1 = D.Zero, s2 = D.Zero, s3 = D.Zero;
        int i = 0;
        for (; i <= n - (2 * SimdMath.Lanes); i += 2 * SimdMath.Lanes)
        {
            V t = TTerm.Term(Vector256.Load(dy + i), Vector256.Load(a + i), b);
            V u = TTerm.Term(Vector256.Load(dy + i + SimdMath.Lanes), Vector256.Load(a + i + SimdMath.Lanes), b);
            s0 += Vector256.WidenLower(t);
            s1 += Vector256.WidenUpper(t);
            s2 += Vector256.WidenLower(u);
            s3 += Vector256.WidenUpper(u);
        }
        for (; i < n; i += SimdMath.Lanes)
        {
            int count = n - i;
            V t = TTerm.Term(SimdMath.LoadFirst(dy + i, count), SimdMath.LoadFirst(a + i, count), b);
            if (count < SimdMath.Lanes)
                t = SimdMath.KeepFirst(t, count);
            s0 += Vector256.WidenLower(t);
            s1 += Vector256.WidenUpper(t);
        }
        return SimdMath.Sum((s0 + s2) + (s1 + s3));
    }

    /// <summary>sum[col] = Σ_row of up to 32 columns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Columns<TTerm>(double* sum, float* dy, float* a, float* b, int rows, int cols, int stride) where TTerm : struct, IGradientTerm
    {
        int col = 0;
        for (; col <= cols - (2 * SimdMath.Lanes); col += 2 * SimdMath.Lanes)
        {
            V b0 = b == null ? V.Zero : Vector256.Load(b + col), b1 = b == null ? V.Zero : Vector256.Load(b + col + SimdMath.Lanes);
            D s0 = D.Zero, s1 = D.Zero, s2 = D.Zero, s3 = D.Zero;
            float* g = dy + col, x = a + col;
            for (int row = 0; row < rows; row++, g += stride, x += stride)
            {
                V t = TTerm.Term(Vector256.Load(g), Vector256.Load(x), b0);
                V u = TTerm.Term(Vector256.Load(g + SimdMath.Lanes), Vector256.Load(x + SimdMath.Lanes), b1);
                s0 += Vector256.WidenLower(t);
                s1 += Vector256.WidenUpper(t);
                s2 += Vector256.WidenLower(u);
                s3 += Vector256.WidenUpper(u);
            }
            Vector256.Store(s0, sum + col);
            Vector256.Store(s1, sum + col + 4);
            Vector256.Store(s2, sum + col + 8);
            Vector256.Store(s3, sum + col + 12);
        }
        for (; col < cols; col += SimdMath.Lanes)
        {
            int count = Math.Min(SimdMath.Lanes, cols - col);
            V b0 = b == null ? V.Zero : SimdMath.LoadFirst(b + col, count);
            D s0 = D.Zero, s1 = D.Zero;
            float* g = dy + col, x = a + col;
            for (int row = 0; row < rows; row++, g += stride, x += stride)
            {
                V t = TTerm.Term(SimdMath.LoadFirst(g, count), SimdMath.LoadFirst(x, count), b0);
                s0 += Vector256.WidenLower(t);
                s1 += Vector256.WidenUpper(t);
            }
            for (int lane = 0; lane < count; lane++)
                sum[col + lane] = lane < 4 ? s0.GetElement(lane) : s1.GetElement(lane - 4);
        }
    }
}
