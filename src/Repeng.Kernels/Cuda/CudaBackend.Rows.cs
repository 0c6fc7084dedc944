namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Rows = "rows";

    /// <inheritdoc/>
    public void GatherRows(View y, View x, View index, int rows, int cols)
    {
        RequireRows(y, x, index, rows, cols, nameof(GatherRows), nameof(y), nameof(x));
        KernelArguments a = default;
        a.Add(y).Add(x).Add(index).Add((long)cols);
        PerRowChunk("gather_rows", rows, cols, ref a);
    }

    /// <inheritdoc/>
    public void GatherRowsBackward(View dx, View dy, View index, int rows, int cols)
    {
        if (dx.IsEmpty)
            return;
        RequireRows(dy, dx, index, rows, cols, nameof(GatherRowsBackward), nameof(dy), nameof(dx));
        ScatterRows(dx, dy, index, rows, cols, 1);
    }

    /// <inheritdoc/>
    public void CopyColumns(View dst, int dstStride, int dstOffset, View src, int srcStride, int srcOffset, int rows, int cols, bool accumulate)
    {
        Shape(rows, cols, nameof(CopyColumns));
        RequireColumns(dst, dstStride, dstOffset, rows, cols, nameof(dst));
        RequireColumns(src, srcStride, srcOffset, rows, cols, nameof(src));
        if (rows == 0 || cols == 0)
            return;
        KernelArguments a = default;
        a.Add(dst.Slice(dstOffset, dst.Length - dstOffset)).Add((long)dstStride).Add(src.Slice(srcOffset, src.Length - srcOffset)).Add((long)srcStride).Add(cols).Add(accumulate ? 1 : 0);
        PerRowChunk("copy_columns", rows, cols, ref a);
    }

    /// <inheritdoc/>
    public void EmbeddingForward(View y, View table, View ids, int rows, int dim, float scale)
    {
        Shape(rows, dim, nameof(EmbeddingForward));
        y.Require((long)rows * dim, DType.F32, nameof(EmbeddingForward), nameof(y));
        ids.Require(rows, DType.I32, nameof(EmbeddingForward), nameof(ids));
        RequireWholeRows(table, dim, nameof(EmbeddingForward), nameof(table));
        if (table.Packing is { } packing)
        {
            LookUp(y, table, packing, ids, rows, dim, scale);
            return;
        }
        string kernel = table.Type switch
        {
            DType.F32 => "embedding_forward_f32",
            DType.F16 => "embedding_forward_f16",
            DType.BF16 => "embedding_forward_bf16",
            _ => throw new ArgumentException($"{nameof(EmbeddingForward)}: operand table is {table.Type}, needs F32, F16, BF16 or Packed"),
        };
        KernelArguments a = default;
        a.Add(y).Add(table).Add(ids).Add((long)dim).Add(scale);
        PerRowChunk(kernel, rows, dim, ref a);
    }

    /// <inheritdoc/>
    public void EmbeddingBackward(View dTable, View dy, View ids, int rows, int dim, float scale)
    {
        if (dTable.IsEmpty)
            return;
        RequireRows(dy, dTable, ids, rows, dim, nameof(EmbeddingBackward), nameof(dy), nameof(dTable));
        ScatterRows(dTable, dy, ids, rows, dim, scale);
    }

    private void ScatterRows(View dx, View dy, View index, int rows, int cols, float scale)
    {
        KernelArguments a = default;
        a.Add(dx).Add(dy).Add(index).Add(rows).Add((long)cols).Add(scale);
        Kernel(Rows, "scatter_rows").Launch(new((uint)rows), new(Threads), 0, ref a);
    }

    private void PerRowChunk(string kernel, int rows, int cols, ref KernelArguments arguments) =>
        Kernel(Rows, kernel).Launch(new((uint)rows, Blocks(cols, FlatTile)), new(Threads), 0, ref arguments);

    private static void RequireWholeRows(View table, int dim, string op, string operand)
    {
        if (dim > 0 && table.Length % dim != 0)
            throw new ArgumentException($"{op}: operand {operand} has {table.Length} elements, no whole rows of {dim}");
    }

    private static void RequireRows(View picked, View whole, View index, int rows, int cols, string op, string pickedName, string wholeName)
    {
        Shape(rows, cols, op);
        picked.Require((long)rows * cols, DType.F32, op, pickedName);
        whole.Require(rows > 0 ? cols : 0, DType.F32, op, wholeName);
        index.Require(rows, DType.I32, op, nameof(index));
    }

    private static void RequireColumns(View v, int stride, int offset, int rows, int cols, string name)
    {
        if (offset < 0 || ((long)offset + cols > stride && rows > 0))
            throw new ArgumentException($"{nameof(CopyColumns)}: columns {offset} … {(long)offset + cols - 1} of {name} are outside its rows of {stride}");
        if (rows > 0 && cols > 0)
            v.Require(((long)(rows - 1) * stride) + offset + cols, DType.F32, nameof(CopyColumns), name);
    }
}
