using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.Dry;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Bench.Scaling;

/// <summary>
/// Cost of a training step and of a token against the formula of <c>plan</c>: the step's own code over <see cref="DryBackend"/> gives its ops, <see cref="OpTally.Seconds"/>
/// their time at given rates. Then the same code runs.
/// </summary>
internal static class ScalingBench
{
    private const int WarmUpTokens = 2, TimedTokens = 9;
    private static readonly int[] s_contexts = [128, 512, 2048, 8192];
    private static readonly StepSize s_standard = new(14, 64, 64);

    private static readonly (string Model, string Storage)[] s_all =
        [.. ModelShape.All.Select(s => (s.Name, "bf16")), ("Qwen3-0.6B", "nf4"), ("Qwen3-1.7B", "nf4")];

    private sealed record Options(string Model, string Storage, int Runs, int Threads, bool Training, bool Decoding)
    {
        public WeightStorage Weights => Storage == "nf4" ? new WeightStorage(Quantise: new Quantisation(QuantisedForm.Nf4)) : new WeightStorage();
    }

    /// <summary>What the formula says of a step: its ops, and the bytes that the device hands out at most.</summary>
    private sealed record Paper(OpTally Work, long PeakBytes);

    public static int Run(string[] args)
    {
        string? model = null;
        string machine = $"{Machine.Cpu} {Environment.ProcessorCount} {CpuBackend.Simd}";
        var options = new Options("", "bf16", 3, Environment.ProcessorCount, true, true);
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            switch (name)
            {
                case "--model": model = Value(); break;
                case "--storage": options = options with { Storage = Value() }; break;
                case "--runs": options = options with { Runs = Number() }; break;
                case "--threads": options = options with { Threads = Number() }; break;
                case "--machine": machine = Value(); break;
                case "--no-training": options = options with { Training = false }; break;
                case "--no-decoding": options = options with { Decoding = false }; break;
                default: throw new UserErrorException($"scaling knows no option {name}");
            }

            string Value() => ++i < args.Length ? args[i] : throw new UserErrorException($"{name} needs a value");
            int Number() => int.TryParse(Value(), CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"{name} {args[i]} is no positive number");
        }
        if (options.Storage is not ("bf16" or "nf4"))
            throw new UserErrorException($"--storage {options.Storage}: bf16 or nf4");
        if (model is null)
            return Each(args);
        ModelShape shape = ModelShape.Find(model);
        var page = new ScalingPage(machine);
        One(shape, options with { Model = shape.Name }, page);
        page.Write();
        Console.WriteLine($"written to {Path.GetRelativePath(Machine.Repository(), page.File_)}");
        return 0;
    }

    // Memory is a process's.
    private static int Each(string[] args)
    {
        bool storage = args.Contains("--storage");
        foreach ((string model, string form) in s_all.Where(a => !storage || a.Storage == "bf16"))
        {
            string program = Environment.ProcessPath!;
            var start = new ProcessStartInfo(program);
            // Under `dotnet Repeng.Bench.dll` the program is the host and needs the library's name.
            if (Path.GetFileNameWithoutExtension(program) == "dotnet")
                start.ArgumentList.Add(typeof(ScalingBench).Assembly.Location);
            string[] each = ["scaling", "--model", model, .. storage ? Array.Empty<string>() : ["--storage", form], .. args];
            foreach (string a in each)
                start.ArgumentList.Add(a);
            using Process child = Process.Start(start) ?? throw new InvalidOperationException($"{program} does not start");
            child.WaitForExit();
            if (child.ExitCode != 0)
            {
                Console.Error.WriteLine($"scaling --model {model} ended with exit code {child.ExitCode}");
                return 1;
            }
        }
        return 0;
    }

    private static void One(ModelShape shape, Options options, ScalingPage page)
    {
        Console.WriteLine($"{shape.Name}, {options.Storage}; {Machine.Cpu} ({CpuBackend.Simd}), {options.Threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        int[] contexts = [.. s_contexts.Where(c => c <= shape.Config.MaxPositions)];
        Dictionary<StepSize, Paper> steps;
        OpTally standard, tokenAt2048;
        OpTally? everyLinear = null;
        Dictionary<int, OpTally> tokens;
        // First, as in plan: it sets how the C library keeps memory.
        using var real = new Device(new TimedBackend(new CpuBackend(options.Threads), Now) { Paused = true });
        using (var device = new Device(new DryBackend()))
        using (DecoderModel model = Load(device, shape, options))
        {
            steps = shape.Steps.ToDictionary(s => s, s => OnPaper(model, s));
            standard = OnPaper(model, s_standard).Work;
            tokens = contexts.ToDictionary(c => c, c => TokenOnPaper(model, c));
            tokenAt2048 = tokens[2048];
            if (shape.Steps.Length == 0)
                everyLinear = OnPaper(model, new StepSize(28, 64, 64), ".*_proj").Work;
        }
        // What plan adds for the program itself.
        long program = Environment.WorkingSet;
        (double stepPart, double tokenPart) = shape.Steps.Length == 0 ? (double.NaN, double.NaN) : Measured(shape, options, page, real, steps, tokens, program);
        string title = $"{shape.Name} {options.Storage}";
        if (options.Training)
            Predict(page, $"{title}, step of {s_standard}", standard, stepPart, "s", 1);
        if (options.Decoding)
            Predict(page, $"{title}, token at {2048}", tokenAt2048, tokenPart, "ms", 1e3);
        if (options.Training && everyLinear is not null)
            Predict(page, $"{title}, step of 28 × 64, rank 64, every linear layer", everyLinear, double.NaN, "s", 1);
    }

    private static DecoderModel Load(Device device, ModelShape shape, Options options)
    {
        using var weights = new RandomWeights(shape.Config);
        return ModelLoader.Load(device, shape.Config, weights, options.Weights);
    }

    private static Paper OnPaper(DecoderModel model, StepSize size, string? targets = null)
    {
        var dry = (DryBackend)model.Device.Backend;
        model.Device.Pool.Trim();
        model.Device.Pool.ResetPeak();
        using var step = new StepCase(model, size, targets);
        step.Run();
        dry.TakeTally();
        step.Run();
        return new Paper(dry.TakeTally(), model.Device.Pool.PeakReserved);
    }

    // The last token of the context.
    private static OpTally TokenOnPaper(DecoderModel model, int context)
    {
        var dry = (DryBackend)model.Device.Backend;
        using var token = new DecodeCase(model, context, 1);
        dry.TakeTally();
        token.Run();
        return dry.TakeTally();
    }

    private static (double StepPart, double TokenPart) Measured(ModelShape shape, Options options, ScalingPage page, Device device, Dictionary<StepSize, Paper> steps, Dictionary<int, OpTally> tokens, long program)
    {
        (double bandwidth, double flops) = MachinePeaks.Measure(options.Threads);
        DeviceRate rate = DeviceRate.Measure(device);
        string peaks = F($"{flops * 1e-9:f0} GFLOP/s, {bandwidth * 1e-9:f1} GB/s");
        Console.WriteLine($"peaks {peaks}; plan's rates {F($"{rate.FlopsPerSecond * 1e-9:f0} GFLOP/s, {rate.BytesPerSecond * 1e-9:f1} GB/s")}");
        double start = Now(), stepPart = double.NaN, tokenPart = double.NaN;
        using DecoderModel model = Load(device, shape, options);
        Console.WriteLine(F($"made in {Now() - start:f1} s, {model.WeightBytes >> 20} MiB"));
        foreach ((StepSize size, Paper paper) in options.Training ? steps : [])
        {
            (double[] seconds, double held, double handedOut, Dictionary<Part, double> parts, double between) = Time(model, size, options.Runs);
            double median = seconds[seconds.Length / 2], floor = paper.Work.Seconds(flops, bandwidth), plan = paper.Work.Seconds(rate.FlopsPerSecond, rate.BytesPerSecond);
            double planned = (paper.PeakBytes + program) / 1048576.0;
            stepPart = floor / median;
            string title = $"{shape.Name} {options.Storage}, {size}";
            page.Set(ScalingPage.Steps, title, N(paper.Work.Flops * 1e-12), N(paper.Work.OtherBytes * 1e-9), F($"{paper.Work.Count:f0}"), N(floor), Spread(seconds, 1), Percent(stepPart), N(plan), N(plan / median), F($"{planned:f0} ({paper.PeakBytes / 1048576.0:f0} + {program / 1048576.0:f0})"), F($"{held:f0} ({handedOut:f0})"), N(planned / held), peaks);
            var split = new StepParts(model, size);
            page.Set(ScalingPage.Parts, [title, .. Enum.GetValues<Part>().Select(part =>
            {
                OpTally work = new();
                foreach ((OpCost op, double times) in paper.Work.Ops.Where(o => split.Of(o.Key) == part))
                    work.Add(op, times);
                double least = work.Seconds(flops, bandwidth), took = parts.GetValueOrDefault(part);
                return $"{(work.Flops > 0 ? $"{N(work.Flops * 1e-9)} GFLOP, " : "")}{N(least)} → {N(took)} s, {Percent(least / took)}";
            }), N(between)]);
        }
        foreach ((int context, OpTally work) in options.Decoding ? tokens : [])
        {
            double[] seconds = TimeTokens(model, context);
            double median = seconds[seconds.Length / 2], floor = work.Seconds(flops, bandwidth);
            tokenPart = context == 2048 ? floor / median : tokenPart;
            page.Set(ScalingPage.Tokens, $"{shape.Name} {options.Storage}, context {context}", N(work.BytesOf(OpFamily.MatMul) * 1e-6), N(work.BytesOf(OpFamily.Attention) * 1e-6), F($"{work.Count:f0}"), N(floor * 1e3), Spread(seconds, 1e3), Percent(floor / median), peaks);
        }
        return (stepPart, tokenPart);
    }

    private static (double[] Seconds, double Held, double HandedOut, Dictionary<Part, double> Parts, double Between) Time(DecoderModel model, StepSize size, int runs)
    {
        var timed = (TimedBackend)model.Device.Backend;
        model.Device.Pool.Trim();
        model.Device.Pool.ResetPeak();
        using var step = new StepCase(model, size);
        ProcessMemory.ResetPeak();
        step.Run();
        timed.Clear();
        timed.Paused = false;
        var seconds = new double[runs];
        for (int i = 0; i < runs; i++)
        {
            double start = Now();
            step.Run();
            seconds[i] = Now() - start;
        }
        timed.Paused = true;
        var split = new StepParts(model, size);
        var parts = new Dictionary<Part, double>();
        foreach ((string kind, _, double s, _) in timed.Totals)
            parts[split.Of(kind)] = parts.GetValueOrDefault(split.Of(kind)) + (s / runs);
        double between = seconds.Average() - parts.Values.Sum();
        Array.Sort(seconds);
        return (seconds, ProcessMemory.Peak, model.Device.Pool.PeakReserved / 1048576.0, parts, between);
    }

    private static double[] TimeTokens(DecoderModel model, int context)
    {
        var seconds = new double[TimedTokens];
        using (var decode = new DecodeCase(model, context, WarmUpTokens + TimedTokens))
            for (int i = -WarmUpTokens; i < TimedTokens; i++)
            {
                double start = Now();
                decode.Run();
                if (i >= 0)
                    seconds[i] = Now() - start;
            }
        model.Device.Pool.Trim();
        Array.Sort(seconds);
        return seconds;
    }

    private static void Predict(ScalingPage page, string job, OpTally work, double part, string unit, double times)
    {
        double desktop = AssumedMachine.All[0].Seconds(work);
        page.Set(ScalingPage.Elsewhere, [job, N(work.Flops * 1e-12), .. AssumedMachine.All.Select(m =>
        {
            (double operations, double bytes, double gaps) = m.Limits(work);
            return $"{N(times * m.Seconds(work))} {unit} ({Percent(operations)}, {Percent(bytes)}, {Percent(gaps)})";
        }), double.IsNaN(part) ? "" : $"{N(times * desktop / part)} {unit}"]);
    }

    private static double Now() => Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency;

    private static string Spread(double[] sorted, double times) => $"{N(times * sorted[sorted.Length / 2])} ({N(times * sorted[0])} … {N(times * sorted[^1])})";

    private static string N(double x) => Board.Number(x);

    private static string Percent(double x) => x.ToString("p0", CultureInfo.InvariantCulture);

    private static string F(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
