using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;

namespace Repeng.Bench.Startup;

/// <summary>
/// From the start of the command line's process to its line about the demo's first training step; the run is stopped there. The program that is built
/// and was started before (StartProfile), and in turns with it those that tests/publish.sh left: with the runtime in one file, and compiled ahead of time.
/// </summary>
internal static class FirstStepBench
{
    private const double Target = 0.6, NativeTarget = 0.15;

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
        List<CommandLineProgram> programs = CommandLineProgram.All(published);
        programs.ForEach(p => p.MustBeOfThisCommit());
        Console.WriteLine($"{Machine.Cpu}, commit {Machine.Commit()}, load average {Machine.Load()}");
        var seconds = programs.ToDictionary(p => p, _ => new List<double>());
        for (int run = -1; run < runs; run++)
            foreach (CommandLineProgram program in programs)
            {
                // The first round warms the files and is ended as a person ends it: only then the runtime writes what was compiled.
                double took = FirstStep(program, killed: run >= 0);
                if (run >= 0)
                    seconds[program].Add(took);
            }
        foreach ((CommandLineProgram program, List<double> ours) in seconds)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"start to first step, {program.Name}: {ours.Order().ElementAt(runs / 2):f2} s ({ours.Min():f2} … {ours.Max():f2})"));
            new BoardRow { Job = $"start to first step, demo, {program.Name}", Unit = "s", Ours = [.. ours], Target = program.Name == CommandLineProgram.Native ? NativeTarget : Target }.Report();
        }
        return 0;
    }

    private static double FirstStep(CommandLineProgram program, bool killed)
    {
        string folder = Directory.CreateTempSubdirectory("repeng-first-step").FullName;
        try
        {
            long start = Stopwatch.GetTimestamp();
            ProcessStartInfo train = program.Start("train", "--quick", "--eval_dilemmas", "0", "--output_dir", folder);
            train.RedirectStandardOutput = train.RedirectStandardError = true;
            using Process run = Process.Start(train)!;
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
            if (killed)
                run.Kill(entireProcessTree: true);
            else
                Process.Start("kill", ["-TERM", run.Id.ToString(CultureInfo.InvariantCulture)]).WaitForExit();
            run.WaitForExit();
            return came ? seconds : throw new UserErrorException($"the demo's training ({program.Name}) printed no first batch within 60 seconds");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
