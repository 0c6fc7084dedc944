using Repeng.Kernels.Tests.Reference;
using Repeng.Testing;
using Xunit;

namespace Repeng.Kernels.Tests;

/// <summary>The norm of heads and their rotary embedding as one op: the bits of the two, whichever way a backend goes.</summary>
public sealed class NormRopeTests
{
    public static TheoryData<string, int, int, int, int, bool, int> Cases()
    {
        TheoryData<string, int, int, int, int, bool, int> cases = [];
        foreach (string backend in Backends.Names)
        {
            foreach (int dim in new[] { 32, 64, 128, 256 })
                cases.Add(backend, 5, 3, dim, dim, false, 0);
            // Not whole, interleaved, other sizes, not on 16 bytes.
            cases.Add(backend, 5, 3, 64, 32, false, 0);
            cases.Add(backend, 5, 3, 64, 64, true, 0);
            cases.Add(backend, 3, 2, 80, 80, false, 0);
            cases.Add(backend, 4, 2, 128, 128, false, 1);
            cases.Add(backend, 1, 1, 128, 128, false, 0);
            cases.Add(backend, 70, 1, 32, 32, false, 0);
            cases.Add(backend, 0, 2, 64, 64, false, 0);
        }
        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void TheBitsAreThoseOfNormAndRope(string backend, int rows, int heads, int dim, int rotaryDim, bool interleaved, int skew)
    {
        const int Positions = 80;
        var args = new NormRopeArgs(rows, heads, dim, rotaryDim, interleaved, 1e-5f, 0.5f);
        int n = rows * heads * dim, lines = rows * heads;
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        View Skewed(int count, int seed) => memory.Of(ReduceReference.Random(count + skew, seed)).Slice(skew, count);
        View x = Skewed(n, 1), dy = Skewed(n, 2), weight = memory.Of(ReduceReference.Random(dim, 3)), cos = memory.Of(ReduceReference.Random(Positions * rotaryDim / 2, 4)), sin = memory.Of(ReduceReference.Random(Positions * rotaryDim / 2, 5));
        View positions = memory.Of(ReduceReference.RandomIndices(rows, Positions, 6));
        View y = memory.Empty(n), rstd = memory.Empty(lines), normed = memory.Empty(n), turned = memory.Empty(n), rstds = memory.Empty(lines);
        b.NormRopeForward(y, rstd, x, weight, cos, sin, positions, args);
        b.RmsNormForward(normed, rstds, x, weight, lines, dim, args.Eps, args.WeightOffset);
        b.Rope(turned, normed, cos, sin, positions, rows, heads, dim, rotaryDim, interleaved, inverse: false, accumulate: false);
        Assert.Equal(memory.Read(turned), memory.Read(y));
        Assert.Equal(memory.Read(rstds), memory.Read(rstd));

        View back = memory.Empty(n), room = memory.Empty(n);
        b.Rope(back, dy, cos, sin, positions, rows, heads, dim, rotaryDim, interleaved, inverse: true, accumulate: false);
        foreach (bool accumulate in new[] { true, false })
            foreach (bool weights in new[] { true, false })
            {
                double[] before = ReduceReference.Random(n, 7);
                View dx = memory.Of(before), expected = memory.Of(before), dw = weights ? memory.Zeros(dim) : default, expectedWeights = weights ? memory.Zeros(dim) : default;
                b.NormRopeBackward(dx, dw, dy, x, weight, rstd, cos, sin, positions, room, args, accumulate);
                b.RmsNormBackward(expected, expectedWeights, back, x, weight, rstd, lines, dim, args.WeightOffset, accumulate);
                Assert.Equal(memory.Read(expected), memory.Read(dx));
                if (weights)
                    Assert.Equal(memory.Read(expectedWeights), memory.Read(dw));
            }
        Assert.True(n == 0 || memory.Read(y).Any(v => v != 0));
    }

    [Theory]
    [InlineData("cpu")]
    [InlineData("emulator")]
    public void OperandsThatDoNotFitAreNamed(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using TestMemory memory = new(b);
        var args = new NormRopeArgs(2, 2, 32, 32, false, 1e-6f, 0);
        View x = memory.Zeros(128), weight = memory.Zeros(32), angles = memory.Zeros(16), positions = memory.Of([0, 0]), few = memory.Zeros(3);
        Assert.Contains("operand rstd has 3", Assert.Throws<ArgumentException>(() => b.NormRopeForward(x, few, x, weight, angles, angles, positions, args)).Message);
        Assert.Contains("operand weight has 3", Assert.Throws<ArgumentException>(() => b.NormRopeForward(x, memory.Zeros(4), x, few, angles, angles, positions, args)).Message);
        Assert.Contains("operand positions", Assert.Throws<ArgumentException>(() => b.NormRopeForward(memory.Zeros(128), memory.Zeros(4), x, weight, angles, angles, few, args)).Message);
        Assert.Contains("has 3 × F32", Assert.Throws<ArgumentException>(() => b.NormRopeBackward(memory.Zeros(128), weight, x, x, weight, memory.Zeros(4), angles, angles, positions, few, args, accumulate: true)).Message);
    }
}
