using System.Diagnostics;
using System.Net;
using Repeng.Kernels;

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
    // (docs/decisions.md). Over a longer way every request costs its time, and large ranges are.
    private const int NearRange = 1 << 19, FarRange = 8 << 20;
    // The first answers come slowly from everywhere: connections are made, code is compiled. One that comes quickly is enough.
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

    /// <summary>Fetches what is missing, checks all, and leaves the whole file under the partial name.</summary>
    public async Task Run(CancellationToken stop)
    {
        for (bool again = false; ; again = true)
        {
            await using var output = new PartialFile(partial, _what, etag, size, settings);
            CheckSpace(output.Had);
            listener.Begin(file.Name, size ?? -1, output.Had);
            if (size is null || output.Had < size)
                await Fetch(output, stop);
            string found = await output.Finish(stop);
            if (found == etag)
            {
                if (output.HashKind is null)
                    listener.Note($"{_what}: this server names no hash; the file is checked by its size alone");
                return;
            }
            output.Clear();
            if (output.Had == 0 || again)
            {
                await output.DisposeAsync();
                File.Delete(partial);
                throw new UserErrorException($"{_what}: the {output.HashKind} of the {output.Length} bytes that came is {found}, the server names {etag}; nothing of it was kept, run it again, and if that helps not the file on the server is damaged");
            }
            listener.Received(file.Name, -output.Length);
            listener.Note($"{_what}: the {output.Had} bytes that an earlier run left do not fit; the file is fetched anew");
        }
    }

    private void CheckSpace(long had)
    {
        long free = settings.FreeBytes(Path.GetDirectoryName(partial)!);
        if (size - had > free)
            throw new UserErrorException($"{_what}: {size - had} bytes are still to come, {free} bytes are free in {settings.CacheFolder}; free space, or name a cache on another disk by HF_HOME");
    }

    private int NextRange => settings.RangeBytes ?? (_narrow || _answers >= AnswersToJudgeBy && _latency > settings.NearLatency ? FarRange : NearRange);

    private async Task Fetch(PartialFile output, CancellationToken stop)
    {
        // The first request decides: a server that answers with everything gives one stream, else ranges go side by side.
        long first = output.Length;
        bool ranges = size is { } all && (first > 0 || all > NextRange);
        int range = NextRange;
        HubAnswer answer = await Ask(ranges ? (first, Math.Min(first + range, size!.Value) - 1) : null, stop);
        if (answer.Response.StatusCode != HttpStatusCode.PartialContent)
        {
            await Stream(answer, whole: true, output, stop);
            return;
        }
        await Ranges(answer, range, output, stop);
        if (output.Length < size)
            await Stream(null, whole: false, output, stop);
        if (output.Length < size)
            await Ranges(null, NextRange, output, stop);
    }

    /// <summary>
    /// Takes one answer to its end, and another where one breaks off: of a near server the rest, whose one connection fills
    /// the processor, so that every further request would only cost; of a server that knows no ranges the whole file, of which
    /// what is there is skipped. A rest that comes slowly is left to others.
    /// </summary>
    private async Task Stream(HubAnswer? answer, bool whole, PartialFile output, CancellationToken stop)
    {
        output.PastCache = !whole;
        FilePart part = output.Rent();
        for (int failures = 0; ;)
        {
            long before = output.Length, at = whole ? 0 : before;
            try
            {
                answer ??= await Ask(whole ? null : (at, size!.Value - 1), stop);
                if (!whole)
                    MustBePart(answer);
                await using Stream body = await answer.Response.Content.ReadAsStreamAsync(stop);
                using CancellationTokenSource stall = CancellationTokenSource.CreateLinkedTokenSource(stop);
                var window = Stopwatch.StartNew();
                long inWindow = 0;
                while (await Fill(body, part.Memory[..Wanted(at)], 0, stall, stop) is > 0 and var count)
                {
                    await Take(count);
                    inWindow += count;
                    if (whole || inWindow < StreamWindow)
                        continue;
                    if (at < size && inWindow / window.Elapsed.TotalSeconds < StreamBytesPerSecond)
                    {
                        _narrow = true;
                        return;
                    }
                    window.Restart();
                    inWindow = 0;
                }
                if (size is null || at == size)
                    return;
                throw new IOException("the connection was closed early");
            }
            catch (PartialReadException e)
            {
                // What came of this part counts, so that a server that breaks off before every part is full gets on too.
                await Take(e.Got);
                failures = await Broken(output, e.InnerException!, output.Length > before, failures, stop);
            }
            catch (Exception e) when (HubHttp.IsBroken(e, stop))
            {
                failures = await Broken(output, e, output.Length > before, failures, stop);
            }
            finally
            {
                answer?.Dispose();
                answer = null;
            }

            async ValueTask Take(int count)
            {
                // What came before a break is there already.
                int skip = (int)Math.Clamp(output.Length - at, 0, count);
                at += count;
                if (at > (size ?? long.MaxValue))
                    throw new UserErrorException($"{_what}: the server sends more than the {size} bytes that it names; nothing more was fetched");
                if (skip > 0)
                    listener.Received(file.Name, -skip);
                if (skip == count)
                    return;
                await output.Append(part, skip, count - skip);
                part = output.Rent();
            }

            int Wanted(long from) => output.PartSize - (int)(from % output.PartSize);
        }
    }

    private void MustBePart(HubAnswer answer)
    {
        if (answer.Response.StatusCode != HttpStatusCode.PartialContent)
            throw new UserErrorException($"{_what}: the server answered some ranges and not others; nothing more was fetched, run it again to go on");
    }

    // Where a size of ranges is set, they are wanted.
    private bool IsNear => settings.RangeBytes is null && !_narrow && _latency <= settings.NearLatency;

    /// <summary>Ranges side by side up to the end, or until the server turns out to be near.</summary>
    private async Task Ranges(HubAnswer? firstAnswer, int firstRange, PartialFile output, CancellationToken stop)
    {
        using CancellationTokenSource all = CancellationTokenSource.CreateLinkedTokenSource(stop);
        var flying = new Queue<Task<(byte[] Bytes, int Count)>>();
        var spare = new Stack<byte[]>();
        long next = output.Length;
        HubAnswer? answer = firstAnswer;
        try
        {
            while (next < size && IsWanted() || flying.Count > 0)
            {
                while (next < size && IsWanted() && flying.Count < settings.Connections)
                    Start();
                (byte[] bytes, int count) = await flying.Dequeue();
                if (next < size && !IsNear)
                    Start();
                await output.Append(bytes.AsMemory(0, count));
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

        // An answer that is there is taken, whatever it tells.
        bool IsWanted() => !IsNear || answer is not null;

        void Start()
        {
            int count = (int)Math.Min(answer is null ? NextRange : firstRange, size!.Value - next);
            byte[] bytes = spare.TryPop(out byte[]? used) && used.Length >= count ? used : GC.AllocateUninitializedArray<byte>(count);
            HubAnswer? given = answer;
            answer = null;
            long from = next;
            flying.Enqueue(Task.Run(async () =>
            {
                await Range(given, from, bytes.AsMemory(0, count), output, all.Token);
                return (bytes, count);
            }, CancellationToken.None));
            next += count;
        }
    }

    /// <summary>Fills memory with the bytes from an offset on, with as many requests as it takes.</summary>
    private async Task Range(HubAnswer? answer, long from, Memory<byte> into, PartialFile output, CancellationToken stop)
    {
        int got = 0;
        for (int failures = 0; ;)
        {
            int before = got;
            try
            {
                answer ??= await Ask((from + got, from + into.Length - 1), stop);
                MustBePart(answer);
                await using Stream body = await answer.Response.Content.ReadAsStreamAsync(stop);
                using CancellationTokenSource stall = CancellationTokenSource.CreateLinkedTokenSource(stop);
                got = await Fill(body, into, got, stall, stop);
                if (got == into.Length)
                    return;
                throw new IOException("the connection was closed early");
            }
            catch (Exception e) when (HubHttp.IsBroken(e, stop))
            {
                failures = await Broken(output, e, got > before, failures, stop);
            }
            catch (PartialReadException e)
            {
                got = e.Got;
                failures = await Broken(output, e.InnerException!, got > before, failures, stop);
            }
            finally
            {
                answer?.Dispose();
                answer = null;
            }
        }
    }

    private async Task<int> Fill(Stream body, Memory<byte> into, int got, CancellationTokenSource stall, CancellationToken stop)
    {
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
        finally
        {
            // Writing may take its time.
            stall.CancelAfter(Timeout.InfiniteTimeSpan);
        }
    }

    private async Task<int> Broken(PartialFile output, Exception e, bool progress, int failures, CancellationToken stop)
    {
        failures = progress ? 1 : failures + 1;
        if (failures >= settings.Attempts)
            throw new UserErrorException($"{_what}: the connection broke {failures} times without a new byte ({HubErrors.Reason(e)}); {output.Length} of {size?.ToString(System.Globalization.CultureInfo.InvariantCulture) ?? "unknown"} bytes are kept in {settings.CacheFolder}, run it again to go on", e);
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

    // Bytes that came before the connection broke count.
    private sealed class PartialReadException(int got, Exception inner) : Exception("", inner)
    {
        public int Got { get; } = got;
    }
}

/// <summary>The file on the server is another one than when the fetch began.</summary>
internal sealed class HubFileChangedException(string message) : UserErrorException(message);
