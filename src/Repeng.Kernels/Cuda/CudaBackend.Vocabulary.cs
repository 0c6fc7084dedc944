namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Vocabulary = "vocabulary";

    /// <inheritdoc/>
    public void LogSumExpChunk(View max, View sum, View logits, int rows, int cols)
    {
        const string Op = nameof(LogSumExpChunk);
        max.Require(rows, DType.F32, Op, nameof(max));
        sum.Require(rows, DType.F32, Op, nameof(sum));
        logits.Require(Shape(rows, cols, Op), DType.F32, Op, nameof(logits));
        if (rows == 0 || cols == 0)
            return;
        (nint partial, uint chunks) = Partial(rows, cols);
        KernelArguments a = default;
        a.Add(partial).Add(logits).Add(cols);
        Kernel(Vocabulary, "log_sum_exp_partial").Launch(new((uint)rows, chunks), new(Threads), 0, ref a);
        a = default;
        a.Add(max).Add(sum).Add(partial).Add(rows).Add((int)chunks);
        Kernel(Vocabulary, "log_sum_exp_fold").Launch(new(Blocks(rows, Threads)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void LogSumExpFinish(View lse, View max, View sum, int rows)
    {
        const string Op = nameof(LogSumExpFinish);
        Check.Size(rows, Op, nameof(rows));
        lse.Require(rows, DType.F32, Op, nameof(lse));
        max.Require(rows, DType.F32, Op, nameof(max));
        sum.Require(rows, DType.F32, Op, nameof(sum));
        KernelArguments a = default;
        a.Add(lse).Add(max).Add(sum).Add(rows);
        Kernel(Vocabulary, "log_sum_exp_finish").Launch(new(Blocks(rows, Threads)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void GatherLabelChunk(View target, View logits, View labels, int rows, int cols, int firstColumn)
    {
        const string Op = nameof(GatherLabelChunk);
        target.Require(rows, DType.F32, Op, nameof(target));
        logits.Require(Shape(rows, cols, Op), DType.F32, Op, nameof(logits));
        labels.Require(rows, DType.I32, Op, nameof(labels));
        KernelArguments a = default;
        a.Add(target).Add(logits).Add(labels).Add(rows).Add(cols).Add(firstColumn);
        Kernel(Vocabulary, "gather_label").Launch(new(Blocks(rows, Threads)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void LogProbBackwardChunk(View logits, View lse, View dLogProb, View labels, int rows, int cols, int firstColumn, float softCap)
    {
        const string Op = nameof(LogProbBackwardChunk);
        logits.Require(Shape(rows, cols, Op), DType.F32, Op, nameof(logits));
        lse.Require(rows, DType.F32, Op, nameof(lse));
        dLogProb.Require(rows, DType.F32, Op, nameof(dLogProb));
        labels.Require(rows, DType.I32, Op, nameof(labels));
        if (rows == 0 || cols == 0)
            return;
        KernelArguments a = default;
        a.Add(logits).Add(lse).Add(dLogProb).Add(labels).Add(cols).Add(firstColumn).Add(softCap);
        Kernel(Vocabulary, "log_prob_backward").Launch(new((uint)rows, Blocks(cols, RowChunk)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void EntropyChunk(View entropy, View logits, View lse, int rows, int cols)
    {
        const string Op = nameof(EntropyChunk);
        entropy.Require(rows, DType.F32, Op, nameof(entropy));
        logits.Require(Shape(rows, cols, Op), DType.F32, Op, nameof(logits));
        lse.Require(rows, DType.F32, Op, nameof(lse));
        if (rows == 0 || cols == 0)
            return;
        (nint partial, uint chunks) = Partial(rows, cols);
        KernelArguments a = default;
        a.Add(partial).Add(logits).Add(lse).Add(cols);
        Kernel(Vocabulary, "entropy_partial").Launch(new((uint)rows, chunks), new(Threads), 0, ref a);
        SumPartials(entropy, partial, rows, 1, (int)chunks, 1, chunks, accumulate: true);
    }

    /// <inheritdoc/>
    public void TotalVariationChunk(View tv, View dot, View logitsRef, View lseRef, View logits, View lse, int rows, int cols)
    {
        const string Op = nameof(TotalVariationChunk);
        long n = Shape(rows, cols, Op);
        tv.Require(rows, DType.F32, Op, nameof(tv));
        dot.Require(rows, DType.F32, Op, nameof(dot));
        logitsRef.Require(n, DType.F32, Op, nameof(logitsRef));
        lseRef.Require(rows, DType.F32, Op, nameof(lseRef));
        logits.Require(n, DType.F32, Op, nameof(logits));
        lse.Require(rows, DType.F32, Op, nameof(lse));
        if (n == 0)
            return;
        (nint partial, uint chunks) = Partial(rows, cols);
        KernelArguments a = default;
        a.Add(partial).Add(logitsRef).Add(lseRef).Add(logits).Add(lse).Add(cols);
        Kernel(Vocabulary, "total_variation_partial").Launch(new((uint)rows, chunks), new(Threads), 0, ref a);
        SumPartials(tv, partial, rows, 1, (int)chunks, 1, chunks, accumulate: true);
        SumPartials(dot, partial + (nint)(sizeof(double) * (long)rows * chunks), rows, 1, (int)chunks, 1, chunks, accumulate: true);
    }

    /// <inheritdoc/>
    public void TotalVariationBackwardChunk(View logits, View lse, View logitsRef, View lseRef, View dot, View dTv, View add, int rows, int cols, float softCap)
    {
        const string Op = nameof(TotalVariationBackwardChunk);
        long n = Shape(rows, cols, Op);
        logits.Require(n, DType.F32, Op, nameof(logits));
        lse.Require(rows, DType.F32, Op, nameof(lse));
        logitsRef.Require(n, DType.F32, Op, nameof(logitsRef));
        lseRef.Require(rows, DType.F32, Op, nameof(lseRef));
        dot.Require(rows, DType.F32, Op, nameof(dot));
        dTv.Require(rows, DType.F32, Op, nameof(dTv));
        Check.Optional(add, n, Op, nameof(add));
        if (n == 0)
            return;
        KernelArguments a = default;
        a.Add(logits).Add(lse).Add(logitsRef).Add(lseRef).Add(dot).Add(dTv).Add(add).Add(cols).Add(softCap);
        Kernel(Vocabulary, "total_variation_backward").Launch(new((uint)rows, Blocks(cols, RowChunk)), new(Threads), 0, ref a);
    }

    // At most two doubles a row and chunk of 8192 columns.
    private (nint Address, uint Chunks) Partial(int rows, int cols)
    {
        uint chunks = Blocks(cols, RowChunk);
        return (Scratch(2L * sizeof(double) * rows * chunks), chunks);
    }
}
