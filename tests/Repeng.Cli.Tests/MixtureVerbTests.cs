using System.Text.Json.Nodes;
using Repeng.Runtime.Formats;
using Repeng.Steering.Demo;
using Repeng.Steering.Models;

namespace Repeng.Cli.Tests;

/// <summary>Mixtures of experts through the verbs: quantised when they are loaded, trained so, described.</summary>
public sealed class MixtureVerbTests : IDisposable
{
    private const int Experts = 4, Width = 16;

    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Theory]
    [InlineData("4bit", false)]
    [InlineData("8bit", false)]
    [InlineData("4bit", true)]
    public void A_quantised_mixture_trains_and_speaks(string bits, bool stacked)
    {
        string model = Mixture(stacked);
        CliResult trained = CliRun.Run(_shop.Train(model, "r", "--n_epochs", "1", "--quantization_type", bits, "--target_modules", stacked ? @".*o_proj" : @".*(o_proj|experts\.[13]\.down_proj)"));
        Assert.True(trained.Code == ExitCodes.Ok, trained.Error);
        CliResult said = CliRun.Run("generate", "--model", model, "--quantization_type", bits, "--adapter", _shop.At("runs/r"), "--coefficient", "-1", "1", "--raw", "--prompt", "the ball is", "--max_new_tokens", "3");
        Assert.True(said.Code == ExitCodes.Ok, said.Error);
        // What linear layers are not is not quantised, and that is said.
        const string Remark = "4 tensors that hold all experts of a block";
        foreach (CliResult r in new[] { trained, said })
            Assert.Equal(stacked, r.Error.Contains(Remark, StringComparison.Ordinal));
        CliResult plain = CliRun.Run("generate", "--model", model, "--raw", "--prompt", "the ball is", "--max_new_tokens", "1");
        Assert.DoesNotContain("stay as they are stored", plain.Error);
        Assert.Contains($"{Experts} of width {Width}, 2 a token", CliRun.Run("inspect", model).Out);
    }

    // A qwen3_moe of the demo's vocabulary, experts one by one or in one tensor a projection.
    private string Mixture(bool stacked)
    {
        string folder = Directory.CreateDirectory(_shop.At("mixture")).FullName;
        JsonObject json = Workshop.Recipe.Config();
        (json["model_type"], json["num_experts"], json["num_experts_per_tok"], json["moe_intermediate_size"], json["norm_topk_prob"]) = ("qwen3_moe", Experts, 2, Width, true);
        var writer = new SafetensorsWriter();
        using (var random = new ModelInitialiser(Families.Read(new ConfigReader(json, folder)), 3, 0.2))
        {
            foreach (string name in random.Names.Where(n => !stacked || !n.Contains(".experts.", StringComparison.Ordinal)))
                writer.Add(name, random.Info(name).Shape, random.ReadF32(name));
            foreach (string list in !stacked ? [] : random.Names.Where(n => n.Contains(".experts.0.gate_proj", StringComparison.Ordinal)).Select(n => n[..n.IndexOf("0.gate_proj", StringComparison.Ordinal)]))
            {
                long hidden = random.Info($"{list}0.gate_proj.weight").Shape[1];
                float[] Of(int e, string n) => random.ReadF32($"{list}{e}.{n}.weight");
                writer.Add(list + "gate_up_proj", [Experts, 2 * Width, hidden], Enumerable.Range(0, Experts).SelectMany(e => Of(e, "gate_proj").Concat(Of(e, "up_proj"))).ToArray());
                writer.Add(list + "down_proj", [Experts, hidden, Width], Enumerable.Range(0, Experts).SelectMany(e => Of(e, "down_proj")).ToArray());
            }
        }
        writer.Write(Path.Combine(folder, "model.safetensors"));
        File.WriteAllText(Path.Combine(folder, "config.json"), json.ToJsonString());
        DemoTokenizerFiles.Write(folder);
        return folder;
    }
}
