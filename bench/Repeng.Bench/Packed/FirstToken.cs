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
        string? model = null;
        int tokens = 64, threads = Environment.ProcessorCount;
        WeightType weights = WeightType.AsStored;
        for (int i = 0; i < args.Length; i++)
            switch (args[i])
            {
                case "--model": model = args[++i]; break;
                case "--tokens": tokens = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--threads": threads = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--expanded": weights = WeightType.F32; break;
                default: throw new UserErrorException($"packed first-token knows no option {args[i]}");
            }
        model ??= TrainBenchOptions.DefaultModel ?? throw new UserErrorException($"no .gguf file in {TrainBenchOptions.ModelFolder}; give --model");
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
}
