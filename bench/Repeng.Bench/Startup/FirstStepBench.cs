using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;

namespace Repeng.Bench.Startup;

/// <summary>
/// From the start of the command line's process to its line about the demo's first training step; the run is stopped there. The program that is built,
/// and in turns with it those that tests/publish.sh left: with the runtime in one file, and compiled ahead of time.
/// </summary>
internal static class FirstStepBench
{
    private const double JitTarget = 0.6, NativeTarget = 0.15;

    /// <summary>A build of the command line: what the board calls it, how it is started, and how soon it is to make its first step.</summary>
    private sealed record Build(string Name, string[] Command, double Target, string Make);

    public static int Run(string[] args)
    {
        int runs = 7;
        string? published = null;
        for (int i = 0; i < args.Length; i++)
            switch (args[i])
            {
                case "--runs" when i + 1 < args.Length && int.TryParse(args[i + 1], CultureInfo.InvariantCulture, out int n) && n > 0: (runs, i) = (n, i + 1); break;
                case "--published" when i + 1 < args.Length: published = Path.GetFullPath(args[++i]); break;
                default: throw new UserErrorException($"first-step knows --runs N (from 1 on) and --published FOLDER, not {string.Join(' ', args[i..])}");
            }
        var builds = new List<Build> { new("JIT", ["dotnet", Path.Combine(Machine.Repository(), "src", "Repeng.Cli", "bin", "Release", "net10.0", "repeng-native.dll")], JitTarget, "dotnet build src/Repeng.Cli -c Release") };
        if (published is not null)
        {
            builds.Add(new("ReadyToRun", [Path.Combine(published, "linux-x64", "repeng-native")], JitTarget, $"tests/publish.sh --aot {published}"));
            builds.Add(new("NativeAOT", [Path.Combine(published, "aot", "repeng-native")], NativeTarget, $"tests/publish.sh --aot {published}"));
        }
        builds.ForEach(MustBeOfThisCommit);
        Console.WriteLine($"{Machine.Cpu}, commit {Machine.Commit()}, load average {Machine.Load()}");
        if (published is null)
            Console.WriteLine("the built program alone; --published FOLDER adds those that `tests/publish.sh --aot FOLDER` made");
        var seconds = builds.ToDictionary(b => b, _ => new List<double>());
        for (int run = -1; run < runs; run++)
            foreach (Build build in builds)
            {
                double took = FirstStep(build);
                // The first round warms the files.
                if (run >= 0)
                    seconds[build].Add(took);
            }
        foreach ((Build build, List<double> ours) in seconds)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"start to first step, {build.Name}: {ours.Order().ElementAt(runs / 2):f2} s ({ours.Min():f2} … {ours.Max():f2})"));
            new BoardRow { Job = $"start to first step, demo, {build.Name}", Unit = "s", Ours = [.. ours], Target = build.Target }.Report();
        }
        return 0;
    }

    // The bench does not build: another commit's program must not be timed under this one's name.
    private static void MustBeOfThisCommit(Build build)
    {
        string file = build.Command[^1];
        if (!File.Exists(file))
            throw new UserErrorException($"{file} is not there; {build.Make} makes it");
        using Process version = Process.Start(new ProcessStartInfo(build.Command[0], [.. build.Command[1..], "--version"]) { RedirectStandardOutput = true })!;
        string built = version.StandardOutput.ReadToEnd().Trim(), commit = Machine.Commit().TrimEnd('+');
        version.WaitForExit();
        if (!built.Contains($"+{commit}", StringComparison.Ordinal))
            throw new UserErrorException($"{file} is of {built}, the checkout of {commit}; make it again: {build.Make}");
    }

    private static double FirstStep(Build build)
    {
        string folder = Directory.CreateTempSubdirectory("repeng-first-step").FullName;
        try
        {
            long start = Stopwatch.GetTimestamp();
            using Process run = Process.Start(new ProcessStartInfo(build.Command[0], [.. build.Command[1..], "train", "--quick", "--eval_dilemmas", "0", "--output_dir", folder]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
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
            return came ? seconds : throw new UserErrorException($"the demo's training ({build.Name}) printed no first batch within 60 seconds");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
