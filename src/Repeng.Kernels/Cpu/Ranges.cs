using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// Splits loops over elements and over rows into parts for <see cref="CpuWorkers"/>. Small loops run on the calling
/// thread, where waking the others would cost more than it saves. The bodies give every element (or every fixed
/// block of a row) the same value however the loop is split.
/// </summary>
internal static unsafe class Ranges
{
    /// <summary>Elements of a part.</summary>
    public const int Part = 16384;

    /// <summary>From this many elements functions of some 1 ns each are worth waking the other threads.</summary>
    public const int Heavy = 2 * Part;

    /// <summary>The same for loops that only move, add or multiply.</summary>
    public const int Light = 8 * Part;

    /// <summary>Columns of the fixed blocks that sums over a row are made of.</summary>
    public const int Block = 8192;

    private struct ElementJob
    {
        public delegate*<void*, long, long, void> Body;
        public void* Context;
        public long Length;
    }

    private struct RowJob
    {
        public delegate*<void*, int, int, int, int, void> Body;
        public void* Context;
        public int Rows;
        public int Cols;
        public int Blocks;
        public int RowsPerItem;
    }

    /// <summary>Runs body(context, begin, end) over [0, length), in parallel from the given number of elements.</summary>
    public static void Elements(CpuWorkers workers, long length, int parallelFrom, delegate*<void*, long, long, void> body, void* context)
    {
        if (length < parallelFrom || workers.Count == 1)
        {
            body(context, 0, length);
            return;
        }
        ElementJob job = new() { Body = body, Context = context, Length = length };
        workers.Run(checked((int)((length + Part - 1) / Part)), &ElementItem, &job);
    }

    /// <summary>Number of blocks of a row.</summary>
    public static int Blocks(int cols) => (int)(((long)cols + Block - 1) / Block);

    /// <summary>Runs body(context, row, block, begin, end) over every block [begin, end) of every row of a [rows, cols] matrix.</summary>
    public static void Rows(CpuWorkers workers, int rows, int cols, int parallelFrom, delegate*<void*, int, int, int, int, void> body, void* context)
    {
        int blocks = Blocks(cols);
        if (rows == 0 || blocks == 0)
            return;
        RowJob job = new() { Body = body, Context = context, Rows = rows, Cols = cols, Blocks = blocks, RowsPerItem = 1 };
        if ((long)rows * cols < parallelFrom || workers.Count == 1)
        {
            job.RowsPerItem = rows;
            for (int item = 0; item < blocks; item++)
                RowItem(&job, item, 0);
            return;
        }
        job.RowsPerItem = (int)Math.Clamp(Part / (long)cols, 1, rows);
        int groups = (rows + job.RowsPerItem - 1) / job.RowsPerItem;
        workers.Run(checked(groups * blocks), &RowItem, &job);
    }

    private static void ElementItem(void* context, int item, int worker)
    {
        ElementJob* job = (ElementJob*)context;
        long begin = (long)item * Part;
        job->Body(job->Context, begin, Math.Min(job->Length, begin + Part));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void RowItem(void* context, int item, int worker)
    {
        RowJob* job = (RowJob*)context;
        int group = item / job->Blocks, block = item - (group * job->Blocks);
        int begin = block * Block, end = (int)Math.Min(job->Cols, (long)begin + Block);
        long firstRow = (long)group * job->RowsPerItem;
        int lastRow = (int)Math.Min(job->Rows, firstRow + job->RowsPerItem);
        for (int row = (int)firstRow; row < lastRow; row++)
            job->Body(job->Context, row, block, begin, end);
    }
}
