using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void GatherRows(View y, View x, View index, int rows, int cols)
    {
        long sourceRows = RequireRows(y, x, index, rows, cols, nameof(GatherRows), nameof(y), nameof(x));
        Check.Indices((int*)index.Address, rows, sourceRows, nameof(GatherRows), nameof(index));
        RowsJob job = new() { Target = (float*)y.Address, Source = (float*)x.Address, Index = (int*)index.Address, Cols = cols };
        Ranges.Rows(_workers, rows, cols, Ranges.Light, &RowsJob.Gather, &job);
    }

    /// <inheritdoc/>
    public void GatherRowsBackward(View dx, View dy, View index, int rows, int cols)
    {
        if (dx.IsEmpty)
            return;
        long targetRows = RequireRows(dy, dx, index, rows, cols, nameof(GatherRowsBackward), nameof(dy), nameof(dx));
        Check.Indices((int*)index.Address, rows, targetRows, nameof(GatherRowsBackward), nameof(index));
        RowsJob.Scatter(_workers, (float*)dx.Address, (float*)dy.Address, (int*)index.Address, rows, cols, 1);
    }

    /// <inheritdoc/>
    public void CopyColumns(View dst, int dstStride, int dstOffset, View src, int srcStride, int srcOffset, int rows, int cols, bool accumulate)
    {
        Check.Size(rows, nameof(CopyColumns), nameof(rows));
        Check.Size(cols, nameof(CopyColumns), nameof(cols));
        RequireColumns(dst, dstStride, dstOffset, rows, cols, nameof(dst));
        RequireColumns(src, srcStride, srcOffset, rows, cols, nameof(src));
        RowsJob job = new() { Target = (float*)dst.Address + dstOffset, Source = (float*)src.Address + srcOffset, TargetStride = dstStride, SourceStride = srcStride };
        Ranges.Rows(_workers, rows, cols, Ranges.Light, accumulate ? &RowsJob.AddColumns : &RowsJob.CopyColumns, &job);
    }

    private static void RequireColumns(View v, int stride, int offset, int rows, int cols, string name)
    {
        if (offset < 0 || ((long)offset + cols > stride && rows > 0))
            throw new ArgumentException($"CopyColumns: columns {offset} … {(long)offset + cols - 1} of {name} are outside its rows of {stride}");
        if (rows > 0 && cols > 0)
            v.Require(((long)(rows - 1) * stride) + offset + cols, DType.F32, nameof(CopyColumns), name);
    }

    /// <summary>Checks the operands of a gather and gives the number of rows that can be named.</summary>
    private static long RequireRows(View picked, View whole, View index, int rows, int cols, string op, string pickedName, string wholeName)
    {
        Check.Size(rows, op, nameof(rows));
        Check.Size(cols, op, nameof(cols));
        picked.Require((long)rows * cols, DType.F32, op, pickedName);
        whole.Require(rows > 0 ? cols : 0, DType.F32, op, wholeName);
        index.Require(rows, DType.I32, op, nameof(index));
        return cols == 0 ? long.MaxValue : whole.Length / cols;
    }

    /// <summary>Rows copied or added by index, shared with the embedding.</summary>
    private struct RowsJob
    {
        public float* Target;
        public float* Source;
        public int* Index;
        public int Rows;
        public int Cols;
        public int TargetStride;
        public int SourceStride;
        public float Scale;
        private int _tile;

        public static void Gather(void* context, int row, int block, int begin, int end)
        {
            RowsJob* job = (RowsJob*)context;
            Move(job->Target + ((long)row * job->Cols) + begin, job->Source + ((long)job->Index[row] * job->Cols) + begin, end - begin);
        }

        public static void CopyColumns(void* context, int row, int block, int begin, int end)
        {
            RowsJob* job = (RowsJob*)context;
            Move(job->Target + ((long)row * job->TargetStride) + begin, job->Source + ((long)row * job->SourceStride) + begin, end - begin);
        }

        public static void AddColumns(void* context, int row, int block, int begin, int end)
        {
            RowsJob* job = (RowsJob*)context;
            AddRow(job->Target + ((long)row * job->TargetStride) + begin, job->Source + ((long)row * job->SourceStride) + begin, end - begin, 1);
        }

        /// <summary>target[index[i], :] += scale·source[i, :] in the order of i. Work is split by columns, so the order of the rows holds in every part.</summary>
        public static void Scatter(CpuWorkers workers, float* target, float* source, int* index, int rows, int cols, float scale)
        {
            if (rows == 0 || cols == 0)
                return;
            RowsJob job = new() { Target = target, Source = source, Index = index, Rows = rows, Cols = cols, Scale = scale, _tile = cols };
            // Any width of the parts gives the same sums; whole cache lines keep the threads apart.
            if ((long)rows * cols >= Ranges.Light)
                job._tile = Math.Max(64, (((cols + workers.Count - 1) / workers.Count) + 15) & ~15);
            workers.Run((cols + job._tile - 1) / job._tile, &ScatterTile, &job);
        }

        private static void ScatterTile(void* context, int item, int worker)
        {
            RowsJob* job = (RowsJob*)context;
            int begin = item * job->_tile, count = Math.Min(job->_tile, job->Cols - begin);
            for (int row = 0; row < job->Rows; row++)
                AddRow(job->Target + ((long)job->Index[row] * job->Cols) + begin, job->Source + ((long)row * job->Cols) + begin, count, job->Scale);
        }

        private static void Move(float* target, float* source, int count) => NativeMemory.Copy(source, target, (nuint)count * sizeof(float));

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private static void AddRow(float* target, float* source, int count, float scale)
        {
            Vector256<float> s = Vector256.Create(scale);
            int i = 0;
            for (; i <= count - SimdMath.Lanes; i += SimdMath.Lanes)
                Vector256.Store(SimdMath.MulAdd(Vector256.Load(source + i), s, Vector256.Load(target + i)), target + i);
            if (i < count)
                SimdMath.StorePartial(target + i, SimdMath.MulAdd(SimdMath.LoadPartial(source + i, count - i), s, SimdMath.LoadPartial(target + i, count - i)), count - i);
        }
    }
}
