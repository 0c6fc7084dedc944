using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Repeng.PtxEmulator.Compilation;

namespace Repeng.PtxEmulator.Memory;

/// <summary>
/// Races between the warps of a block in shared memory. Most accesses between two barriers of the whole block are of warps that keep apart, or that all read: so accesses are only
/// written down, with the warps that read and that write each region of 64 bytes beside them, and forgotten at the barrier. Only where an access might conflict with another warp's, by
/// regions, is what was written down noted word by word, in its order, in the <see cref="RaceShadow"/>; until the next barrier every access is looked at there then. The answers are
/// those of the shadow alone: while regions do not conflict no word does.
/// </summary>
internal sealed unsafe class SharedRaces : IDisposable
{
    private const int RegionBits = 6, Regions = 16, Longest = 1024;

    private struct Entry
    {
        public AccessPattern Pattern;
        public ActorClock Clock;
        public long First;
        public uint Warp;
        public uint Start;
        public bool Write;
        public bool All;
    }

    private static readonly Vector512<uint> s_places = Vector512.Create(0u, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

    private readonly RaceShadow _words;
    private Entry[] _log = [];
    private int _logged;
    private bool _close;

    /// <summary>The regions that have marks.</summary>
    private long _low = long.MaxValue;
    private long _high;

    /// <summary>Warps that have read, and written, in each region since the barrier, a bit each.</summary>
    private uint* _readers;
    private uint* _writers;

    public SharedRaces(long bytes)
    {
        _words = new RaceShadow(bytes, readerSet: true);
        // A vector more, so that whole ones may be read.
        nuint regions = (nuint)(bytes >> RegionBits) + 1 + Regions;
        _readers = (uint*)NativeMemory.AllocZeroed(regions, sizeof(uint));
        _writers = (uint*)NativeMemory.AllocZeroed(regions, sizeof(uint));
    }

    /// <summary>Forgets everything; ticks may start again.</summary>
    public void Clear()
    {
        _words.Clear();
        Forget();
    }

    /// <summary>All warps have met: what they did before is ordered before what they do now.</summary>
    public void Forget()
    {
        _logged = 0;
        _close = false;
        if (_high > _low)
        {
            NativeMemory.Clear(_readers + _low, (nuint)(_high - _low) * sizeof(uint));
            NativeMemory.Clear(_writers + _low, (nuint)(_high - _low) * sizeof(uint));
        }

        _low = long.MaxValue;
        _high = 0;
    }

    /// <summary>Notes plain accesses of a warp's lanes as <see cref="RaceShadow.Note"/> does. False at a conflict.</summary>
    public bool Note(AccessPattern pattern, long first, bool write, uint warp, ActorClock clock, uint start, bool all = false)
    {
        if (!_close && Apart(first, pattern.Span, write, 1u << (int)warp))
        {
            if (_logged == _log.Length)
            {
                if (_logged < Longest)
                    Array.Resize(ref _log, Math.Max(64, 2 * _logged));
                else
                    Settle();
            }

            _log[_logged++] = new Entry { Pattern = pattern, Clock = clock, First = first, Warp = warp, Start = start, Write = write, All = all };
            return true;
        }

        Closely();
        return _words.Note(pattern, first, write, warp, clock, start, all);
    }

    /// <summary>One word, as <see cref="RaceShadow.Access"/>.</summary>
    public long Access(long word, uint mask, bool write, bool strong, uint warp, ActorClock clock, uint start)
    {
        Closely();
        return _words.Access(word, mask, write, strong, warp, clock, start);
    }

    /// <summary>Notes the write of whole words that a copy brings, conflict or not.</summary>
    public void Write(long first, int bytes, uint warp, ActorClock clock, uint start)
    {
        Closely();
        if (_words.WriteWords([new Run(0, bytes)], first, warp, clock, start))
            return;
        for (int b = 0; b < bytes; b += 4)
            _words.Access((first + b) >> 2, 15, write: true, strong: false, warp, clock, start);
    }

    /// <summary>Notes in the shadow what was written down: before warps' clocks change, and before the shadow is asked.</summary>
    public void Settle()
    {
        for (int k = 0; k < _logged; k++)
        {
            ref Entry e = ref _log[k];
            _words.Note(e.Pattern, e.First, e.Write, e.Warp, e.Clock, e.Start, e.All);
        }

        _logged = 0;
    }

    private void Closely()
    {
        if (_close)
            return;
        Settle();
        _close = true;
    }

    /// <summary>Whether no other warp has used a range's regions in a way that conflicts; then marks them as used.</summary>
    private bool Apart(long first, uint span, bool write, uint me)
    {
        long region = first >> RegionBits;
        int count = (int)(((first + span - 1) >> RegionBits) - region) + 1;
        uint* readers = _readers + region, writers = _writers + region, marks = write ? writers : readers;
        Vector512<uint> mine = Vector512.Create(me), others = Vector512<uint>.Zero;
        for (int k = 0; k < count; k += Regions)
        {
            Vector512<uint> used = Vector512.Load(writers + k);
            if (write)
                used |= Vector512.Load(readers + k);
            others |= Vector512.AndNot(used & Vector512.LessThan(s_places, Vector512.Create((uint)(count - k))), mine);
        }

        if (others != Vector512<uint>.Zero)
            return false;
        for (int k = 0; k < count; k += Regions)
            (Vector512.Load(marks + k) | (mine & Vector512.LessThan(s_places, Vector512.Create((uint)(count - k))))).Store(marks + k);
        _low = Math.Min(_low, region);
        _high = Math.Max(_high, region + count);
        return true;
    }

    public void Dispose()
    {
        _words.Dispose();
        NativeMemory.Free(_readers);
        NativeMemory.Free(_writers);
        _readers = _writers = null;
        GC.SuppressFinalize(this);
    }

    ~SharedRaces()
    {
        NativeMemory.Free(_readers);
        NativeMemory.Free(_writers);
    }
}
