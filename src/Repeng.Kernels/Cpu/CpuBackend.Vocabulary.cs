namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void LogProbBackwardChunk(View logits, View lse, View dLogProb, View labels, int rows, int cols, int firstColumn, float softCap)
    {
        RequireChunk(logits, rows, cols, nameof(LogProbBackwardChunk), nameof(logits));
        lse.Require(rows, DType.F32, nameof(LogProbBackwardChunk), nameof(lse));
        dLogProb.Require(rows, DType.F32, nameof(LogProbBackwardChunk), nameof(dLogProb));
        RequireLabels(labels, rows, firstColumn, nameof(LogProbBackwardChunk));
        VocabularyKernel job = new()
        {
            Logits = (float*)logits.Address,
            Lse = (float*)lse.Address,
            Upstream = (float*)dLogProb.Address,
            Labels = (int*)labels.Address,
            FirstColumn = firstColumn,
            SoftCap = softCap,
            Cols = cols,
        };
        Ranges.Rows(_workers, rows, cols, Ranges.Heavy, &VocabularyKernel.LogProbBackward, &job);
    }

    /// <inheritdoc/>
    public void EntropyChunk(View entropy, View logits, View lse, int rows, int cols)
    {
        RequireChunk(logits, rows, cols, nameof(EntropyChunk), nameof(logits));
        entropy.Require(rows, DType.F32, nameof(EntropyChunk), nameof(entropy));
        lse.Require(rows, DType.F32, nameof(EntropyChunk), nameof(lse));
        int blocks = Ranges.Blocks(cols);
        VocabularyKernel job = new() { Logits = (float*)logits.Address, Lse = (float*)lse.Address, Cols = cols, Blocks = blocks, Partial = VocabularyKernel.Partials(_workers, rows, blocks) };
        Ranges.Rows(_workers, rows, cols, Ranges.Heavy, &VocabularyKernel.Entropy, &job);
        for (int row = 0; row < rows; row++)
            ((float*)entropy.Address)[row] += (float)job.RowSum(row, 0);
    }

    /// <inheritdoc/>
    public void TotalVariationChunk(View tv, View dot, View logitsRef, View lseRef, View logits, View lse, int rows, int cols)
    {
        RequireChunk(logits, rows, cols, nameof(TotalVariationChunk), nameof(logits));
        RequireChunk(logitsRef, rows, cols, nameof(TotalVariationChunk), nameof(logitsRef));
        tv.Require(rows, DType.F32, nameof(TotalVariationChunk), nameof(tv));
        dot.Require(rows, DType.F32, nameof(TotalVariationChunk), nameof(dot));
        lse.Require(rows, DType.F32, nameof(TotalVariationChunk), nameof(lse));
        lseRef.Require(rows, DType.F32, nameof(TotalVariationChunk), nameof(lseRef));
        int blocks = Ranges.Blocks(cols);
        VocabularyKernel job = new()
        {
            Logits = (float*)logits.Address,
            Lse = (float*)lse.Address,
            LogitsRef = (float*)logitsRef.Address,
            LseRef = (float*)lseRef.Address,
            Cols = cols,
            Blocks = blocks,
            Partial = VocabularyKernel.Partials(_workers, rows, blocks),
        };
        Ranges.Rows(_workers, rows, cols, Ranges.Heavy, &VocabularyKernel.TotalVariation, &job);
        for (int row = 0; row < rows; row++)
        {
            ((float*)tv.Address)[row] += (float)job.RowSum(row, 0);
            ((float*)dot.Address)[row] += (float)job.RowSum(row, 1);
        }
    }

    /// <inheritdoc/>
    public void TotalVariationBackwardChunk(View logits, View lse, View logitsRef, View lseRef, View dot, View dTv, View add, int rows, int cols, float softCap)
    {
        RequireChunk(logits, rows, cols, nameof(TotalVariationBackwardChunk), nameof(logits));
        RequireChunk(logitsRef, rows, cols, nameof(TotalVariationBackwardChunk), nameof(logitsRef));
        lse.Require(rows, DType.F32, nameof(TotalVariationBackwardChunk), nameof(lse));
        lseRef.Require(rows, DType.F32, nameof(TotalVariationBackwardChunk), nameof(lseRef));
        dot.Require(rows, DType.F32, nameof(TotalVariationBackwardChunk), nameof(dot));
        dTv.Require(rows, DType.F32, nameof(TotalVariationBackwardChunk), nameof(dTv));
        if (!add.IsEmpty)
            RequireChunk(add, rows, cols, nameof(TotalVariationBackwardChunk), nameof(add));
        VocabularyKernel job = new()
        {
            Logits = (float*)logits.Address,
            Lse = (float*)lse.Address,
            LogitsRef = (float*)logitsRef.Address,
            LseRef = (float*)lseRef.Address,
            Dot = (float*)dot.Address,
            Upstream = (float*)dTv.Address,
            Add = add.IsEmpty ? null : (float*)add.Address,
            SoftCap = softCap,
            Cols = cols,
        };
        Ranges.Rows(_workers, rows, cols, Ranges.Heavy, &VocabularyKernel.TotalVariationBackward, &job);
    }
}
