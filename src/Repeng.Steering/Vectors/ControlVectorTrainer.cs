using Repeng.Kernels;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Steering.Vectors;

/// <summary>Control vectors from contrast pairs.</summary>
public static class ControlVectorTrainer
{
    /// <summary>
    /// A vector with a direction for every module. Throws <see cref="UserErrorException"/> for a direction that is zero or
    /// not finite, with the layer and the reason that is most likely.
    /// </summary>
    /// <param name="model">The model; it is not changed.</param>
    /// <param name="modules">Dotted paths of the layers to steer.</param>
    /// <param name="pairs">Token sequences of the positive and the negative texts.</param>
    /// <param name="padId">Fills shorter rows on the left.</param>
    /// <param name="method">How directions are made.</param>
    /// <param name="settings">What is collected, and where.</param>
    /// <param name="components">Directions a layer.</param>
    /// <param name="progress">Hears what is being done, how much is done, of how much.</param>
    public static ControlVector Train(DecoderModel model, IReadOnlyList<string> modules, IReadOnlyList<TokenPair> pairs, int padId, VectorMethod method, RepresentationSettings settings, int components = 1, Action<string, int, int>? progress = null)
    {
        // Too many components are refused before the texts are run; that there are none, where they are collected.
        if (pairs.Count > 0)
            foreach (string module in modules)
                method.CheckComponents(components, pairs.Count, LayerSelection.Width(model, module));
        using Representations rows = Representations.Collect(model, modules, pairs, padId, method.Needs, settings, (done, of) => progress?.Invoke("texts", done, of));
        return FromRows(model, modules, rows, method, components, progress);
    }

    /// <summary>The same of rows that were collected before, with all that the method needs: several methods can share them.</summary>
    public static ControlVector FromRows(DecoderModel model, IReadOnlyList<string> modules, Representations rows, VectorMethod method, int components = 1, Action<string, int, int>? progress = null)
    {
        var directions = new List<KeyValuePair<string, Direction>>();
        foreach (string module in modules)
        {
            method.CheckComponents(components, rows.Layers[module].Rows / 2, rows.Layers[module].Width);
            double[] values = Direction(model, rows.Layers[module], module, method, components);
            directions.Add(KeyValuePair.Create(LayerSelection.LayerName(model, module), new Direction(Array.ConvertAll(values, v => (float)v), components)));
            progress?.Invoke("directions", directions.Count, modules.Count);
        }
        return new ControlVector(model.Config.ModelType, directions);
    }

    private static double[] Direction(DecoderModel model, LayerRows rows, string module, VectorMethod method, int components)
    {
        bool gradients = method.Needs.HasFlag(VectorNeeds.Gradients);
        // Principal components of nothing would be unit vectors that mean nothing.
        if (!gradients && Array.TrueForAll(rows.MeanDifference, v => v == 0) && rows.Hidden?.PairDifferences().SquareSum() is null or 0)
            throw new UserErrorException($"layer {module}: positive and negative texts have the very same activations at the token that is read; check that the personas differ and that the same text follows both, or read another token (--token_position)");
        double size = gradients ? rows.Gradients!.SquareSum() / rows.Rows : 0;
        if (gradients && size == 0)
            throw Zero("no gradient reaches it");
        double[] values = method.Directions(model.Device.HostWorkers, rows, components);
        if (Array.Exists(values, v => !double.IsFinite(v)))
            throw new UserErrorException($"layer {module}: {method.Name} gave a direction that is not finite; take a method with more regularisation (_reg1), or look at the layer's rows");
        double length = Math.Sqrt(LayerRows.Dot(values, values));
        if (gradients)
        {
            // fp32 gradients that cancel leave their rounding behind.
            double[] mean = rows.Gradients!.Mean();
            if (length == 0 || method.FollowsMeanGradient && LayerRows.Dot(mean, mean) < 1e-10 * size)
                throw Zero($"positive and negative gradients cancel (direction of length {length:g3}, mean gradient {Math.Sqrt(LayerRows.Dot(mean, mean)):g3}, rows of {Math.Sqrt(size):g3})");
        }
        else if (length == 0)
        {
            throw new UserErrorException($"layer {module}: the direction of {method.Name} is zero; take another method or layer");
        }
        return values;

        UserErrorException Zero(string why) => new($"layer {module}: the direction of {method.Name} is zero: {why}. At the last token no scored label depends on the layer, so only the separation term has a gradient there, opposite for the two texts of a pair and zero after the tap; read the token before it (--token_position -2), take an earlier layer, or fisher_steer_dual_diff, fisher_steer_dual_pos or svd_gradient");
    }
}
