using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Repeng.Kernels.Quantised;
using V = System.Runtime.Intrinsics.Vector256<float>;

namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void EmbeddingForward(View y, View table, View ids, int rows, int dim, float scale)
    {
        RequireEmbedding(y, table, ids, rows, dim, nameof(EmbeddingForward), nameof(y), nameof(table));
        EmbeddingJob job = new() { Y = (float*)y.Address, Table = (byte*)table.Address, Ids = (int*)ids.Address, Dim = dim, Scale = scale };
        switch (table.Type)
        {
            case DType.F32: Ranges.Rows(_workers, rows, dim, Ranges.Light, &EmbeddingJob.Forward<SingleTable>, &job); break;
            case DType.F16: Ranges.Rows(_workers, rows, dim, Ranges.Light, &EmbeddingJob.Forward<HalfTable>, &job); break;
            case DType.BF16: Ranges.Rows(_workers, rows, dim, Ranges.Light, &EmbeddingJob.Forward<BFloat16Table>, &job); break;
            case DType.Packed:
                job.Packed = table.Packing!.Source;
                job.Start = table.Start;
                Ranges.Rows(_workers, rows, dim, Ranges.Heavy, &EmbeddingJob.Decode, &job);
                GC.KeepAlive(table.Packing);
                break;
            default: throw new ArgumentException($"EmbeddingForward: operand table is {table.Type}, needs F32, F16, BF16 or Packed");
        }
    }

    /// <inheritdoc/>
    public void Unpack(View y, View packed)
    {
        if (packed.Packing is null)
            throw new ArgumentException($"{nameof(Unpack)}: operand {nameof(packed)} is {packed.Type}, not packed");
        y.Require(packed.Length, DType.F32, nameof(Unpack), nameof(y));
        UnpackJob job = new() { Y = (float*)y.Address, Packed = packed.Packing!.Source, Start = packed.Start, Count = packed.Length };
        _workers.Run(checked((int)((packed.Length + UnpackJob.Part - 1) / UnpackJob.Part)), &UnpackJob.Run, &job);
        GC.KeepAlive(packed.Packing);
    }

    private struct UnpackJob
    {
        // Elements of an item, a multiple of every block.
        public const int Part = 1 << 16;

        public float* Y;
        public PackedSource* Packed;
        public long Start, Count;

        public static void Run(void* context, int item, int worker)
        {
            UnpackJob* job = (UnpackJob*)context;
            long at = (long)item * Part;
            job->Packed->Read(job->Packed, job->Start + at, (int)Math.Min(Part, job->Count - at), job->Y + at);
        }
    }

    /// <inheritdoc/>
    public void EmbeddingBackward(View dTable, View dy, View ids, int rows, int dim, float scale)
    {
        if (dTable.IsEmpty)
            return;
        RequireEmbedding(dy, dTable, ids, rows, dim, nameof(EmbeddingBackward), nameof(dy), nameof(dTable));
        dTable.Require(0 < rows ? dim : 0, DType.F32, nameof(EmbeddingBackward), nameof(dTable));
        RowsJob.Scatter(_workers, (float*)dTable.Address, (float*)dy.Address, (int*)ids.Address, rows, dim, scale);
    }

    private static void RequireEmbedding(View rowsView, View table, View ids, int rows, int dim, string op, string rowsName, string tableName)
    {
        Check.Size(rows, op, nameof(rows));
        Check.Size(dim, op, nameof(dim));
        rowsView.Require((long)rows * dim, DType.F32, op, rowsName);
        ids.Require(rows, DType.I32, op, nameof(ids));
        if (dim > 0 && table.Length % dim != 0)
            throw new ArgumentException($"{op}: operand {tableName} has {table.Length} elements, which are no whole rows of {dim}");
        Check.Indices((int*)ids.Address, rows, dim == 0 ? long.MaxValue : table.Length / dim, op, nameof(ids));
    }

    /// <summary>How eight elements of a table become fp32.</summary>
    private interface ITableType
    {
        static abstract int Size { get; }

        static abstract V Load(byte* source);
    }

    private readonly struct SingleTable : ITableType
    {
        public static int Size => sizeof(float);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static V Load(byte* source) => Vector256.Load((float*)source);
    }

    private readonly struct HalfTable : ITableType
    {
        public static int Size => sizeof(ushort);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static V Load(byte* source) => SimdMath.WidenHalf(Vector128.Load((ushort*)source));
    }

    private readonly struct BFloat16Table : ITableType
    {
        public static int Size => sizeof(ushort);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static V Load(byte* source) => SimdMath.WidenBFloat16(Vector128.Load((ushort*)source));
    }

    private struct EmbeddingJob
    {
        public float* Y;
        public byte* Table;
        public int* Ids;
        public int Dim;
        public float Scale;
        public PackedSource* Packed;
        public long Start;

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Decode(void* context, int row, int block, int begin, int end)
        {
            EmbeddingJob* job = (EmbeddingJob*)context;
            float* y = job->Y + ((long)row * job->Dim);
            job->Packed->Read(job->Packed, job->Start + ((long)job->Ids[row] * job->Dim) + begin, end - begin, y + begin);
            if (job->Scale == 1)
                return;
            for (int i = begin; i < end; i++)
                y[i] *= job->Scale;
        }

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public static void Forward<TTable>(void* context, int row, int block, int begin, int end) where TTable : struct, ITableType
        {
            EmbeddingJob* job = (EmbeddingJob*)context;
            float* y = job->Y + ((long)row * job->Dim);
            byte* source = job->Table + ((long)job->Ids[row] * job->Dim * TTable.Size);
            V scale = Vector256.Create(job->Scale);
            int i = begin;
            for (; i <= end - SimdMath.Lanes; i += SimdMath.Lanes)
                Vector256.Store(TTable.Load(source + ((long)i * TTable.Size)) * scale, y + i);
            if (i < end)
            {
                V padded = default;
                Unsafe.CopyBlockUnaligned(&padded, source + ((long)i * TTable.Size), (uint)((end - i) * TTable.Size));
                SimdMath.StorePartial(y + i, TTable.Load((byte*)&padded) * scale, end - i);
            }
        }
    }
}
