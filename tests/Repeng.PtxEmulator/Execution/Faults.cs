using System.Numerics;
using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

/// <summary>Says where a fault happened.</summary>
internal static class Faults
{
    public static FaultSite Site(Warp warp, Instruction i, uint lanes)
        => new(warp.Block.Grid.Kernel.Name, i.Text, i.Line, i.Source, warp.Block.At, warp.ThreadOf(lanes == 0 ? 0 : BitOperations.TrailingZeroCount(lanes)));
}
