using Repeng.CudaBench;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.PtxEmulator;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing;
using Repeng.Testing.Cuda;

namespace Repeng.Cuda.Tests;

/// <summary>Every kernel that ships is on the board, meets its targets or says why not, and is launched by the engine or says why not.</summary>
public sealed class BoardTests
{
    private static readonly Lazy<List<BoardRow>> s_rows = new(() => Board.Measure());

    // Kernels that no op launches; a name that ends in * stands for all that begin with it.
    private static readonly (string Kernel, string Reason)[] s_notLaunched =
    [
        ("fill", "fills are the driver's cuMemsetD32"),
        ("copy_bytes", "copies are the driver's cuMemcpyDtoD"),
        ("fill_uniform", "no op of the contract draws random numbers; sample draws its own"),
        ("cast_*", "no op of the contract casts; products convert what they stage"),
        ("matmul_gated_*", "no op of the contract joins products and gate; the engine calls two products and gated_forward"),
        ("term_mix", "matmul_term mixes within its launch"),
        ("unpack_rows_*", "rows of LLM.int8 are a form of unpack_blocks"),
        ("unpack_q*", "a type each, for the tests of decoding: unpack_blocks takes the type as a number"),
        ("unpack_iq4_*", "as unpack_q*"),
        ("unpack_mxfp4_*", "as unpack_q*"),
        ("pack_codes", "weights are packed on the host"),
        ("scales_mean", "as pack_codes"),
        ("pack_scales", "as pack_codes"),
    ];

    [Fact]
    public void EveryKernelIsOnTheBoard()
        => Assert.Equal(Board.Shipped().Order(StringComparer.Ordinal), KernelCases.All().SelectMany(c => c.Expected).Select(e => e.Kernel).Distinct().Order(StringComparer.Ordinal));

    [Fact]
    public void TargetsAreMetOrTheReasonIsGiven()
    {
        List<BoardRow> rows = s_rows.Value;
        Assert.Empty(rows.SelectMany(r => r.Misses().Where(m => Board.Reason(r.Kernel, m) is null).Select(m => $"{r.Kernel} ({r.Shape}) misses {m}: traffic {r.Traffic:0.000}, {r.ExtraWays} extra ways, mma {r.Mma:0.000}")));
        // A reason that nothing needs any more would hide the next miss.
        Assert.Empty(Board.Reasons.Where(x => !rows.Any(r => r.Misses().Contains(x.Target) && Board.Reason(r.Kernel, x.Target) == x.Reason)).Select(x => $"{x.Kernel}, {x.Target}"));
    }

    [Fact]
    public void EveryKernelIsLaunchedByTheEngineOrListed()
    {
        HashSet<string> launched = [.. s_rows.Value.Where(r => !r.Counts.ByName).Select(r => r.Kernel), .. LaunchedByOps()];
        string[] left = [.. Board.Shipped().Where(k => !launched.Contains(k))];
        Assert.Equal([], left.Where(k => !s_notLaunched.Any(l => Fits(l.Kernel, k))).ToArray());
        // An entry that no kernel needs any more, or that stands behind a wider one, would hide the next.
        Assert.Empty(s_notLaunched.Where(l => !left.Any(k => s_notLaunched.First(x => Fits(x.Kernel, k)) == l)).Select(l => l.Kernel));

        static bool Fits(string listed, string kernel) => listed.EndsWith('*') ? kernel.StartsWith(listed[..^1], StringComparison.Ordinal) : kernel == listed;
    }

    // What the board's cases launch by name though the engine launches it too: through the ops.
    private static HashSet<string> LaunchedByOps()
    {
        HashSet<string> launched = new(StringComparer.Ordinal);
        // Only which kernels ran is asked here.
        using var driver = new EmulatedCudaDriver(new EmulatorOptions { CheckGlobalRaces = false, CheckSharedRaces = false, CheckInitialization = false });
        driver.Device.LaunchCompleted = launch => launched.Add(launch.Kernel);
        using CudaBackend b = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), new CudaLibraries(new FakeCublasLt(driver)).Checked(), leastWork: 0);
        using var memory = new TestMemory(b);
        const int rows = 12, k = 64, n = 64, rank = 8;
        View x = memory.Of(Gpu.Random(rows * k, 1)), y = memory.Zeros(rows * n), wide = memory.Of(Gpu.Random(64 * k, 2)), into = memory.Zeros(64 * n);
        using (var w = new PackedMatrix("NF4", n, k, 3))
        {
            View packed = w.On(memory);
            b.Unpack(memory.Zeros(w.Decoded.Length), packed);
            b.EmbeddingForward(y, packed, memory.Of([3, 0]), 2, k, 1);
            foreach (int few in (int[])[1, 2, 4, 8, rows])
                b.MatMul(y, x, packed, new MatMulArgs(few, n, k, TransB: true));
            b.MatMul(y, x, packed, new MatMulArgs(rows, k, n));
            Term(packed);
        }
        Term(memory.Of(Gpu.Random(n * k, 4)));
        foreach (DType half in (DType[])[DType.F16, DType.BF16])
        {
            View weight = memory.Of(new ushort[n * k], half);
            Term(weight);
            // Beside bf16 weights the library takes the activations in parts.
            b.MatMul(into, wide, weight, new MatMulArgs(64, n, k, TransB: true));
        }
        using (CudaBackend rounding = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), CudaLibraries.None, CudaPrecision.Bf16))
            InBf16(rounding);
        b.AddBias(y, memory.Zeros(n), rows, n);
        b.AppendToCache(y, into, x, x, memory.Of([0]), 1, 2, k);
        b.Sample(memory.Of([0]), memory.Zeros(n), x, default, [], n, new SampleArgs(Sample: false), 0);
        b.Context.Synchronize();
        return launched;

        static void InBf16(CudaBackend b)
        {
            using var memory = new TestMemory(b);
            const int depth = 128;
            View weights = memory.Zeros(4096L * depth), x = memory.Zeros(4096L * depth), y = memory.Zeros(4096L * 1024);
            foreach ((int rows, int columns, _) in RoundedBackendTests.Chosen)
                foreach (bool transB in (bool[])[true, false])
                    b.MatMul(y, x, weights, new MatMulArgs(rows, columns, depth, TransB: transB, Autocast: true));
            foreach (View weight in (View[])[weights, memory.Of(new ushort[depth * depth], DType.F16), memory.Of(new ushort[(depth * depth) + 1], DType.BF16).Slice(1, depth * depth)])
            {
                b.MatMul(y, x, weight, new MatMulArgs(depth, depth, depth, TransB: true, Autocast: true));
                foreach (bool transA in (bool[])[true, false])
                    foreach (bool transB in (bool[])[true, false])
                        b.MatMul(y, x, weight, new MatMulArgs(12, n, k, transA, transB, Autocast: true));
            }
            foreach (string form in (string[])["NF4", "Q8_0"])
                using (var w = new PackedMatrix(form, n, k, 3))
                    b.MatMul(y, x, w.On(memory), new MatMulArgs(12, n, k, TransB: true, Autocast: true));
            View few = memory.Zeros(12 * k);
            b.LinearTerm(y, memory.Zeros(12 * rank), memory.Zeros(12 * rank), few, weights, default, memory.Zeros(k * rank), memory.Zeros(rank * rank), memory.Zeros(n * rank), new TermArgs(12, n, k, rank));
            b.Context.Synchronize();
        }

        void Term(View weight) => b.MatMulTerm(y, x, weight, memory.Zeros(rank * k), memory.Zeros(n * rank), [new(0, rows, memory.Zeros(rank * rank))], memory.Zeros(2 * rows * rank), new TermArgs(rows, n, k, rank));
    }
}
