using Microsoft.Win32.SafeHandles;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Hub;

/// <summary>
/// A file that is being fetched, always the beginning of what it will be. Bytes are added at its end and flushed now and
/// then; a thread of its own reads the file from its first byte on, as far as it goes, and hashes it. So what an earlier
/// run left is read beside the fetch, never believed, and what the hash is of is what the file holds.
/// </summary>
/// <remarks>Bytes are added by one caller at a time. The thread shares with it what the lock guards and nothing else.</remarks>
internal sealed class PartialFile : IAsyncDisposable
{
    // Small enough to be hashed while it is in the processor's cache.
    private const int HashAtOnce = 1 << 18;
    private readonly HubSettings _settings;
    private readonly string _what;
    private readonly string _path;
    private readonly SafeFileHandle _file;
    private readonly BlobHash _hash;
    private readonly Task _hashing;
    private readonly object _lock = new();
    // Guarded: how far the file goes and has to go before the thread has a part to do, whether nothing more is added,
    // whether nobody wants the hash any more.
    private long _length, _wanted;
    private bool _complete, _dropped;
    private long _flushed;
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
        Had = _length = _flushed = _safe = RandomAccess.GetLength(_file);
        _hash = new BlobHash(etag, size ?? -1);
        // Not a thread of the pool: it is there for as long as the fetch, and those are few and serve the network.
        _hashing = _hash.Kind is null ? Task.CompletedTask : Task.Factory.StartNew(HashAll, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    /// <summary>Bytes that were there before.</summary>
    public long Had { get; }

    /// <summary>Bytes that are there; any thread may ask.</summary>
    public long Length => Volatile.Read(ref _length);

    /// <summary>Name of the hash; null where the etag is none and nothing can be checked.</summary>
    public string? HashKind => _hash.Kind;

    /// <summary>Adds bytes.</summary>
    /// <exception cref="UserErrorException">They, or those before them, could not be written, or the file could not be read back.</exception>
    public async ValueTask Append(ReadOnlyMemory<byte> bytes)
    {
        // What cannot be read back will not be checked: no need to fetch more.
        if (_hashing.IsFaulted)
            await _hashing;
        try
        {
            _settings.Write(_file, bytes.Span, _length);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw CannotWrite(e);
        }
        lock (_lock)
        {
            _length += bytes.Length;
            if (_length >= _wanted)
                Monitor.Pulse(_lock);
        }
        if (_length - _flushed < _settings.FlushEvery || !_flush.IsCompleted)
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
            _hash.Dispose();
            _file.Dispose();
        }
    }

    private void HashAll()
    {
        byte[] part = GC.AllocateUninitializedArray<byte>(HashAtOnce);
        for (long at = 0; ;)
        {
            int count;
            lock (_lock)
            {
                _wanted = at + part.Length;
                while (!_dropped && !_complete && _length < _wanted)
                    Monitor.Wait(_lock);
                count = (int)Math.Min(part.Length, _length - at);
                if (_dropped || count == 0)
                    return;
            }
            try
            {
                count = _settings.Read(_file, part.AsSpan(0, count), at);
                if (count == 0)
                    throw new EndOfStreamException("it became shorter while it was fetched");
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new UserErrorException($"{_path}: cannot be read back: {e.Message.ReplaceLineEndings(" ")}; {_what} was not checked and does not count, run it again, or name another cache by HF_HOME", e);
            }
            _hash.Append(part.AsSpan(0, count));
            at += count;
        }
    }

    private void StartFlush()
    {
        long end = _flushed = _length;
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
}
