using Microsoft.Win32.SafeHandles;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Hub;

/// <summary>
/// A file that is being fetched, always the beginning of what it will be. Bytes are added at its end and flushed now and
/// then; a thread of its own hashes it from its first byte on, as far as it goes: what comes now out of memory where it is
/// still there, all else by reading it. So what an earlier run left is read beside the fetch, never believed; a note of
/// that run (<see cref="HashNote"/>) can spare hashing it, not reading it.
/// </summary>
/// <remarks>Bytes are added by one caller at a time. The thread shares with it what the lock guards and nothing else.</remarks>
internal sealed class PartialFile : IAsyncDisposable
{
    // Small enough to be hashed while it is in the processor's cache.
    private const int HashAtOnce = 1 << 18;
    // Parts in memory; what the hash lags behind them is read back from the file.
    private const int MostKept = 12;
    // Written to the page cache by the core that received it, before anything else takes its place in that core's own cache.
    private const int CachedPart = 1 << 17;
    private readonly HubSettings _settings;
    private readonly string _what;
    private readonly string _path;
    private readonly SafeFileHandle _file;
    private readonly BlobHash _hash;
    private readonly Task _hashing;
    private readonly HashNote? _note;
    private readonly object _lock = new();
    // Guarded: how far the file goes and has to go before the thread has a part to do, whether nothing more is added,
    // whether nobody wants the hash any more.
    private long _length, _wanted;
    private bool _complete, _dropped;
    // Guarded: what was handed over and not hashed yet, in order, each where it lies in the file; and memory that is free again.
    private readonly Queue<Kept> _kept = new();
    private readonly Stack<FilePart> _free = new();
    // The thread's own: the sum of what it hashed, and where the next note is due.
    private QuickSum _sum = new();
    private long _nextNote;
    private Task<bool> _comparing = Task.FromResult(true);
    // Opened with the first part that may be written by it.
    private DirectFile? _direct;
    private bool _triedDirect;
    // Bytes in the page cache that no flush has been started for.
    private long _unflushed;
    // Bytes that a flush has brought to the disk.
    private long _safe;
    private Task _flush = Task.CompletedTask;

    /// <summary>Opens or makes it and begins to hash what it holds.</summary>
    /// <param name="what">What error messages call the file.</param>
    /// <param name="etag">What the hash will be compared with, which says which hash it is.</param>
    /// <param name="size">Bytes of the whole; null where the server does not tell.</param>
    /// <exception cref="UserErrorException">It cannot be opened.</exception>
    public PartialFile(string path, string what, string etag, long? size, HubSettings settings)
    {
        (_path, _what, _settings) = (path, what, settings);
        try
        {
            _file = File.OpenHandle(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw CannotWrite(e);
        }
        // A part that is longer than the file, or of a file whose length nobody knows, is of no use.
        if (RandomAccess.GetLength(_file) > (size ?? 0))
            RandomAccess.SetLength(_file, 0);
        Had = _length = _safe = RandomAccess.GetLength(_file);
        _hash = new BlobHash(etag, size ?? -1);
        if (_hash.Kept is not null && size >= 2 * settings.NoteEvery)
            _note = new HashNote(path + ".hash");
        // Not a thread of the pool: it is there for as long as the fetch, and those are few and serve the network.
        _hashing = _hash.Kind is null ? Task.CompletedTask : Task.Factory.StartNew(HashAll, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    /// <summary>Bytes that were there before.</summary>
    public long Had { get; }

    /// <summary>Bytes that are there; any thread may ask.</summary>
    public long Length => Volatile.Read(ref _length);

    /// <summary>Name of the hash; null where the etag is none and nothing can be checked.</summary>
    public string? HashKind => _hash.Kind;

    /// <summary>Bytes of a part that are best filled before it is handed over; less where that brings its end to a multiple of them.</summary>
    public int PartSize => PastCache && (_direct?.IsOn ?? !_triedDirect) ? FilePart.Size : CachedPart;

    /// <summary>Whether parts that are handed over may be written past the page cache: where they come faster than most disks write.</summary>
    public bool PastCache { get; set; }

    /// <summary>Memory that is to be filled and handed over to <see cref="Append(FilePart, int, int)"/>.</summary>
    public FilePart Rent()
    {
        lock (_lock)
            return _free.TryPop(out FilePart? free) ? free : new FilePart();
    }

    /// <summary>Adds bytes out of memory that was rented; it is the file's again.</summary>
    /// <inheritdoc cref="Append(ReadOnlyMemory{byte})"/>
    public async ValueTask Append(FilePart part, int from, int count)
    {
        if (PastCache && !_triedDirect)
            (_direct, _triedDirect) = (DirectFile.TryOpen(_path), true);
        ReadOnlyMemory<byte> bytes = part.Memory.Slice(from, count);
        // Whole pages from the beginning of one.
        int direct = from == 0 && _length % DirectFile.Align == 0 ? count & -DirectFile.Align : 0;
        if (direct == 0 || !PastCache || _direct is not { IsOn: true } || !_direct.TryWrite(_settings.Write, bytes.Span[..direct], _length))
            direct = 0;
        await Added(bytes, direct, new Kept(_length, part, from, count));
    }

    /// <summary>Adds bytes, which the caller may overwrite afterwards.</summary>
    /// <exception cref="UserErrorException">They, or those before them, could not be written, or the file could not be read back.</exception>
    public ValueTask Append(ReadOnlyMemory<byte> bytes) => Added(bytes, 0, null);

    private async ValueTask Added(ReadOnlyMemory<byte> bytes, int written, Kept? kept)
    {
        // What cannot be read back will not be checked: no need to fetch more.
        if (_hashing.IsFaulted)
            await _hashing;
        try
        {
            if (written < bytes.Length)
                _settings.Write(_file, bytes.Span[written..], _length + written);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw CannotWrite(e);
        }
        lock (_lock)
        {
            if (kept is not null && (_kept.Count == MostKept || HashKind is null))
                _free.Push(kept.Part);
            else if (kept is not null)
                _kept.Enqueue(kept);
            _length += bytes.Length;
            if (_length >= _wanted)
                Monitor.Pulse(_lock);
        }
        _unflushed += bytes.Length - written;
        if (_unflushed < _settings.FlushEvery || !_flush.IsCompleted)
            return;
        await Flushed();
        StartFlush();
    }

    /// <summary>Brings all to the disk and gives the hash; the etag itself where there is nothing to check.</summary>
    /// <exception cref="UserErrorException">It could not be written or read back.</exception>
    /// <exception cref="OperationCanceledException">It was stopped.</exception>
    public async Task<string> Finish(CancellationToken stop)
    {
        lock (_lock)
        {
            _complete = true;
            Monitor.Pulse(_lock);
        }
        await Flushed();
        StartFlush();
        await _hashing.WaitAsync(stop);
        await Flushed();
        // Right or wrong, the next run begins anew.
        _note?.Delete();
        return _hash.Finish();
    }

    /// <summary>Takes out all that it holds; it cannot be added to afterwards.</summary>
    public void Clear() => RandomAccess.SetLength(_file, 0);

    /// <summary>Ends the thread and the flush, and closes the file; bytes that a flush lost are taken off.</summary>
    /// <exception cref="UserErrorException">The last flush failed.</exception>
    public async ValueTask DisposeAsync()
    {
        lock (_lock)
        {
            _dropped = true;
            Monitor.Pulse(_lock);
        }
        // Neither may find the file closed under it. Who needs the hash has asked for it in Finish.
        await _hashing.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        try
        {
            await Flushed();
        }
        finally
        {
            _note?.Dispose();
            _hash.Dispose();
            _direct?.Dispose();
            _file.Dispose();
        }
    }

    private void HashAll()
    {
        _nextNote = _note is null ? long.MaxValue : _settings.NoteEvery;
        long at = 0;
        if (Noted() is { } noted)
        {
            // What the note speaks of is read and compared while the hash goes on behind it.
            _comparing = Task.Factory.StartNew(() => Holds(noted), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
            _hash.Kept!.Restore(noted.State, noted.Length);
            (_sum, at, _nextNote) = (new QuickSum(noted.Sum), noted.Length, noted.Length + _settings.NoteEvery);
        }
        HashFrom(at);
        if (_comparing.Result)
            return;
        // The hash is of bytes that were there once.
        _hash.Restart();
        (_sum, _nextNote) = (new QuickSum(), _settings.NoteEvery);
        HashFrom(0);
    }

    // The note of an earlier run, where it can be of this file.
    private HashNote.Content? Noted() => _note?.Read() is { Length: > 0 } noted && noted.Length <= Had && noted.Length % _settings.NoteEvery == 0 ? noted : null;

    /// <summary>Whether the file begins with the bytes that a note is of.</summary>
    private bool Holds(HashNote.Content noted)
    {
        var sum = new QuickSum();
        byte[] part = GC.AllocateUninitializedArray<byte>(HashAtOnce);
        for (long at = 0; at < noted.Length;)
        {
            if (Volatile.Read(ref _dropped))
                return true;
            try
            {
                // Out of the page cache even where it is not there yet: a read past it would take turns with the writes, of which the file system lets one in at a time.
                int count = ReadBack(part.AsSpan(0, (int)Math.Min(part.Length, noted.Length - at)), at);
                sum.Append(part.AsSpan(0, count));
                at += count;
            }
            catch (UserErrorException)
            {
                // Reading it for the hash says the same again.
                return false;
            }
        }
        return sum.Text == noted.Sum;
    }

    private void HashFrom(long at)
    {
        byte[] part = GC.AllocateUninitializedArray<byte>(HashAtOnce);
        while (true)
        {
            Kept? kept = null;
            int count;
            lock (_lock)
            {
                _wanted = at + part.Length;
                while (!_dropped && !_complete && _length < _wanted)
                    Monitor.Wait(_lock);
                while (_kept.TryPeek(out Kept? first) && first.At + first.Count <= at)
                    _free.Push(_kept.Dequeue().Part);
                long end = _length;
                if (_kept.TryPeek(out Kept? next))
                    (kept, end) = next.At <= at ? (next, next.At + next.Count) : (null, next.At);
                count = (int)Math.Min(kept is null ? part.Length : int.MaxValue, end - at);
                if (_dropped || count == 0)
                    return;
            }
            // The memory stays as it is until the queue has lost it, and this thread alone takes from the queue.
            Hash(at, kept is null ? part.AsSpan(0, count = ReadBack(part.AsSpan(0, count), at)) : kept.Part.Memory.Span.Slice(kept.From + (int)(at - kept.At), count));
            at += count;
        }
    }

    private void Hash(long at, ReadOnlySpan<byte> bytes)
    {
        while (_nextNote - at <= bytes.Length)
        {
            ReadOnlySpan<byte> before = bytes[..(int)(_nextNote - at)];
            _hash.Append(before);
            _sum.Append(before);
            _note!.Write(_nextNote, _hash.Kept!.Save(), _sum.Text);
            bytes = bytes[before.Length..];
            at = _nextNote;
            _nextNote += _settings.NoteEvery;
        }
        _hash.Append(bytes);
        if (_note is not null)
            _sum.Append(bytes);
    }

    private int ReadBack(Span<byte> part, long at)
    {
        try
        {
            int count = _settings.Read(_file, part, at);
            return count > 0 ? count : throw new EndOfStreamException("it became shorter while it was fetched");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{_path}: cannot be read back: {e.Message.ReplaceLineEndings(" ")}; {_what} was not checked and does not count, run it again, or name another cache by HF_HOME", e);
        }
    }

    private void StartFlush()
    {
        long end = _length;
        _unflushed = 0;
        // A flush waits for the disk, and most of the time one is on its way: not a thread of the pool either.
        _flush = Task.Factory.StartNew(
            () =>
            {
                _settings.Flush(_file);
                _safe = end;
            }, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    /// <summary>Waits for the flush that was started last. A failure is told by the system once only: a later flush of the same file succeeds without the lost bytes.</summary>
    private async Task Flushed()
    {
        try
        {
            await _flush;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Bytes that no flush has covered may be read back from memory now and be missing later.
            _flush = Task.CompletedTask;
            lock (_lock)
                (_length, _dropped) = (_safe, true);
            RandomAccess.SetLength(_file, _safe);
            throw CannotWrite(e);
        }
    }

    private UserErrorException CannotWrite(Exception e) => e is IOException io && AtomicFile.IsNoSpace(io)
        ? new UserErrorException($"{_what}: no space left on the disk of {_settings.CacheFolder} after {_length} bytes; they are kept, free space and run it again, or name a cache on another disk by HF_HOME", e)
        : new UserErrorException($"{_path}: cannot be written: {e.Message.ReplaceLineEndings(" ")}; check the permissions, or name another cache by HF_HOME", e);

    /// <summary>Bytes of the file that are still in memory.</summary>
    private sealed record Kept(long At, FilePart Part, int From, int Count);
}
