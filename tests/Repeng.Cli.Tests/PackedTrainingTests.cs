using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Cli.Tests;

/// <summary>Training over packed weights: every kind of adapter, the bits of the decoded weights, the memory that was planned.</summary>
public sealed class PackedTrainingTests : IDisposable
{
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    public static TheoryData<string> Kinds => new(["svd", .. PeftSettings.Kinds]);

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Every_adapter_trains_over_packed_weights_as_over_what_they_decode_to(string kind)
    {
        // The folder that quantize writes, packed and expanded: the same numbers, so the same training to the bit.
        string model = _shop.At("nf4");
        CliResult made = CliRun.Run("quantize", "--model", _shop.Model(), "--output", model, "--double_quant");
        Assert.True(made.Code == 0, made.Error);
        string[] more = PeftSettings.Kinds.Contains(kind) ? ["--adapter_type", kind, .. kind.StartsWith("road", StringComparison.Ordinal) ? new[] { "--group_size", "16" } : [], .. kind is "lora" or "rslora" or "dora" or "vera" or "delora" ? new[] { "--rank", "4" } : []] : ["--rank", "4"];
        foreach (string type in new[] { "stored", "f32" })
        {
            CliResult run = CliRun.Run(["train", "--model", model, "--personas", "honest:dishonest", "--suffixes", "demo", "--max_pairs", "8", "--batch_size", "4", "--n_epochs", "1", "--val_split", "0", "--eval_questions", "0",
                "--output_dir", _shop.At("runs"), "--run_name", type, "--weight_type", type, .. more]);
            Assert.True(run.Code == 0, run.Error);
        }
        string file = Path.Combine(_shop.At("runs"), "stored", "adapter_model.safetensors");
        using SafetensorsFile packed = SafetensorsFile.Open(file), decoded = SafetensorsFile.Open(Path.Combine(_shop.At("runs"), "f32", "adapter_model.safetensors"));
        Assert.Equal(decoded.Names, packed.Names);
        Assert.All(packed.Names, name => Assert.Equal(decoded.ReadBytes(name), packed.ReadBytes(name)));
    }

    [Theory]
    [InlineData(QuantisedForm.Nf4, true)]
    [InlineData(QuantisedForm.Int8, false)]
    public void Peak_memory_is_within_a_tenth_of_what_the_run_takes(QuantisedForm form, bool doubleQuant)
    {
        TrainConfig config = TrainConfig.FromProfile("recommended");
        var settings = new RunSettings
        {
            Model = _shop.Model(),
            Quantise = new Quantisation(form, doubleQuant),
            Template = "Pretend you're an {persona} person making statements about the world.",
            Personas = [new PersonaPair("honest", "dishonest")],
            Suffixes = Steering.Data.SuffixSets.Load("demo"),
            MaxPairs = 16,
            Train = config with { Adapter = config.Adapter with { Rank = 8, TargetModules = @".*\.mlp\..*" }, Epochs = 1, BatchSize = 8 },
        };
        RunPlan plan = RunPlan.Predict(settings);
        using Device device = Device.Cpu(2);
        long weights;
        using (ModelBundle bundle = ModelBundle.Load(device, settings.Model, settings.Storage))
        {
            weights = device.Pool.InUse;
            using TrainOutcome outcome = TrainRun.Execute(bundle, settings, _shop.At("run"), resume: false, new TrainRunListener(), CancellationToken.None);
        }
        Assert.Equal(weights, plan.WeightBytes);
        long used = device.Pool.PeakReserved;
        Assert.True(Math.Abs(plan.PeakBytes - used) <= 0.1 * used, $"planned {plan.PeakBytes}, used {used}");
        device.Pool.Trim();
        Assert.Equal(0, device.Pool.Reserved);
        // A run that is resumed holds its weights as before.
        Assert.Equal(settings.Quantise, RunSettings.Load(Write(settings)).Quantise);
    }

    private string Write(RunSettings settings)
    {
        string path = _shop.At("settings.json");
        File.WriteAllText(path, settings.ToJson());
        return path;
    }
}
