using System.Globalization;

namespace Repeng.Cli.Tests;

/// <summary>Memory of vector training, as the system counts it, does not follow the number of pairs.</summary>
public sealed class VectorMemoryTests : IDisposable
{
    // Rows of all these layers in double, as a program would hold them, would add 30 to 60 MiB to some 130.
    private const double Flat = 1.08;

    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Theory]
    [InlineData("pca_diff", 320, @"\.[1-3]\..*_proj$")]
    [InlineData("fisher_steer_cov_reg1", 256, @"\.2\..*_proj$")]
    public void Four_times_the_pairs_take_no_more_memory(string method, int pairs, string layers)
    {
        ProgramRun.NeedsMemoryCounts();
        // On a busy machine what the runtime compiles meanwhile differs by some MiB, and the last samples may be missed. Rows that
        // were held would show every time.
        string seen = method;
        for (int tries = 0; tries < 3; tries++)
        {
            double few = Peak(pairs), many = Peak(4 * pairs);
            seen += $"; {few:f0} MiB with {pairs} pairs, {many:f0} MiB with {4 * pairs}";
            if (many < Flat * few)
            {
                TestContext.Current.TestOutputHelper?.WriteLine(seen);
                return;
            }
        }
        Assert.Fail(seen);

        double Peak(int count)
        {
            string[] args = ["vector", "train", "--method", method, "--layers", layers, "--max_pairs", count.ToString(CultureInfo.InvariantCulture), "--threads", "2", "--output", _shop.At("v.gguf"), "--overwrite"];
            // A collector that waits for garbage would measure its patience.
            (string output, double peak) = ProgramRun.Measured(args, ("DOTNET_gcConcurrent", "0"), ("DOTNET_GCgen0size", "400000"));
            Assert.Contains($"{count} pairs", output, StringComparison.Ordinal);
            return peak;
        }
    }

    [Fact]
    public void Rows_leave_no_file_behind()
    {
        string folder = _shop.At("out");
        CliResult train = CliRun.Run("vector", "train", "--method", "pca_center", "--max_pairs", "8", "--output", Path.Combine(folder, "v.gguf"));
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        Assert.Equal(["v.gguf"], Directory.GetFileSystemEntries(folder).Select(Path.GetFileName));
    }
}
