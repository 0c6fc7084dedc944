using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Evaluation;

/// <summary>Plain control vectors on the output of blocks, to compare an adapter with.</summary>
public static class BlockVectors
{
    /// <summary>
    /// Per block, the mean over pairs of positive − negative outputs at the last token, divided by the number of blocks:
    /// at c = 1 all blocks together add about one distance of the personas. Batches hold rows positive, negative, ….
    /// </summary>
    public static ControlVector MeanDifference(DecoderModel model, IReadOnlyCollection<int> blocks, IEnumerable<TokenBatch> batches)
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
        return new ControlVector(model.Config.ModelType, sums.Select(s => Layer($"{s.Key}", [.. s.Value.Select(x => (float)(x / pairs / blocks.Count))])));
    }

    /// <summary>Random directions (normally distributed, by the seed), each as long as the given block's vector.</summary>
    public static ControlVector RandomLike(ControlVector given, ulong seed)
    {
        return new ControlVector(given.ModelType, given.Layers.Select(layer =>
        {
            float[] like = given.Directions[layer].Sum(), values = new float[like.Length];
            Philox.FillNormal(values, seed, (ulong)(ControlVector.BlockOf(layer) ?? throw new ArgumentException($"{layer} is no block")));
            double scale = Norm(like) / Norm(values);
            return Layer(layer, [.. values.Select(v => (float)(v * scale))]);
        }));
    }

    private static KeyValuePair<string, Direction> Layer(string layer, float[] values) => KeyValuePair.Create(layer, new Direction(values));

    private static double Norm(float[] x) => Math.Sqrt(x.Sum(v => (double)v * v));
}
