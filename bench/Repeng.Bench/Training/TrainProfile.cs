using System.Diagnostics;
using System.Globalization;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;

namespace Repeng.Bench.Training;

/// <summary>Where our step spends its time: time of every kind of op, and what is left between the ops.</summary>
internal static class TrainProfile
{
    public static int Print(TrainBenchOptions options)
    {
        var backend = new TimedBackend(new CpuBackend(options.Threads), Now);
        using var device = new Device(backend);
        using TrainCase problem = TrainCase.Create(device, options, options.Weights);
        using var engine = new OurEngine(problem, options);
        Console.WriteLine($"{problem.Name}, {Machine.Cpu}, {options.Threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}; {(options.CpuTime ? "CPU" : "wall")} time of a step, mean of {options.Runs}");
        Part("reference pass", engine.Reference);
        Part("forward, loss and backward", () => engine.LossAndGradients());
        engine.LossAndGradients();
        Part("clip and AdamW", engine.Update, () => engine.LossAndGradients());
        return 0;

        double Now() => options.CpuTime ? Environment.CpuUsage.TotalTime.TotalSeconds : Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency;

        void Part(string name, Action work, Action? before = null)
        {
            work();
            double total = 0;
            var sums = new Dictionary<string, (double Calls, double Seconds, double Flops)>();
            for (int i = 0; i < options.Runs; i++)
            {
                before?.Invoke();
                backend.Clear();
                double start = Now();
                work();
                total += (Now() - start) / options.Runs;
                foreach ((string kind, long calls, double seconds, double flops) in backend.Totals)
                {
                    (double c, double s, double f) = sums.GetValueOrDefault(kind);
                    sums[kind] = (c + ((double)calls / options.Runs), s + (seconds / options.Runs), f + (flops / options.Runs));
                }
            }
            Console.WriteLine();
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name}: {total * 1e3:f1} ms, of which products {sums.Where(s => s.Value.Flops > 0).Sum(s => s.Value.Seconds) * 1e3:f1} ms, other ops {sums.Where(s => s.Value.Flops == 0).Sum(s => s.Value.Seconds) * 1e3:f1} ms, between ops {(total - sums.Values.Sum(s => s.Seconds)) * 1e3:f1} ms"));
            Console.WriteLine($"  {"ms",9} {"calls",6} {"GFLOP/s",8}  kind");
            foreach ((string kind, (double calls, double seconds, double flops)) in sums.OrderByDescending(s => s.Value.Seconds).Take(32))
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {seconds * 1e3,9:f2} {calls,6:f0} {(flops > 0 ? flops / seconds * 1e-9 : double.NaN),8:f1}  {kind}"));
        }
    }
}
