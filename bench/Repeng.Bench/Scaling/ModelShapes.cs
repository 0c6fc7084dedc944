using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Bench.Scaling;

/// <summary>Sizes of a training step.</summary>
/// <param name="Rows">Texts of a batch, two a pair.</param>
/// <param name="Tokens">Tokens of each.</param>
/// <param name="Rank">Rank of the adapter.</param>
internal readonly record struct StepSize(int Rows, int Tokens, int Rank)
{
    public override string ToString() => $"{Rows} × {Tokens}, rank {Rank}";
}

/// <summary>The shape of a published model, and the steps that are measured on it.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Config">Its sizes, as its config.json has them.</param>
/// <param name="Steps">Steps small enough for a minute or two on two cores; none where only the formula is asked.</param>
internal sealed record ModelShape(string Name, ModelConfig Config, StepSize[] Steps)
{
    /// <summary>Five shapes of up to 1.7 B weights, and one to lay beside docs/cuda-plan.md.</summary>
    public static ModelShape[] All { get; } =
    [
        new("SmolLM2-135M", Decoder("llama", 576, 1536, 30, 9, 3, 64, 49152, 8192), [new(4, 32, 16), new(4, 32, 64), new(14, 64, 16), new(14, 64, 64)]),
        new("SmolLM2-360M", Decoder("llama", 960, 2560, 32, 15, 5, 64, 49152, 8192), [new(8, 64, 64)]),
        new("Qwen3-0.6B", Decoder("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, 40960), [new(8, 64, 64)]),
        new("Llama-3.2-1B", Decoder("llama", 2048, 8192, 16, 32, 8, 64, 128256, 131072), [new(4, 64, 64)]),
        new("Qwen3-1.7B", Decoder("qwen3", 2048, 6144, 28, 16, 8, 128, 151936, 40960), [new(4, 64, 64)]),
        new("Qwen3-4B", Decoder("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, 40960), []),
    ];

    public static ModelShape Find(string name) => All.FirstOrDefault(s => s.Name.Equals(name, StringComparison.OrdinalIgnoreCase))
        ?? throw new UserErrorException($"--model {name}: the shapes are {string.Join(", ", All.Select(s => s.Name))}");

    // Llama-3.2's scaling of rope frequencies is left out: it changes a table and no time.
    private static ModelConfig Decoder(string type, int hidden, int intermediate, int layers, int heads, int kvHeads, int headDim, int vocabulary, int positions) => new()
    {
        ModelType = type,
        VocabSize = vocabulary,
        HiddenSize = hidden,
        IntermediateSize = intermediate,
        NumLayers = layers,
        NumHeads = heads,
        NumKvHeads = kvHeads,
        HeadDim = headDim,
        MaxPositions = positions,
        NormEps = 1e-6f,
        QkNorm = type == "qwen3" ? QkNormKind.PerHead : QkNormKind.None,
        Rope = new RopeSpec(1_000_000, null),
        RotaryDim = headDim,
        Windows = new int[layers],
        AttentionScale = 1 / MathF.Sqrt(headDim),
        TiedHead = true,
    };
}
