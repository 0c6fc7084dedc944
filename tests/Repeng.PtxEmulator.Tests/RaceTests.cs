using Repeng.PtxEmulator.Compilation;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;

namespace Repeng.PtxEmulator.Tests;

/// <summary>The log of shared memory's races gives the answers of the shadow that notes every access at once, and patterns of bytes mark what byte by byte marks.</summary>
public sealed unsafe class RaceTests
{
    private const int Warps = 6, Bytes = 4096;

    private static readonly Register s_register = new("%at", PtxType.U64, 64);

    /// <summary>A warp's access: side by side, strided, or anywhere within some bytes; by all lanes or some.</summary>
    private static AccessPattern Pattern(Random random, ref AccessPattern?[]? cache, out long first)
    {
        ulong* addresses = stackalloc ulong[32];
        while (true)
        {
            int size = 1 << random.Next(5), kind = random.Next(3), stride = size * (kind == 0 ? 1 : 1 + random.Next(4)), start = random.Next(Bytes / size) * size;
            for (int lane = 0; lane < 32; lane++)
                addresses[lane] = (ulong)(kind == 2 ? (start + (size * random.Next(8))) : start + (lane * stride));
            uint mask = random.Next(3) == 0 ? (uint)random.Next() | 1 : uint.MaxValue;
            AccessPattern? pattern = AccessPattern.Of((byte*)addresses, Value.Of(s_register), 0, mask, size, ref cache, out ulong least);
            first = (long)least;
            if (pattern is not null && first + pattern.Span <= Bytes)
                return pattern;
        }
    }

    [Fact]
    public void The_log_answers_as_the_shadow()
    {
        int conflicts = 0, quiet = 0;
        for (int seed = 0; seed < 60; seed++)
        {
            var random = new Random(seed);
            using var log = new SharedRaces(Bytes);
            using var shadow = new RaceShadow(Bytes, readerSet: true);
            ActorClock[] clocks = [.. Enumerable.Range(0, Warps).Select(_ => new ActorClock { Now = 1 })];
            AccessPattern?[]? cache = null;
            uint tick = 1, start = 1;
            for (int step = 0; step < 400; step++)
            {
                int what = random.Next(40);
                uint warp = (uint)random.Next(Warps);
                if (what == 0)
                {
                    start = ++tick;
                    foreach (ActorClock clock in clocks)
                        clock.Now = tick;
                    log.Forget();
                }
                else if (what == 1)
                {
                    // Two warps meet: what they know of each other is joined.
                    uint[] joined = new uint[32];
                    uint[] both = [warp, (warp + 1) % Warps];
                    log.Settle();
                    foreach (uint w in both)
                    {
                        for (int k = 0; k < 32 && clocks[w].Seen is { } seen; k++)
                            joined[k] = Math.Max(joined[k], seen[k]);
                        joined[w] = Math.Max(joined[w], clocks[w].Now);
                    }

                    tick++;
                    foreach (uint w in both)
                    {
                        clocks[w].Join(joined, 32);
                        clocks[w].Now = tick;
                    }
                }
                else if (what == 2)
                {
                    long word = random.Next(Bytes / 4);
                    bool write = random.Next(2) == 0, strong = random.Next(2) == 0;
                    uint mask = (uint)random.Next(1, 16);
                    Assert.Equal(shadow.Access(word, mask, write, strong, warp, clocks[warp], start), log.Access(word, mask, write, strong, warp, clocks[warp], start));
                }
                else
                {
                    // Seldom writes, and mostly in a strip of the warp's own, so that many accesses do not conflict.
                    bool write = random.Next(4) == 0, all = random.Next(8) == 0;
                    AccessPattern pattern = Pattern(random, ref cache, out long first);
                    if (write && pattern.Collides)
                        continue;
                    if (random.Next(4) != 0 && pattern.Span <= Bytes / Warps)
                        first = (first % 32) + (Bytes / 8 * warp) + (write ? 0 : 32 * random.Next(2));
                    bool expected = shadow.Note(pattern, first, write, warp, clocks[warp], start, all);
                    Assert.Equal(expected, log.Note(pattern, first, write, warp, clocks[warp], start, all));
                    if (expected)
                        quiet++;
                    else
                        conflicts++;
                }
            }
        }

        Assert.True(conflicts > 500 && quiet > 5000, $"{conflicts} conflicts, {quiet} without");
    }

    [Fact]
    public void Patterns_mark_the_bytes_of_their_runs()
    {
        var random = new Random(7);
        AccessPattern?[]? cache = null;
        using var marks = new ByteBits(Bytes);
        bool[] plain = new bool[Bytes];
        int made = 0;
        ulong* addresses = stackalloc ulong[32];
        for (int step = 0; step < 4000; step++)
        {
            int size = 1 << random.Next(5), stride = size * (1 + random.Next(5)), start = random.Next(Bytes / size) * size;
            uint mask = random.Next(3) == 0 ? (uint)random.Next() | 1 : uint.MaxValue;
            for (int lane = 0; lane < 32; lane++)
                addresses[lane] = (ulong)(start + (lane * stride));
            // The second time the pattern is known, and has its bits.
            AccessPattern? once = AccessPattern.Of((byte*)addresses, Value.Of(s_register), 0, mask, size, ref cache, out ulong least);
            AccessPattern? pattern = AccessPattern.Of((byte*)addresses, Value.Of(s_register), 0, mask, size, ref cache, out least);
            Assert.NotNull(pattern);
            Assert.Same(once, pattern);
            Assert.NotNull(pattern.Bits);
            long first = (long)least;
            if (first + pattern.Span > Bytes)
                continue;
            made++;
            IEnumerable<int> bytes = Enumerable.Range(0, 32).Where(lane => (mask >> lane & 1) != 0).SelectMany(lane => Enumerable.Range(start + (lane * stride), size));
            Assert.Equal(bytes.All(b => plain[b]), marks.TestAll(first, pattern.Bits));
            Assert.Equal(bytes.Any(b => plain[b]), marks.TestAny(first, pattern.Bits));
            bool set = random.Next(3) != 0;
            if (set)
                marks.SetAll(first, pattern.Bits);
            else
                marks.ClearAll(first, pattern.Bits);
            foreach (int b in bytes)
                plain[b] = set;
            for (int b = 0; step % 50 == 0 && b < Bytes; b++)
                Assert.Equal(plain[b], marks.Test(b, 1));
        }

        Assert.True(made > 2000);
    }
}
