using Repeng.Kernels;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Training;

/// <summary>Chooses the layers whose outputs the loss reads and the direction that it reads them along.</summary>
public static class LossLayers
{
    /// <summary>
    /// Upstream's rule: adapted modules grouped by leaf name, per group the deepest one in a block at most N − 3 (the
    /// first of a group is taken even when it is deeper). Layers of experts, which a token need not go through, are left out; where
    /// nothing else is adapted the attention's outputs in their blocks take their place.
    /// </summary>
    public static string[] Select(DecoderModel model, IEnumerable<string> adapted)
    {
        int limit = model.Config.NumLayers - 3;
        HashSet<string> experts = [.. model.Blocks.SelectMany(b => b.Experts?.All ?? []).SelectMany(e => new[] { e.Gate.Path, e.Up.Path, e.Down.Path })];
        string[] all = [.. adapted];
        adapted = all.Except(experts);
        if (!adapted.Any())
            adapted = all.Select(p => model.Blocks[Block(p)].Output.Path).Distinct();
        return [.. adapted.GroupBy(p => p[(p.LastIndexOf('.') + 1)..]).OrderBy(g => g.Key, StringComparer.Ordinal).Select(g =>
        {
            string best = g.First();
            foreach (string path in g)
                if (Block(path) <= limit && Block(path) > Block(best) || Block(best) > limit && Block(path) <= limit)
                    best = path;
            return best;
        })];

        int Block(string path) => LayerSelection.BlockOf(model, path)!.Value;
    }

    /// <summary>
    /// A loss layer projected on all left singular vectors but the last. Upstream keeps that matrix [out, k − 1]; for
    /// outputs of the layer it acts as the identity minus the last vector, so one vector is enough:
    /// U·(Uᵀ·Δ) = Δ − u_k·(u_kᵀ·Δ).
    /// </summary>
    public static LossLayer OnFullBasis(DecoderModel model, string module, ReadOnlySpan<float> meanDifference)
    {
        LinearModule linear = model.Linears[module];
        float[] u = LastSingularVector.Compute(model.Device.HostWorkers, WeightReader.ToHost(linear.Weight), linear.Outputs, linear.Inputs).U;
        double dot = 0;
        for (int i = 0; i < u.Length; i++)
            dot += (double)u[i] * meanDifference[i];
        var d = new double[u.Length];
        for (int i = 0; i < d.Length; i++)
            d[i] = meanDifference[i] - dot * u[i];
        return new LossLayer(module, Direction(model.Device, d, module), Tensor.From(model.Device, u, u.Length, 1), null, Norm(d));
    }

    /// <summary>A loss layer projected on the adapter's own left singular vectors [out, r].</summary>
    public static LossLayer OnAdapterBasis(DecoderModel model, SvdLayer layer, ReadOnlySpan<float> meanDifference)
    {
        float[] u = layer.U.ToArray();
        int r = layer.U.Cols, n = layer.U.Rows;
        var d = new double[n];
        for (int q = 0; q < r; q++)
        {
            double dot = 0;
            for (int i = 0; i < n; i++)
                dot += (double)u[i * r + q] * meanDifference[i];
            for (int i = 0; i < n; i++)
                d[i] += dot * u[i * r + q];
        }
        return new LossLayer(layer.Path, Direction(model.Device, d, layer.Path), null, Tensor.From(model.Device, u, n, r), Norm(d));
    }

    /// <summary>The direction [out, 1] that the loss uses, from a steering direction d: normalised twice, as upstream does (once when stored, once with 1e-6 in the loss).</summary>
    public static Tensor Direction(Device device, ReadOnlySpan<double> d, string module)
    {
        double square = 0;
        foreach (double x in d)
            square += x * x;
        double norm = Math.Sqrt(square);
        if (norm == 0 || !double.IsFinite(norm))
            throw new UserErrorException($"the steering direction of {module} is {(norm == 0 ? "exactly zero: positive and negative texts give the same outputs there" : "not finite")}; check the personas");
        var unit = new float[d.Length];
        for (int i = 0; i < unit.Length; i++)
            unit[i] = (float)(d[i] / norm / (1 + 1e-6));
        return Tensor.From(device, unit, unit.Length, 1);
    }

    private static float Norm(double[] d) => (float)Math.Sqrt(d.Sum(x => x * x));
}
