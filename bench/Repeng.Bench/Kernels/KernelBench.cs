using System.Globalization;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Engines;
using BenchmarkDotNet.EventProcessors;
using BenchmarkDotNet.Filters;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Order;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Perfolizer.Horology;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using TorchSharp;

namespace Repeng.Bench.Kernels;

/// <summary>
/// Single ops of the CPU backend by BenchmarkDotNet, beside libtorch where it has the same mathematics, in this process (both need the same memory, and a
/// process a row would take longer than its measurement). Ours and the peer take turns, three each; a turn's value is the median of its iterations.
/// </summary>
internal static class KernelBench
{
    private const int Turns = 3;

#if WITHOUT_LIBTORCH
    private const bool HasLibtorch = false;
#else
    private const bool HasLibtorch = true;
#endif

    public static int Run(string[] args)
    {
        int threads = Environment.ProcessorCount;
        bool quick = false, peer = HasLibtorch, list = false, log = false;
        var only = new List<string>();
        for (int i = 0; i < args.Length; i++)
            switch (args[i])
            {
                case "--only" when i + 1 < args.Length: only.Add(args[++i]); break;
                case "--threads" when i + 1 < args.Length: threads = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--quick": quick = true; break;
                case "--no-peer": peer = false; break;
                case "--list": list = true; break;
                case "--log": log = true; break;
                default: throw new UserErrorException($"kernels knows --only TEXT, --quick, --no-peer, --threads N, --list and --log, not {args[i]}");
            }
        KernelCase[] rows = [.. KernelCases.All().Where(c => only.Count == 0 || only.Exists(o => c.Name.Contains(o, StringComparison.OrdinalIgnoreCase)))];
        if (rows.Length == 0)
            throw new UserErrorException($"no row's name contains {string.Join(" or ", only)}; --list names them all");
        if (list)
        {
            Console.WriteLine(string.Join('\n', rows.Select(r => r.Name)));
            return 0;
        }
        (KernelBenchmarks.Selected, KernelBenchmarks.Threads, KernelBenchmarks.WithPeer) = (rows, threads, peer);
        string peerName = peer ? $"libtorch {torch.__version__}" : HasLibtorch ? "none" : "none: built without libtorch";
        (double bandwidth, double flops) = MachinePeaks.Measure(threads);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}, {bandwidth * 1e-9:f1} GB/s read, {flops * 1e-9:f0} GFLOP/s fp32, peer {peerName}{(quick ? "; quick: one turn of two iterations" : "")}"));
        Console.WriteLine(Board.Header);
        var results = new Results(peerName, row => Console.WriteLine(Board.Line(row, bandwidth, flops, Machine.Commit())));
        Summary summary = BenchmarkRunner.Run<KernelBenchmarks>(Config(quick, log, results));
        var failed = summary.Reports.Where(r => !r.Success).Select(r => r.BenchmarkCase.Descriptor.WorkloadMethod.Name + " of " + Row(r.BenchmarkCase)).Distinct().ToList();
        foreach (BenchmarkDotNet.Validators.ValidationError error in summary.ValidationErrors.Where(e => e.IsCritical))
            failed.Add(error.Message);
        if (failed.Count == 0 && results.Rows == rows.Length)
            return 0;
        Console.Error.WriteLine($"{results.Rows} of {rows.Length} rows measured; not measured (--log shows why): {string.Join("; ", failed)}");
        return 1;
    }

    private static KernelCase Row(BenchmarkCase benchmark) => (KernelCase)benchmark.Parameters[nameof(KernelBenchmarks.Row)];

    private static bool IsPeer(BenchmarkCase benchmark) => benchmark.Descriptor.WorkloadMethod.Name == nameof(KernelBenchmarks.Peer);

    private static ManualConfig Config(bool quick, bool log, EventProcessor results)
    {
        ManualConfig config = ManualConfig.CreateEmpty()
            .AddLogger(log ? ConsoleLogger.Default : NullLogger.Instance)
            .AddColumnProvider(DefaultColumnProviders.Instance)
            .AddDiagnoser(MemoryDiagnoser.Default)
            .AddEventProcessor(results)
            .WithOrderer(new InTurns())
            .WithOptions(ConfigOptions.DisableLogFile)
            .WithArtifactsPath(Path.Combine(Path.GetTempPath(), "repeng-kernels"))
            .AddFilter(new SimpleFilter(b => !IsPeer(b) || (KernelBenchmarks.WithPeer && Row(b).HasPeer)))
            .AddFilter(new SimpleFilter(b => Row(b).Once == (b.Job.Run.RunStrategy == RunStrategy.Monitoring)));
        // A call takes microseconds at least: what a loop and a delegate cost need not be taken off.
        Job job = Job.Default.WithToolchain(InProcessEmitToolchain.Instance).WithUnrollFactor(1).WithEvaluateOverhead(false);
        Job many = job.WithIterationTime(TimeInterval.FromMilliseconds(20)).WithMinIterationCount(1).WithWarmupCount(1).WithIterationCount(quick ? 2 : 5);
        for (int turn = 1; turn <= (quick ? 1 : Turns); turn++)
            config.AddJob(many.WithId($"turn {turn}"));
        return config.AddJob(job.WithId("once").WithStrategy(RunStrategy.Monitoring).WithWarmupCount(0).WithInvocationCount(1).WithIterationCount(quick ? 1 : Turns));
    }

    /// <summary>Row by row, ours and the peer in turns.</summary>
    private sealed class InTurns : DefaultOrderer
    {
        public override IEnumerable<BenchmarkCase> GetExecutionOrder(System.Collections.Immutable.ImmutableArray<BenchmarkCase> benchmarks, IEnumerable<BenchmarkLogicalGroupRule>? order = null)
        {
            var position = KernelBenchmarks.Selected.Index().ToDictionary(r => r.Item, r => r.Index);
            return benchmarks.OrderBy(b => position[Row(b)]).ThenBy(b => b.Job.Id, StringComparer.Ordinal).ThenBy(IsPeer);
        }
    }

    /// <summary>Gathers the turns of a row and gives the row to the board, or prints it.</summary>
    private sealed class Results(string peerName, Action<BoardRow> print) : EventProcessor
    {
        private readonly List<double> _ours = [], _peer = [];
        private KernelCase? _row;
        private double _allocated = double.PositiveInfinity;

        public int Rows { get; private set; }

        public override void OnEndRunBenchmark(BenchmarkCase benchmark, BenchmarkReport report)
        {
            if (Row(benchmark) != _row)
                Finish();
            _row = Row(benchmark);
            if (!report.Success)
                return;
            double[] seconds = [.. report.GetResultRuns().Select(m => m.GetAverageTime().Nanoseconds * 1e-9)];
            if (IsPeer(benchmark))
                _peer.Add(Median(seconds));
            else if (_row.Once)
                _ours.AddRange(seconds);
            else
                _ours.Add(Median(seconds));
            // What a call allocates shows in every turn; what the runtime does beside it, such as compiling again what runs often, in some.
            if (!IsPeer(benchmark))
                _allocated = Math.Min(_allocated, report.GcStats.GetBytesAllocatedPerOperation(benchmark) ?? throw new InvalidOperationException($"{_row}: no allocations were measured"));
        }

        public override void OnEndRunStage() => Finish();

        private void Finish()
        {
            bool peer = _row is { HasPeer: true } && KernelBenchmarks.WithPeer;
            if (_row is not null && _ours.Count > 0 && (!peer || _peer.Count == _ours.Count))
            {
                var row = new BoardRow { Job = $"kernel: {_row}", Unit = "s", Ours = [.. _ours], Peer = [.. _peer], PeerName = peerName, Flops = _row.Flops, Bytes = _row.Bytes, Target = peer ? 1 : null, Allocated = _allocated };
                if (!row.Report())
                    print(row);
                Rows++;
            }
            _row = null;
            _ours.Clear();
            _peer.Clear();
            _allocated = double.PositiveInfinity;
        }

        private static double Median(double[] values) => values.Order().ElementAt(values.Length / 2);
    }
}
