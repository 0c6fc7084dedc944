using Repeng.Runtime;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Tests;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>Generation with the tokens chosen on the device: what the CPU generates, for every way of choosing.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "models")]
public sealed class GenerationTests
{
    public static TheoryData<string> GpuBackends() => [.. Backends.Names.Where(n => n != "cpu")];

    [Theory, MemberData(nameof(GpuBackends))]
    public void TokensAreThoseThatTheCpuChooses(string backend)
    {
        string[] models = Golden.Folders("models", "config.json");
        string folder = Golden.Require("models", models.FirstOrDefault(n => n != Golden.Absent && (string?)GoldenFiles.Json(Golden.Path("models", n, "config.json"))["model_type"] == "qwen3") ?? models[0]);
        using var device = new Device(Backends.Create(backend));
        using var cpu = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, folder), same = GoldenFiles.Load(cpu, folder);
        int[][] prompts = [[3, 7, 1, 9, 7], [2, 5, 2]];
        foreach (SamplingSettings settings in new SamplingSettings[]
        {
            new() { RepetitionPenalty = 1.4f },
            new() { Sample = true, Seed = 3, Temperature = 0.8f, TopK = 20, RepetitionPenalty = 0.9f },
            new() { Sample = true, Seed = 4, TopP = 0.7f, MinP = 0.02f },
        })
            Assert.Equal(Generate(same, settings), Generate(model, settings));

        int[][] Generate(DecoderModel m, SamplingSettings settings) => new Generator(m).Generate(prompts, new float[2], Steering.Generation.Steering.None, settings, 6, []);
    }
}
