using BenchmarkDotNet.Attributes;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using TorchSharp;

namespace Repeng.Bench.Kernels;

/// <summary>The two methods that BenchmarkDotNet runs for every row. Operands stay from turn to turn of a row; the next row's take their place.</summary>
public class KernelBenchmarks
{
    private static CpuBackend? s_backend;
    private static Operands? s_operands;
    private static KernelCase? s_prepared;
    private static KernelRun s_run = null!;

    /// <summary>The rows of this run.</summary>
    internal static IReadOnlyList<KernelCase> Selected { get; set; } = [];

    /// <summary>Threads of both sides.</summary>
    internal static int Threads { get; set; }

    /// <summary>Whether libtorch runs too.</summary>
    internal static bool WithPeer { get; set; }

    /// <summary>Rows as BenchmarkDotNet names them; it wants them public.</summary>
    public static IEnumerable<object> Rows => Selected;

    /// <summary>The row.</summary>
    [ParamsSource(nameof(Rows))]
    public object Row { get; set; } = null!;

    /// <summary>Operands; where there is a peer both have to come to the same numbers before anything is timed.</summary>
    [GlobalSetup]
    public void Prepare()
    {
        var row = (KernelCase)Row;
        // BenchmarkDotNet runs every turn on a thread of its own, and OpenMP keeps this number by thread.
        if (WithPeer)
            torch.set_num_threads(Threads);
        if (s_prepared == row)
            return;
        s_operands?.Dispose();
        s_prepared = null;
        bool peer = WithPeer && row.HasPeer;
        if (s_backend is null)
        {
            s_backend = new CpuBackend(Threads);
            // The operands of ours are there before it is timed; libtorch takes new memory for every result.
            if (WithPeer)
                ProcessMemory.KeepFreedBlocks();
        }
        s_operands = new Operands(s_backend, peer);
        s_run = row.Prepare(s_operands);
        if (peer)
            Compare(row);
        s_prepared = row;
    }

    /// <summary>One call of the CPU backend.</summary>
    [Benchmark]
    public void Ours() => s_run.Ours();

    /// <summary>One call of the peer.</summary>
    [Benchmark]
    public void Peer()
    {
        using DisposeScope scope = torch.NewDisposeScope();
        s_run.Peer!();
    }

    private static void Compare(KernelCase row)
    {
        using DisposeScope scope = torch.NewDisposeScope();
        s_run.Ours();
        torch.Tensor[] peer = s_run.Peer!();
        for (int i = 0; i < peer.Length; i++)
        {
            torch.Tensor tensor = peer[i].detach().to(torch.ScalarType.Float32).contiguous();
            Span<float> theirs = System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(tensor.bytes), ours = s_run.Results[i].HostFloats;
            if (theirs.Length != ours.Length)
                throw new UserErrorException($"{row}: result {i} has {ours.Length} numbers, the peer's {theirs.Length}");
            float scale = 0, error = 0;
            for (int j = 0; j < ours.Length; j++)
            {
                scale = Math.Max(scale, Math.Abs(theirs[j]));
                error = Math.Max(error, Math.Abs(ours[j] - theirs[j]));
            }
            if (!(error <= row.Tolerance * scale))
                throw new UserErrorException($"{row}: result {i} differs from the peer's by {error / scale:g3} of its largest, {row.Tolerance:g3} is allowed: the two do not compute the same");
        }
    }
}
