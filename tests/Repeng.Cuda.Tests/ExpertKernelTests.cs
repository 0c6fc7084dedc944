using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>experts.cu and the attention sinks against the CPU backend, whose own tests hold it to independent references.</summary>
public sealed class ExpertKernelTests : IDisposable
{
    private readonly Gpu _gpu = new();
    private readonly CpuBackend _cpu = new(1);
    private readonly TestMemory _memory;

    public ExpertKernelTests() => _memory = new TestMemory(_cpu);

    public void Dispose()
    {
        _memory.Dispose();
        _cpu.Dispose();
        _gpu.Dispose();
    }

    [Theory]
    [InlineData(11, 40, 4, true)]
    [InlineData(9, 128, 8, false)]
    [InlineData(3, 5, 5, true)]
    public void Routes(int rows, int experts, int perToken, bool normalise)
    {
        RouteArgs args = new(rows, experts, perToken, normalise);
        float[] logits = Gpu.Random(rows * experts, 1, 2), dWeights = Gpu.Random(rows * perToken, 2), start = Gpu.Random(rows * experts, 3);
        logits[3] = logits[1] = logits[0];
        logits[experts] = float.NaN;
        logits[experts + 1] = float.NegativeInfinity;
        View weights = _memory.Empty(rows * perToken), chosen = _memory.Of(new int[rows * perToken]), input = _memory.Of(logits), d = _memory.Of(start);
        _cpu.RouteForward(weights, chosen, input, args);
        int[] choice = new int[rows * perToken];
        _cpu.Download(MemoryMarshal.AsBytes(choice.AsSpan()), chosen);

        ulong w = _gpu.Empty<float>(rows * perToken), c = _gpu.Empty<int>(rows * perToken), x = _gpu.Upload(logits);
        _gpu.Run("experts", "route_forward", Gpu.Ceil(rows, 8), 256, w, c, x, rows, experts, perToken, normalise ? 1 : 0);
        Assert.Equal(choice, _gpu.Read<int>(c, rows * perToken));
        Close.To(2e-7, _gpu.Read(w, rows * perToken), _memory.Read(weights), "weights");

        _cpu.RouteBackward(d, _memory.Of(dWeights), weights, chosen, input, args);
        ulong dx = _gpu.Upload(start);
        _gpu.Run("experts", "route_backward", Gpu.Ceil(rows, 8), 256, dx, _gpu.Upload(dWeights), _gpu.Upload(_memory.Read(weights)), c, x, rows, experts, perToken, normalise ? 1 : 0);
        Close.To(2e-7, _gpu.Read(dx, rows * experts), _memory.Read(d), "dLogits");
    }

    [Fact]
    public void Combines()
    {
        const int rows = 9, perToken = 3, cols = 300;
        float[] x = Gpu.Random(rows * perToken * cols, 1), weights = Gpu.Random(rows * perToken, 2), dy = Gpu.Random(rows * cols, 3);
        int[] place = [.. Enumerable.Range(0, rows * perToken).OrderBy(i => i * 7919 % 27)];
        View y = _memory.Empty(rows * cols), px = _memory.Of(x), pw = _memory.Of(weights), pp = _memory.Of(place), dx = _memory.Of(x), dw = _memory.Of(weights);
        _cpu.CombineForward(y, px, pp, pw, rows, perToken, cols);
        _cpu.CombineBackward(dx, dw, _memory.Of(dy), px, pp, pw, rows, perToken, cols);
        ulong gx = _gpu.Upload(x), gw = _gpu.Upload(weights), gp = _gpu.Upload(place), gy = _gpu.Empty<float>(rows * cols), gdx = _gpu.Upload(x), gdw = _gpu.Upload(weights), gdy = _gpu.Upload(dy);
        _gpu.Run("experts", "combine_forward", rows, 256, gy, gx, gp, gw, perToken, cols);
        _gpu.Run("experts", "combine_backward_x", rows, 256, gdx, gdy, gp, gw, perToken, cols);
        _gpu.Run("experts", "combine_backward_weights", Gpu.Ceil(rows * perToken, 8), 256, gdw, gdy, gx, gp, rows * perToken, perToken, cols);
        Close.To(2e-7, _gpu.Read(gy, rows * cols), _memory.Read(y), "y");
        Close.To(2e-7, _gpu.Read(gdx, x.Length), _memory.Read(dx), "dx");
        Close.To(1e-6, _gpu.Read(gdw, weights.Length), _memory.Read(dw), "dWeights");
    }

    [Fact]
    public void GatesClamped()
    {
        const int n = 3000;
        float[] gate = Gpu.Random(n, 1, 6), up = Gpu.Random(n, 2, 6), dy = Gpu.Random(n, 3);
        (gate[5], up[6], up[7]) = (7, 7, -7);
        View y = _memory.Empty(n), g = _memory.Of(gate), u = _memory.Of(up), dg = _memory.Of(dy), du = _memory.Of(dy);
        _cpu.ClampedGatedForward(y, g, u, n, 1.702f, 7);
        _cpu.ClampedGatedBackward(dg, du, _memory.Of(dy), g, u, n, 1.702f, 7);
        ulong py = _gpu.Empty<float>(n), pg = _gpu.Upload(gate), pu = _gpu.Upload(up), pdg = _gpu.Upload(dy), pdu = _gpu.Upload(dy), pdy = _gpu.Upload(dy);
        _gpu.Run("experts", "clamped_gated_forward", Gpu.Ceil(n, 1024), 256, py, pg, pu, (long)n, 1.702f, 7f);
        _gpu.Run("experts", "clamped_gated_backward", Gpu.Ceil(n, 1024), 256, pdg, pdu, pdy, pg, pu, (long)n, 1.702f, 7f);
        Close.To(2e-6, _gpu.Read(py, n), _memory.Read(y), "y");
        Close.To(2e-6, _gpu.Read(pdg, n), _memory.Read(dg), "dGate");
        Close.To(2e-6, _gpu.Read(pdu, n), _memory.Read(du), "dUp");
    }

    [Fact]
    public void SinksTakePartInTheSoftmax()
    {
        const int rows = 10, heads = 3, headDim = 40;
        float[] o = Gpu.Random(rows * heads * headDim, 1), lse = Gpu.Random(rows * heads, 2, 4), sinks = Gpu.Random(heads, 3, 4), delta = Gpu.Random(rows * heads, 4), start = Gpu.Random(heads, 5);
        lse[4] = float.NegativeInfinity;
        View po = _memory.Of(o), pl = _memory.Of(lse), ps = _memory.Of(sinks), d = _memory.Of(start);
        _cpu.AttentionSinksForward(po, pl, ps, rows, heads, headDim);
        _cpu.AttentionSinksBackward(d, _memory.Of(delta), pl, ps, rows, heads);
        ulong go = _gpu.Upload(o), gl = _gpu.Upload(lse), gs = _gpu.Upload(sinks), gd = _gpu.Upload(start);
        _gpu.Run("attention", "attention_sinks_forward", Gpu.Ceil(rows * heads, 8), 256, go, gl, gs, (long)rows * heads, heads, headDim);
        _gpu.Run("attention", "attention_sinks_backward", heads, 256, gd, _gpu.Upload(delta), gl, gs, rows, heads);
        Close.To(2e-7, _gpu.Read(go, o.Length), _memory.Read(po), "o");
        Close.To(2e-7, _gpu.Read(gl, lse.Length), _memory.Read(pl), "lse");
        Close.To(1e-6, _gpu.Read(gd, heads), _memory.Read(d), "dSinks");
    }
}
