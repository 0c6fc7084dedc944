using Repeng.Kernels;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Evaluation;

/// <summary>Plain control vectors on the output of blocks, to compare an adapter with.</summary>
public static class BlockVectors
{
    /// <summary>
    /// Per block, the mean over pairs of positive − negative outputs at the last token, divided by the number of blocks:
    /// at c = 1 all blocks together add about one distance of the personas.
    /// </summary>
    public static ControlVector MeanDifference(DecoderModel model, IReadOnlyCollection<int> blocks, IReadOnlyList<TokenPair> pairs, int padId)
    {
        string[] modules = [.. blocks.Select(b => model.Blocks[b].Path)];
        IReadOnlyDictionary<string, LayerRows> rows = Representations.Collect(model, modules, pairs, padId, VectorNeeds.Hidden, new RepresentationSettings()).Layers;
        return new ControlVector(model.Config.ModelType, blocks.Select(b =>
            Layer($"{b}", [.. PcaDirections.MeanDifference(rows[model.Blocks[b].Path]).Select(x => (float)(x / blocks.Count))])));
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
