using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;

namespace Repeng.Bench.Startup;

/// <summary>From the start of the command line's process to its line about the demo's first training step; the run is stopped there.</summary>
internal static class FirstStepBench
{
    public static int Run(string[] args)
    {
        int runs = args is ["--runs", var n] ? int.Parse(n, CultureInfo.InvariantCulture) : args.Length == 0 ? 7 : throw new UserErrorException($"first-step knows --runs N, not {string.Join(' ', args)}");
        if (runs < 1)
            throw new UserErrorException($"--runs {runs}: at least one");
        string program = Path.Combine(Machine.Repository(), "src", "Repeng.Cli", "bin", "Release", "net10.0", "repeng-native.dll");
        if (!File.Exists(program))
            throw new UserErrorException($"{program} is not there; build src/Repeng.Cli -c Release first");
        // The bench does not build it: another commit's program must not be timed under this one's name.
        string commit = Machine.Commit().TrimEnd('+'), built = FileVersionInfo.GetVersionInfo(program).ProductVersion ?? "";
        if (!built.Contains($"+{commit}", StringComparison.Ordinal))
            throw new UserErrorException($"{program} is of {built}, the checkout of {commit}; build src/Repeng.Cli -c Release again");
        Console.WriteLine($"{Machine.Cpu}, commit {Machine.Commit()}, load average {Machine.Load()}");
        double[] seconds = [.. Enumerable.Range(-1, runs + 1).Select(_ => FirstStep(program)).Skip(1)];
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"start to first step: {seconds.Order().ElementAt(runs / 2):f2} s ({seconds.Min():f2} … {seconds.Max():f2})"));
        new BoardRow { Job = "start to first step, demo, JIT", Unit = "s", Ours = seconds, Target = 0.6 }.Report();
        return 0;
    }

    private static double FirstStep(string program)
    {
        string folder = Directory.CreateTempSubdirectory("repeng-first-step").FullName;
        try
        {
            long start = Stopwatch.GetTimestamp();
            using Process run = Process.Start(new ProcessStartInfo("dotnet", [program, "train", "--quick", "--eval_dilemmas", "0", "--output_dir", folder]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            double seconds = double.NaN;
            using var seen = new ManualResetEventSlim();
            void Look(object sender, DataReceivedEventArgs e)
            {
                if (e.Data is null || !e.Data.Contains(" batch 1/", StringComparison.Ordinal) || seen.IsSet)
                    return;
                seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
                seen.Set();
            }
            run.OutputDataReceived += Look;
            run.ErrorDataReceived += Look;
            run.BeginOutputReadLine();
            run.BeginErrorReadLine();
            bool came = seen.Wait(TimeSpan.FromSeconds(60));
            run.Kill(entireProcessTree: true);
            run.WaitForExit();
            return came ? seconds : throw new UserErrorException("the demo's training printed no first batch within 60 seconds");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
