using System.Numerics;
using System.Runtime.InteropServices;
using Repeng.PtxEmulator.Execution;
using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Memory;

/// <summary>
/// Who of a warp's lanes used each byte of shared memory, and in which stretch between two barriers of the warp. Lanes of a warp run independently (Volta and newer), so that one may read what another
/// wrote only behind a bar.warp.sync or a barrier of the block: shuffles, votes and mma wait for lanes but order no memory. A stretch belongs to one warp; races between warps are <see cref="RaceShadow"/>'s.
/// </summary>
internal sealed unsafe class LaneShadow : IDisposable
{
    // Beside a lane's number: several lanes; all of a warp by an ldmatrix; an atomic.
    private const uint Several = 32, Atomic = 33, Nobody = 34;
    private const int LaneBits = 6;
    private const uint LastStretch = (1u << (32 - LaneBits)) - 1;

    private readonly long _bytes;
    private readonly uint* _writers;
    private readonly uint* _readers;
    private uint _stretch;

    public LaneShadow(long bytes)
    {
        _bytes = bytes;
        _writers = (uint*)NativeMemory.AllocZeroed((nuint)bytes, sizeof(uint));
        _readers = (uint*)NativeMemory.AllocZeroed((nuint)bytes, sizeof(uint));
    }

    /// <summary>A new stretch of a warp: everything before is ordered before everything in it.</summary>
    public uint NextStretch()
    {
        if (_stretch == LastStretch)
        {
            NativeMemory.Clear(_writers, (nuint)_bytes * sizeof(uint));
            NativeMemory.Clear(_readers, (nuint)_bytes * sizeof(uint));
            _stretch = 0;
        }
        return ++_stretch;
    }

    /// <summary>Checks and notes an access of a warp to shared memory; addresses are within it.</summary>
    public void Access(Warp warp, Instruction i, ReadOnlySpan<ulong> addresses, uint mask, int size, AccessKind kind)
    {
        uint stretch = warp.Stretch;
        // Rows of ldmatrix go to every lane.
        bool matrix = i.Op == Op.LdMatrix;
        // First all are checked, then all noted: lanes of one instruction are no race of this kind.
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            for (ulong b = addresses[lane]; b < addresses[lane] + (ulong)size; b++)
            {
                uint writer = _writers[b], other = Nobody;
                if (writer >> LaneBits == stretch)
                {
                    uint by = writer & ((1u << LaneBits) - 1);
                    if (kind == AccessKind.Atomic ? by != Atomic && by != (uint)lane : matrix || by != (uint)lane)
                        other = by;
                }
                uint reader = _readers[b];
                if (kind != AccessKind.Read && other == Nobody && reader >> LaneBits == stretch && (reader & ((1u << LaneBits) - 1)) != (uint)lane)
                    other = reader & ((1u << LaneBits) - 1);
                if (other != Nobody)
                    throw new SharedRaceException(
                        $"{(kind == AccessKind.Read ? "a read" : "a write")} of {size} bytes at shared 0x{addresses[lane]:x}, which {(other == Several ? "several lanes use" : other == Atomic ? "an atomic of another lane uses" : $"lane {other} of the warp uses")} since the last bar.warp.sync or barrier, one of them writing: {MemoryUnit.DescribeShared(warp, addresses[lane])}",
                        Faults.Site(warp, i, 1u << lane), addresses[lane]);
            }
        }
        Note(stretch, addresses, mask, size, kind, matrix);
    }

    /// <summary>Notes that the bytes of a lane's cp.async have arrived, as it waited for them.</summary>
    public void Arrived(Warp warp, int lane, int address, int size) => new Span<uint>(_writers + address, size).Fill((warp.Stretch << LaneBits) | (uint)lane);

    private void Note(uint stretch, ReadOnlySpan<ulong> addresses, uint mask, int size, AccessKind kind, bool matrix)
    {
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            uint me = kind == AccessKind.Atomic ? Atomic : matrix ? Several : (uint)lane;
            for (ulong b = addresses[lane]; b < addresses[lane] + (ulong)size; b++)
            {
                if (kind != AccessKind.Read)
                    _writers[b] = (stretch << LaneBits) | me;
                else
                    _readers[b] = (stretch << LaneBits) | (_readers[b] >> LaneBits == stretch && _readers[b] != ((stretch << LaneBits) | me) ? Several : me);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(_writers);
        NativeMemory.Free(_readers);
    }
}
