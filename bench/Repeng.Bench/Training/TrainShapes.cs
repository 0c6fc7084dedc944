using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Bench.Training;

/// <summary>Shapes of real models for random weights, as their config.json gives them.</summary>
internal static class TrainShapes
{
    /// <summary>SmolLM2-135M.</summary>
    public const string Smol = "shape";

    /// <summary>Qwen3-0.6B.</summary>
    public const string Qwen = "qwen3-0.6b";

    public static readonly string[] Names = [Smol, Qwen];

    /// <summary>The architecture, and what to call it.</summary>
    public static (ModelConfig Config, string Name) Find(string shape) => shape switch
    {
        Smol => (Read("llama", layers: 30, hidden: 576, width: 1536, heads: 9, kvHeads: 3, headDim: 64, vocabulary: 49152, theta: 100000, eps: 1e-5), "SmolLM2-135M's shape, random weights"),
        Qwen => (Read("qwen3", layers: 28, hidden: 1024, width: 3072, heads: 16, kvHeads: 8, headDim: 128, vocabulary: 151936, theta: 1000000, eps: 1e-6), "Qwen3-0.6B's shape, random weights"),
        _ => throw new UserErrorException($"shape {shape}: {string.Join(" or ", Names)}"),
    };

    private static ModelConfig Read(string type, int layers, int hidden, int width, int heads, int kvHeads, int headDim, int vocabulary, double theta, double eps) => Families.Read(new ConfigReader(new JsonObject
    {
        ["model_type"] = type,
        ["num_hidden_layers"] = layers,
        ["hidden_size"] = hidden,
        ["intermediate_size"] = width,
        ["num_attention_heads"] = heads,
        ["num_key_value_heads"] = kvHeads,
        ["head_dim"] = headDim,
        ["vocab_size"] = vocabulary,
        ["rope_theta"] = theta,
        ["rms_norm_eps"] = eps,
        ["max_position_embeddings"] = 8192,
        ["tie_word_embeddings"] = true,
    }, "bench"));
}
