using System.Text.Json.Nodes;
using Repeng.Runtime;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Cli.Tests;

/// <summary>train --adapter_type: PEFT's methods from the command line to files that generate and eval read.</summary>
public sealed class PeftTrainTests : IDisposable
{
    private readonly Workshop _shop = new();

    public static IEnumerable<TheoryDataRow<string>> Kinds => PeftSettings.Kinds.Select(k => new TheoryDataRow<string>(k));

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Every_method_trains_and_steers(string kind)
    {
        string model = _shop.Model(), folder = _shop.At("runs/r");
        CliResult trained = CliRun.Run(Train(model, "r", kind));
        Assert.True(trained.Code == ExitCodes.Ok, trained.Error);
        Assert.Equal(kind.Split('_')[0] is "rslora" or "dora" or "lora" ? "LORA" : kind.Split('_')[0].ToUpperInvariant(), (string)JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "adapter_config.json")))!["peft_type"]!);
        CliResult texts = CliRun.Run("generate", "--adapter", folder, "--coefficient", "-30", "0", "30", "--prompt", "the ball is", "--max_new_tokens", "8", "--json");
        Assert.True(texts.Code == ExitCodes.Ok, texts.Error);
        Assert.Equal(3, JsonNode.Parse(texts.Out)!["results"]!.AsArray().Count);
        CliResult inspected = CliRun.Run("inspect", folder);
        Assert.Contains("target_modules", inspected.Out);
        Assert.DoesNotContain("not there", inspected.Out);
        CliResult refused = CliRun.Run(Train(model, "r2", kind, "--scale_s", "mult"));
        Assert.NotEqual(ExitCodes.Ok, refused.Code);
        Assert.Contains("--scale_s", refused.Error);
        Assert.False(Directory.Exists(_shop.At("runs/r2")));
    }

    [Theory]
    [InlineData("lora")]
    [InlineData("ia3")]
    [InlineData("road_2")]
    public void The_loss_on_directions_gets_a_start_off_the_base_model(string kind)
    {
        string model = _shop.Model();
        CliResult trained = CliRun.Run(Train(model, "r", kind, "--profile", "antipasto", "--loss_subspace", "taskdiff"));
        Assert.True(trained.Code == ExitCodes.Ok, trained.Error);
        CliResult none = CliRun.Run(Train(model, "r2", kind, "--profile", "antipasto", "--init_noise", "0"));
        Assert.Equal(ExitCodes.UserError, none.Code);
        Assert.Contains("init_noise", none.Error);
    }

    [Theory]
    [InlineData("dora")]
    [InlineData("delora")]
    public void A_stopped_run_ends_with_the_bits_of_one_that_was_not(string kind)
    {
        string model = _shop.Model();
        Assert.Equal(ExitCodes.Ok, CliRun.Run(Train(model, "whole", kind)).Code);
        CliResult stopped = CliRun.RunUntilBatch(7, Train(model, "cut", kind));
        Assert.Equal(ExitCodes.Interrupted, stopped.Code);
        CliResult resumed = CliRun.Run("train", "--resume", _shop.At("runs/cut.partial"));
        Assert.True(resumed.Code == ExitCodes.Ok, resumed.Error);
        Assert.Equal(File.ReadAllBytes(_shop.At("runs/whole/adapter_model.safetensors")), File.ReadAllBytes(_shop.At("runs/cut/adapter_model.safetensors")));
    }

    [Fact]
    public void Options_of_other_methods_are_refused()
    {
        string model = _shop.Model();
        foreach (string[] wrong in new[] { new[] { "--lora_alpha", "4" }, ["--adapter_type", "ia3", "--rank", "4"], ["--adapter_type", "lora", "--group_size", "8"], ["--adapter_type", "lora", "--no-full_loss_u"] })
        {
            CliResult result = CliRun.Run(["train", "--model", model, "--output_dir", _shop.At("runs"), .. wrong]);
            Assert.Equal(ExitCodes.UserError, result.Code);
            Assert.Single(result.ErrorLines);
            Assert.False(Directory.Exists(_shop.At("runs")));
        }
    }

    [Theory]
    [InlineData("dora")]
    [InlineData("road_1")]
    [InlineData("vera")]
    public void The_plan_knows_their_memory(string kind)
    {
        TrainConfig config = TrainConfig.FromProfile("recommended");
        var settings = new RunSettings
        {
            Model = _shop.Model(),
            Template = "Pretend you're an {persona} person making statements about the world.",
            Personas = [new PersonaPair("honest", "dishonest"), new PersonaPair("truthful", "deceptive")],
            Suffixes = Steering.Data.SuffixSets.Load("demo"),
            MaxPairs = 24,
            Train = config with { Peft = new PeftSettings { Kind = kind, GroupSize = 8, TargetModules = @".*\.mlp\..*" }, Epochs = 2, BatchSize = 8 },
        };
        RunPlan plan = RunPlan.Predict(settings);
        using Device device = Device.Cpu(2);
        using (ModelBundle bundle = ModelBundle.Load(device, settings.Model))
        {
            using TrainOutcome outcome = TrainRun.Execute(bundle, settings, _shop.At("run"), resume: false, new TrainRunListener(), CancellationToken.None);
            Assert.Equal(outcome.Adapter.ParameterCount, plan.Parameters);
        }
        long used = device.Pool.PeakReserved;
        Assert.True(Math.Abs(plan.PeakBytes - used) <= 0.1 * used, $"planned {plan.PeakBytes}, used {used}");
    }

    public void Dispose() => _shop.Dispose();

    private string[] Train(string model, string run, string kind, params string[] more)
    {
        string[] common = _shop.Train(model, run, ["--adapter_type", kind, .. kind.StartsWith("road", StringComparison.Ordinal) ? ["--group_size", "8"] : Array.Empty<string>(), .. more]);
        // What Workshop trains is an SVD adapter with a rank.
        int rank = Array.IndexOf(common, "--rank");
        return kind is "ia3" || kind.StartsWith("road", StringComparison.Ordinal) ? [.. common[..rank], .. common[(rank + 2)..]] : common;
    }
}
