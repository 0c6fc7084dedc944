using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Hub;

/// <summary>
/// Models and adapters of the Hugging Face hub by their names. What is in the cache of huggingface_hub is taken from
/// there; what is missing is fetched into it, so that every program finds it.
/// </summary>
public sealed class ModelHub : IDisposable
{
    private readonly HubSettings _settings;
    private readonly HubListener _listener;
    private readonly HubCache _cache;
    private readonly HubHttp _http;

    /// <param name="settings">Null takes those of the environment.</param>
    /// <param name="listener">Hears of progress; null for nobody.</param>
    public ModelHub(HubSettings? settings = null, HubListener? listener = null)
    {
        _settings = settings ?? HubSettings.FromEnvironment();
        _listener = listener ?? new HubListener();
        _cache = new HubCache(_settings, _listener);
        _http = new HubHttp(_settings, _listener);
    }

    /// <summary>
    /// The folder of a snapshot, or the path of its GGUF file, when the cache has all that is needed of it; else null.
    /// Nothing is asked of the network.
    /// </summary>
    /// <exception cref="UserErrorException">A file of the cache is damaged.</exception>
    public string? Find(HubReference reference, HubContent content = HubContent.Model) => Find(reference, content, lenient: _settings.Offline);

    /// <summary>As <see cref="Find(HubReference, HubContent)"/>; what is missing is fetched.</summary>
    /// <exception cref="UserErrorException">The repository, revision or file does not exist or may not be read, or could not be fetched whole.</exception>
    /// <exception cref="OperationCanceledException">It was stopped; what came is kept for the next time.</exception>
    public string Resolve(HubReference reference, HubContent content = HubContent.Model, CancellationToken stop = default) =>
        Find(reference, content) ?? Fetch(reference, content, stop);

    /// <summary>
    /// Asks the hub what the revision stands for now and fetches what the cache lacks of it. Without a network the cache
    /// serves, with a note, where it is whole.
    /// </summary>
    /// <inheritdoc cref="Resolve"/>
    public string Fetch(HubReference reference, HubContent content = HubContent.Model, CancellationToken stop = default)
    {
        if (_settings.Offline)
            return Find(reference, content, lenient: true)
                ?? throw new UserErrorException($"{reference}: is not whole in the cache {_settings.CacheFolder}, and HF_HUB_OFFLINE forbids to fetch it; unset HF_HUB_OFFLINE, or name the cache that has it by HF_HOME");
        try
        {
            return Task.Run(() => FetchNow(reference, content, stop), CancellationToken.None).GetAwaiter().GetResult();
        }
        catch (HubUnreachableException e) when (Find(reference, content, lenient: true) is { } cached)
        {
            _listener.Note($"{e.Message}; taken from the cache: {cached}");
            return cached;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{reference}: the cache {_settings.CacheFolder} cannot be used: {e.Message.ReplaceLineEndings(" ")}; check its permissions, or name another by HF_HOME", e);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _http.Dispose();

    private string? Find(HubReference reference, HubContent content, bool lenient)
    {
        try
        {
            return _cache.Commit(reference) is { } commit ? HubSelection.Complete(_cache, reference, content, commit, lenient) : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{reference}: the cache {_settings.CacheFolder} cannot be read: {e.Message.ReplaceLineEndings(" ")}; check its permissions", e);
        }
    }

    private async Task<string> FetchNow(HubReference reference, HubContent content, CancellationToken stop)
    {
        try
        {
            return await FetchOnce(reference, content, stop);
        }
        catch (HubFileChangedException e)
        {
            _listener.Note($"{e.Message}; asking again for what {reference} is now");
        }
        try
        {
            return await FetchOnce(reference, content, stop);
        }
        catch (HubFileChangedException e)
        {
            throw new UserErrorException($"{e.Message}; it changed twice, run it again later, or name a commit: {reference.Repository}@COMMIT", e);
        }
    }

    private async Task<string> FetchOnce(HubReference reference, HubContent content, CancellationToken stop)
    {
        HubListing listing = await HubListing.Read(_http, reference, _settings, stop);
        // Whatever moves on the branch meanwhile, this fetch is of one commit.
        HubReference pinned = reference with { Revision = listing.Commit };
        string folder = _cache.Snapshot(reference.Repository, listing.Commit);
        if (content == HubContent.Adapter)
        {
            HubFile[] files = [.. HubSelection.Adapter(listing, reference)];
            await All(files);
            _cache.WriteCommit(reference, listing.Commit);
            return folder;
        }
        if (reference.File is not null)
        {
            HubFile[] parts = HubSelection.Gguf(listing, reference);
            await All(parts);
            _cache.WriteCommit(reference, listing.Commit);
            return Path.Combine(folder, parts[0].Name.Replace('/', Path.DirectorySeparatorChar));
        }
        HubFile weights = HubSelection.Weights(listing, reference);
        if (listing.Find("config.json") is null)
            throw new UserErrorException($"{reference}: has weights and no config.json; it is no model that transformers would load");
        // Weights last: where they are, the rest is there as well.
        await All(HubSelection.Small(listing));
        foreach (string name in HubSelection.Absent(listing))
            _cache.MarkAbsent(reference.Repository, listing.Commit, name);
        await One(weights, pinned, stop);
        if (weights.Name == ShardedSafetensors.IndexName)
            await All(HubSelection.Shards(listing, Path.Combine(folder, weights.Name)));
        _cache.WriteCommit(reference, listing.Commit);
        return folder;

        async Task All(IEnumerable<HubFile> files)
        {
            foreach (HubFile file in files)
                await One(file, pinned, stop);
        }
    }

    /// <summary>Gets one file into the snapshot.</summary>
    private async Task One(HubFile file, HubReference pinned, CancellationToken stop)
    {
        string pointer = Path.Combine(_cache.Snapshot(pinned.Repository, pinned.Revision), file.Name.Replace('/', Path.DirectorySeparatorChar));
        if (HubCache.IsThere(pointer))
            return;
        Uri url = _http.Address([.. pinned.Repository.Split('/'), "resolve", pinned.Revision, .. file.Name.Split('/')]);
        (string etag, long? size) = await Describe(file, pinned, url, stop);
        bool fetched = false;
        string blob = _cache.Blob(pinned.Repository, etag);
        Directory.CreateDirectory(Path.GetDirectoryName(blob)!);
        using (await _cache.Lock(pinned.Repository, etag, file.Name, stop))
        {
            if (HubCache.IsThere(pointer))
                return;
            if (!File.Exists(blob))
            {
                string partial = _cache.Partial(pinned.Repository, etag);
                try
                {
                    await new BlobDownload(_http, _settings, _listener, pinned, file, url, etag, size, partial).Run(stop);
                }
                catch (HubFileChangedException)
                {
                    File.Delete(partial);
                    throw;
                }
                _cache.Keep(pinned.Repository, etag);
                fetched = true;
            }
            _cache.Link(pinned.Repository, pinned.Revision, file.Name, etag, fetched);
        }
        if (fetched)
            _listener.Done(file.Name);
    }

    /// <summary>Etag and size as the hub gives them with the file; they must agree with its listing.</summary>
    private async Task<(string Etag, long? Size)> Describe(HubFile file, HubReference pinned, Uri url, CancellationToken stop)
    {
        string what = $"{pinned}, {file.Name}";
        using HubAnswer answer = await _http.Send(HttpMethod.Head, url, what, follow: false, range: null, patient: false, stop);
        if (!answer.Response.IsSuccessStatusCode && (int)answer.Response.StatusCode is not (301 or 302 or 303 or 307 or 308))
            throw HubErrors.Refused(answer.Response, pinned, file.Name, _settings);
        HubHeaders hub = answer.Hub;
        if (hub.Commit is { } commit && commit != pinned.Revision)
            throw new HubFileChangedException($"{what}: the server gives it as of commit {commit}");
        string etag = hub.Etag ?? file.Sha256 ?? throw new UserErrorException($"{what}: the server names no etag, so nothing could be checked; is HF_ENDPOINT the address of a hub?");
        if (etag.Length > 200 || !HubReference.IsSafePath(etag) || etag.Contains('/'))
            throw new UserErrorException($"{what}: the server's etag {FileErrors.Quote(etag)} cannot be the name of a file");
        if (file.Sha256 is { } sha && sha != etag)
            throw new HubFileChangedException($"{what}: the listing names sha256 {sha}, the file {etag}");
        long? size = hub.Size ?? file.Size;
        if (file.Size is { } listed && size != listed)
            throw new HubFileChangedException($"{what}: the listing names {listed} bytes, the file {size}");
        return (etag, size);
    }
}
