using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>Plain control vectors added to the output of blocks, to compare an adapter with. Owned.</summary>
public sealed class BlockVectors : IDisposable
{
    private BlockVectors(Dictionary<int, Tensor> directions) => Directions = directions;

    /// <summary>Vector [d] of each block.</summary>
    public IReadOnlyDictionary<int, Tensor> Directions { get; }

    /// <summary>
    /// Per block, the mean over pairs of positive − negative outputs at the last token, divided by the number of blocks:
    /// at c = 1 all blocks together add about one distance of the personas. Batches hold rows positive, negative, ….
    /// </summary>
    public static BlockVectors MeanDifference(DecoderModel model, IReadOnlyCollection<int> blocks, IEnumerable<TokenBatch> batches)
    {
        int d = model.Config.HiddenSize, pairs = 0;
        Dictionary<string, int> paths = blocks.ToDictionary(b => model.Blocks[b].Path);
        Dictionary<int, double[]> sums = blocks.ToDictionary(b => b, _ => new double[d]);
        foreach (TokenBatch batch in batches)
        {
            using var tape = new Tape(model.Device, record: false);
            var context = new ForwardContext(tape, batch) { Capture = paths.ContainsKey, LastBlock = blocks.Max() };
            model.Forward(context);
            int[] last = [.. Enumerable.Range(0, batch.Batch).Select(b => (b + 1) * batch.Length - 1)];
            foreach ((string path, int block) in paths)
            {
                float[] h = tape.GatherRows(context.Outputs[path], tape.New(last, last.Length)).ToArray();
                for (int i = 0; i < h.Length; i++)
                    sums[block][i % d] += (i / d % 2 == 0 ? 1 : -1) * (double)h[i];
            }
            pairs += batch.Batch / 2;
        }
        if (pairs == 0)
            throw new UserErrorException("no pair of texts to take a mean difference of");
        return new BlockVectors(sums.ToDictionary(s => s.Key, s => Tensor.From(model.Device, s.Value.Select(x => (float)(x / pairs / blocks.Count)).ToArray(), d)));
    }

    /// <summary>Random directions (normally distributed, by the seed), each as long as the given block's vector.</summary>
    public static BlockVectors RandomLike(BlockVectors given, ulong seed)
    {
        var directions = new Dictionary<int, Tensor>();
        foreach ((int block, Tensor vector) in given.Directions)
        {
            var values = new float[vector.Length];
            Philox.FillNormal(values, seed, (ulong)block);
            double scale = Norm(vector.ToArray()) / Norm(values);
            directions[block] = Tensor.From(vector.Device, values.Select(v => (float)(v * scale)).ToArray(), values.Length);
        }
        return new BlockVectors(directions);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor t in Directions.Values)
            t.Dispose();
    }

    private static double Norm(float[] x) => Math.Sqrt(x.Sum(v => (double)v * v));
}
