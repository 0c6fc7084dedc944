namespace Repeng.Kernels.Dry;

public sealed unsafe partial class DryBackend
{
    /// <inheritdoc/>
    public void Unary(View y, View x, long n, UnaryOp op, float p = 0) => Count(OpFamily.Elementwise, n, 2.0 * n);

    /// <inheritdoc/>
    public void UnaryBackward(View dx, View dy, View x, View y, long n, UnaryOp op, float p = 0)
    {
        if (!dx.IsEmpty)
            Count(OpFamily.Elementwise, n, 4.0 * n);
    }

    /// <inheritdoc/>
    public void Binary(View y, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast)
    {
        double n = (double)rows * cols;
        Count(OpFamily.Elementwise, n, (2 * n) + SecondOperand(rows, cols, broadcast));
    }

    /// <inheritdoc/>
    public void BinaryBackward(View da, View db, View dy, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast)
    {
        double n = (double)rows * cols, second = SecondOperand(rows, cols, broadcast);
        bool product = op is BinaryOp.Multiply or BinaryOp.Divide;
        if (!da.IsEmpty)
            Count(OpFamily.Elementwise, n, (3 * n) + (product ? second : 0));
        if (!db.IsEmpty)
            Count(broadcast == Broadcast.None ? OpFamily.Elementwise : OpFamily.Reduce, n, (product ? 2 * n : n) + (2 * second));
    }

    /// <inheritdoc/>
    public void AddScaled(View y, View x, long n, float p) => Count(OpFamily.Elementwise, n, 3.0 * n);

    /// <inheritdoc/>
    public void GatedForward(View y, View gate, View up, long n, UnaryOp op) => Count(OpFamily.Elementwise, n, 3.0 * n);

    /// <inheritdoc/>
    public void GatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, UnaryOp op, bool accumulate = true)
    {
        int gradients = (dGate.IsEmpty ? 0 : 1) + (dUp.IsEmpty ? 0 : 1);
        if (gradients > 0)
            Count(OpFamily.Elementwise, (double)gradients * n, (2.0 + (dGate.IsEmpty ? 0 : 1) + ((accumulate ? 2 : 1) * gradients)) * n);
    }

    /// <inheritdoc/>
    public void ReduceSum(View y, View x, int outer, int n, int inner, bool accumulate)
    {
        double size = (double)outer * n * inner;
        Count(OpFamily.Reduce, size, size + ((double)outer * inner * (accumulate ? 2 : 1)));
    }

    /// <inheritdoc/>
    public void ReduceSumBackward(View dx, View dy, int outer, int n, int inner)
    {
        double size = (double)outer * n * inner;
        if (!dx.IsEmpty)
            Count(OpFamily.Elementwise, size, (2 * size) + ((double)outer * inner));
    }

    /// <inheritdoc/>
    public void GatherRows(View y, View x, View index, int rows, int cols) => Count(OpFamily.Rows, (double)rows * cols, 2.0 * rows * cols);

    /// <inheritdoc/>
    public void GatherRowsBackward(View dx, View dy, View index, int rows, int cols)
    {
        if (!dx.IsEmpty)
            Count(OpFamily.Rows, (double)rows * cols, 3.0 * rows * cols);
    }

    /// <inheritdoc/>
    public void CopyColumns(View dst, int dstStride, int dstOffset, View src, int srcStride, int srcOffset, int rows, int cols, bool accumulate) =>
        Count(OpFamily.Rows, (double)rows * cols, (accumulate ? 3.0 : 2.0) * rows * cols);

    /// <inheritdoc/>
    public void AdamW(View param, View grad, View m, View v, long n, in AdamWArgs args) => Count(OpFamily.Optimiser, n, 7.0 * n);

    /// <inheritdoc/>
    public void EmbeddingForward(View y, View table, View ids, int rows, int dim, float scale)
    {
        double n = (double)rows * dim;
        Count(OpFamily.Rows, 0, n, (long)(n * (sizeof(float) + table.ElementBytes)));
    }

    /// <inheritdoc/>
    public void Unpack(View y, View packed) => Count(OpFamily.Copy, 0, packed.Length, packed.Bytes + packed.Length * sizeof(float));

    /// <inheritdoc/>
    public void EmbeddingBackward(View dTable, View dy, View ids, int rows, int dim, float scale)
    {
        if (!dTable.IsEmpty)
            Count(OpFamily.Rows, (double)rows * dim, 3.0 * rows * dim);
    }

    /// <inheritdoc/>
    public void LogSumExpChunk(View max, View sum, View logits, int rows, int cols) => CountLogits(rows, cols, 1);

    /// <inheritdoc/>
    public void LogSumExpFinish(View lse, View max, View sum, int rows) => Count(OpFamily.Vocabulary, rows, 3.0 * rows);

    /// <inheritdoc/>
    public void GatherLabelChunk(View target, View logits, View labels, int rows, int cols, int firstColumn) => Count(OpFamily.Vocabulary, rows, 3.0 * rows);

    /// <inheritdoc/>
    public void LogProbBackwardChunk(View logits, View lse, View dLogProb, View labels, int rows, int cols, int firstColumn, float softCap) => CountLogits(rows, cols, 2);

    /// <inheritdoc/>
    public void EntropyChunk(View entropy, View logits, View lse, int rows, int cols) => CountLogits(rows, cols, 1);

    /// <inheritdoc/>
    public void TotalVariationChunk(View tv, View dot, View logitsRef, View lseRef, View logits, View lse, int rows, int cols) => CountLogits(rows, cols, 2);

    /// <inheritdoc/>
    public void TotalVariationBackwardChunk(View logits, View lse, View logitsRef, View lseRef, View dot, View dTv, View add, int rows, int cols, float softCap) =>
        CountLogits(rows, cols, add.IsEmpty ? 3 : 4);

    private static double SecondOperand(int rows, int cols, Broadcast broadcast) => broadcast switch
    {
        Broadcast.None => (double)rows * cols,
        Broadcast.OverRows => cols,
        Broadcast.OverCols => rows,
        Broadcast.Scalar => 1,
        _ => throw new ArgumentException($"unknown broadcast {broadcast}"),
    };

    private void CountLogits(int rows, int cols, int passes)
    {
        double n = (double)rows * cols;
        Count(OpFamily.Vocabulary, n, (passes * n) + (4.0 * rows));
    }
}
