using System.Numerics;
using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Execution;

/// <summary>Shuffles, votes, matches and reductions within a warp.</summary>
internal static class WarpInstructions
{
    public static void Execute(Warp warp, Instruction i, uint mask)
    {
        switch (i.Op)
        {
            case Op.ActiveMask:
                ForEach(mask, lane => warp.Write(i.Destinations[0], lane, mask));
                return;
            case Op.Elect:
                int leader = BitOperations.TrailingZeroCount(Members(warp, i, mask, 0));
                ForEach(mask, lane =>
                {
                    warp.Write(i.Destinations[0], lane, (ulong)leader);
                    warp.Write(i.Destinations[1], lane, lane == leader ? 1ul : 0);
                });
                return;
            case Op.WarpSync:
                // Of some lanes only: taken as one of all, which calls nothing a race that is none.
                Members(warp, i, mask, 0);
                warp.NextStretch();
                return;
            case Op.Shfl:
                Shuffle(warp, i, mask);
                return;
            case Op.Vote:
                Vote(warp, i, mask);
                return;
            case Op.Match:
                Match(warp, i, mask);
                return;
            default:
                Reduce(warp, i, mask);
                return;
        }
    }

    private static void ForEach(uint mask, Action<int> action)
    {
        for (; mask != 0; mask &= mask - 1)
            action(BitOperations.TrailingZeroCount(mask));
    }

    /// <summary>The members of the instruction: every lane that executes it names the same ones, is one of them, and all of them are here.</summary>
    public static uint Members(Warp warp, Instruction i, uint mask, int operand)
    {
        uint members = (uint)warp.Read(i.Sources[operand], BitOperations.TrailingZeroCount(mask));
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            uint named = (uint)warp.Read(i.Sources[operand], lane);
            if (named != members)
                throw new InactiveLaneException($"lanes name different members: {members:x8} and {named:x8}", Faults.Site(warp, i, 1u << lane));
        }

        uint missing = members & ~mask & ~warp.Exited & warp.Full, strangers = mask & ~members;
        if (missing != 0)
            throw new InactiveLaneException($"the mask {members:x8} names lanes {missing:x8}, which do not execute this (active: {mask:x8})", Faults.Site(warp, i, missing));
        if (strangers != 0)
            throw new InactiveLaneException($"lanes {strangers:x8} execute this but the mask {members:x8} does not name them", Faults.Site(warp, i, strangers));
        return members & mask;
    }

    private static void Shuffle(Warp warp, Instruction i, uint mask)
    {
        uint members = Members(warp, i, mask, 3);
        Span<ulong> values = stackalloc ulong[Warp.Lanes];
        for (int lane = 0; lane < Warp.Lanes; lane++)
            values[lane] = (mask >> lane & 1) != 0 ? warp.Read(i.Sources[0], lane) : 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            int b = (int)warp.Read(i.Sources[1], lane) & 31, c = (int)warp.Read(i.Sources[2], lane);
            int clamp = c & 31, segment = c >> 8 & 31;
            int most = (lane & segment) | (clamp & ~segment), least = lane & segment;
            int from;
            bool valid;
            switch (i.Mode)
            {
                case Mode.Up:
                    from = lane - b;
                    valid = from >= most;
                    break;
                case Mode.Down:
                    from = lane + b;
                    valid = from <= most;
                    break;
                case Mode.Bfly:
                    from = lane ^ b;
                    valid = from <= most;
                    break;
                default:
                    from = least | (b & ~segment);
                    valid = from <= most;
                    break;
            }

            if (!valid)
                from = lane;
            if ((members >> from & 1) == 0)
                throw new InactiveLaneException($"lane {lane} reads from lane {from}, which does not take part ({members:x8})", Faults.Site(warp, i, 1u << lane));
            warp.Write(i.Destinations[0], lane, values[from]);
            if (i.Destinations.Length > 1)
                warp.Write(i.Destinations[1], lane, valid ? 1ul : 0);
        }
    }

    private static void Vote(Warp warp, Instruction i, uint mask)
    {
        uint members = Members(warp, i, mask, 1), ballot = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ballot |= (uint)(warp.Read(i.Sources[0], lane) & 1) << lane;
        }

        ulong result = i.Mode switch
        {
            Mode.Ballot => ballot,
            Mode.All => ballot == members ? 1ul : 0,
            Mode.Any => ballot != 0 ? 1ul : 0,
            _ => ballot == members || ballot == 0 ? 1ul : 0,
        };
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            warp.Write(i.Destinations[0], BitOperations.TrailingZeroCount(lanes), result);
    }

    private static void Match(Warp warp, Instruction i, uint mask)
    {
        uint members = Members(warp, i, mask, 1);
        Span<ulong> values = stackalloc ulong[Warp.Lanes];
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            values[BitOperations.TrailingZeroCount(lanes)] = warp.Read(i.Sources[0], BitOperations.TrailingZeroCount(lanes));
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            uint same = 0;
            for (uint others = mask; others != 0; others &= others - 1)
                if (values[BitOperations.TrailingZeroCount(others)] == values[lane])
                    same |= others & (uint)-(int)others;
            if (i.Mode == Mode.Any)
            {
                warp.Write(i.Destinations[0], lane, same);
                continue;
            }

            warp.Write(i.Destinations[0], lane, same == members ? members : 0);
            if (i.Destinations.Length > 1)
                warp.Write(i.Destinations[1], lane, same == members ? 1ul : 0);
        }
    }

    private static void Reduce(Warp warp, Instruction i, uint mask)
    {
        Members(warp, i, mask, 1);
        ulong result = warp.Read(i.Sources[0], BitOperations.TrailingZeroCount(mask));
        for (uint lanes = mask & (mask - 1); lanes != 0; lanes &= lanes - 1)
            result = Atomics.Apply(i.Mode, i.Type, result, warp.Read(i.Sources[0], BitOperations.TrailingZeroCount(lanes)), 0) & 0xffff_ffff;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            warp.Write(i.Destinations[0], BitOperations.TrailingZeroCount(lanes), result);
    }
}
