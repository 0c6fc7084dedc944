using Repeng.Bench.Scaling;
using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Bench.Training;

/// <summary>Names of the shapes that the training benchmark makes of random weights.</summary>
internal static class TrainShapes
{
    /// <summary>SmolLM2-135M.</summary>
    public const string Smol = "shape";

    /// <summary>Qwen3-0.6B.</summary>
    public const string Qwen = "qwen3-0.6b";

    public static readonly string[] Names = [Smol, Qwen];

    /// <summary>The architecture, and what to call it.</summary>
    public static (ModelConfig Config, string Name) Find(string shape)
    {
        if (!Names.Contains(shape))
            throw new UserErrorException($"shape {shape}: {string.Join(" or ", Names)}");
        ModelShape found = ModelShape.Find(shape == Smol ? "SmolLM2-135M" : shape);
        return (found.Config, $"{found.Name}'s shape, random weights");
    }
}
