using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Boards;
using Repeng.Bench.Startup;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;

namespace Repeng.Bench.Packed;

/// <summary>Load to first token, tokens a second after it, and resident memory of a process that generates with one model.</summary>
internal static class FirstToken
{
    // Seconds with files in the page cache (docs/benchmarks.md).
    private const double FirstText = 0.5;

    public static int Run(string[] args)
    {
        string? model = null, published = null;
        bool started = false;
        int runs = 11, tokens = 64, threads = Environment.ProcessorCount;
        WeightType weights = WeightType.AsStored;
        for (int i = 0; i < args.Length; i++)
            switch (args[i])
            {
                case "--model": model = args[++i]; break;
                case "--tokens": tokens = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--threads": threads = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--started": started = true; break;
                case "--published": published = Path.GetFullPath(args[++i]); break;
                case "--runs": runs = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--expanded": weights = WeightType.F32; break;
                default: throw new UserErrorException($"packed first-token knows no option {args[i]}");
            }
        model ??= TrainBenchOptions.DefaultModel ?? throw new UserErrorException($"no .gguf file in {TrainBenchOptions.ModelFolder}; give --model");
        if (started)
        {
            List<CommandLineProgram> programs = CommandLineProgram.All(published);
            programs.ForEach(p => p.MustBeOfThisCommit());
            Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), commit {Machine.Commit()}, load average {Machine.Load()}");
            programs.ForEach(p => Started(p, model, runs));
            return 0;
        }
        using Process self = Process.GetCurrentProcess();
        double toMain = (DateTime.Now - self.StartTime).TotalSeconds;
        var clock = Stopwatch.StartNew();
        using Device device = Device.Cpu(threads);
        using ModelBundle bundle = ModelBundle.Load(device, model, weights);
        double loaded = clock.Elapsed.TotalSeconds, first = 0;
        int count = 0;
        new Generator(bundle.Model).Generate([bundle.EncodeRaw("The sea is")], [0], Steering.Generation.Steering.None, new SamplingSettings(), tokens, [], onToken: (_, _) =>
        {
            if (count++ == 0)
                first = clock.Elapsed.TotalSeconds;
        });
        double all = clock.Elapsed.TotalSeconds;
        double file = new FileInfo(model).Exists ? new FileInfo(model).Length / 1048576.0 : double.NaN;
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{Path.GetFileName(model)} ({file:f1} MiB): process to Main {toMain:f3} s, load {loaded:f3} s, load to first token {first:f3} s, then {(all - first) / (count - 1) * 1e3:f1} ms a token; peak resident {ProcessMemory.Peak:f0} MiB, {ProcessMemory.Peak - file:f0} beyond the file"));
        return 0;
    }

    /// <summary>The command line as a person waits for it: from the start of its process to the first character of the answer.</summary>
    private static void Started(CommandLineProgram program, string model, int runs)
    {
        string[] arguments = ["generate", "--model", model, "--raw", "--prompt", "The sea is", "--max_new_tokens", "8"];
        var seconds = new List<double>();
        for (int run = 0; run <= runs; run++)
        {
            ProcessStartInfo start = program.Start(arguments);
            (start.RedirectStandardOutput, start.RedirectStandardError) = (true, true);
            var clock = Stopwatch.StartNew();
            using Process process = Process.Start(start)!;
            process.ErrorDataReceived += (_, _) => { };
            process.BeginErrorReadLine();
            bool any = process.StandardOutput.Read() >= 0;
            // The first run warms the page cache.
            if (run > 0)
                seconds.Add(clock.Elapsed.TotalSeconds);
            process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            if (!any || process.ExitCode != 0)
                throw new UserErrorException($"{program.Name} generate ended with exit code {process.ExitCode} and {(any ? "some" : "no")} output");
        }
        seconds.Sort();
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{Path.GetFileName(model)}, {program.Name}: start of the process to first text, {runs} runs: median {seconds[runs / 2]:f3} s ({seconds[0]:f3} … {seconds[^1]:f3})"));
        new BoardRow { Job = $"model load, from the start of the process to the first text, {Path.GetFileNameWithoutExtension(model)}, {program.Name}", Unit = "s", Ours = [.. seconds], Target = FirstText }.Report();
    }
}
