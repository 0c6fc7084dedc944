namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public void EmbeddingForward(View y, View table, View ids, int rows, int dim, float scale) => throw new NotImplementedException();

    public void EmbeddingBackward(View dTable, View dy, View ids, int rows, int dim, float scale) => throw new NotImplementedException();

    public void LogSumExpChunk(View max, View sum, View logits, int rows, int cols) => throw new NotImplementedException();

    public void LogSumExpFinish(View lse, View max, View sum, int rows) => throw new NotImplementedException();

    public void GatherLabelChunk(View target, View logits, View labels, int rows, int cols, int firstColumn) => throw new NotImplementedException();

    public void LogProbBackwardChunk(View logits, View lse, View dLogProb, View labels, int rows, int cols, int firstColumn, float softCap) => throw new NotImplementedException();

    public void EntropyChunk(View entropy, View logits, View lse, int rows, int cols) => throw new NotImplementedException();

    public void TotalVariationChunk(View tv, View dot, View logitsRef, View lseRef, View logits, View lse, int rows, int cols) => throw new NotImplementedException();

    public void TotalVariationBackwardChunk(View logits, View lse, View logitsRef, View lseRef, View dot, View dTv, View add, int rows, int cols, float softCap) => throw new NotImplementedException();
}
