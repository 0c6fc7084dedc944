namespace Repeng.PtxEmulator.Tests;

/// <summary>Kernels as clang compiles them, interpreted and compiled, against plain code.</summary>
public sealed class KernelTests
{
    public static TheoryData<bool> Both => [false, true];

    private static EmulatorOptions Options(bool compile) => new() { Compile = compile };

    private static float[] Random(int n, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, n).Select(_ => (float)(random.NextDouble() * 2 - 1))];
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Saxpy(bool compile)
    {
        using var gpu = new Gpu(Options(compile));
        float[] x = Random(1000, 1), y = Random(1000, 2);
        ulong dx = gpu.Upload(x), dy = gpu.Upload(y);
        LaunchCounters counters = gpu.Run(gpu.Kernel("basic.ptx", "saxpy"), 8, 128, 1000, 2.5f, dx, dy);
        Assert.Equal(x.Zip(y, (a, b) => MathF.FusedMultiplyAdd(a, 2.5f, b)), gpu.Download<float>(dy, 1000));
        Assert.Equal(8000, counters.GlobalBytesRead);
        Assert.Equal(250, counters.GlobalSectorsRead);
        Assert.Equal(125, counters.GlobalSectorsWritten);
        Assert.Equal(1, counters.DivergentBranches);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Rms_norm(bool compile)
    {
        using var gpu = new Gpu(Options(compile));
        const int rows = 3, n = 300;
        float[] x = Random(rows * n, 3), w = Random(n, 4);
        ulong dx = gpu.Upload(x), dw = gpu.Upload(w), dy = gpu.Empty(rows * n * 4);
        gpu.Run(gpu.Kernel("basic.ptx", "rms_norm"), rows, 128, dx, dw, dy, n, 1e-5f);
        float[] y = gpu.Download<float>(dy, rows * n);
        for (int r = 0; r < rows; r++)
        {
            double mean = Enumerable.Range(0, n).Sum(i => (double)x[(r * n) + i] * x[(r * n) + i]) / n;
            for (int i = 0; i < n; i++)
                Assert.Equal(x[(r * n) + i] / Math.Sqrt(mean + 1e-5) * w[i], y[(r * n) + i], 1e-5);
        }
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Collatz_diverges_and_meets_again(bool compile)
    {
        using var gpu = new Gpu(Options(compile));
        uint[] x = [.. Enumerable.Range(1, 100).Select(i => (uint)i)];
        ulong dx = gpu.Upload(x), dy = gpu.Empty(400);
        gpu.Run(gpu.Kernel("basic.ptx", "collatz"), 2, 64, dx, dy, 100);
        Assert.Equal(x.Select(v =>
        {
            int steps = 0;
            for (; v != 1; steps++)
                v = v % 2 == 1 ? (3 * v) + 1 : v / 2;
            return steps;
        }), gpu.Download<int>(dy, 100));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Tiled_matmul(bool compile)
    {
        using var gpu = new Gpu(Options(compile));
        const int m = 37, n = 29, k = 45;
        float[] a = Random(m * k, 5), b = Random(k * n, 6);
        ulong da = gpu.Upload(a), db = gpu.Upload(b), dc = gpu.Empty(m * n * 4);
        gpu.Run(gpu.Kernel("basic.ptx", "tiled_matmul"), (2, 3, 1), (16, 16, 1), 0, da, db, dc, m, n, k);
        float[] c = gpu.Download<float>(dc, m * n);
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
                Assert.Equal(Enumerable.Range(0, k).Sum(t => (double)a[(i * k) + t] * b[(t * n) + j]), c[(i * n) + j], 1e-5);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Histogram_with_atomics_and_dynamic_shared_memory(bool compile)
    {
        using var gpu = new Gpu(Options(compile));
        byte[] x = new byte[5000];
        new Random(7).NextBytes(x);
        ulong dx = gpu.Upload(x), bins = gpu.Upload(new uint[256]);
        gpu.Run(gpu.Kernel("basic.ptx", "histogram"), (3, 1, 1), (96, 1, 1), 1024, dx, bins, x.Length);
        Assert.Equal(Enumerable.Range(0, 256).Select(v => (uint)x.Count(b => b == v)), gpu.Download<uint>(bins, 256));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Calls_structs_constants_globals_and_local_arrays(bool compile)
    {
        using var gpu = new Gpu(Options(compile));
        float[] x = Random(70, 8);
        ulong dx = gpu.Upload(x), dy = gpu.Empty(280);
        gpu.Run(gpu.Kernel("basic.ptx", "calls"), 3, 32, dx, dy, new Step { Scale = 3, Shift = 5 }, 70);
        int[] buffer = new int[8];
        for (int k = 0; k < 8; k++)
            buffer[k * 3 & 7] = k;
        Assert.Equal(x.Select((v, i) => MathF.FusedMultiplyAdd(v, 3, 1 << (i + 5 & 7)) + buffer[i & 7] + 3f), gpu.Download<float>(dy, 70));
    }

    private struct Step
    {
        public float Scale;
        public int Shift;
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Switch(bool compile)
    {
        using var gpu = new Gpu(Options(compile));
        int[] x = [.. Enumerable.Range(0, 90).Select(i => i * 7 % 11 % 8)];
        ulong dx = gpu.Upload(x), dy = gpu.Empty(360);
        gpu.Run(gpu.Kernel("basic.ptx", "switches"), 2, 64, dx, dy, 90);
        Assert.Equal(x.Select((v, i) => v switch
        {
            0 => 1,
            1 => i % 32,
            2 => (i & 7) * ((i & 7) - 1) / 2 * i,
            3 => v ^ i,
            4 => i / 3,
            5 => i % 7,
            _ => -v,
        }), gpu.Download<int>(dy, 90));
    }
}
