using System.Diagnostics;
using System.Net;
using Microsoft.Win32.SafeHandles;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Hub;

/// <summary>
/// Fetches one file into a growing partial file. Ranges are fetched side by side but written in order, so that whatever
/// a killed process leaves is the beginning of the file, and the next run, or huggingface_hub, goes on behind it.
/// Size and hash are checked before the file counts.
/// </summary>
internal sealed class BlobDownload(HubHttp http, HubSettings settings, HubListener listener, HubReference reference, HubFile file, Uri url, string etag, long? size, string partial)
{
    private const int ReadAtOnce = 1 << 20;
    // From a near server small ranges are faster: what came is written while it is still in the processor's cache
    // (docs/decisions.md). Over a longer way every request
    // costs its time, and large ranges are.
    private const int NearRange = 1 << 19, FarRange = 8 << 20;
    // The first answers come slowly from everywhere: connections are made, code is compiled.
    private const int AnswersToJudgeBy = 16;
    // A near server's stream is kept while it is as fast as this; a slower one may be held back by the connection.
    private const long StreamWindow = 16 << 20, StreamBytesPerSecond = 50 << 20;
    private readonly string _what = $"{reference}, {file.Name}";
    // Where the hub sends on to, so that it is not asked for every range; forgotten when that place refuses.
    private volatile Uri? _place;
    private string? _placeEtag;
    private TimeSpan _latency = TimeSpan.MaxValue;
    private int _answers;
    // Whether one connection to a near server was too slow to be all.
    private bool _narrow;
    private long _kept;
    private long _flushed;
    // Bytes that a flush has brought to the disk.
    private long _safe;
    private Task _flush = Task.CompletedTask;

    /// <summary>Fetches what is missing, checks all, and leaves the whole file under the partial name.</summary>
    public async Task Run(CancellationToken stop)
    {
        for (bool again = false; ; again = true)
        {
            using SafeFileHandle output = Open();
            // A part that is longer than the file, or of a file whose length nobody knows, is of no use.
            if (RandomAccess.GetLength(output) > (size ?? 0))
                RandomAccess.SetLength(output, 0);
            long had = RandomAccess.GetLength(output);
            CheckSpace(had);
            listener.Begin(file.Name, size ?? -1, had);
            using var hash = new BlobHash(etag, size ?? -1);
            HashPrefix(output, hash, had, stop);
            (_kept, _flushed, _safe) = (had, had, 0);
            try
            {
                if (size is null || had < size)
                    await Fetch(output, hash, stop);
            }
            finally
            {
                // The file must not be closed under it, and what it did not bring to the disk must not count as kept.
                await Flushed(output);
            }
            string found = hash.Finish();
            if (found == etag)
            {
                if (hash.Kind is null)
                    listener.Note($"{_what}: this server names no hash; the file is checked by its size alone");
                StartFlush(output);
                await Flushed(output);
                return;
            }
            long length = RandomAccess.GetLength(output);
            RandomAccess.SetLength(output, 0);
            if (had == 0 || again)
            {
                output.Dispose();
                File.Delete(partial);
                throw new UserErrorException($"{_what}: the {hash.Kind} of the {length} bytes that came is {found}, the server names {etag}; nothing of it was kept, run it again, and if that helps not the file on the server is damaged");
            }
            listener.Received(file.Name, -length);
            listener.Note($"{_what}: the {had} bytes that an earlier run left do not fit; the file is fetched anew");
        }
    }

    private SafeFileHandle Open()
    {
        try
        {
            return File.OpenHandle(partial, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw CannotWrite(e);
        }
    }

    private void CheckSpace(long had)
    {
        long free = settings.FreeBytes(Path.GetDirectoryName(partial)!);
        if (size - had > free)
            throw new UserErrorException($"{_what}: {size - had} bytes are still to come, {free} bytes are free in {settings.CacheFolder}; free space, or name a cache on another disk by HF_HOME");
    }

    private static void HashPrefix(SafeFileHandle output, BlobHash hash, long length, CancellationToken stop)
    {
        byte[] part = new byte[(int)Math.Min(length, 1 << 20)];
        for (long done = 0; done < length;)
        {
            stop.ThrowIfCancellationRequested();
            int count = RandomAccess.Read(output, part.AsSpan(0, (int)Math.Min(part.Length, length - done)), done);
            if (count == 0)
                throw new EndOfStreamException("the partial file became shorter while it was read");
            hash.Append(part.AsSpan(0, count));
            done += count;
        }
    }

    private int NextRange => settings.RangeBytes ?? (_narrow || _answers >= AnswersToJudgeBy && _latency > settings.NearLatency ? FarRange : NearRange);

    private async Task Fetch(SafeFileHandle output, BlobHash hash, CancellationToken stop)
    {
        // The first request decides: a server that answers with everything gives one stream, else ranges go side by side.
        long first = _kept;
        bool ranges = size is { } all && (first > 0 || all > NextRange);
        int range = NextRange;
        HubAnswer answer = await Ask(ranges ? (first, Math.Min(first + range, size!.Value) - 1) : null, stop);
        if (answer.Response.StatusCode != HttpStatusCode.PartialContent)
        {
            await OneStream(answer, output, hash, stop);
            return;
        }
        await Ranges(answer, range, output, hash, stop);
        if (_kept < size)
            await NearStream(output, hash, stop);
        if (_kept < size)
            await Ranges(null, NextRange, output, hash, stop);
    }

    /// <summary>
    /// The rest as one answer: a near server fills the processor with one connection, and every further request would only cost.
    /// Reading, writing and hashing overlap. Ends early where the stream is slow.
    /// </summary>
    private async Task NearStream(SafeFileHandle output, BlobHash hash, CancellationToken stop)
    {
        byte[] part = new byte[NearRange], other = new byte[NearRange];
        Task append = Task.CompletedTask;
        for (int failures = 0; _kept < size;)
        {
            long before = _kept;
            HubAnswer? answer = null;
            try
            {
                answer = await Ask((_kept, size!.Value - 1), stop);
                if (answer.Response.StatusCode != HttpStatusCode.PartialContent)
                    throw new UserErrorException($"{_what}: the server answered some ranges and not others; nothing more was fetched, run it again to go on");
                await using Stream body = await answer.Response.Content.ReadAsStreamAsync(stop);
                var window = Stopwatch.StartNew();
                long inWindow = 0;
                for (long at = _kept; at < size;)
                {
                    int count = await Fill(body, part.AsMemory(0, (int)Math.Min(part.Length, size.Value - at)), 0, stop);
                    if (count == 0)
                        throw new IOException("the connection was closed early");
                    await append;
                    ReadOnlyMemory<byte> bytes = part.AsMemory(0, count);
                    append = Task.Run(() => Append(output, hash, bytes), CancellationToken.None);
                    (part, other) = (other, part);
                    at += count;
                    inWindow += count;
                    if (inWindow < StreamWindow)
                        continue;
                    if (inWindow / window.Elapsed.TotalSeconds < StreamBytesPerSecond)
                    {
                        _narrow = true;
                        return;
                    }
                    window.Restart();
                    inWindow = 0;
                }
            }
            catch (PartialReadException e)
            {
                // What came of this part counts, so that a server that breaks off before every part is full gets on too.
                await append;
                await Append(output, hash, part.AsMemory(0, e.Got));
                failures = await Broken(e.InnerException!, _kept > before, failures, stop);
            }
            catch (Exception e) when (HubHttp.IsBroken(e, stop))
            {
                await append;
                failures = await Broken(e, _kept > before, failures, stop);
            }
            finally
            {
                answer?.Dispose();
                await append;
            }
        }
    }

    // Known after some answers; where a size of ranges is set, they are wanted.
    private bool IsNear => settings.RangeBytes is null && !_narrow && _answers >= AnswersToJudgeBy && _latency <= settings.NearLatency;

    /// <summary>Ranges side by side up to the end, or until the server turns out to be near.</summary>
    private async Task Ranges(HubAnswer? firstAnswer, int firstRange, SafeFileHandle output, BlobHash hash, CancellationToken stop)
    {
        using CancellationTokenSource all = CancellationTokenSource.CreateLinkedTokenSource(stop);
        var flying = new Queue<Task<(byte[] Bytes, int Count)>>();
        var spare = new Stack<byte[]>();
        long next = _kept;
        HubAnswer? answer = firstAnswer;
        try
        {
            while (next < size && !IsNear || flying.Count > 0)
            {
                while (next < size && !IsNear && flying.Count < settings.Connections)
                    Start();
                (byte[] bytes, int count) = await flying.Dequeue();
                if (next < size && !IsNear)
                    Start();
                await Append(output, hash, bytes.AsMemory(0, count));
                spare.Push(bytes);
            }
            // A second try knows from the first that the server is near.
            answer?.Dispose();
        }
        catch
        {
            // No range may write into its memory when nobody waits for it any more.
            await all.CancelAsync();
            foreach (Task<(byte[], int)> task in flying)
                await task.ContinueWith(static t => _ = t.Exception, TaskScheduler.Default);
            throw;
        }

        void Start()
        {
            int count = (int)Math.Min(answer is null ? NextRange : firstRange, size!.Value - next);
            byte[] bytes = spare.TryPop(out byte[]? used) && used.Length >= count ? used : GC.AllocateUninitializedArray<byte>(count);
            HubAnswer? given = answer;
            answer = null;
            long from = next;
            flying.Enqueue(Task.Run(async () =>
            {
                await Range(given, from, bytes.AsMemory(0, count), all.Token);
                return (bytes, count);
            }, CancellationToken.None));
            next += count;
        }
    }

    /// <summary>Fills memory with the bytes from an offset on, with as many requests as it takes.</summary>
    private async Task Range(HubAnswer? answer, long from, Memory<byte> into, CancellationToken stop)
    {
        int got = 0;
        for (int failures = 0; ;)
        {
            int before = got;
            try
            {
                answer ??= await Ask((from + got, from + into.Length - 1), stop);
                if (answer.Response.StatusCode != HttpStatusCode.PartialContent)
                    throw new UserErrorException($"{_what}: the server answered some ranges and not others; nothing more was fetched, run it again to go on");
                await using Stream body = await answer.Response.Content.ReadAsStreamAsync(stop);
                got = await Fill(body, into, got, stop);
                if (got == into.Length)
                    return;
                throw new IOException("the connection was closed early");
            }
            catch (Exception e) when (HubHttp.IsBroken(e, stop))
            {
                failures = await Broken(e, got > before, failures, stop);
            }
            catch (PartialReadException e)
            {
                got = e.Got;
                failures = await Broken(e.InnerException!, got > before, failures, stop);
            }
            finally
            {
                answer?.Dispose();
                answer = null;
            }
        }
    }

    private async Task<int> Fill(Stream body, Memory<byte> into, int got, CancellationToken stop)
    {
        using CancellationTokenSource stall = CancellationTokenSource.CreateLinkedTokenSource(stop);
        try
        {
            while (got < into.Length)
            {
                stall.CancelAfter(settings.StallTimeout);
                int count = await body.ReadAsync(into.Slice(got, Math.Min(ReadAtOnce, into.Length - got)), stall.Token);
                if (count == 0)
                    break;
                got += count;
                listener.Received(file.Name, count);
            }
            return got;
        }
        catch (Exception e) when (HubHttp.IsBroken(e, stop))
        {
            throw new PartialReadException(got, e);
        }
    }

    /// <summary>Reads answers that begin at the first byte, and skips what is there already when one broke off.</summary>
    private async Task OneStream(HubAnswer? answer, SafeFileHandle output, BlobHash hash, CancellationToken stop)
    {
        byte[] part = new byte[1 << 18];
        for (int failures = 0; ;)
        {
            long before = _kept;
            try
            {
                answer ??= await Ask(null, stop);
                await using Stream body = await answer.Response.Content.ReadAsStreamAsync(stop);
                long at = 0;
                while (true)
                {
                    int count = await Fill(body, part, 0, stop);
                    if (count == 0)
                        break;
                    // What came before a break is there already.
                    int skip = (int)Math.Clamp(_kept - at, 0, count);
                    at += count;
                    if (at > (size ?? long.MaxValue))
                        throw new UserErrorException($"{_what}: the server sends more than the {size} bytes that it names; nothing more was fetched");
                    if (skip > 0)
                        listener.Received(file.Name, -skip);
                    if (skip < count)
                        await Append(output, hash, part.AsMemory(skip, count - skip));
                }
                if (size is null || at == size)
                    return;
                throw new IOException("the connection was closed early");
            }
            catch (PartialReadException e)
            {
                // Bytes of this part were not written; they come again.
                listener.Received(file.Name, -e.Got);
                failures = await Broken(e.InnerException!, _kept > before, failures, stop);
            }
            catch (Exception e) when (HubHttp.IsBroken(e, stop))
            {
                failures = await Broken(e, _kept > before, failures, stop);
            }
            finally
            {
                answer?.Dispose();
                answer = null;
            }
        }
    }

    private async Task<int> Broken(Exception e, bool progress, int failures, CancellationToken stop)
    {
        failures = progress ? 1 : failures + 1;
        if (failures >= settings.Attempts)
            throw new UserErrorException($"{_what}: the connection broke {failures} times without a new byte ({HubErrors.Reason(e)}); {_kept} of {size?.ToString(System.Globalization.CultureInfo.InvariantCulture) ?? "unknown"} bytes are kept in {settings.CacheFolder}, run it again to go on", e);
        await http.Pause(_what, $"the connection broke ({HubErrors.Reason(e)})", failures, null, stop);
        return failures;
    }

    private async Task<HubAnswer> Ask((long From, long To)? range, CancellationToken stop)
    {
        for (bool again = false; ; again = true)
        {
            // Another range may meanwhile have put back the address that just ran out.
            Uri place = again ? url : _place ?? url;
            var watch = Stopwatch.StartNew();
            HubAnswer answer = await http.Send(HttpMethod.Get, place, _what, follow: true, range, patient: true, stop);
            // The shortest counts: a request that was sent on or had to wait for a connection says nothing of the way.
            _latency = watch.Elapsed < _latency ? watch.Elapsed : _latency;
            Interlocked.Increment(ref _answers);
            try
            {
                // The addresses of stores are signed for some time only.
                if (!answer.Response.IsSuccessStatusCode && place != url && !again)
                {
                    Interlocked.CompareExchange(ref _place, null, place);
                    answer.Dispose();
                    continue;
                }
                Check(answer, range);
                if (answer.From != url)
                    _place = answer.From;
                return answer;
            }
            catch
            {
                answer.Dispose();
                throw;
            }
        }
    }

    private void Check(HubAnswer answer, (long From, long To)? range)
    {
        HttpResponseMessage r = answer.Response;
        if (r.StatusCode is not (HttpStatusCode.OK or HttpStatusCode.PartialContent))
            // The hub described the file a moment ago.
            throw r.StatusCode == HttpStatusCode.NotFound ? new HubFileChangedException($"{_what}: was removed from the server while it was fetched")
                : r.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable
                ? new UserErrorException($"{_what}: the server has nothing behind byte {range?.From}, though it names {size} bytes; the repository changes or the server is at fault, run it again")
                : HubErrors.Refused(r, reference, file.Name, settings);
        if (answer.Hub.Etag is { } now && now != etag)
            throw new HubFileChangedException($"{_what}: changed on the server while it was fetched (etag {etag}, now {now})");
        if (answer.From.Authority != url.Authority && r.Headers.ETag is { IsWeak: false } store && Interlocked.CompareExchange(ref _placeEtag, store.Tag, null) is { } before && before != store.Tag)
            throw new HubFileChangedException($"{_what}: changed in the server's store while it was fetched (etag {before}, now {store.Tag})");
        if (r.StatusCode == HttpStatusCode.PartialContent)
        {
            var said = r.Content.Headers.ContentRange;
            if (range is not { } asked || said?.From != asked.From || said.To != asked.To)
                throw new UserErrorException($"{_what}: the server was asked for bytes {range?.From}-{range?.To} and answers with {said?.ToString() ?? "a part that it does not name"}");
            if (said.Length is { } total && total != size)
                throw WrongSize(total);
        }
        else if (size is { } known && r.Content.Headers.ContentLength is { } length && length != known)
            throw WrongSize(length);
    }

    private UserErrorException WrongSize(long said) => new($"{_what}: the server names {size} bytes and sends {said}; nothing more was fetched, run it again, and if that helps not the file on the server is damaged");

    private async Task Append(SafeFileHandle output, BlobHash hash, ReadOnlyMemory<byte> bytes)
    {
        // Hashing takes as long as writing; large parts get a thread for it.
        // Whether it did is not asked of the task: a quick one is done at once, and its bytes would count twice.
        bool beside = bytes.Length >= 1 << 18;
        Task hashed = beside ? Task.Run(() => hash.Append(bytes.Span)) : Task.CompletedTask;
        if (!beside)
            hash.Append(bytes.Span);
        try
        {
            settings.Write(output, bytes.Span, _kept);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw CannotWrite(e);
        }
        finally
        {
            await hashed;
        }
        _kept += bytes.Length;
        if (_kept - _flushed < settings.FlushEvery || !_flush.IsCompleted)
            return;
        await Flushed(output);
        StartFlush(output);
    }

    private void StartFlush(SafeFileHandle output)
    {
        long end = _flushed = _kept;
        _flush = Task.Run(() =>
        {
            settings.Flush(output);
            _safe = end;
        });
    }

    /// <summary>Waits for the flush that was started last. A failure is told by the system once only: a later flush of the same file succeeds without the lost bytes.</summary>
    private async Task Flushed(SafeFileHandle output)
    {
        try
        {
            await _flush;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Bytes that no flush has covered may be read back from memory now and be missing later.
            (_kept, _flush) = (_safe, Task.CompletedTask);
            RandomAccess.SetLength(output, _safe);
            throw CannotWrite(e);
        }
    }

    private UserErrorException CannotWrite(Exception e) => e is IOException io && AtomicFile.IsNoSpace(io)
        ? new UserErrorException($"{_what}: no space left on the disk of {settings.CacheFolder} after {_kept} bytes; they are kept, free space and run it again, or name a cache on another disk by HF_HOME", e)
        : new UserErrorException($"{partial}: cannot be written: {e.Message.ReplaceLineEndings(" ")}; check the permissions, or name another cache by HF_HOME", e);

    // Bytes that came before the connection broke count.
    private sealed class PartialReadException(int got, Exception inner) : Exception("", inner)
    {
        public int Got { get; } = got;
    }
}

/// <summary>The file on the server is another one than when the fetch began.</summary>
internal sealed class HubFileChangedException(string message) : UserErrorException(message);
