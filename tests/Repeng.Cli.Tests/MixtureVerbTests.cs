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
    [InlineData("8bit", true)]
    public void A_quantised_mixture_trains_and_speaks(string bits, bool stacked)
    {
        string model = Mixture(stacked);
        CliResult trained = CliRun.Run(_shop.Train(model, "r", "--n_epochs", "1", "--quantization_type", bits, "--target_modules", @".*(o_proj|experts\.[13]\.down_proj)"));
        Assert.True(trained.Code == ExitCodes.Ok, trained.Error);
        CliResult said = CliRun.Run("generate", "--model", model, "--quantization_type", bits, "--adapter", _shop.At("runs/r"), "--coefficient", "-1", "1", "--raw", "--prompt", "the ball is", "--max_new_tokens", "3");
        Assert.True(said.Code == ExitCodes.Ok, said.Error);
        Assert.Contains($"{Experts} of width {Width}, 2 a token", CliRun.Run("inspect", model).Out);
        // Merged it is a plain model of the same layout.
        string merged = _shop.At("merged");
        CliResult exported = CliRun.Run("export", "--model", model, "--quantization_type", bits, "--adapter", _shop.At("runs/r"), "--coefficient", "1", "--to", "merged", "--output", merged);
        Assert.True(exported.Code == ExitCodes.Ok, exported.Error);
        using SafetensorsFile before = SafetensorsFile.Open(Path.Combine(model, "model.safetensors")), after = SafetensorsFile.Open(Path.Combine(merged, "model.safetensors"));
        Assert.Equal(before.Names.Order(StringComparer.Ordinal), after.Names.Order(StringComparer.Ordinal));
    }

    [Theory]
    [InlineData("none")]
    [InlineData("4bit")]
    [InlineData("8bit")]
    public void Planned_weights_do_not_depend_on_how_experts_are_stored(string bits)
    {
        string single = Mixture(stacked: false), stacked = Mixture(stacked: true);
        string[] rows = [.. new[] { single, stacked }.Select(model =>
        {
            CliResult plan = CliRun.Run("plan", "--model", model, "--quantization_type", bits, "--personas", "honest:dishonest", "--suffixes", "demo", "--max_pairs", "8", "--rank", "4");
            Assert.True(plan.Code == ExitCodes.Ok, plan.Error);
            return plan.Out.Split('\n').Single(l => l.Contains("memory: weights", StringComparison.Ordinal));
        })];
        Assert.Equal(rows[0], rows[1]);
    }

    [Fact]
    public void Quantize_writes_stacks_as_they_are_stored_and_says_so()
    {
        string stacked = Mixture(stacked: true), output = _shop.At("nf4");
        CliResult written = CliRun.Run("quantize", "--model", stacked, "--output", output);
        Assert.True(written.Code == ExitCodes.Ok, written.Error);
        using SafetensorsFile before = SafetensorsFile.Open(Path.Combine(stacked, "model.safetensors")), after = SafetensorsFile.Open(Path.Combine(output, "model.safetensors"));
        string[] stacks = [.. before.Names.Where(n => n.Contains(".experts.", StringComparison.Ordinal))];
        Assert.NotEmpty(stacks);
        Assert.All(stacks, n => Assert.Equal(before.ReadBytes(n), after.ReadBytes(n)));
        Assert.Contains($"{stacks.Length} tensors that hold all experts of a block", written.Out);
        Assert.Contains(after.Names, n => n.EndsWith(".quant_state.bitsandbytes__nf4", StringComparison.Ordinal));
        // Experts of their own are quantised, and nothing is said.
        CliResult single = CliRun.Run("quantize", "--model", Mixture(stacked: false), "--output", _shop.At("single"));
        Assert.True(single.Code == ExitCodes.Ok, single.Error);
        Assert.DoesNotContain("all experts of a block", single.Out);
        using SafetensorsFile packed = SafetensorsFile.Open(Path.Combine(_shop.At("single"), "model.safetensors"));
        Assert.Contains(packed.Names, n => n.Contains(".experts.0.down_proj.weight.quant_state", StringComparison.Ordinal));
    }

    // A qwen3_moe of the demo's vocabulary, experts one by one or in one tensor a projection.
    private string Mixture(bool stacked)
    {
        string folder = Directory.CreateDirectory(_shop.At(stacked ? "stacked" : "single-experts")).FullName;
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
