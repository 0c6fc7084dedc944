using Repeng.Kernels;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Evaluation;

/// <summary>Plain control vectors on the output of blocks, to compare a trained thing with.</summary>
public static class BlockVectors
{
    private const int PairsABatch = 8;

    /// <summary>
    /// Per block, the mean over pairs of positive − negative outputs at the last token, divided by the number of blocks:
    /// at c = 1 all blocks together add about one distance of the personas.
    /// </summary>
    public static ControlVector MeanDifference(DecoderModel model, IReadOnlyCollection<int> blocks, IReadOnlyList<TokenPair> pairs, int padId)
    {
        string[] modules = [.. blocks.Select(b => model.Blocks[b].Path)];
        var data = new PairData(pairs, padId);
        Dictionary<string, float[]> mean = MeanDifferences.Collect(model, modules, Enumerable.Range(0, pairs.Count).Chunk(PairsABatch).Select(batch => data.Batch(batch)));
        return new ControlVector(model.Config.ModelType, blocks.Select(b =>
            Layer($"{b}", [.. mean[model.Blocks[b].Path].Select(x => x / blocks.Count)])));
    }

    /// <summary>Per block, the first principal component of the pairs' differences (pca_diff), in each layer as long as the given vector.</summary>
    public static ControlVector PrincipalComponent(DecoderModel model, ControlVector given, IReadOnlyList<TokenPair> pairs, int padId)
    {
        string[] modules = [.. given.Layers.Select(l => ControlVector.BlockOf(l) is { } block ? model.Blocks[block].Path : l)];
        ControlVector pca = ControlVectorTrainer.Train(model, modules, pairs, padId, VectorMethod.Parse("pca_diff"), new RepresentationSettings());
        return new ControlVector(given.ModelType, given.Layers.Zip(pca.Layers, (layer, found) => AsLongAs(layer, given, pca.Directions[found].Sum())));
    }

    /// <summary>Random directions (normally distributed, by the seed), each as long as the given vector's in its layer.</summary>
    public static ControlVector RandomLike(ControlVector given, ulong seed)
    {
        return new ControlVector(given.ModelType, given.Layers.Select((layer, i) =>
        {
            var values = new float[given.Directions[layer].Width];
            // Modules have no number; theirs begin where no block's can be.
            Philox.FillNormal(values, seed, (ulong)(ControlVector.BlockOf(layer) ?? (1 << 20) + i));
            return AsLongAs(layer, given, values);
        }));
    }

    private static KeyValuePair<string, Direction> AsLongAs(string layer, ControlVector given, float[] values)
    {
        double scale = Norm(given.Directions[layer].Sum()) / Norm(values);
        return Layer(layer, [.. values.Select(v => (float)(v * scale))]);
    }

    private static KeyValuePair<string, Direction> Layer(string layer, float[] values) => KeyValuePair.Create(layer, new Direction(values));

    private static double Norm(float[] x) => Math.Sqrt(x.Sum(v => (double)v * v));
}
