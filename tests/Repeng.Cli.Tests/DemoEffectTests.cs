using System.Globalization;

namespace Repeng.Cli.Tests;

/// <summary>The promise of the README: one command, and the built-in model is seen to be steered.</summary>
public sealed class DemoEffectTests : IDisposable
{
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Fact]
    public void Quick_training_moves_truth_about_unnamed_things_by_a_nat_each_way()
    {
        CliResult train = CliRun.Run("train", "--quick", "--output_dir", _shop.At("runs"), "--run_name", "demo");
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        string[][] lines = [.. File.ReadAllLines(_shop.At("runs/demo/eval_summary.csv")).Select(l => l.Split(','))];
        int Column(string name) => Array.IndexOf(lines[0], name) is var i and >= 0 ? i : throw new InvalidDataException($"no column {name} in {string.Join(',', lines[0])}");
        double Number(string[] row, string name) => double.Parse(row[Column(name)], CultureInfo.InvariantCulture);
        var alone = lines.Skip(1).Where(r => r[0] == "None").ToDictionary(r => Number(r, "coefficient"));

        // Opposite signs at c = ±1, each at least five standard errors from c = 0.
        Assert.True(Number(alone[1], "change") > 5 * Number(alone[1], "change_se"), train.Out);
        Assert.True(Number(alone[-1], "change") < -5 * Number(alone[-1], "change_se"), train.Out);

        // A nat each way within |c| ≤ 2 while nine tenths of the probability stay on values.
        double[] kept = [.. alone.Values.Where(r => Number(r, "choice_mass") >= 0.9).Select(r => Number(r, "change"))];
        Assert.True(kept.Max() >= 1 && kept.Min() <= -1, train.Out);
    }
}
