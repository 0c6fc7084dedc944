namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void LogSumExpChunk(View max, View sum, View logits, int rows, int cols)
    {
        RequireChunk(logits, rows, cols, nameof(LogSumExpChunk), nameof(logits));
        max.Require(rows, DType.F32, nameof(LogSumExpChunk), nameof(max));
        sum.Require(rows, DType.F32, nameof(LogSumExpChunk), nameof(sum));
        int blocks = Ranges.Blocks(cols);
        VocabularyKernel job = new() { Logits = (float*)logits.Address, Cols = cols, Blocks = blocks, Partial = VocabularyKernel.Partials(_workers, rows, blocks) };
        Ranges.Rows(_workers, rows, cols, Ranges.Heavy, &VocabularyKernel.MaxAndSum, &job);

        float* runningMax = (float*)max.Address, runningSum = (float*)sum.Address;
        for (int row = 0; row < rows; row++)
        {
            double* partial = job.Partial + ((long)row * blocks * 2);
            double highest = runningMax[row];
            for (int block = 0; block < blocks; block++)
                highest = Math.Max(highest, partial[2 * block]);
            double total = Rescaled(runningSum[row], runningMax[row], highest);
            for (int block = 0; block < blocks; block++)
                total += Rescaled(partial[(2 * block) + 1], partial[2 * block], highest);
            runningMax[row] = (float)highest;
            runningSum[row] = (float)total;
        }
    }

    /// <inheritdoc/>
    public void LogSumExpFinish(View lse, View max, View sum, int rows)
    {
        Check.Size(rows, nameof(LogSumExpFinish), nameof(rows));
        lse.Require(rows, DType.F32, nameof(LogSumExpFinish), nameof(lse));
        max.Require(rows, DType.F32, nameof(LogSumExpFinish), nameof(max));
        sum.Require(rows, DType.F32, nameof(LogSumExpFinish), nameof(sum));
        float* target = (float*)lse.Address, highest = (float*)max.Address, total = (float*)sum.Address;
        for (int row = 0; row < rows; row++)
            target[row] = (float)(highest[row] + Math.Log(total[row]));
    }

    /// <inheritdoc/>
    public void GatherLabelChunk(View target, View logits, View labels, int rows, int cols, int firstColumn)
    {
        RequireChunk(logits, rows, cols, nameof(GatherLabelChunk), nameof(logits));
        target.Require(rows, DType.F32, nameof(GatherLabelChunk), nameof(target));
        RequireLabels(labels, rows, firstColumn, nameof(GatherLabelChunk));
        float* picked = (float*)target.Address, values = (float*)logits.Address;
        int* label = (int*)labels.Address;
        for (int row = 0; row < rows; row++)
        {
            long column = (long)label[row] - firstColumn;
            if (column >= 0 && column < cols)
                picked[row] = values[((long)row * cols) + column];
        }
    }

    private static void RequireChunk(View logits, int rows, int cols, string op, string operand)
    {
        Check.Size(rows, op, nameof(rows));
        Check.Size(cols, op, nameof(cols));
        logits.Require((long)rows * cols, DType.F32, op, operand);
    }

    // A chunk does not know how long the vocabulary is: labels beyond it belong to another chunk, negative ones to none.
    private static void RequireLabels(View labels, int rows, int firstColumn, string op)
    {
        Check.Size(firstColumn, op, nameof(firstColumn));
        labels.Require(rows, DType.I32, op, nameof(labels));
        Check.Indices((int*)labels.Address, rows, 1L << 31, op, nameof(labels));
    }

    /// <summary>A sum of e^(x − from) as a sum of e^(x − to). No term at all stays 0, also where both are −∞.</summary>
    private static double Rescaled(double sum, double from, double to) => sum == 0 ? 0 : from == to ? sum : sum * Math.Exp(from - to);
}
