using System.Globalization;
using System.Text.RegularExpressions;

namespace Repeng.Cli.Tests;

/// <summary>What plan says of memory is what the system sees a training hold.</summary>
public sealed partial class PlanMemoryTests : IDisposable
{
    // Weights, adapter, activations and the program itself, of which the last differs by some MiB from run to run.
    private const double Within = 0.1;

    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Theory]
    [InlineData("--quantization_type", "none")]
    [InlineData("--quantization_type", "4bit")]
    public void A_training_holds_what_was_planned(params string[] how)
    {
        ProgramRun.NeedsMemoryCounts();
        string[] options = ["--batch_size", "96", "--max_pairs", "96", "--val_split", "0", "--n_epochs", "1", "--eval_questions", "0", "--eval_dilemmas", "0", "--threads", "2", .. how];
        string plan = ProgramRun.Measured(["plan", .. options]).Output;
        Match row = PeakRow().Match(plan);
        Assert.True(row.Success, plan);
        double planned = double.Parse(row.Groups[1].Value, CultureInfo.InvariantCulture);
        double held = ProgramRun.Measured(["train", .. options, "--output_dir", _shop.At("run")]).Peak;
        TestContext.Current.TestOutputHelper?.WriteLine($"planned {planned:f0} MiB, held {held:f0} MiB");
        Assert.InRange(held, (1 - Within) * planned, (1 + Within) * planned);
    }

    [GeneratedRegex(@"memory: peak\W+([0-9.]+) MiB")]
    private static partial Regex PeakRow();
}
