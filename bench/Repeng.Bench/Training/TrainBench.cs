using System.Diagnostics;
using System.Globalization;
using System.Runtime.CompilerServices;
using Repeng.Bench.Boards;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Bench.Training;

/// <summary>
/// A training step of an SVD adapter beside the same mathematics in TorchSharp: first both must give the same loss and gradients, then runs
/// of the two alternate in one process; peak memory is that of a process for each engine alone.
/// </summary>
internal static class TrainBench
{
    private const int WarmUp = 2;

    // Largest relative difference of the loss, and of a gradient over its tensor's largest entry.
    private const double Tolerance = 1e-3;

    private sealed record StepTime(double Reference, double Step, double Update)
    {
        public double Seconds(bool cached) => (cached ? 0 : Reference) + Step + Update;
    }

    public static int Run(string[] args)
    {
        TrainBenchOptions options = TrainBenchOptions.Parse(args);
        if (options.MemoryOnly)
            return MeasureMemory(options);
        if (options.Peak)
            return MeasurePeak(options);
        if (options.Profile)
            return TrainProfile.Print(options);

        (double Settled, double Peak)? ours = null, theirs = null;
        if (options.Memory)
        {
            ours = options.Engine == "torch" ? null : ChildMemory(options, "ours");
            theirs = options.Engine == "ours" ? null : ChildMemory(options, "torch");
        }
        using Device device = Device.Cpu(options.Threads);
        using TrainCase problem = TrainCase.Create(device, options, options.Weights);
        // The peer copies weights as fp32, whatever ours are held as.
        using TrainCase? expanded = options.Engine != "ours" && options.Weights != "f32" ? TrainCase.Create(device, options, "f32") : null;
        var engines = new List<ITrainEngine>();
        try
        {
            if (options.Engine != "torch")
                engines.Add(new OurEngine(problem, options));
            if (options.Engine != "ours")
                engines.Add(MakeTorch(expanded ?? problem, options));
            int computed = options.TextByText ? problem.Batch.Ids.Length : SharedPrefixes.Of(problem.Batch).Computed;
            Console.WriteLine($"{problem.Name}, {problem.Batch.Batch} rows x {problem.Batch.Length} tokens ({computed} of {problem.Batch.Ids.Length} computed in ours), c = -1 and +1, rank {options.Rank}, {problem.Adapter.Layers.Count} adapted layers ({problem.Adapter.Config.TargetModules})");
            Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {options.Threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
            if (engines.Count == 2 && !SameMathematics(problem, engines[0], expanded ?? problem, options, engines[1]))
                return 1;
            List<StepTime>[] runs = Time(engines, options.Runs, options.CpuTime);
            Print(options, problem, engines, runs, [.. new[] { ours, theirs }.OfType<(double, double)>()]);
            return 0;
        }
        finally
        {
            engines.ForEach(e => e.Dispose());
        }
    }

    // Not inlined: a process that measures ours alone must not load libtorch.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static ITrainEngine MakeTorch(TrainCase problem, TrainBenchOptions options, bool exact = false)
    {
        problem.CheckPeer();
        ProcessMemory.KeepFreedBlocks();
        TorchSharp.torch.set_num_threads(options.Threads);
        return new TorchEngine(problem, options.PeerSeparate, options.PeerType == "bf16" && !exact ? TorchSharp.torch.ScalarType.BFloat16 : TorchSharp.torch.ScalarType.Float32);
    }

    // Eight bits of mantissa in every activation leave a peer in bf16 too little for a judgement (loss and gradients are of small
    // differences), so its form in fp32 is held to ours, and how far bf16 takes it from there is said.
    private static bool SameMathematics(TrainCase problem, ITrainEngine ours, TrainCase theirs, TrainBenchOptions options, ITrainEngine peer)
    {
        if (options.PeerType == "f32")
            return SameMathematics(problem, ours, peer, judge: true);
        using ITrainEngine exact = MakeTorch(theirs, options, exact: true);
        Console.WriteLine("the peer in fp32:");
        if (!SameMathematics(problem, ours, exact, judge: true))
            return false;
        Console.WriteLine("the peer in bf16:");
        return SameMathematics(problem, ours, peer, judge: false);
    }

    // At the adapter's start, where rotations are nearly none, and at ten times it, where they bend the model and the hinge acts.
    private static bool SameMathematics(TrainCase problem, ITrainEngine ours, ITrainEngine theirs, bool judge)
    {
        float[][] start = [.. problem.Adapter.Parameters.Select(p => p.ToArray())];
        bool same = true;
        foreach (int times in new[] { 10, 1 })
        {
            float[][] at = [.. start.Select(p => p.Select(x => x * times).ToArray())];
            var losses = new double[2];
            var gradients = new IReadOnlyList<float[]>[2];
            ITrainEngine[] both = [ours, theirs];
            for (int e = 0; e < 2; e++)
            {
                both[e].SetParameters(at);
                both[e].Reference();
                losses[e] = both[e].LossAndGradients();
                gradients[e] = both[e].Gradients();
                both[e].SetParameters(start);
            }
            double loss = Math.Abs(losses[0] - losses[1]) / Math.Abs(losses[1]), gradient = 0;
            double largest = gradients[1].Max(g => g.Max(Math.Abs));
            int silent = 0;
            for (int i = 0; i < at.Length; i++)
            {
                double scale = gradients[1][i].Max(Math.Abs), difference = gradients[0][i].Zip(gradients[1][i], (a, b) => Math.Abs(a - b)).Max();
                // Only the hinge reaches layers after the last loss layer: within its threshold their gradient is exactly zero.
                silent += scale == 0 ? 1 : 0;
                gradient = Math.Max(gradient, difference / (scale == 0 ? largest : scale));
            }
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"parameters x {times,2}: loss {losses[0]:f6} and {losses[1]:f6}, relative difference {loss:e1}; gradients of {at.Length} tensors ({silent} of them zero), largest difference over the tensor's largest {gradient:e1}"));
            // Not "> tolerance": a NaN must fail too.
            same &= !judge || (loss <= Tolerance && gradient <= Tolerance);
        }
        if (!same)
            Console.Error.WriteLine($"the engines do not compute the same: a relative difference is above {Tolerance}; timings would mean nothing");
        return same;
    }

    private static List<StepTime>[] Time(List<ITrainEngine> engines, int count, bool cpuTime)
    {
        List<StepTime>[] runs = [.. engines.Select(_ => new List<StepTime>())];
        for (int i = -WarmUp; i < count; i++)
            for (int e = 0; e < engines.Count; e++)
            {
                // Each engine gets the allocator that suits it, and the other's threads time to go to sleep.
                if (engines[e] is OurEngine)
                    ProcessMemory.ReturnFreedBlocks();
                else
                    ProcessMemory.KeepFreedBlocks();
                GC.Collect();
                Thread.Sleep(300);
                StepTime run = Step(engines[e], cpuTime);
                if (i >= 0)
                    runs[e].Add(run);
            }
        return runs;
    }

    private static StepTime Step(ITrainEngine engine, bool cpuTime = false)
    {
        double start = Now();
        engine.Reference();
        double reference = Now();
        engine.LossAndGradients();
        double step = Now();
        engine.Update();
        return new StepTime(reference - start, step - reference, Now() - step);

        // CPU time of the process leaves out what other programs took from this one; it is meant for one thread.
        double Now() => cpuTime ? Environment.CpuUsage.TotalTime.TotalSeconds : Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency;
    }

    private static void Print(TrainBenchOptions options, TrainCase problem, List<ITrainEngine> engines, List<StepTime>[] runs, (double Settled, double Peak)[] memory)
    {
        int rows = problem.Batch.Batch;
        bool cached = options.CachedReference;
        Console.WriteLine();
        Console.WriteLine($"| {runs[0].Count} runs each, alternating; medians{(options.CpuTime ? " of CPU time" : "")} | rows/s{(cached ? ", reference cached" : "")} | rows/s {(cached ? "with the reference pass" : "without the reference pass")} | s a step (min … max) | reference | forward + backward | clip + AdamW | peak resident MiB | of which before the first step |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|---|");
        for (int e = 0; e < engines.Count; e++)
        {
            double[] all = [.. runs[e].Select(r => r.Seconds(cached)).Order()];
            string peak = memory.Length > e ? Number(memory[e].Peak, "f0") : "not measured", settled = memory.Length > e ? Number(memory[e].Settled, "f0") : "";
            Console.WriteLine($"| {engines[e].Name} | {Number(rows / Median(all), "f2")} | {Number(rows / Median(runs[e].Select(r => r.Seconds(!cached))), "f2")} | {Number(Median(all), "f2")} ({Number(all[0], "f2")} … {Number(all[^1], "f2")}) "
                + $"| {Number(Median(runs[e].Select(r => r.Reference)), "f2")} | {Number(Median(runs[e].Select(r => r.Step)), "f2")} | {Number(Median(runs[e].Select(r => r.Update)), "f3")} | {peak} | {settled} |");
        }
        if (engines.Count < 2)
            return;
        string job = Job(options, problem);
        new BoardRow { Job = job, Unit = "s", Ours = [.. runs[0].Select(r => r.Seconds(cached))], Peer = [.. runs[1].Select(r => r.Seconds(cached))], PeerName = engines[1].Name, Target = options.PeerType == "bf16" ? 1 : 1.8 }.Report();
        if (memory.Length == 2)
            new BoardRow { Job = $"peak memory, {job}", Unit = "MiB", Ours = [memory[0].Peak], Peer = [memory[1].Peak], PeerName = engines[1].Name, Target = 1 / 0.35 }.Report();
        Console.WriteLine();
        Console.WriteLine($"ratio (theirs / ours in seconds; median of neighbouring runs): {Ratio(r => r.Seconds(cached))}; {(cached ? "with" : "without")} the reference pass {Ratio(r => r.Seconds(!cached))}; the reference pass alone {Ratio(r => r.Reference)}");

        string Ratio(Func<StepTime, double> time)
        {
            double[] pairs = [.. runs[0].Zip(runs[1], (a, b) => time(b) / time(a)).Order()];
            return $"{Number(Median(pairs), "f2")} ({Number(pairs[0], "f2")} … {Number(pairs[^1], "f2")})";
        }
    }

    private static string Job(TrainBenchOptions options, TrainCase problem)
    {
        string weights = options.Weights switch { "f32" => "", "stored" => ", weights as stored", var held => $", {held} weights" };
        return $"training step, {problem.Name}{weights}, {problem.Batch.Batch} rows of {problem.Batch.Length} tokens, rank {options.Rank}{(options.MicroBatch is { } together ? $", {together} together" : "")}{(options.TextByText ? ", each text by itself" : "")}{(options.PeerType == "bf16" ? ", beside bf16" : "")}";
    }

    private static string Number(double x, string format) => x.ToString(format, CultureInfo.InvariantCulture);

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    // Peak of the whole process, loading included.
    private static int MeasurePeak(TrainBenchOptions options)
    {
        using Device device = Device.Cpu(options.Threads);
        using TrainCase problem = TrainCase.Create(device, options, options.Weights);
        double prepared = ProcessMemory.Peak;
        using var engine = new OurEngine(problem, options);
        for (int i = 0; i < 3; i++)
            Step(engine);
        double peak = ProcessMemory.Peak, held = problem.Model.WeightBytes / 1048576.0;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Job(options, problem)}: peak of the process from its start {peak:f0} MiB ({peak * 1.048576:f0} MB), {prepared:f0} until the first step; weights {held:f0} MiB, most that the pool held {device.Pool.PeakReserved / 1048576.0:f0} MiB"));
        new BoardRow { Job = $"peak memory, {Job(options, problem)}", Unit = "MiB", Ours = [peak], Target = 1.2e9 / (1 << 20) }.Report();
        return 0;
    }

    // Peak of three steps in a process that holds one engine; what the preparation needed is given back first.
    private static int MeasureMemory(TrainBenchOptions options)
    {
        if (options.Engine == "ours")
        {
            using Device device = Device.Cpu(options.Threads);
            using TrainCase problem = TrainCase.Create(device, options, options.Weights);
            using var engine = new OurEngine(problem, options);
            device.Pool.Trim();
            Measure(engine);
        }
        else
        {
            ITrainEngine? engine = null;
            try
            {
                engine = PrepareTorch(options);
                Measure(engine);
            }
            finally
            {
                engine?.Dispose();
            }
        }
        return 0;

        static void Measure(ITrainEngine engine)
        {
            ProcessMemory.ResetPeak();
            double settled = ProcessMemory.Now;
            for (int i = 0; i < 3; i++)
                Step(engine);
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"memory {settled:f1} {ProcessMemory.Peak:f1}"));
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static ITrainEngine PrepareTorch(TrainBenchOptions options)
    {
        using Device device = Device.Cpu(options.Threads);
        using TrainCase problem = TrainCase.Create(device, options, "f32");
        return MakeTorch(problem, options);
    }

    private static (double Settled, double Peak) ChildMemory(TrainBenchOptions options, string engine)
    {
        string program = Environment.ProcessPath!;
        var start = new ProcessStartInfo(program) { RedirectStandardOutput = true };
        // Under `dotnet Repeng.Bench.dll` the program is the host and needs the library's name.
        if (Path.GetFileNameWithoutExtension(program) == "dotnet")
            start.ArgumentList.Add(typeof(TrainBench).Assembly.Location);
        foreach (string argument in options.ChildArguments(engine))
            start.ArgumentList.Add(argument);
        using Process child = Process.Start(start) ?? throw new InvalidOperationException($"{program} does not start");
        string output = child.StandardOutput.ReadToEnd();
        child.WaitForExit();
        string? line = output.Split('\n').FirstOrDefault(l => l.StartsWith("memory ", StringComparison.Ordinal));
        if (child.ExitCode != 0 || line is null)
            throw new UserErrorException($"the process that measures the memory of {engine} ended with exit code {child.ExitCode}; --no-memory leaves it out");
        string[] parts = line.Split(' ');
        return (double.Parse(parts[1], CultureInfo.InvariantCulture), double.Parse(parts[2], CultureInfo.InvariantCulture));
    }
}
