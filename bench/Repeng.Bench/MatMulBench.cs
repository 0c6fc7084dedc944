using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Boards;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using TorchSharp;

namespace Repeng.Bench;

/// <summary>
/// The CPU backend's matrix product beside TorchSharp's (libtorch: MKL or oneDNN) in one process, with the same threads and
/// operands. Runs of the two alternate. The rates are the best of each, the paired ratio is
/// the median over neighbouring runs: both withstand other programs on the machine.
/// </summary>
internal static unsafe class MatMulBench
{
    private sealed record Row(string Model, string Kind, int Tokens, int Outputs, int Inputs)
    {
        // forward: y[tokens, out] = x·Wᵀ; input: dx[tokens, in] = dy·W; weight: dW[out, in] = dyᵀ·x.
        public MatMulArgs Args => Kind switch
        {
            "forward NT" => new MatMulArgs(Tokens, Outputs, Inputs, TransB: true),
            "input NN" => new MatMulArgs(Tokens, Inputs, Outputs),
            _ => new MatMulArgs(Outputs, Inputs, Tokens, TransA: true),
        };

        public override string ToString() => $"{Model} {Outputs}x{Inputs} M={Tokens} {Kind}";
    }

    private static IEnumerable<Row> Rows()
    {
        (string Model, int Outputs, int Inputs)[] weights =
        [
            ("SmolLM2", 576, 576), ("SmolLM2", 1536, 576), ("SmolLM2", 576, 1536), ("SmolLM2", 49152, 576),
            ("Qwen3-4B", 9728, 2560), ("Qwen3-4B", 2560, 9728),
        ];
        foreach ((string model, int outputs, int inputs) in weights)
        {
            foreach (int tokens in new[] { 1, 4, 16, 64, 200, 448, 1792 })
            {
                // Above 60 billion multiply-adds a row takes seconds and says nothing new.
                if ((double)tokens * outputs * inputs > 3e10)
                    continue;
                yield return new Row(model, "forward NT", tokens, outputs, inputs);
                yield return new Row(model, "input NN", tokens, outputs, inputs);
                if (tokens >= 64)
                    yield return new Row(model, "weight TN", tokens, outputs, inputs);
            }
        }
        yield return new Row("rank 64", "forward NT", 896, 64, 576);
        yield return new Row("rank 64", "forward NT", 896, 576, 64);
        yield return new Row("rank 64", "weight TN", 896, 64, 576);
        yield return new Row("square", "forward NT", 64, 64, 64);
        yield return new Row("square", "forward NT", 1024, 1024, 1024);
    }

    public static int Run(string[] args)
    {
        int threads = Environment.ProcessorCount;
        double seconds = 0.2;
        bool peer = true, cpuTime = false;
        DType type = DType.F32;
        var only = new List<string>();
        for (int i = 0; i < args.Length; i++)
        {
            switch (args[i])
            {
                case "--threads": threads = int.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--seconds": seconds = double.Parse(args[++i], CultureInfo.InvariantCulture); break;
                case "--only": only.Add(args[++i]); break;
                case "--type": type = Enum.Parse<DType>(args[++i], ignoreCase: true); break;
                case "--no-peer": peer = false; break;
                case "--cpu-time": cpuTime = true; break;
                default: Console.Error.WriteLine($"unknown option {args[i]}"); return 2;
            }
        }

        using var ops = new CpuBackend(threads);
        if (peer)
            torch.set_num_threads(threads);
        Console.WriteLine($"{CpuBackend.Simd}, {threads} threads, weight {type}, peer {(peer ? $"libtorch {torch.__version__}" : "none")}; {(cpuTime ? "CPU" : "wall")} time, best of runs within {seconds} s each; GFLOP/s");
        Console.WriteLine($"{"",-42} {"ours",8} {"peer",8} {"ratio",6} {"paired",6} {"ours ms",9} {"peer ms",9} {"error",8}");
        double logSum = 0;
        int count = 0;
        foreach (Row row in Rows().Where(r => only.TrueForAll(text => r.ToString().Contains(text, StringComparison.OrdinalIgnoreCase))))
        {
            (double ours, double theirs, double paired, double error) = Measure(ops, row.Args, type, seconds, peer, cpuTime);
            double work = row.Args.Flops * 1e-9;
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{row,-42} {work / ours,8:f1} {work / theirs,8:f1} {theirs / ours,6:f2} {paired,6:f2} {ours * 1e3,9:f3} {theirs * 1e3,9:f3} {error,8:g2}"));
            if (peer)
                new BoardRow { Job = $"product, {type}, {row}", Unit = "s", Ours = [ours], Peer = [theirs], PeerName = $"libtorch {torch.__version__}", Flops = row.Args.Flops, Target = 1 }.Report();
            logSum += Math.Log(theirs / ours);
            count++;
        }
        if (peer && count > 0)
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"geometric mean of the ratios over {count} rows: {Math.Exp(logSum / count):f2}"));
        return 0;
    }

    private static (double Ours, double Peer, double Paired, double Error) Measure(CpuBackend ops, MatMulArgs args, DType type, double seconds, bool peer, bool cpuTime)
    {
        (int rowsA, int colsA) = args.TransA ? (args.K, args.M) : (args.M, args.K);
        (int rowsB, int colsB) = args.TransB ? (args.N, args.K) : (args.K, args.N);
        torch.ScalarType peerType = type switch { DType.F32 => torch.ScalarType.Float32, DType.F16 => torch.ScalarType.Float16, _ => torch.ScalarType.BFloat16 };
        using var scope = torch.NewDisposeScope();
        torch.Tensor a = torch.rand(rowsA, colsA) - 0.5f, b = (torch.rand(rowsB, colsB) - 0.5f).to(peerType);
        torch.Tensor c = torch.empty(args.M, args.N);
        torch.Tensor peerA = a.to(peerType), peerC = torch.empty(args.M, args.N, dtype: peerType);
        torch.Tensor left = args.TransA ? peerA.t() : peerA, right = args.TransB ? b.t() : b;
        var viewA = new View(Address(a), a.numel(), DType.F32);
        var viewB = new View(Address(b), b.numel(), type);
        var viewC = new View(Address(c), c.numel(), DType.F32);

        var pairs = new List<double>();
        double ours = double.PositiveInfinity, theirs = peer ? double.PositiveInfinity : double.NaN;
        // Untimed: compilation, scratch memory, first touch.
        ops.MatMul(viewC, viewA, viewB, args);
        peerC.addmm_(left, right, 0, 1);
        var clock = Stopwatch.StartNew();
        for (int run = 0; run < 3 || clock.Elapsed.TotalSeconds < (peer ? 2 : 1) * seconds; run++)
        {
            int repeats = Math.Max(1, (int)(2e-3 / Math.Min(ours, 2e-3)));
            double start = Now(cpuTime);
            for (int i = 0; i < repeats; i++)
                ops.MatMul(viewC, viewA, viewB, args);
            double one = (Now(cpuTime) - start) / repeats;
            ours = Math.Min(ours, one);
            if (!peer)
                continue;
            start = Now(cpuTime);
            // beta 0 writes into memory that is there already; torch.mm would add fresh pages to the peer's time.
            for (int i = 0; i < repeats; i++)
                peerC.addmm_(left, right, 0, 1);
            double other = (Now(cpuTime) - start) / repeats;
            theirs = Math.Min(theirs, other);
            pairs.Add(other / one);
        }
        double error = (c - peerC.to(torch.ScalarType.Float32)).abs().max().item<float>() / c.abs().max().item<float>();
        pairs.Sort();
        return (ours, theirs, peer ? pairs[pairs.Count / 2] : double.NaN, error);
    }

    // CPU time of the process leaves out what other programs took from this one; it is meant for one thread.
    private static double Now(bool cpuTime) =>
        cpuTime ? Environment.CpuUsage.TotalTime.TotalSeconds : Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency;

    private static nint Address(torch.Tensor tensor)
    {
        // The bytes stay where they are while the tensor lives: libtorch owns them, not the garbage collector.
        Span<byte> bytes = tensor.bytes;
        return (nint)System.Runtime.CompilerServices.Unsafe.AsPointer(ref bytes[0]);
    }
}
