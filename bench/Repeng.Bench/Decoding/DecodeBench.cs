using System.Diagnostics;
using System.Globalization;
using Repeng.Autograd;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Bench.Decoding;

/// <summary>
/// The steering tax: what a token costs with an adapter, or a control vector on every block, at c ≠ 0 beside the same token at c = 0, in one process. Each
/// position of a text is decoded by both, one right after the other and in turns first, so that whatever else the machine does
/// falls on both; the tax is the median over positions with its 95 % interval by order statistics.
/// </summary>
internal static class DecodeBench
{
    private const int Prompt = 16;
    private const int WarmUp = 8;

    public static int Run(string[] args)
    {
        int tokens = 300, rows = 1, rank = 64, threads = Environment.ProcessorCount;
        string? model = null, targets = null;
        bool distinct = false, vector = false, stored = false;
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            switch (name)
            {
                case "--model": model = Value(); break;
                case "--targets": targets = Value(); break;
                case "--tokens": tokens = Number(); break;
                case "--rows": rows = Number(); break;
                case "--rank": rank = Number(); break;
                case "--threads": threads = Number(); break;
                case "--distinct": distinct = true; break;
                case "--vector": vector = true; break;
                case "--stored": stored = true; break;
                default: throw new UserErrorException($"decode knows no option {name}");
            }

            string Value() => ++i < args.Length ? args[i] : throw new UserErrorException($"{name} needs a value");
            int Number() => int.TryParse(Value(), CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"{name} {args[i]} is no positive number");
        }
        model ??= TrainBenchOptions.DefaultModel ?? throw new UserErrorException($"no .gguf file in {TrainBenchOptions.ModelFolder}; give --model");
        using Device device = Device.Cpu(threads);
        using ModelBundle bundle = ModelBundle.Load(device, model, stored ? WeightType.AsStored : WeightType.F32);
        if (vector && targets is not null)
            throw new UserErrorException("--targets are an adapter's; a vector acts on every block");
        using SvdAdapter? adapter = vector ? null : SvdAdapter.Create(bundle.Model, new SvdAdapterConfig
        {
            Rank = rank,
            RotateU = true,
            RotateV = true,
            TargetModules = targets ?? TrainDefaults.For(bundle.Model.Config, isDemo: false, quick: false).TargetModules,
        });
        using VectorControl? control = vector ? OnEveryBlock(bundle.Model) : null;
        float[] steered = [.. Enumerable.Range(0, rows).Select(r => distinct ? 0.25f * (r + 1) : 1)];
        Console.WriteLine($"{Path.GetFileNameWithoutExtension(model)}, {rows} row{(rows == 1 ? "" : "s")}, c = {string.Join(' ', steered.Select(c => c.ToString(CultureInfo.InvariantCulture)))} against 0, {(adapter is null ? $"a vector on {bundle.Model.Blocks.Count} blocks" : $"rank {rank}, {adapter.Layers.Count} adapted layers")}, {tokens} positions");
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        (double[] plain, double[] with, double[] one) = Time(bundle.Model, adapter, control, steered, tokens);
        double bytes = adapter?.Layers.Values.Sum(l => 4.0 * (l.U.Length + l.V.Length)) ?? 4.0 * bundle.Model.Blocks.Count * bundle.Model.Config.HiddenSize;
        Print(bundle.Model, bytes, plain, with);
        if (rows > 1)
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"one row with its coefficient: {1e3 * Median(one):F2} ms a position; {rows} rows give {rows * Median([.. one.Zip(with, (o, w) => o / w)]):F2} times its tokens a second"));
        string subject = $"{Path.GetFileNameWithoutExtension(model)}{(vector ? ", a vector on every block" : $", adapter of rank {rank}")}";
        double[] tax = [.. plain.Zip(with, (p, s) => 100 * (s / p - 1))];
        new BoardRow { Job = $"steering tax, {rows} row{(rows == 1 ? "" : "s")}, {subject}", Unit = "%", Ours = Middle(tax), Target = 3 }.Report();
        if (rows > 1)
            new BoardRow { Job = $"tokens/s of {rows} steered sequences over those of one, {subject}", Unit = "×", Ours = Middle([.. one.Zip(with, (o, w) => rows * o / w)]), Target = 4 }.Report();
        return 0;
    }

    // The median and its 95 % interval by order statistics, in the place of single positions.
    private static double[] Middle(double[] values)
    {
        double[] sorted = [.. values.Order()];
        int n = sorted.Length, half = (int)Math.Ceiling(0.98 * Math.Sqrt(n));
        return [sorted[Math.Max(0, n / 2 - half)], sorted[n / 2], sorted[Math.Min(n - 1, n / 2 + half)]];
    }

    private static VectorControl OnEveryBlock(DecoderModel model) => new(model, new ControlVector(model.Config.ModelType, Enumerable.Range(0, model.Blocks.Count).Select(b =>
    {
        var direction = new float[model.Config.HiddenSize];
        Philox.FillNormal(direction, 2, (ulong)b);
        return KeyValuePair.Create($"{b}", new Direction([.. direction.Select(v => 0.01f * v)]));
    })));

    // Sides: all rows at 0, all rows steered, and where there are several the first of them alone.
    private static (double[] Plain, double[] Steered, double[] One) Time(DecoderModel model, SvdAdapter? adapter, VectorControl? control, float[] steered, int tokens)
    {
        int rows = steered.Length, length = Prompt + WarmUp + tokens;
        var ids = new int[rows * length];
        for (int i = 0; i < ids.Length; i++)
            ids[i] = (int)(Philox.Uniform(1, 0, (ulong)i) * model.Config.VocabSize);
        float[][] coefficients = [new float[rows], steered, .. rows > 1 ? new float[][] { [steered[0]] } : []];
        int sides = coefficients.Length;
        KvCache[] caches = [.. coefficients.Select(c => new KvCache(model.Device, model.Config, c.Length, length, new int[c.Length]))];
        using var kept = new Tape(model.Device, record: false);
        IAdapterPass?[] passes = [.. coefficients.Select((c, side) => side == 0 ? null : adapter?.Pass(kept, c, 1))];
        double[][] seconds = [.. coefficients.Select(_ => new double[tokens])];
        for (int side = 0; side < sides; side++)
            Step(model, caches[side], adapter?.Pass(kept, coefficients[side], Prompt), control?.Pass(coefficients[side]), Columns(ids, coefficients[side].Length, length, 0, Prompt), Prompt);
        for (int t = 0; t < WarmUp + tokens; t++)
            for (int turn = 0; turn < sides; turn++)
            {
                int side = (t + turn) % sides;
                double s = Step(model, caches[side], passes[side], control?.Pass(coefficients[side]), Columns(ids, coefficients[side].Length, length, Prompt + t, 1), 1);
                if (t >= WarmUp)
                    seconds[side][t - WarmUp] = s;
            }
        foreach (KvCache c in caches)
            c.Dispose();
        return (seconds[0], seconds[1], seconds[^1]);
    }

    private static double Step(DecoderModel model, KvCache cache, IAdapterPass? pass, IModuleEdit? edit, int[] ids, int length)
    {
        int rows = ids.Length / length;
        long start = Stopwatch.GetTimestamp();
        using var tape = new Tape(model.Device, record: false);
        Tensor hidden = model.Forward(new ForwardContext(tape, new TokenBatch(rows, length, ids, new int[rows]), cache) { Adapter = pass, Edit = edit });
        model.Logits(tape, hidden).ToArray();
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static int[] Columns(int[] ids, int rows, int length, int from, int count) =>
        [.. Enumerable.Range(0, rows).SelectMany(r => ids[(r * length + from)..(r * length + from + count)])];

    private static void Print(DecoderModel model, double bytes, double[] plain, double[] steered)
    {
        int n = plain.Length;
        double[] tax = [.. plain.Zip(steered, (p, s) => s / p - 1).Order()];
        // The median's interval: ranks n/2 ± 0.98·√n hold it in 95 % of samples.
        int half = (int)Math.Ceiling(0.98 * Math.Sqrt(n)), low = Math.Max(0, n / 2 - half), high = Math.Min(n - 1, n / 2 + half);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"c = 0: {1e3 * Median(plain):F2} ms a position; c ≠ 0: {1e3 * Median(steered):F2} ms"));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"tax: median {tax[n / 2]:P2}, 95 % interval {tax[low]:P2} to {tax[high]:P2}; ratio of the sums {steered.Sum() / plain.Sum() - 1:P2}; floor by bytes read {bytes / model.WeightBytes:P2}"));
    }

    private static double Median(double[] values) => values.Order().ElementAt(values.Length / 2);
}
