using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Vectors;

/// <summary>Mean differences of modules' outputs over contrast pairs, summed as the batches go by: no row is kept.</summary>
public static class MeanDifferences
{
    /// <summary>Mean over pairs of positive − negative outputs [width] of each module at the last token (or the one before it, as the reference state really does), nothing steered.</summary>
    /// <param name="model">The model; it is not changed.</param>
    /// <param name="modules">Dotted paths of blocks, and of linear layers, attention and MLP in them.</param>
    /// <param name="batches">Rows interleaved positive, negative; at least one batch.</param>
    /// <param name="tokensFromEnd">1 is the last token.</param>
    /// <param name="progress">Hears how many pairs are done.</param>
    public static Dictionary<string, float[]> Collect(DecoderModel model, IReadOnlyCollection<string> modules, IEnumerable<TokenBatch> batches, int tokensFromEnd = 1, Action<int>? progress = null)
    {
        var sums = modules.ToDictionary(m => m, m => new double[LayerSelection.Width(model, m)]);
        int last = modules.Max(m => LayerSelection.BlockOf(model, m)!.Value), pairs = 0;
        foreach (TokenBatch batch in batches)
        {
            using var tape = new Tape(model.Device, record: false);
            SharedPrefixes texts = SharedPrefixes.Of(batch);
            var context = new ForwardContext(tape, texts) { Capture = sums.ContainsKey, LastBlock = last };
            model.Forward(context);
            int[] at = texts.RowsFromEnd(tokensFromEnd);
            foreach ((string module, double[] sum) in sums)
            {
                float[] h = tape.GatherRows(context.Outputs[module], tape.New(at, at.Length)).ToArray();
                for (int b = 0; b < batch.Batch; b++)
                    for (int d = 0; d < sum.Length; d++)
                        sum[d] += (b % 2 == 0 ? 1 : -1) * (double)h[b * sum.Length + d];
            }
            pairs += batch.Batch / 2;
            progress?.Invoke(pairs);
        }
        return sums.ToDictionary(s => s.Key, s => s.Value.Select(x => (float)(x / pairs)).ToArray());
    }
}
