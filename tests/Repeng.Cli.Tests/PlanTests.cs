using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Cli.Tests;

/// <summary>The plan of a run against what the run took.</summary>
public sealed class PlanTests : IDisposable
{
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Fact]
    public void The_demo_begins_with_antipasto_and_other_models_with_readme()
    {
        CliResult demo = CliRun.Run("plan"), real = CliRun.Run("plan", "--model", _shop.Model(), "--rank", "8", "--max_pairs", "8", "--personas", "honest:dishonest", "--suffixes", "demo");
        Assert.True(demo.Code == ExitCodes.Ok && real.Code == ExitCodes.Ok, demo.Error + real.Error);
        Assert.Contains("profile antipasto", demo.Out, StringComparison.Ordinal);
        Assert.Contains("profile readme", real.Out, StringComparison.Ordinal);
        // Settings that were made by hand belong to none.
        Assert.DoesNotContain(new TrainConfig().Profile, TrainConfig.Profiles);
        Assert.All(TrainConfig.Profiles, name => Assert.Equal(name, TrainConfig.FromProfile(name).Profile));
    }

    [Theory]
    [InlineData("recommended", false, 8)]
    [InlineData("recommended", true, 8)]
    [InlineData("recommended", false, 14, 4)]
    [InlineData("upstream", false, 14)]
    [InlineData("antipasto", false, 8)]
    [InlineData("antipasto", true, 8)]
    public void Peak_memory_is_within_a_tenth_of_what_the_run_takes(string profile, bool checkpoint, int batch, int? microBatch = null)
    {
        TrainConfig config = TrainConfig.FromProfile(profile);
        var settings = new RunSettings
        {
            Model = _shop.Model(),
            Template = "Pretend you're an {persona} person making statements about the world.",
            Personas = [new PersonaPair("honest", "dishonest"), new PersonaPair("truthful", "deceptive")],
            Suffixes = Steering.Data.SuffixSets.Load("demo"),
            MaxPairs = 24,
            Train = config with { Adapter = config.Adapter with { Rank = 8, TargetModules = @".*\.mlp\..*" }, Epochs = 2, BatchSize = batch, CheckpointActivations = checkpoint, MicroBatchSize = microBatch },
        };
        RunPlan plan = RunPlan.Predict(settings);
        using Device device = Device.Cpu(2);
        using (ModelBundle bundle = ModelBundle.Load(device, settings.Model))
        {
            using TrainOutcome outcome = TrainRun.Execute(bundle, settings, _shop.At("run"), resume: false, new TrainRunListener(), CancellationToken.None);
            Assert.Equal(outcome.State.Step, plan.Batches);
            Assert.Equal(outcome.Adapter.ParameterCount, plan.Parameters);
        }
        long used = device.Pool.PeakReserved;
        Assert.True(Math.Abs(plan.PeakBytes - used) <= 0.1 * used, $"planned {plan.PeakBytes}, used {used}");
    }

    [Fact]
    public void Rows_that_run_together_decide_the_peak()
    {
        string model = _shop.Model();
        RunPlan Plan(int? microBatch)
        {
            TrainConfig config = TrainConfig.FromProfile("recommended");
            return RunPlan.Predict(new RunSettings
            {
                Model = model,
                Template = "Pretend you're an {persona} person making statements about the world.",
                Personas = [new PersonaPair("honest", "dishonest")],
                Suffixes = Steering.Data.SuffixSets.Load("demo"),
                MaxPairs = 96,
                Train = config with { Adapter = config.Adapter with { Rank = 8, TargetModules = @".*\.mlp\..*" }, Epochs = 1, BatchSize = 96, MicroBatchSize = microBatch },
            });
        }
        RunPlan whole = Plan(null), parts = Plan(4);
        long Activations(RunPlan plan) => plan.PeakBytes - plan.WeightBytes - plan.AdapterBytes;
        Assert.True(3 * Activations(parts) < Activations(whole), $"{Activations(parts)} bytes beside {Activations(whole)}");
        // Four rows share the beginning of two pairs, 96 rows that of all: a text of some 20 tokens has its last few alone.
        Assert.InRange(parts.Work.Flops / whole.Work.Flops, 1.5, 3);
    }

    [Fact]
    public void More_work_is_planned_for_more_epochs_and_larger_ranks()
    {
        string model = _shop.Model();
        double Flops(params string[] more)
        {
            CliResult result = CliRun.Run(["plan", "--model", model, "--personas", "honest:dishonest", "--suffixes", "demo", "--max_pairs", "12", "--batch_size", "4", .. more]);
            Assert.True(result.Code == ExitCodes.Ok, result.Error);
            Assert.False(Directory.Exists(_shop.At("runs")));
            string line = Assert.Single(result.Out.Split('\n'), l => l.Contains("TFLOP", StringComparison.Ordinal));
            return double.Parse(line.Split('│')[2].Trim().Split(' ')[0], System.Globalization.CultureInfo.InvariantCulture);
        }
        // The table rounds to a few digits; many epochs keep that small.
        double small = Flops("--rank", "4", "--n_epochs", "20000");
        Assert.InRange(Flops("--rank", "4", "--n_epochs", "40000"), 1.9 * small, 2.01 * small);
        Assert.True(Flops("--rank", "32", "--n_epochs", "20000") > 1.02 * small);
    }

    [Fact]
    public void Doctor_says_what_there_is()
    {
        CliResult result = CliRun.Run("doctor", "--threads", "1");
        Assert.True(result.Code == ExitCodes.Ok, result.Error);
        foreach (string word in new[] { "GFLOP/s", "SIMD", "CUDA", "memory", "demo model", "whole", ".NET" })
            Assert.Contains(word, result.Out);
    }
}
