using System.Diagnostics;
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
        if (!OperatingSystem.IsLinux())
            Assert.Skip("peak memory is read from /proc");
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
            var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "repeng-native.dll"), .. args]) { RedirectStandardError = true, RedirectStandardOutput = true };
            // A collector that waits for garbage would measure its patience.
            start.Environment["DOTNET_gcConcurrent"] = "0";
            start.Environment["DOTNET_GCgen0size"] = "400000";
            using Process process = Process.Start(start)!;
            Task<string> error = process.StandardError.ReadToEndAsync(), output = process.StandardOutput.ReadToEndAsync();
            double peak = 0;
            while (!process.WaitForExit(20))
                peak = Math.Max(peak, HighWater(process.Id));
            Assert.True(process.ExitCode == ExitCodes.Ok && peak > 0, error.Result + output.Result);
            Assert.Contains($"{count} pairs", output.Result, StringComparison.Ordinal);
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

    private static double HighWater(int process)
    {
        try
        {
            string? line = File.ReadLines($"/proc/{process}/status").FirstOrDefault(l => l.StartsWith("VmHWM:", StringComparison.Ordinal));
            return line is null ? 0 : long.Parse(line.Split(' ', '\t', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) / 1024.0;
        }
        catch (IOException)
        {
            // It has just ended.
            return 0;
        }
    }
}
