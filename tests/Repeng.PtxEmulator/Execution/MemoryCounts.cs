using System.Numerics;

namespace Repeng.PtxEmulator.Execution;

/// <summary>Counts what the accesses of a warp cost: 32-byte sectors in global memory, bank conflicts in shared memory.</summary>
internal static class MemoryCounts
{
    /// <summary>Different sectors of 32 bytes among the lanes' accesses.</summary>
    public static int Sectors(ReadOnlySpan<ulong> addresses, uint mask, int bytes)
    {
        // At most 32 lanes × 2 sectors; open addressing over twice that.
        Span<ulong> table = stackalloc ulong[128];
        int found = 0;
        ulong last = ulong.MaxValue;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            ulong address = addresses[BitOperations.TrailingZeroCount(lanes)];
            for (ulong sector = address >> 5; sector <= (address + (ulong)bytes - 1) >> 5; sector++)
            {
                if (sector == last)
                    continue;
                last = sector;
                int at = (int)(sector * 0x9E37_79B9_7F4A_7C15ul >> 57);
                while (table[at] != 0 && table[at] != sector + 1)
                    at = (at + 1) & 127;
                if (table[at] == 0)
                    found++;
                table[at] = sector + 1;
            }
        }

        return found;
    }

    /// <summary>
    /// Phases and their cycles: 32 banks of 4 bytes, all lanes at once up to 4 bytes a lane, half warps for 8, quarter warps for 16.
    /// Lanes that read the same word share it.
    /// </summary>
    public static (int Phases, int Ways) Banks(ReadOnlySpan<ulong> addresses, uint mask, int bytes)
    {
        int lanesInPhase = bytes <= 4 ? 32 : bytes == 8 ? 16 : bytes == 16 ? 8 : 4, phases = 0, ways = 0;
        Span<ulong> words = stackalloc ulong[32 * 32];
        Span<int> used = stackalloc int[32];
        for (int first = 0; first < 32; first += lanesInPhase)
        {
            uint now = mask & ((lanesInPhase == 32 ? uint.MaxValue : (1u << lanesInPhase) - 1) << first);
            if (now == 0)
                continue;
            used.Clear();
            int most = 1;
            for (uint lanes = now; lanes != 0; lanes &= lanes - 1)
            {
                ulong address = addresses[BitOperations.TrailingZeroCount(lanes)];
                for (ulong word = address >> 2; word <= (address + (ulong)bytes - 1) >> 2; word++)
                {
                    int bank = (int)(word & 31), count = used[bank];
                    if (words.Slice(bank * 32, count).Contains(word))
                        continue;
                    words[(bank * 32) + count] = word;
                    used[bank] = count + 1;
                    most = Math.Max(most, count + 1);
                }
            }

            phases++;
            ways += most;
        }

        return (phases, ways);
    }
}
