using Repeng.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn.functional;

namespace Repeng.Bench.Kernels;

internal static partial class KernelCases
{
    private const int QwenVocabulary = 151_936;

    private static IEnumerable<KernelCase> Norms()
    {
        // A batch of 14 texts of 64 tokens at two coefficients: its rows lie in caches for the small model and do not for the large.
        const int Rows = 1792;
        foreach ((string model, int cols) in new[] { ("SmolLM2", 576), ("Qwen3-4B", 2560) })
            foreach (bool centred in new[] { false, true })
            {
                yield return Norm(model, Rows, cols, centred, backward: false);
                yield return Norm(model, Rows, cols, centred, backward: true);
            }
    }

    private static KernelCase Norm(string model, int rows, int cols, bool centred, bool backward)
    {
        const float Eps = 1e-5f;
        long size = (long)rows * cols;
        // Forward x and y; backward x, dy, dx read and written.
        return new($"{(centred ? "LayerNorm" : "RMSNorm")} {(backward ? "backward" : "forward")}, {model} {rows}×{cols}", 0, sizeof(float) * (backward ? 4.0 : 2) * size, o =>
        {
            View x = o.Normal(size), y = o.Zeros(size), weight = o.Normal(cols), bias = o.Normal(cols), mean = o.Zeros(rows), rstd = o.Zeros(rows);
            View dy = o.Normal(size), dx = o.Zeros(size), dWeight = o.Zeros(cols), dBias = o.Zeros(cols);
            Action forward = centred
                ? () => o.Backend.LayerNormForward(y, mean, rstd, x, weight, bias, rows, cols, Eps)
                : () => o.Backend.RmsNormForward(y, rstd, x, weight, rows, cols, Eps, 0);
            Action ours = !backward ? forward : centred
                ? () => o.Backend.LayerNormBackward(dx, dWeight, dBias, dy, x, weight, mean, rstd, rows, cols)
                : () => o.Backend.RmsNormBackward(dx, dWeight, dy, x, weight, rstd, rows, cols, 0);
            forward();
            if (!o.Peer)
                return new(ours);
            torch.Tensor xt = o.Tensor(x, rows, cols), wt = o.Tensor(weight, cols), bt = o.Tensor(bias, cols);
            Func<torch.Tensor> value = centred ? () => layer_norm(xt, [cols], wt, bt, Eps) : () => wt * (xt * torch.rsqrt(xt.square().mean([-1], keepdim: true) + Eps));
            if (!backward)
                return new(ours, () => [value()]) { Results = [y] };
            torch.Tensor[] inputs = centred ? [xt, wt, bt] : [xt, wt];
            foreach (torch.Tensor t in inputs)
                t.requires_grad_();
            torch.Tensor result = o.Own(value()), upstream = o.Tensor(dy, rows, cols);
            return new(ours, () => [.. Gradients(result, inputs, upstream)]) { Results = centred ? [dx, dWeight, dBias] : [dx, dWeight] };
        });
    }

    private static IEnumerable<KernelCase> Vocabulary()
    {
        const int Rows = 32, Cols = QwenVocabulary;
        yield return new($"log-softmax and gather forward, {Rows}×{Cols}", 0, sizeof(float) * (double)Rows * Cols, o =>
        {
            View logits = o.Normal((long)Rows * Cols, 4), labels = Labels(o), max = o.Zeros(Rows), sum = o.Zeros(Rows), lse = o.Zeros(Rows), logProb = o.Zeros(Rows);
            Action ours = () => LogProb(o, logProb, lse, max, sum, logits, labels);
            if (!o.Peer)
                return new(ours);
            torch.Tensor lt = o.Tensor(logits, Rows, Cols), index = Index(o, labels);
            return new(ours, () => [log_softmax(lt, 1).gather(1, index)]) { Results = [logProb] };
        });
        yield return new($"log-softmax and gather backward, {Rows}×{Cols}", 0, sizeof(float) * 2.0 * Rows * Cols, o =>
        {
            View logits = o.Normal((long)Rows * Cols, 4), labels = Labels(o), max = o.Zeros(Rows), sum = o.Zeros(Rows), lse = o.Zeros(Rows), logProb = o.Zeros(Rows), upstream = o.Normal(Rows);
            LogProb(o, logProb, lse, max, sum, logits, labels);
            torch.Tensor? lt = o.Peer ? o.Tensor(logits, Rows, Cols).requires_grad_() : null;
            // In place, as the engine does it: after the first call logits are the last call's gradients, which changes no time.
            Action ours = () => o.Backend.LogProbBackwardChunk(logits, lse, upstream, labels, Rows, Cols, 0, 0);
            if (lt is null)
                return new(ours);
            torch.Tensor result = o.Own(log_softmax(lt, 1).gather(1, Index(o, labels))), dt = o.Tensor(upstream, Rows, 1);
            return new(ours, () => [.. Gradients(result, [lt], dt)]) { Results = [logits] };
        });

        static View Labels(Operands o) => o.Integers(Rows, i => (int)((i + 1L) * 7919 * 131 % Cols));

        static torch.Tensor Index(Operands o, View labels) => o.Own(o.Tensor(labels, Rows, 1).to(torch.ScalarType.Int64));
    }

    private static void LogProb(Operands o, View logProb, View lse, View max, View sum, View logits, View labels)
    {
        int rows = (int)logProb.Length, cols = (int)(logits.Length / rows);
        o.Backend.Fill(max, float.NegativeInfinity);
        o.Backend.Fill(sum, 0);
        o.Backend.LogSumExpChunk(max, sum, logits, rows, cols);
        o.Backend.GatherLabelChunk(logProb, logits, labels, rows, cols, 0);
        o.Backend.LogSumExpFinish(lse, max, sum, rows);
        o.Backend.Binary(logProb, logProb, lse, 1, rows, BinaryOp.Subtract, Broadcast.None);
    }
}
