using System.Numerics;
using Repeng.PtxEmulator.Execution;

namespace Repeng.PtxEmulator.Compilation;

/// <summary>Bytes of lanes that stand side by side: <paramref name="Bytes"/> bytes from <paramref name="Offset"/>.</summary>
internal readonly record struct Run(uint Offset, int Bytes);

/// <summary>
/// How the lanes of a warp access memory, relative to the lowest address: remembered with the instruction, because a kernel repeats few patterns.
/// Bank conflicts do not depend on the base, sectors only on its place in a sector.
/// </summary>
internal sealed class AccessPattern
{
    private readonly uint[] _offsets = new uint[Warp.Lanes];
    private readonly uint _mask;
    private readonly uint _inSector;
    private readonly int _size;

    private AccessPattern(ReadOnlySpan<uint> offsets, uint mask, uint inSector, int size)
    {
        offsets.CopyTo(_offsets);
        _mask = mask;
        _inSector = inSector;
        _size = size;
        Span<ulong> addresses = stackalloc ulong[Warp.Lanes];
        var runs = new List<Run>();
        uint highest = 0, last = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            uint offset = offsets[lane];
            addresses[lane] = inSector + offset;
            highest = Math.Max(highest, offset);
            if (runs.Count > 0 && offset == runs[^1].Offset + (uint)runs[^1].Bytes)
                runs[^1] = runs[^1] with { Bytes = runs[^1].Bytes + size };
            else if (runs.Count == 0 || offset != last || runs[^1].Bytes != size)
                runs.Add(new Run(offset, size));
            last = offset;
        }

        Span = highest + (uint)size;
        Contiguous = mask == uint.MaxValue && runs.Count == 1 && runs[0].Bytes == 32 * size;
        Uniform = mask == uint.MaxValue && highest == 0;
        Span<uint> sorted = stackalloc uint[Warp.Lanes];
        int active = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            sorted[active++] = offsets[BitOperations.TrailingZeroCount(lanes)];
        sorted[..active].Sort();
        for (int k = 1; k < active; k++)
            Collides |= sorted[k] - sorted[k - 1] < size;
        // Checks and marks do not mind the order of the lanes: rows that a swizzle has exchanged come together in long runs.
        if (!Collides && runs.Count > 1)
        {
            runs.Clear();
            for (int k = 0; k < active; k++)
                if (runs.Count > 0 && sorted[k] == runs[^1].Offset + (uint)runs[^1].Bytes)
                    runs[^1] = runs[^1] with { Bytes = runs[^1].Bytes + size };
                else
                    runs.Add(new Run(sorted[k], size));
        }

        Runs = [.. runs];
        Sectors = MemoryCounts.Sectors(addresses, mask, size);
        (Phases, Ways) = MemoryCounts.Banks(addresses, mask, size);
        Lanes = BitOperations.PopCount(mask);
    }

    public Run[] Runs { get; }

    /// <summary>Bytes from the lowest to the end of the highest.</summary>
    public uint Span { get; }

    /// <summary>All 32 lanes side by side in order.</summary>
    public bool Contiguous { get; }

    /// <summary>All 32 lanes at one place.</summary>
    public bool Uniform { get; }

    /// <summary>Two lanes may touch the same bytes.</summary>
    public bool Collides { get; }

    public int Sectors { get; }

    public int Phases { get; }

    public int Ways { get; }

    public int Lanes { get; }

    /// <summary>The pattern of an access: the remembered one, or a new one in its place.</summary>
    public static AccessPattern Of(ref AccessPattern?[]? cache, ReadOnlySpan<uint> offsets, uint mask, uint inSector, int size)
    {
        cache ??= new AccessPattern?[8];
        ref AccessPattern? at = ref cache[(inSector >> 2) & 7];
        if (at is { } known && known._mask == mask && known._inSector == inSector && known._size == size && offsets.SequenceEqual(known._offsets))
            return known;
        return at = new AccessPattern(offsets, mask, inSector, size);
    }
}
