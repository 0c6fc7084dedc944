using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Repeng.Bench.Kernels;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Bench.Packed;

/// <summary>What quantised weights cost: products and training steps beside bf16 weights of the same shape, in one process and in turns.</summary>
internal static unsafe class PackedBench
{
    public static int Run(string[] args)
    {
        if (args is not [var kind, ..] || kind is not ("products" or "train" or "first-token"))
            throw new UserErrorException("packed knows: products, train, first-token");
        return kind switch
        {
            "products" => Products(args[1..]),
            "train" => Train(args[1..]),
            _ => FirstToken.Run(args[1..]),
        };
    }

    private static int Products(string[] args)
    {
        int threads = Environment.ProcessorCount;
        double seconds = 0.15;
        string[] forms = ["NF4", "NF4+DQ", "INT8", "Q4_1", "Q8_0", "Q4_K", "Q6_K"];
        for (int i = 0; i < args.Length; i++)
            switch (args[i])
            {
                case "--threads": threads = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--seconds": seconds = double.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--forms": forms = args[++i].Split(','); break;
                default: throw new UserErrorException($"packed products knows no option {args[i]}");
            }
        using var ops = new CpuBackend(threads);
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}; ms with bf16 weights, and times of that with each form (median of neighbouring runs)");
        Console.WriteLine($"| product | bf16 ms | {string.Join(" | ", forms)} |");
        Console.WriteLine($"|---|---|{string.Concat(forms.Select(_ => "---|"))}");
        foreach ((int outputs, int inputs) in new[] { (1536, 512), (512, 1536), (9728, 2560) })
            foreach ((int rows, bool forward) in new[] { (1, true), (4, true), (64, true), (64, false), (896, true), (896, false) })
            {
                if ((double)rows * outputs * inputs > 3e9)
                    continue;
                MatMulArgs product = forward ? new(rows, outputs, inputs, TransB: true) : new(rows, inputs, outputs);
                var ratios = new List<string>();
                double plain = double.PositiveInfinity;
                using var operands = new Operands(ops, peer: false);
                View bf16 = operands.Normal((long)outputs * inputs, 1, DType.BF16);
                foreach (string form in forms)
                {
                    using var weight = new PackedWeight(form, outputs, inputs);
                    ratios.Add(Ratio(ops, product, bf16, weight.View, seconds, ref plain).ToString("f2", CultureInfo.InvariantCulture));
                }
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {rows} rows, {outputs}×{inputs}, {(forward ? "x·Wᵀ" : "dy·W")} | {plain * 1e3:f3} | {string.Join(" | ", ratios)} |"));
            }
        return 0;
    }

    private static double Ratio(CpuBackend ops, MatMulArgs product, View bf16, View packed, double seconds, ref double plain)
    {
        var a = (float*)NativeMemory.AllocZeroed((nuint)((long)product.M * product.K * sizeof(float)));
        var c = (float*)NativeMemory.AllocZeroed((nuint)((long)product.M * product.N * sizeof(float)));
        View x = new((nint)a, (long)product.M * product.K, DType.F32), y = new((nint)c, (long)product.M * product.N, DType.F32);
        var pairs = new List<double>();
        Time(bf16);
        Time(packed);
        var clock = Stopwatch.StartNew();
        double best = double.PositiveInfinity;
        while (pairs.Count < 5 || clock.Elapsed.TotalSeconds < seconds)
        {
            double one = Time(bf16), other = Time(packed);
            best = Math.Min(best, one);
            pairs.Add(other / one);
        }
        plain = Math.Min(plain, best);
        NativeMemory.Free(a);
        NativeMemory.Free(c);
        pairs.Sort();
        return pairs[pairs.Count / 2];

        double Time(View w)
        {
            int repeats = Math.Max(1, (int)(1e8 / product.Flops));
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < repeats; i++)
                ops.MatMul(y, x, w, product);
            return Stopwatch.GetElapsedTime(start).TotalSeconds / repeats;
        }
    }

    private static int Train(string[] args)
    {
        int skip = Array.IndexOf(args, "--form");
        string form = skip >= 0 ? args[skip + 1] : "NF4";
        Quantisation quantise = PackedWeight.Settings(form);
        TrainBenchOptions options = TrainBenchOptions.Parse([.. skip >= 0 ? args.Where((_, i) => i != skip && i != skip + 1) : args, "--model", TrainShapes.Smol, "--no-memory"]);
        using Device device = Device.Cpu(options.Threads);
        using TrainCase plain = TrainCase.Create(device, options, "bf16"), packed = TrainCase.Create(device, options, "bf16", quantise);
        using OurEngine first = new(plain, options), second = new(packed, options);
        Console.WriteLine($"{plain.Name}, {plain.Batch.Batch} rows x {plain.Batch.Length} tokens, c = -1 and +1, rank {options.Rank}; {plain.Model.WeightBytes / 1048576.0:f0} MiB of weights in bf16, {packed.Model.WeightBytes / 1048576.0:f0} MiB with {form}");
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {options.Threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        var times = new List<(double Plain, double Packed)>();
        for (int i = -1; i < options.Runs; i++)
        {
            (double, double) run = (Step(first), Step(second));
            if (i >= 0)
                times.Add(run);
        }
        double[] ratios = [.. times.Select(t => t.Packed / t.Plain).Order()];
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"a step: {Median(times.Select(t => t.Plain)):f2} s with bf16, {Median(times.Select(t => t.Packed)):f2} s with {form}: {Median(ratios):f3} times ({ratios[0]:f3} … {ratios[^1]:f3}, {ratios.Length} runs in turns{(options.CpuTime ? ", CPU time" : "")})"));
        return 0;

        double Step(OurEngine engine)
        {
            double start = Now();
            engine.Reference();
            engine.LossAndGradients();
            engine.Update();
            return Now() - start;
        }

        double Now() => options.CpuTime ? Environment.CpuUsage.TotalTime.TotalSeconds : Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency;
    }

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }
}
