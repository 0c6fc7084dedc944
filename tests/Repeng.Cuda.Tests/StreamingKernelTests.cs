using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.PtxEmulator;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>
/// Kernels bound by memory: their results against the CPU backend (whose own tests hold it to double references), aligned and
/// not, and their traffic in 32-byte sectors against the floor of one read and one write of what they need.
/// </summary>
public sealed class StreamingKernelTests : IDisposable
{
    private const double MostTraffic = 1.15;

    private readonly Gpu _gpu = new();
    private readonly CpuBackend _cpu = new(1);
    private readonly TestMemory _memory;

    public StreamingKernelTests() => _memory = new TestMemory(_cpu);

    public void Dispose()
    {
        _memory.Dispose();
        _cpu.Dispose();
        _gpu.Dispose();
    }

    public static TheoryData<UnaryOp> Unary() => [.. Enum.GetValues<UnaryOp>()];

    private static string Snake(object name) => string.Concat(name.ToString()!.Select((c, i) => (i > 0 && char.IsUpper(c) ? "_" : "") + char.ToLowerInvariant(c)));

    private static void Traffic(LaunchCounters counters, long bytes, string what)
    {
        double ratio = 32.0 * (counters.GlobalSectorsRead + counters.GlobalSectorsWritten) / bytes;
        Assert.True(ratio <= MostTraffic, $"{what}: {ratio:f3} of the floor of {bytes} bytes");
    }

    private void Check(double tolerance, ulong result, View expected, string what) => Close.To(tolerance, _gpu.Read(result, expected.Length), _memory.Read(expected), what);

    [Theory]
    [MemberData(nameof(Unary))]
    public void UnaryOps(UnaryOp op)
    {
        const float p = 1.7f;
        foreach ((int n, int skew) in new[] { (4096, 0), (1500, 1) })
        {
            float[] x = Gpu.Random(n, n, 3), dy = Gpu.Random(n, 2), start = Gpu.Random(n, 3);
            if (op is UnaryOp.Log or UnaryOp.Sqrt or UnaryOp.Power or UnaryOp.Log1p)
                x = Array.ConvertAll(x, v => MathF.Abs(v) + 0.01f);
            View y = _memory.Empty(n), dx = _memory.Of(start), px = _memory.Of(x);
            _cpu.Unary(y, px, n, op, p);
            _cpu.UnaryBackward(dx, _memory.Of(dy), px, y, n, op, p);
            ulong gy = _gpu.Empty<float>(n, skew), gx = _gpu.Upload(x, skew), gdx = _gpu.Upload(start, skew);
            LaunchCounters forward = _gpu.Run("elementwise", $"unary_forward_{Snake(op)}", Gpu.Ceil(n, 1024), 256, gy, gx, (long)n, p);
            ulong read = op.BackwardReadsOutput() ? _gpu.Upload(_memory.Read(y), skew) : gx;
            LaunchCounters backward = _gpu.Run("elementwise", $"unary_backward_{Snake(op)}", Gpu.Ceil(n, 1024), 256, gdx, _gpu.Upload(dy, skew), read, (long)n, p);
            Check(2e-6, gy, y, $"{op}");
            Check(2e-6, gdx, dx, $"{op} backward");
            if (skew == 0)
            {
                Traffic(forward, 8L * n, $"{op}");
                Traffic(backward, (op is UnaryOp.Scale or UnaryOp.Offset ? 12L : 16L) * n, $"{op} backward");
            }
        }
    }

    [Theory]
    [InlineData(BinaryOp.Add)]
    [InlineData(BinaryOp.Subtract)]
    [InlineData(BinaryOp.Multiply)]
    [InlineData(BinaryOp.Divide)]
    public void BinaryOps(BinaryOp op)
    {
        string name = Snake(op), term = op == BinaryOp.Add ? "plain" : name;
        foreach (Broadcast broadcast in Enum.GetValues<Broadcast>())
            foreach ((int rows, int cols, int skew) in new[] { (7, 1100, 0), (1200, 5, 1) })
            {
                int n = rows * cols, count = broadcast switch { Broadcast.None => n, Broadcast.OverRows => cols, Broadcast.OverCols => rows, _ => 1 };
                float[] a = Gpu.Random(n, 1), b = Array.ConvertAll(Gpu.Random(count, 2), v => v + Math.Sign(v)), dy = Gpu.Random(n, 3), start = Gpu.Random(count, 4);
                View y = _memory.Empty(n), da = _memory.Of(dy), db = _memory.Of(start), pa = _memory.Of(a), pb = _memory.Of(b), pdy = _memory.Of(dy);
                _cpu.Binary(y, pa, pb, rows, cols, op, broadcast);
                _cpu.BinaryBackward(da, db, pdy, pa, pb, rows, cols, op, broadcast);
                ulong gy = _gpu.Empty<float>(n, skew), ga = _gpu.Upload(a, skew), gb = _gpu.Upload(b, skew), gdy = _gpu.Upload(dy, skew), gda = _gpu.Upload(dy, skew), gdb = _gpu.Upload(start);
                (int r, long c, long rowStep, int colStep) = broadcast switch { Broadcast.None => (1, (long)n, 0L, 1), Broadcast.OverRows => (rows, cols, 0L, 1), Broadcast.OverCols => (rows, cols, 1L, 0), _ => (1, (long)n, 0L, 0) };
                int grid = r * Gpu.Ceil(c, 1024);
                LaunchCounters counters = _gpu.Run("elementwise", $"binary_forward_{name}", grid, 256, gy, ga, gb, r, c, rowStep, colStep);
                _gpu.Run("elementwise", $"binary_backward_a_{name}", grid, 256, gda, gdy, gb, r, c, rowStep, colStep);
                if (broadcast == Broadcast.None)
                    _gpu.Run("elementwise", $"binary_backward_b_{name}", Gpu.Ceil(n, 1024), 256, gdb, gdy, ga, gb, (long)n);
                else if (broadcast == Broadcast.OverRows)
                {
                    int chunks = Gpu.Ceil(rows, 1024);
                    ulong partial = _gpu.Empty<double>(chunks * cols);
                    _gpu.Run("reduce", $"sum_cols_{term}", (Gpu.Ceil(cols, 32), chunks, 1), 256, 0, partial, gdy, ga, gb, rows, cols);
                    _gpu.Run("reduce", "sum_partials", Gpu.Ceil(cols, 256), 256, gdb, partial, (long)cols, cols, chunks, (long)cols, 0L, 1);
                }
                else
                {
                    int lines = broadcast == Broadcast.OverCols ? rows : 1;
                    long length = n / lines;
                    int chunks = Gpu.Ceil(length, 8192);
                    ulong partial = _gpu.Empty<double>(chunks * lines);
                    _gpu.Run("reduce", $"sum_rows_{term}", (lines, chunks, 1), 256, 0, partial, gdy, ga, gb, length, 1);
                    _gpu.Run("reduce", "sum_partials", Gpu.Ceil(lines, 256), 256, gdb, partial, (long)lines, 1, chunks, 1L, (long)chunks, 1);
                }
                string what = $"{op} {broadcast} {rows}×{cols}";
                Check(2e-6, gy, y, what);
                Check(2e-6, gda, da, what + ", a");
                Check(2e-6, gdb, db, what + ", b");
                if (skew == 0 && broadcast == Broadcast.None)
                    Traffic(counters, 12L * n, what);
            }
    }

    [Theory]
    [InlineData(UnaryOp.Silu)]
    [InlineData(UnaryOp.Gelu)]
    [InlineData(UnaryOp.GeluTanh)]
    public void GatedOps(UnaryOp op)
    {
        const int n = 4096;
        float[] gate = Gpu.Random(n, 1, 3), up = Gpu.Random(n, 2), dy = Gpu.Random(n, 3);
        View y = _memory.Empty(n), g = _memory.Of(gate), u = _memory.Of(up), dg = _memory.Of(dy), du = _memory.Of(dy);
        _cpu.GatedForward(y, g, u, n, op);
        _cpu.GatedBackward(dg, du, _memory.Of(dy), g, u, n, op);
        ulong py = _gpu.Empty<float>(n), pg = _gpu.Upload(gate), pu = _gpu.Upload(up), pdg = _gpu.Upload(dy), pdu = _gpu.Upload(dy), pdy = _gpu.Upload(dy);
        Traffic(_gpu.Run("elementwise", $"gated_forward_{Snake(op)}", n / 1024, 256, py, pg, pu, (long)n, 0UL, 0), 12L * n, "gated");
        ulong copy = _gpu.Empty<ushort>(n);
        Traffic(_gpu.Run("elementwise", $"gated_forward_{Snake(op)}", n / 1024, 256, py, pg, pu, (long)n, copy, 0), 14L * n, "gated with a copy");
        Assert.Equal(Array.ConvertAll(_gpu.Read(py, n), MatMulKernelTests.BFloat), _gpu.Read<ushort>(copy, n));
        Traffic(_gpu.Run("elementwise", $"gated_backward_{Snake(op)}", n / 1024, 256, pdg, pdu, pdy, pg, pu, (long)n, 1, 0), 28L * n, "gated backward");
        Traffic(_gpu.Run("elementwise", $"gated_backward_{Snake(op)}", n / 1024, 256, _gpu.Empty<float>(n), _gpu.Empty<float>(n), pdy, pg, pu, (long)n, 0, 0), 20L * n, "gated backward that writes");
        Check(2e-6, py, y, "y");
        Check(2e-6, pdg, dg, "dGate");
        Check(2e-6, pdu, du, "dUp");
    }

    [Theory]
    [InlineData(4096)]
    [InlineData(1032)]
    public void GatedOpsOfHalves(int n)
    {
        // Every combination of types gives what fp32 gives for the same values, rounded where the result is.
        const string Forward = "gated_forward_silu", Backward = "gated_backward_silu";
        int grid = Gpu.Ceil(n, 1024);
        float[] gate = Rounded(Gpu.Random(n, 1, 3)), up = Rounded(Gpu.Random(n, 2)), dy = Rounded(Gpu.Random(n, 3)), before = Rounded(Gpu.Random(n, 4));
        ulong y = _gpu.Empty<float>(n), dg = _gpu.Upload(before), du = _gpu.Upload(before);
        _gpu.Run("elementwise", Forward, grid, 256, y, _gpu.Upload(gate), _gpu.Upload(up), (long)n, 0UL, 0);
        _gpu.Run("elementwise", Backward, grid, 256, dg, du, _gpu.Upload(dy), _gpu.Upload(gate), _gpu.Upload(up), (long)n, 1, 0);
        foreach (int halves in new[] { 1, 2, 4, 7 })
        {
            ulong to = Room(halves, 4, null);
            LaunchCounters c = _gpu.Run("elementwise", Forward, grid, 256, to, Room(halves, 1, gate), Room(halves, 2, up), (long)n, 0UL, halves);
            Same(y, to, (halves & 4) != 0, $"forward {halves}");
            if (n % 1024 == 0 && halves == 7)
                Traffic(c, 6L * n, "all in bf16");
        }
        foreach (int halves in new[] { 1, 2, 4, 8, 16, 31 })
        {
            ulong toGate = Room(halves, 8, before), toUp = Room(halves, 16, before);
            _gpu.Run("elementwise", Backward, grid, 256, toGate, toUp, Room(halves, 4, dy), Room(halves, 1, gate), Room(halves, 2, up), (long)n, 1, halves);
            Same(dg, toGate, (halves & 8) != 0, $"dGate {halves}");
            Same(du, toUp, (halves & 16) != 0, $"dUp {halves}");
        }

        ulong Room(int halves, int bit, float[]? values) => (halves & bit) == 0
            ? values is null ? _gpu.Empty<float>(n) : _gpu.Upload(values)
            : values is null ? _gpu.Empty<ushort>(n) : _gpu.Upload(Array.ConvertAll(values, MatMulKernelTests.BFloat));

        void Same(ulong expected, ulong seen, bool half, string what)
        {
            if (half)
                Assert.Equal(Array.ConvertAll(_gpu.Read(expected, n), MatMulKernelTests.BFloat), _gpu.Read<ushort>(seen, n));
            else
                Assert.True(_gpu.Read(expected, n).SequenceEqual(_gpu.Read(seen, n)), what);
        }
    }

    private static float[] Rounded(float[] values) => Array.ConvertAll(values, v => MatMulKernelTests.Widen(MatMulKernelTests.BFloat(v)));

    [Theory]
    [InlineData(13, 256, 0)]
    [InlineData(9, 37, 0)]
    [InlineData(5, 128, 1)]
    [InlineData(3, 2048, 0)]
    [InlineData(2, 5000, 0)]
    [InlineData(2, 1030, 1)]
    public void Norms(int rows, int cols, int skew)
    {
        int n = rows * cols, grid = cols <= 512 ? Gpu.Ceil(rows, 8) : rows, chunks = Gpu.Ceil(rows, 1024);
        string group = cols <= 512 ? "warp" : "block";
        float[] x = Gpu.Random(n, 1, 2), w = Gpu.Random(cols, 2), b = Gpu.Random(cols, 3), dy = Gpu.Random(n, 4);
        View px = _memory.Of(x), pw = _memory.Of(w), pb = _memory.Of(b), pdy = _memory.Of(dy), y = _memory.Empty(n), rstd = _memory.Empty(rows), mean = _memory.Empty(rows), dx = _memory.Of(dy), dw = _memory.Of(w), dbias = _memory.Of(b);
        ulong gx = _gpu.Upload(x, skew), gw = _gpu.Upload(w), gb = _gpu.Upload(b), gdy = _gpu.Upload(dy, skew), gy = _gpu.Empty<float>(n, skew), gr = _gpu.Empty<float>(rows), gm = _gpu.Empty<float>(rows), partial = _gpu.Empty<double>(2 * chunks * cols);

        _cpu.RmsNormForward(y, rstd, px, pw, rows, cols, 1e-6f, 1);
        _cpu.RmsNormBackward(dx, dw, pdy, px, pw, rstd, rows, cols, 1);
        LaunchCounters forward = _gpu.Run("norm", $"rms_norm_forward_{group}", grid, 256, gy, gr, gx, gw, rows, cols, 1e-6f, 1f, 0UL);
        ulong copy = _gpu.Empty<ushort>(n + 8);
        _gpu.Run("norm", $"rms_norm_forward_{group}", grid, 256, gy, gr, gx, gw, rows, cols, 1e-6f, 1f, copy + (ulong)(2 * skew));
        Assert.Equal(_gpu.Read(gy, n).Select(MatMulKernelTests.BFloat), _gpu.Read<ushort>(copy + (ulong)(2 * skew), n));
        Check(2e-6, gy, y, "RMSNorm");
        Check(2e-6, gr, rstd, "rstd");
        ulong gdx = _gpu.Upload(dy, skew), gdw = _gpu.Upload(w), gdb = _gpu.Upload(b);
        LaunchCounters backward = _gpu.Run("norm", $"rms_norm_backward_{group}", grid, 256, gdx, gdy, gx, gw, gr, rows, cols, 1f, 1, 0UL);
        Check(5e-6, gdx, dx, "RMSNorm dx");
        LaunchCounters written = _gpu.Run("norm", $"rms_norm_backward_{group}", grid, 256, _gpu.Empty<float>(n, skew), gdy, gx, gw, gr, rows, cols, 1f, 0, 0UL);
        ulong again = _gpu.Upload(dy, skew);
        _gpu.Run("norm", $"rms_norm_backward_{group}", grid, 256, again, gdy, gx, gw, gr, rows, cols, 1f, 1, copy + (ulong)(2 * skew));
        Assert.Equal(_gpu.Read(gdx, n), _gpu.Read(again, n));
        Assert.Equal(_gpu.Read(gdx, n).Select(MatMulKernelTests.BFloat), _gpu.Read<ushort>(copy + (ulong)(2 * skew), n));
        // The copy alone.
        _gpu.Run("norm", $"rms_norm_forward_{group}", grid, 256, 0UL, gr, gx, gw, rows, cols, 1e-6f, 1f, copy + (ulong)(2 * skew));
        Assert.Equal(_gpu.Read(gy, n).Select(MatMulKernelTests.BFloat), _gpu.Read<ushort>(copy + (ulong)(2 * skew), n));
        WeightGradients(0, false);
        Check(5e-6, gdw, dw, "RMSNorm dWeight");
        // Weights are read once a row from the cache; the floor counts them once.
        if (skew == 0 && cols % 4 == 0 && cols <= 4096)
        {
            Traffic(forward, 12L * n, "RMSNorm with a read of the weight a row");
            Traffic(backward, 20L * n, "RMSNorm backward with a read of the weight a row");
            Traffic(written, 16L * n, "RMSNorm backward that writes");
        }

        dx = _memory.Of(dy);
        dw = _memory.Of(w);
        _cpu.LayerNormForward(y, mean, rstd, px, pw, pb, rows, cols, 1e-5f);
        _cpu.LayerNormBackward(dx, dw, dbias, pdy, px, pw, mean, rstd, rows, cols);
        _gpu.Run("norm", $"layer_norm_forward_{group}", grid, 256, gy, gm, gr, gx, gw, gb, rows, cols, 1e-5f);
        Check(2e-6, gy, y, "LayerNorm");
        gdx = _gpu.Upload(dy, skew);
        gdw = _gpu.Upload(w);
        _gpu.Run("norm", $"layer_norm_backward_{group}", grid, 256, gdx, gdy, gx, gw, gm, gr, rows, cols, 1);
        Check(5e-6, gdx, dx, "LayerNorm dx");
        WeightGradients(gm, true);
        Check(5e-6, gdw, dw, "LayerNorm dWeight");
        Check(5e-6, gdb, dbias, "LayerNorm dBias");

        void WeightGradients(ulong means, bool biases)
        {
            ulong second = biases ? partial + (ulong)(8 * chunks * cols) : 0;
            _gpu.Run("norm", "norm_weight_partial", (Gpu.Ceil(cols, 32), chunks, 1), 256, 0, partial, second, gdy, gx, means, gr, rows, cols);
            _gpu.Run("reduce", "sum_partials", Gpu.Ceil(cols, 256), 256, gdw, partial, (long)cols, cols, chunks, (long)cols, 0L, 1);
            if (biases)
                _gpu.Run("reduce", "sum_partials", Gpu.Ceil(cols, 256), 256, gdb, second, (long)cols, cols, chunks, (long)cols, 0L, 1);
        }
    }

    [Theory]
    [InlineData(false, false, false)]
    [InlineData(true, false, true)]
    [InlineData(false, true, true)]
    public void Rope(bool interleaved, bool inverse, bool accumulate)
    {
        const int rows = 5, heads = 3, headDim = 20, rotaryDim = 12;
        float[] x = Gpu.Random(rows * heads * headDim, 1), start = Gpu.Random(x.Length, 2), cos = Gpu.Random(9 * 6, 3), sin = Gpu.Random(9 * 6, 4);
        int[] positions = [3, 0, 8, 1, 3];
        View y = _memory.Of(start);
        _cpu.Rope(y, _memory.Of(x), _memory.Of(cos), _memory.Of(sin), _memory.Of(positions), rows, heads, headDim, rotaryDim, interleaved, inverse, accumulate);
        ulong gy = _gpu.Upload(start);
        _gpu.Run("rope", "rope", rows, 256, gy, _gpu.Upload(x), _gpu.Upload(cos), _gpu.Upload(sin), _gpu.Upload(positions), heads, headDim, rotaryDim, interleaved ? 1 : 0, inverse ? 1 : 0, accumulate ? 1 : 0);
        Check(2e-7, gy, y, "rope");
    }

    [Fact]
    public void Rows()
    {
        foreach ((int rows, int cols) in new[] { (9, 1300), (30, 17) })
        {
            int[] index = [.. Enumerable.Range(0, rows).Select(i => i * 5 % 7)];
            float[] x = Gpu.Random(7 * cols, 1), dy = Gpu.Random(rows * cols, 2);
            View dx = _memory.Of(x), pi = _memory.Of(index), y = _memory.Empty(rows * cols);
            _cpu.EmbeddingForward(y, _memory.Of(x), pi, rows, cols, 0.5f);
            _cpu.EmbeddingBackward(dx, _memory.Of(dy), pi, rows, cols, 0.5f);
            ulong gi = _gpu.Upload(index), gy = _gpu.Empty<float>(rows * cols), gdx = _gpu.Upload(x);
            _gpu.Run("rows", "embedding_forward_f32", (rows, Gpu.Ceil(cols, 1024), 1), 256, 0, gy, _gpu.Upload(x), gi, (long)cols, 0.5f);
            Assert.Equal(_memory.Read(y), _gpu.Read(gy, rows * cols));
            ushort[] half = Array.ConvertAll(x, MatMulKernelTests.BFloat);
            _gpu.Run("rows", "embedding_forward_bf16", (rows, Gpu.Ceil(cols, 1024), 1), 256, 0, gy, _gpu.Upload(half), gi, (long)cols, 0.5f);
            Assert.Equal(Enumerable.Range(0, rows * cols).Select(i => 0.5f * MatMulKernelTests.Widen(half[index[i / cols] * cols + i % cols])), _gpu.Read(gy, rows * cols));
            _gpu.Run("rows", "scatter_rows", rows, 256, gdx, _gpu.Upload(dy), gi, rows, (long)cols, 0.5f);
            Assert.Equal(_memory.Read(dx), _gpu.Read(gdx, 7 * cols));

            View wide = _memory.Of(dy);
            _cpu.CopyColumns(wide, cols, 3, _memory.Of(x), cols, 1, 7, cols - 5, true);
            ulong gw = _gpu.Upload(dy);
            _gpu.Run("rows", "copy_columns", (7, Gpu.Ceil(cols - 5, 1024), 1), 256, 0, gw + 12, (long)cols, _gpu.Upload(x) + 4, (long)cols, cols - 5, 1);
            Assert.Equal(_memory.Read(wide), _gpu.Read(gw, rows * cols));
        }
    }

    [Fact]
    public void SumsAndTheirGradients()
    {
        const int outer = 3, n = 1100, inner = 40;
        float[] x = Gpu.Random(outer * n * inner, 1), start = Gpu.Random(outer * inner, 2);
        View y = _memory.Of(start), dx = _memory.Of(x);
        _cpu.ReduceSum(y, _memory.Of(x), outer, n, inner, true);
        _cpu.ReduceSumBackward(dx, _memory.Of(start), outer, n, inner);
        ulong gx = _gpu.Upload(x), gy = _gpu.Upload(start), partial = _gpu.Empty<double>(outer * 2 * inner);
        Traffic(_gpu.Run("reduce", "sum_cols_plain", (Gpu.Ceil(inner, 32) * outer, 2, 1), 256, 0, partial, gx, 0UL, 0UL, n, inner), 4L * outer * n * inner, "sums of columns");
        _gpu.Run("reduce", "sum_partials", 1, 256, gy, partial, (long)outer * inner, inner, 2, (long)inner, 2L * inner, 1);
        Check(2e-7, gy, y, "sums");
        _gpu.Run("reduce", "reduce_sum_backward", Gpu.Ceil(x.Length, 1024), 256, gx, _gpu.Upload(start), (long)x.Length, n, inner);
        Check(0, gx, dx, "gradient");
    }

    [Fact]
    public void FillsCopiesAndDraws()
    {
        ulong y = _gpu.Empty<float>(1500, 1);
        _gpu.Run("elementwise", "fill", 2, 256, y, 1500L, 2.5f);
        Assert.All(_gpu.Read(y, 1500), v => Assert.Equal(2.5f, v));
        float[] x = Gpu.Random(3000, 1), drawn = new float[3000];
        foreach ((int skew, int count) in new[] { (0, 3000), (1, 2999) })
        {
            ulong to = _gpu.Empty<float>(3000);
            _gpu.Run("elementwise", "copy_bytes", Gpu.Ceil(4 * count, 4096), 256, to, _gpu.Upload(x) + (ulong)(4 * skew), 4L * count);
            Assert.Equal(x[skew..(skew + count)], _gpu.Read(to, count));
        }
        Philox.FillUniform(drawn, 11, 5, 7);
        ulong u = _gpu.Empty<float>(3000);
        _gpu.Run("elementwise", "fill_uniform", 3, 256, u, 3000L, 11UL, 5UL, 7UL);
        Assert.Equal(drawn, _gpu.Read(u, 3000));
    }
}
