using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Repeng.PtxEmulator.Execution;
using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Compilation;

/// <summary>Bytes of lanes that stand side by side: <paramref name="Bytes"/> bytes from <paramref name="Offset"/>.</summary>
internal readonly record struct Run(uint Offset, int Bytes);

/// <summary>
/// How the lanes of a warp access memory, relative to the lowest address: remembered with the instruction, because a kernel repeats few patterns.
/// Bank conflicts do not depend on the base, sectors only on its place in a sector. That registers hold a remembered pattern is one subtraction and one comparison
/// of whole vectors, and then bounds, alignment, bytes and words are known without a look at any lane.
/// </summary>
internal sealed unsafe class AccessPattern
{
    /// <summary>Longest span for which <see cref="Bits"/> are made.</summary>
    private const uint LongestBits = 4096;

    private readonly ulong[] _offsets = new ulong[Warp.Lanes];
    private readonly ulong[]? _active;
    private readonly uint[]? _activeWords;
    private readonly uint _inSector;
    private readonly int _size;

    private AccessPattern(ReadOnlySpan<uint> offsets, uint mask, uint inSector, int size)
    {
        offsets.CopyTo(Offsets);
        Mask = mask;
        _inSector = inSector;
        _size = size;
        Span<ulong> addresses = stackalloc ulong[Warp.Lanes];
        var runs = new List<Run>();
        uint highest = 0, last = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            uint offset = offsets[lane];
            _offsets[lane] = offset;
            addresses[lane] = inSector + offset;
            highest = Math.Max(highest, offset);
            if (runs.Count > 0 && offset == runs[^1].Offset + (uint)runs[^1].Bytes)
                runs[^1] = runs[^1] with { Bytes = runs[^1].Bytes + size };
            else if (runs.Count == 0 || offset != last || runs[^1].Bytes != size)
                runs.Add(new Run(offset, size));
            last = offset;
        }

        if (mask != uint.MaxValue)
        {
            _active = new ulong[Warp.Lanes];
            _activeWords = new uint[Warp.Lanes];
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            {
                int lane = BitOperations.TrailingZeroCount(lanes);
                _active[lane] = ulong.MaxValue;
                _activeWords[lane] = uint.MaxValue;
            }
        }

        Lead = offsets[BitOperations.TrailingZeroCount(mask)];
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
        WholeWords = (inSector & 3) == 0 && runs.TrueForAll(r => ((r.Offset | (uint)r.Bytes) & 3) == 0);
        Sectors = MemoryCounts.Sectors(addresses, mask, size);
        (Phases, Ways) = MemoryCounts.Banks(addresses, mask, size);
        Lanes = BitOperations.PopCount(mask);
    }

    public uint Mask { get; }

    public Run[] Runs { get; }

    /// <summary>Bytes of each lane from the lowest address.</summary>
    public uint[] Offsets { get; } = new uint[Warp.Lanes];

    /// <summary>Offset of the lowest active lane.</summary>
    public uint Lead { get; }

    /// <summary>Bytes from the lowest to the end of the highest.</summary>
    public uint Span { get; }

    /// <summary>All 32 lanes side by side in order.</summary>
    public bool Contiguous { get; }

    /// <summary>All 32 lanes at one place.</summary>
    public bool Uniform { get; }

    /// <summary>Two lanes may touch the same bytes.</summary>
    public bool Collides { get; }

    /// <summary>Every run is made of whole aligned words of four bytes.</summary>
    public bool WholeWords { get; }

    /// <summary>The bytes touched, one bit each, from the start of the sector of the lowest; whole vectors of words. Null for a long span and before the pattern comes a second time.</summary>
    public uint[]? Bits { get; private set; }

    public int Sectors { get; }

    public int Phases { get; }

    public int Ways { get; }

    public int Lanes { get; }

    /// <summary>
    /// The pattern of an access and its lowest address: the remembered one, or a new one in its place. Null when the interpreter must look: misaligned, or lanes too far apart.
    /// </summary>
    public static AccessPattern? Of(byte* frame, in Value address, long offset, uint mask, int size, ref AccessPattern?[]? cache, out ulong least)
    {
        cache ??= new AccessPattern?[8];
        // Address of the lowest active lane, without the constant offset.
        ulong lead = address.Bits;
        byte* values = null;
        bool wide = false;
        if (address.Register is { } register)
        {
            values = frame + register.Offset;
            wide = register.Width == 64;
            int lane = BitOperations.TrailingZeroCount(mask);
            lead = wide ? ((ulong*)values)[lane] : ((uint*)values)[lane];
        }

        ref AccessPattern? slot = ref cache[((lead + (ulong)offset) >> 2) & 7];
        if (slot is { } known && known.Mask == mask && known._size == size)
        {
            ulong start = lead - known.Lead;
            least = start + (ulong)offset;
            bool same = ((uint)least & 31) == known._inSector
                && (values == null ? known.Span == (uint)size : wide ? known.Holds((ulong*)values, start) : lead >= known.Lead && start + known.Span <= 1ul << 32 && known.Holds((uint*)values, (uint)start));
            if (same)
            {
                if (known.Bits is null && known.Span <= LongestBits)
                    known.MakeBits();
                return known;
            }
        }

        AccessPattern? made = Make(values, wide, lead, offset, mask, size, out least);
        if (made is not null)
            slot = made;
        return made;
    }

    /// <summary>Whether each active lane's value is <paramref name="start"/> and its offset.</summary>
    private bool Holds(ulong* values, ulong start)
    {
        ref ulong offsets = ref MemoryMarshal.GetArrayDataReference(_offsets);
        Vector512<ulong> from = Vector512.Create(start);
        Vector512<ulong> d0 = (Vector512.Load(values) - from) ^ Vector512.LoadUnsafe(ref offsets), d1 = (Vector512.Load(values + 8) - from) ^ Vector512.LoadUnsafe(ref offsets, 8);
        Vector512<ulong> d2 = (Vector512.Load(values + 16) - from) ^ Vector512.LoadUnsafe(ref offsets, 16), d3 = (Vector512.Load(values + 24) - from) ^ Vector512.LoadUnsafe(ref offsets, 24);
        if (_active is not null)
        {
            ref ulong active = ref MemoryMarshal.GetArrayDataReference(_active);
            d0 &= Vector512.LoadUnsafe(ref active);
            d1 &= Vector512.LoadUnsafe(ref active, 8);
            d2 &= Vector512.LoadUnsafe(ref active, 16);
            d3 &= Vector512.LoadUnsafe(ref active, 24);
        }

        return (d0 | d1 | d2 | d3) == Vector512<ulong>.Zero;
    }

    private bool Holds(uint* values, uint start)
    {
        ref uint offsets = ref MemoryMarshal.GetArrayDataReference(Offsets);
        Vector512<uint> from = Vector512.Create(start);
        Vector512<uint> d0 = (Vector512.Load(values) - from) ^ Vector512.LoadUnsafe(ref offsets), d1 = (Vector512.Load(values + 16) - from) ^ Vector512.LoadUnsafe(ref offsets, 16);
        if (_activeWords is not null)
        {
            ref uint active = ref MemoryMarshal.GetArrayDataReference(_activeWords);
            d0 &= Vector512.LoadUnsafe(ref active);
            d1 &= Vector512.LoadUnsafe(ref active, 16);
        }

        return (d0 | d1) == Vector512<uint>.Zero;
    }

    private static AccessPattern? Make(byte* values, bool wide, ulong lead, long offset, uint mask, int size, out ulong least)
    {
        ulong* addresses = stackalloc ulong[Warp.Lanes];
        least = ulong.MaxValue;
        ulong most = 0, bits = 0;
        for (int lane = 0; lane < Warp.Lanes; lane++)
        {
            // Inactive lanes take an active lane's place.
            ulong value = values == null || (mask >> lane & 1) == 0 ? lead : wide ? ((ulong*)values)[lane] : ((uint*)values)[lane];
            addresses[lane] = value += (ulong)offset;
            least = Math.Min(least, value);
            most = Math.Max(most, value);
            bits |= value;
        }

        if ((bits & (ulong)(size - 1)) != 0 || most - least > int.MaxValue)
            return null;
        Span<uint> offsets = stackalloc uint[Warp.Lanes];
        for (int lane = 0; lane < Warp.Lanes; lane++)
            offsets[lane] = (uint)(addresses[lane] - least);
        return new AccessPattern(offsets, mask, (uint)(least & 31), size);
    }

    private void MakeBits()
    {
        uint words = (_inSector + Span + 31) / 32;
        uint[] bits = new uint[(words + 15) / 16 * 16];
        foreach (Run run in Runs)
            for (uint b = _inSector + run.Offset, end = b + (uint)run.Bytes; b < end; b++)
                bits[b >> 5] |= 1u << (int)(b & 31);
        Bits = bits;
    }
}
