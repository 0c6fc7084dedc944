using System.Diagnostics;
using System.Globalization;

namespace Repeng.Cli.Tests;

/// <summary>The program in a process of its own, and the most memory that the system saw it hold.</summary>
internal static class ProgramRun
{
    /// <summary>Skips the test where the system does not tell of a process's memory.</summary>
    public static void NeedsMemoryCounts()
    {
        if (!File.Exists("/proc/self/status"))
            Assert.Skip("peak memory is read from /proc, which is absent here");
    }

    /// <summary>How it is started; what it writes comes here.</summary>
    public static ProcessStartInfo Start(params string[] args) =>
        new("dotnet", [Path.Combine(AppContext.BaseDirectory, "repeng-native.dll"), .. args]) { RedirectStandardError = true, RedirectStandardOutput = true };

    /// <summary>Runs it to a good end; its output and its peak resident memory in MiB.</summary>
    public static (string Output, double Peak) Measured(string[] args, params (string Name, string Value)[] environment)
    {
        ProcessStartInfo start = Start(args);
        foreach ((string name, string value) in environment)
            start.Environment[name] = value;
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync(), output = process.StandardOutput.ReadToEndAsync();
        double peak = 0;
        while (!process.WaitForExit(20))
            peak = Math.Max(peak, HighWater(process.Id));
        Assert.True(process.ExitCode == ExitCodes.Ok && peak > 0, error.Result + output.Result);
        return (output.Result, peak);
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
