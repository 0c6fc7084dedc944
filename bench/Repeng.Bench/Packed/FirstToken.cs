using System.Diagnostics;
using System.Globalization;
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
    public static int Run(string[] args)
    {
        string? model = null, program = null;
        int runs = 11, tokens = 64, threads = Environment.ProcessorCount;
        WeightType weights = WeightType.AsStored;
        for (int i = 0; i < args.Length; i++)
            switch (args[i])
            {
                case "--model": model = args[++i]; break;
                case "--tokens": tokens = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--threads": threads = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--program": program = args[++i]; break;
                case "--runs": runs = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--expanded": weights = WeightType.F32; break;
                default: throw new UserErrorException($"packed first-token knows no option {args[i]}");
            }
        model ??= TrainBenchOptions.DefaultModel ?? throw new UserErrorException($"no .gguf file in {TrainBenchOptions.ModelFolder}; give --model");
        if (program is not null)
            return Started(program, model, runs);
        using Process self = Process.GetCurrentProcess();
        double started = (DateTime.Now - self.StartTime).TotalSeconds;
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
            $"{Path.GetFileName(model)} ({file:f1} MiB): process to Main {started:f3} s, load {loaded:f3} s, load to first token {first:f3} s, then {(all - first) / (count - 1) * 1e3:f1} ms a token; peak resident {ProcessMemory.Peak:f0} MiB, {ProcessMemory.Peak - file:f0} beyond the file"));
        return 0;
    }

    /// <summary>The command line as a person waits for it: from the start of its process to the first character of the answer.</summary>
    private static int Started(string program, string model, int runs)
    {
        string[] arguments = ["generate", "--model", model, "--raw", "--prompt", "The sea is", "--max_new_tokens", "8"];
        var seconds = new List<double>();
        for (int run = 0; run <= runs; run++)
        {
            bool managed = program.EndsWith(".dll", StringComparison.Ordinal);
            var start = new ProcessStartInfo(managed ? "dotnet" : program, managed ? [program, .. arguments] : arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
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
                throw new UserErrorException($"{program} generate ended with exit code {process.ExitCode} and {(any ? "some" : "no")} output");
        }
        seconds.Sort();
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), commit {Machine.Commit()}, load average {Machine.Load()}");
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{Path.GetFileName(model)}, {program}: start of the process to first text, {runs} runs: median {seconds[runs / 2]:f3} s ({seconds[0]:f3} … {seconds[^1]:f3})"));
        return 0;
    }
}
