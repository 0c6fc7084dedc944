using Repeng.CudaBench;

namespace Repeng.Cuda.Tests;

/// <summary>The board of bench/Repeng.CudaBench holds: every kernel that ships is on it, and what misses a target has a reason.</summary>
public sealed class BoardTests
{
    [Fact]
    public void EveryKernelIsOnTheBoard()
        => Assert.Equal(Board.Shipped().Order(StringComparer.Ordinal), KernelCases.All().SelectMany(c => c.Expected).Select(e => e.Kernel).Distinct().Order(StringComparer.Ordinal));

    [Fact]
    public void TargetsAreMetOrTheReasonIsGiven()
    {
        List<BoardRow> rows = Board.Measure();
        Assert.Empty(rows.SelectMany(r => r.Misses().Where(m => Board.Reason(r.Kernel, m) is null).Select(m => $"{r.Kernel} ({r.Shape}) misses {m}: traffic {r.Traffic:0.000}, {r.ExtraWays} extra ways, mma {r.Mma:0.000}")));
        // A reason that nothing needs any more would hide the next miss.
        Assert.Empty(Board.Reasons.Where(x => !rows.Any(r => r.Misses().Contains(x.Target) && Board.Reason(r.Kernel, x.Target) == x.Reason)).Select(x => $"{x.Kernel}, {x.Target}"));
    }
}
