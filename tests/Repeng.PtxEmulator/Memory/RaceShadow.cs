using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Repeng.PtxEmulator.Compilation;

namespace Repeng.PtxEmulator.Memory;

/// <summary>
/// What an actor (a block in global memory, a warp in shared memory) knows of the others: an access that another stamped with tick t happened before
/// everything that this one does now when <see cref="Seen"/> of the other is at least t.
/// </summary>
internal sealed class ActorClock
{
    public uint Now;

    public uint[]? Seen;

    public bool IsAfter(uint actor, uint tick) => Seen is { } seen && actor < (uint)seen.Length && seen[actor] >= tick;

    public void Join(uint[] other, int actors)
    {
        Seen ??= new uint[actors];
        for (int i = 0; i < Math.Min(other.Length, Seen.Length); i++)
            Seen[i] = Math.Max(Seen[i], other[i]);
    }
}

/// <summary>
/// Last writer and readers of every word of four bytes, in the manner of FastTrack (Flanagan and Freund, PLDI 2009): one epoch for writes, one epoch or a set for reads.
/// An entry holds a tick (28 bits), the bytes concerned (4), a flag for atomic or volatile writes (1) and the actor (31). Words that several actors use byte by byte
/// go to a dictionary with an entry a byte.
/// </summary>
internal sealed unsafe class RaceShadow : IDisposable
{
    private const uint Many = 0x7fff_ffff, Split = 0x7fff_fffe, ActorMask = 0x7fff_ffff;
    private const ulong StrongFlag = 1ul << 31;
    private const int TickShift = 36, MaskShift = 32;

    private static readonly Vector512<ulong> s_places = Vector512.Create(0ul, 1, 2, 3, 4, 5, 6, 7);

    private readonly long _words;

    /// <summary>Readers are a set of up to 31 warps, instead of one block or "many".</summary>
    private readonly bool _readerSet;
    private readonly Dictionary<long, (ulong[] Writers, ulong[] Readers)> _split = [];
    private ulong* _writers;
    private ulong* _readers;

    public RaceShadow(long bytes, bool readerSet)
    {
        _words = (bytes + 3) / 4;
        _readerSet = readerSet;
        // Eight words more: the fast path works on whole vectors.
        _writers = (ulong*)NativeMemory.AllocZeroed((nuint)(_words + 8), 8);
        _readers = (ulong*)NativeMemory.AllocZeroed((nuint)(_words + 8), 8);
    }

    public const uint LastTick = (1u << 27) - 1;

    public void Clear()
    {
        NativeMemory.Clear(_writers, (nuint)(_words + 8) * 8);
        NativeMemory.Clear(_readers, (nuint)(_words + 8) * 8);
        _split.Clear();
    }

    private ulong Entry(uint tick, uint mask, bool strong, uint actor) => ((ulong)tick << TickShift) | ((ulong)mask << MaskShift) | (strong ? StrongFlag : 0) | actor;

    private ulong ReaderBits(uint actor) => _readerSet ? 1ul << (int)Math.Min(actor, 30) : actor;

    /// <summary>
    /// Notes plain accesses of a warp's lanes, from byte <paramref name="first"/>. False at the first conflict, unless <paramref name="all"/>: then the rest is noted all the same.
    /// </summary>
    public bool Note(AccessPattern pattern, long first, bool write, uint actor, ActorClock clock, uint start, bool all = false)
    {
        if (pattern.WholeWords && (write ? WriteWords(pattern.Runs, first, actor, clock, start) : ReadWords(pattern.Runs, first, actor, clock, start)))
            return true;
        bool fine = true;
        foreach (Run run in pattern.Runs)
            for (long b = first + run.Offset, end = b + run.Bytes; b < end;)
            {
                int inWord = (int)(b & 3), take = (int)Math.Min(4 - inWord, end - b);
                fine &= Access(b >> 2, ((1u << take) - 1) << inWord, write, false, actor, clock, start) < 0;
                if (!fine && !all)
                    return false;
                b += take;
            }

        return fine;
    }

    /// <summary>Reads of whole words. False when a word needs a closer look; what was noted until then may be noted again.</summary>
    private bool ReadWords(ReadOnlySpan<Run> runs, long first, uint actor, ActorClock clock, uint start)
    {
        Vector512<ulong> oldest = Vector512.Create((ulong)start << TickShift), me = Vector512.Create((ulong)actor), actors = Vector512.Create((ulong)ActorMask), split = Vector512.Create((ulong)Split);
        Vector512<ulong> mine = Vector512.Create(Entry(clock.Now, 15, false, 0) | ReaderBits(actor));
        Vector512<ulong> many = Vector512.Create(Entry(clock.Now, 15, false, Many)), full = Vector512.Create(15ul << MaskShift);
        bool set = _readerSet;
        foreach (Run run in runs)
        {
            long word = (first + run.Offset) >> 2;
            ulong* w = _writers + word;
            ulong* r = _readers + word;
            for (int left = run.Bytes >> 2; left > 0; left -= 8, w += 8, r += 8)
            {
                Vector512<ulong> writer = Vector512.Load(w), reader = Vector512.Load(r);
                Vector512<ulong> readers = reader & actors, stale = Vector512.LessThan(reader, oldest);
                Vector512<ulong> whole = Vector512.AndNot(Vector512.Equals(reader & full, full), Vector512.Equals(readers, split));
                Vector512<ulong> fine = (Vector512.LessThan(writer, oldest) | Vector512.Equals(writer & actors, me)) & (stale | whole);
                Vector512<ulong> next = set ? mine | Vector512.AndNot(readers, stale) : Vector512.ConditionalSelect(stale | Vector512.Equals(readers, me), mine, many);
                if (left < 8)
                {
                    // Words behind the range keep what they have.
                    Vector512<ulong> within = Vector512.LessThan(s_places, Vector512.Create((ulong)left));
                    fine |= ~within;
                    next = Vector512.ConditionalSelect(within, next, reader);
                }

                if (fine != Vector512<ulong>.AllBitsSet)
                    return false;
                next.Store(r);
            }
        }

        return true;
    }

    /// <summary>Writes of whole words. False when a word needs a closer look.</summary>
    public bool WriteWords(ReadOnlySpan<Run> runs, long first, uint actor, ActorClock clock, uint start)
    {
        Vector512<ulong> oldest = Vector512.Create((ulong)start << TickShift), me = Vector512.Create((ulong)actor), actors = Vector512.Create((ulong)ActorMask);
        Vector512<ulong> mine = Vector512.Create(Entry(clock.Now, 15, false, actor)), mineRead = Vector512.Create(ReaderBits(actor));
        foreach (Run run in runs)
        {
            long word = (first + run.Offset) >> 2;
            ulong* w = _writers + word;
            ulong* r = _readers + word;
            for (int left = run.Bytes >> 2; left > 0; left -= 8, w += 8, r += 8)
            {
                Vector512<ulong> writer = Vector512.Load(w), reader = Vector512.Load(r), next = mine;
                Vector512<ulong> fine = (Vector512.LessThan(writer, oldest) | Vector512.Equals(writer & actors, me))
                    & (Vector512.LessThan(reader, oldest) | Vector512.Equals(reader & actors, mineRead));
                if (left < 8)
                {
                    Vector512<ulong> within = Vector512.LessThan(s_places, Vector512.Create((ulong)left));
                    fine |= ~within;
                    next = Vector512.ConditionalSelect(within, next, writer);
                }

                if (fine != Vector512<ulong>.AllBitsSet)
                    return false;
                next.Store(w);
            }
        }

        return true;
    }

    /// <summary>
    /// Notes an access to bytes of one word. Gives the conflicting actor, or −1 when all is well.
    /// <paramref name="strong"/>: atomic or volatile, which never races with its like.
    /// </summary>
    public long Access(long word, uint mask, bool write, bool strong, uint actor, ActorClock clock, uint start)
    {
        ulong w = _writers[word], r = _readers[word];
        bool writerNow = (uint)(w >> TickShift) >= start, readerNow = (uint)(r >> TickShift) >= start;
        if (!writerNow)
            w = 0;
        if (!readerNow)
            r = 0;
        if (writerNow && (w & ActorMask) == Split)
            return AccessSplit(word, mask, write, strong, actor, clock, start);
        bool otherWriter = writerNow && (w & ActorMask) != actor && !clock.IsAfter((uint)(w & ActorMask), (uint)(w >> TickShift));
        bool otherReader = readerNow && !ReadersAreBefore(r, actor, clock);
        uint writtenBytes = (uint)(w >> MaskShift) & 15, readBytes = (uint)(r >> MaskShift) & 15;
        if ((otherWriter && (writtenBytes != 15 || mask != 15)) || (otherReader && (readBytes != 15 || mask != 15)))
        {
            // Several actors share the word: keep an entry a byte from now on.
            var writers = new ulong[4];
            var readers = new ulong[4];
            for (int b = 0; b < 4; b++)
            {
                writers[b] = (writtenBytes >> b & 1) != 0 ? w : 0;
                readers[b] = (readBytes >> b & 1) != 0 ? r : 0;
            }

            _split[word] = (writers, readers);
            _writers[word] = Entry(LastTick, 15, false, Split);
            _readers[word] = Entry(LastTick, 15, false, Split);
            return AccessSplit(word, mask, write, strong, actor, clock, start);
        }

        if (otherWriter && (writtenBytes & mask) != 0 && !(strong && (w & StrongFlag) != 0))
            return (long)(w & ActorMask);
        if (write)
        {
            if (otherReader && (readBytes & mask) != 0)
                return ReaderName(r, actor);
            bool sameWriter = writerNow && (w & ActorMask) == actor;
            _writers[word] = Entry(clock.Now, sameWriter ? writtenBytes | mask : mask, strong, actor);
        }
        else if (!strong)
        {
            _readers[word] = NextReader(r, readerNow && (otherReader || _readerSet), mask, actor, clock);
        }

        return -1;
    }

    private ulong NextReader(ulong r, bool keep, uint mask, uint actor, ActorClock clock)
    {
        uint bytes = keep || (r & ActorMask) == ReaderBits(actor) ? ((uint)(r >> MaskShift) & 15) | mask : mask;
        if (_readerSet)
        {
            // Readers that are ordered before this one need not be remembered under its tick: who comes after it comes after them.
            ulong before = 0;
            for (uint bits = keep ? (uint)(r & ActorMask) : 0; bits != 0; bits &= bits - 1)
            {
                int reader = System.Numerics.BitOperations.TrailingZeroCount(bits);
                if (!clock.IsAfter((uint)reader, (uint)(r >> TickShift)))
                    before |= 1ul << reader;
            }

            return Entry(clock.Now, bytes, false, 0) | ReaderBits(actor) | before;
        }

        return Entry(clock.Now, bytes, false, keep ? Many : actor);
    }

    /// <summary>Whether every reader of an entry is this actor or ordered before it.</summary>
    private bool ReadersAreBefore(ulong r, uint actor, ActorClock clock)
    {
        uint tick = (uint)(r >> TickShift), who = (uint)(r & ActorMask);
        if (_readerSet)
        {
            for (uint bits = who & ~(uint)ReaderBits(actor); bits != 0; bits &= bits - 1)
                if (!clock.IsAfter((uint)System.Numerics.BitOperations.TrailingZeroCount(bits), tick))
                    return false;
            return true;
        }

        if (who == actor)
            return true;
        if (who != Many)
            return clock.IsAfter(who, tick);
        if (clock.Seen is not { } seen)
            return false;
        for (uint a = 0; a < seen.Length; a++)
            if (a != actor && seen[a] < tick)
                return false;
        return true;
    }

    private long ReaderName(ulong r, uint actor)
    {
        uint who = (uint)(r & ActorMask);
        if (!_readerSet)
            return who == Many ? Many : who;
        uint others = who & ~(uint)ReaderBits(actor);
        return System.Numerics.BitOperations.TrailingZeroCount(others);
    }

    /// <summary>True when the actor that <see cref="Access"/> gave stands for several.</summary>
    public static bool IsMany(long actor) => actor == Many;

    private long AccessSplit(long word, uint mask, bool write, bool strong, uint actor, ActorClock clock, uint start)
    {
        if (!_split.TryGetValue(word, out (ulong[] Writers, ulong[] Readers) bytes))
            _split[word] = bytes = (new ulong[4], new ulong[4]);
        for (int b = 0; b < 4; b++)
        {
            if ((mask >> b & 1) == 0)
                continue;
            ulong w = bytes.Writers[b], r = bytes.Readers[b];
            if ((uint)(w >> TickShift) >= start && (w & ActorMask) != actor && !clock.IsAfter((uint)(w & ActorMask), (uint)(w >> TickShift)) && !(strong && (w & StrongFlag) != 0))
                return (long)(w & ActorMask);
            bool readerNow = (uint)(r >> TickShift) >= start, otherReader = readerNow && !ReadersAreBefore(r, actor, clock);
            if (write)
            {
                if (otherReader)
                    return ReaderName(r, actor);
                bytes.Writers[b] = Entry(clock.Now, 15, strong, actor);
            }
            else if (!strong)
            {
                bytes.Readers[b] = NextReader(r, readerNow && (otherReader || _readerSet), 15, actor, clock);
            }
        }

        return -1;
    }

    public void Dispose()
    {
        NativeMemory.Free(_writers);
        NativeMemory.Free(_readers);
        _writers = _readers = null;
        GC.SuppressFinalize(this);
    }

    ~RaceShadow()
    {
        NativeMemory.Free(_writers);
        NativeMemory.Free(_readers);
    }
}
