using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Bench.Vectors;

/// <summary>
/// A control vector on every block from contrast pairs beside the same mathematics in TorchSharp: both must give the same directions,
/// then runs of the two alternate in one process.
/// </summary>
internal static class VectorBench
{
    // Unit vectors; and solutions in fp32 beside ours in double.
    private const double Cosine = 1e-4, Relative = 2e-2;

    private const int Tokens = 64;

    public static int Run(string[] args)
    {
        int pairs = 60, runs = 3, batch = 16, threads = Environment.ProcessorCount;
        string? model = null;
        string method = "pca_diff";
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            switch (name)
            {
                case "--model": model = Value(); break;
                case "--method": method = Value(); break;
                case "--pairs": pairs = Number(); break;
                case "--runs": runs = Number(); break;
                case "--batch": batch = Number(); break;
                case "--threads": threads = Number(); break;
                default: throw new UserErrorException($"vectors knows no option {name}");
            }

            string Value() => ++i < args.Length ? args[i] : throw new UserErrorException($"{name} needs a value");
            int Number() => int.TryParse(Value(), CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"{name} {args[i]} is no positive number");
        }
        (double lambda, bool centred) = method switch
        {
            "pca_diff" => (0, false),
            "fisher_steer_emp_reg2" => (1e-2, false),
            "fisher_steer_cov_reg1" => (1e-1, true),
            _ => throw new UserErrorException($"the peer computes pca_diff, fisher_steer_emp_reg2 and fisher_steer_cov_reg1, not {method}"),
        };
        model ??= TrainBenchOptions.DefaultModel ?? throw new UserErrorException($"no .gguf file in {TrainBenchOptions.ModelFolder}; give --model");
        using Device device = Device.Cpu(threads);
        using ModelBundle bundle = ModelBundle.Load(device, model, WeightType.F32);
        List<TokenPair> texts = TrainCase.TextPairs(bundle, pairs, Tokens);
        string[] modules = [.. bundle.Model.Blocks.Select(b => b.Path)];
        var settings = new RepresentationSettings { BatchRows = batch };
        TorchSharp.torch.set_num_threads(threads);
        using var peer = new TorchVectors(bundle.Model, lambda, centred);
        Console.WriteLine($"{Path.GetFileNameWithoutExtension(model)}, {method} on {modules.Length} blocks, {texts.Count} pairs ({texts.Sum(p => p.Positive.Length + p.Negative.Length)} tokens), {settings.BatchRows} rows a batch");
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        var data = new PairData(texts, bundle.PadId);
        TokenBatch[] batches = [.. Enumerable.Range(0, texts.Count).Chunk(settings.BatchRows / 2).Select(b => data.Batch(b))];
        int apart = method == "pca_diff" ? 0 : 2, computed = batches.Sum(b => SharedPrefixes.Of(b, apart).Computed), padded = batches.Sum(b => b.Ids.Length);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"tokens that a pass computes: {computed} where texts share their beginnings, {padded} text by text with padding ({(double)padded / computed:F2} times)"));
        List<double>[] seconds = [[], []];
        for (int run = -1; run < runs; run++)
        {
            ProcessMemory.ReturnFreedBlocks();
            (ControlVector ours, double s) = Timed(() => ControlVectorTrainer.Train(bundle.Model, modules, texts, bundle.PadId, VectorMethod.Parse(method), settings));
            ProcessMemory.KeepFreedBlocks();
            Thread.Sleep(300);
            (float[][] theirs, double t) = Timed(() => method == "pca_diff" ? peer.PcaDiff(batches) : peer.Fisher(batches));
            Thread.Sleep(300);
            // The first run of each warms up, and is compared.
            if (run < 0 && !Same(ours, theirs, unit: method == "pca_diff"))
                return 1;
            if (run < 0)
                continue;
            seconds[0].Add(s);
            seconds[1].Add(t);
        }
        double[] ratios = [.. seconds[0].Zip(seconds[1], (s, t) => t / s).Order()];
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"ours {Median(seconds[0]):F2} s ({seconds[0].Min():F2} … {seconds[0].Max():F2}), TorchSharp {Median(seconds[1]):F2} s ({seconds[1].Min():F2} … {seconds[1].Max():F2}), ratio {Median(ratios):F2} ({ratios[0]:F2} … {ratios[^1]:F2}); {runs} runs each, alternating"));
        new BoardRow { Job = $"vector extraction, {method}, {Path.GetFileNameWithoutExtension(model)}, {2 * texts.Count} rows with shared persona prefixes{(batch == 16 ? "" : $", {batch} a batch")}", Unit = "s", Ours = [.. seconds[0]], Peer = [.. seconds[1]], PeerName = $"TorchSharp {TorchSharp.torch.__version__}", Target = 4 }.Report();
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"our pool's peak {device.Pool.PeakReserved / 1048576.0:F0} MiB"));
        return 0;
    }

    private static bool Same(ControlVector ours, float[][] theirs, bool unit)
    {
        double worst = 0;
        int turned = 0;
        for (int b = 0; b < theirs.Length; b++)
        {
            float[] v = ours.Directions[$"{b}"].Values;
            double dot = v.Zip(theirs[b], (x, y) => (double)x * y).Sum(), length = Math.Sqrt(theirs[b].Sum(y => (double)y * y));
            // With as many pairs above as below the sign is nobody's.
            turned += dot < 0 ? 1 : 0;
            double error = unit ? 1 - Math.Abs(dot) / length : Math.Sqrt(v.Zip(theirs[b], (x, y) => ((double)x - y) * ((double)x - y)).Sum()) / length;
            worst = double.IsNaN(error) ? double.PositiveInfinity : Math.Max(worst, error);
        }
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"directions of {theirs.Length} blocks: {(unit ? "1 − cosine" : "relative difference")} at most {worst:e1}, {turned} with the other sign"));
        if (worst <= (unit ? Cosine : Relative))
            return true;
        Console.Error.WriteLine("the engines do not give the same directions; timings would mean nothing");
        return false;
    }

    private static (T Result, double Seconds) Timed<T>(Func<T> work)
    {
        GC.Collect();
        long start = Stopwatch.GetTimestamp();
        T result = work();
        return (result, Stopwatch.GetElapsedTime(start).TotalSeconds);
    }

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }
}
