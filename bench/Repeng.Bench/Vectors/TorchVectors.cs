using Repeng.Bench.Training;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;
using TorchSharp;
using static TorchSharp.torch;
using Tensor = TorchSharp.torch.Tensor;

namespace Repeng.Bench.Vectors;

/// <summary>
/// Directions of every block in libtorch, in fp32 and in the reference's form: outputs (and gradients) of all blocks at one token of
/// each text, then an SVD of the centred differences, or a dense solve with the Fisher matrix. Written from the formulas.
/// </summary>
internal sealed class TorchVectors(DecoderModel model, double lambda, bool centred) : IDisposable
{
    private readonly TorchDecoder _decoder = new(model);

    /// <summary>First principal component of the pairs' differences at the last token, signed by most pairs.</summary>
    public float[][] PcaDiff(IEnumerable<TokenBatch> batches)
    {
        using IDisposable frozen = no_grad();
        using DisposeScope scope = NewDisposeScope();
        List<Tensor>[] rows = Collect(batches, 1, differentiate: false);
        return [.. rows.Select(parts =>
        {
            Tensor h = cat(parts), x = h[TensorIndex.Slice(0, null, 2)] - h[TensorIndex.Slice(1, null, 2)];
            (Tensor _, Tensor _, Tensor vh) = linalg.svd(x - x.mean([0]), fullMatrices: false);
            Tensor v = vh[0];
            return (v * (sign(matmul(x, v)).sum().item<float>() < 0 ? -1 : 1)).data<float>().ToArray();
        })];
    }

    /// <summary>(F + λI)⁻¹ ḡ of the default loss's gradients at the token before the last, plain or centred F, signed by the gradients.</summary>
    public float[][] Fisher(IEnumerable<TokenBatch> batches)
    {
        using DisposeScope scope = NewDisposeScope();
        List<Tensor>[] rows = Collect(batches, 2, differentiate: true);
        return [.. rows.Select(parts => Solve(cat(parts), lambda, centred))];
    }

    /// <summary>The dense solve for gradient rows [m, d].</summary>
    public static float[] Solve(Tensor g, double lambda, bool centred)
    {
        using DisposeScope scope = NewDisposeScope();
        Tensor mean = g.mean([0]), x = centred ? g - mean : g;
        Tensor f = matmul(x.t(), x).div_(centred ? g.shape[0] - 1 : g.shape[0]);
        f.diagonal().add_(lambda);
        Tensor v = linalg.solve(f, mean);
        Tensor along = matmul(g, v).view(-1, 2);
        return (v * ((along[TensorIndex.Colon, 1] - along[TensorIndex.Colon, 0]).sum().item<float>() < 0 ? -1 : 1)).data<float>().ToArray();
    }

    public void Dispose() => _decoder.Dispose();

    // Rows of every block: outputs, or gradients.
    private List<Tensor>[] Collect(IEnumerable<TokenBatch> batches, int token, bool differentiate)
    {
        List<Tensor>[] rows = [.. model.Blocks.Select(_ => new List<Tensor>())];
        foreach (TokenBatch batch in batches)
        {
            using DisposeScope scope = NewDisposeScope();
            using TorchInput input = TorchInput.From(batch, model.Config);
            var blocks = new List<Tensor>();
            Tensor final = _decoder.Forward(input, null, new TorchTaps([], scope), blocks, differentiate);
            int at = batch.Length - token;
            if (differentiate)
                Backward(batch, input, blocks[^3].select(1, at), final);
            for (int b = 0; b < rows.Length; b++)
                rows[b].Add((differentiate ? blocks[b].grad! : blocks[b]).select(1, at).clone().MoveToOuterDisposeScope());
        }
        return rows;
    }

    private void Backward(TokenBatch batch, TorchInput input, Tensor tap, Tensor final)
    {
        // Labels whose context is real, and the rows that they belong to.
        long[] from = [.. Enumerable.Range(0, batch.Batch).SelectMany(b => Enumerable.Range(batch.Starts[b], batch.Length - 1 - batch.Starts[b]).Select(t => (long)b * batch.Length + t))];
        Tensor index = tensor(from), owner = index.div(batch.Length, RoundingMode.floor);
        Tensor labels = input.Ids.reshape(-1)[index + 1];
        Tensor logits = nn.functional.linear(final.reshape(-1, final.shape[2])[index], _decoder.Head);
        Tensor label = nn.functional.log_softmax(logits, -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1);
        Tensor count = zeros(batch.Batch).index_add_(0, owner, ones(from.Length), 1);
        Tensor mean = zeros(batch.Batch).index_add(0, owner, label, 1) / count;

        double[] hidden = [.. tap.detach().contiguous().data<float>().Select(v => (double)v)], logp = [.. mean.detach().data<float>().Select(v => (double)v)];
        SampledLossResult loss = SampledLosses.Compute(RepresentationSettings.DefaultLoss, hidden, batch.Batch, model.Config.HiddenSize, logp, new SampledLossSettings());
        // Each pair's own loss.
        double scale = batch.Batch / 2.0;
        Tensor of(double[] g) => tensor([.. g.Select(v => (float)(v * scale))]);
        ((tap * of(loss.HiddenGradient).view(batch.Batch, -1)).sum() + (mean * of(loss.LogpGradient)).sum()).backward();
    }
}
