using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>vocabulary.cu on chunks of logits against the CPU backend, whose own tests hold it to a double reference.</summary>
public sealed class VocabularyKernelTests
{
    [Theory]
    [InlineData(3, 9000, 0f)]
    [InlineData(5, 301, 30f)]
    public void EqualsTheCpu(int rows, int cols, float softCap)
    {
        using Gpu gpu = new();
        using var cpu = new CpuBackend(1);
        using TestMemory memory = new(cpu);
        int n = rows * cols, chunks = Gpu.Ceil(cols, 8192);
        float[] x = Gpu.Random(n, 1, 4), reference = Gpu.Random(n, 2, 4), upstream = Gpu.Random(rows, 3), add = Gpu.Random(n, 4), infinite = new float[rows];
        Array.Fill(infinite, float.NegativeInfinity);
        int[] labels = [.. Enumerable.Range(0, rows).Select(i => i == 1 ? 5 : 100 + (i * 37 % cols))];
        View px = memory.Of(x), pr = memory.Of(reference), max = memory.Of(infinite), sum = memory.Zeros(rows), lse = memory.Empty(rows), lseRef = memory.Empty(rows), pl = memory.Of(labels);
        ulong gx = gpu.Upload(x), gr = gpu.Upload(reference), gmax = gpu.Upload(infinite), gsum = gpu.Zeros(rows), glse = gpu.Empty<float>(rows), partial = gpu.Empty<double>(2 * rows * chunks), gl = gpu.Upload(labels);

        // Two chunks, so that running values meet.
        foreach ((View host, ulong device) in new[] { (px, gx), (pr, gr) })
        {
            cpu.LogSumExpChunk(max, sum, host, rows, cols);
            gpu.Run("vocabulary", "log_sum_exp_partial", (rows, chunks, 1), 256, 0, partial, device, cols);
            gpu.Run("vocabulary", "log_sum_exp_fold", 1, 256, gmax, gsum, partial, rows, chunks);
        }
        cpu.LogSumExpFinish(lse, max, sum, rows);
        gpu.Run("vocabulary", "log_sum_exp_finish", 1, 256, glse, gmax, gsum, rows);
        Close.To(2e-7, gpu.Read(glse, rows), memory.Read(lse), "lse");
        float[] shift = memory.Read(lse), shiftRef = Array.ConvertAll(shift, v => v + 0.1f);
        glse = gpu.Upload(shift);
        ulong glseRef = gpu.Upload(shiftRef);
        lseRef = memory.Of(shiftRef);

        View target = memory.Of(upstream);
        cpu.GatherLabelChunk(target, px, pl, rows, cols, 100);
        ulong gt = gpu.Upload(upstream);
        gpu.Run("vocabulary", "gather_label", 1, 256, gt, gx, gl, rows, cols, 100);
        Assert.Equal(memory.Read(target), gpu.Read(gt, rows));

        View entropy = memory.Of(upstream), tv = memory.Of(upstream), dot = memory.Of(upstream), d = memory.Of(upstream);
        cpu.EntropyChunk(entropy, px, lse, rows, cols);
        cpu.TotalVariationChunk(tv, dot, pr, lseRef, px, lse, rows, cols);
        ulong ge = gpu.Upload(upstream), gtv = gpu.Upload(upstream), gdot = gpu.Upload(upstream);
        gpu.Run("vocabulary", "entropy_partial", (rows, chunks, 1), 256, 0, partial, gx, glse, cols);
        Finish(ge, partial);
        gpu.Run("vocabulary", "total_variation_partial", (rows, chunks, 1), 256, 0, partial, gr, glseRef, gx, glse, cols);
        Finish(gtv, partial);
        Finish(gdot, partial + (ulong)(8 * rows * chunks));
        Close.To(1e-6, gpu.Read(ge, rows), memory.Read(entropy), "entropy");
        Close.To(1e-6, gpu.Read(gtv, rows), memory.Read(tv), "total variation");
        Close.To(1e-6, gpu.Read(gdot, rows), memory.Read(dot), "dot");

        View first = memory.Of(x), second = memory.Of(x);
        cpu.LogProbBackwardChunk(first, lse, d, pl, rows, cols, 100, softCap);
        cpu.TotalVariationBackwardChunk(second, lse, pr, lseRef, dot, d, memory.Of(add), rows, cols, softCap);
        ulong g1 = gpu.Upload(x), g2 = gpu.Upload(x), gd = gpu.Upload(upstream);
        gpu.Run("vocabulary", "log_prob_backward", (rows, chunks, 1), 256, 0, g1, glse, gd, gl, cols, 100, softCap);
        gpu.Run("vocabulary", "total_variation_backward", (rows, chunks, 1), 256, 0, g2, glse, gr, glseRef, gpu.Upload(memory.Read(dot)), gd, gpu.Upload(add), cols, softCap);
        Close.To(2e-6, gpu.Read(g1, n), memory.Read(first), "gradient of the log-probability");
        Close.To(2e-6, gpu.Read(g2, n), memory.Read(second), "gradient of the total variation");

        void Finish(ulong y, ulong from) => gpu.Run("reduce", "sum_partials", 1, 256, y, from, (long)rows, 1, chunks, 1L, (long)chunks, 1);
    }
}
