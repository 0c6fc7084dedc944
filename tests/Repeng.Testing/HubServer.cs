using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;

namespace Repeng.Testing;

/// <summary>A request as the server got it.</summary>
/// <param name="Store">True at the address that large files are sent on to, false at the hub's own.</param>
public sealed record HubRequest(bool Store, string Method, string Path, IReadOnlyDictionary<string, string> Headers)
{
    /// <summary>First and last byte that are asked for.</summary>
    public (long From, long To)? Range(long length)
    {
        if (!Headers.TryGetValue("range", out string? text) || !text.StartsWith("bytes=", StringComparison.Ordinal))
            return null;
        string[] ends = text[6..].Split('-');
        long to = ends[1].Length == 0 ? length - 1 : Math.Min(long.Parse(ends[1], CultureInfo.InvariantCulture), length - 1);
        return (long.Parse(ends[0], CultureInfo.InvariantCulture), to);
    }
}

/// <summary>An answer, honest as the server makes it and then as a test changes it.</summary>
public sealed class HubReply
{
    /// <summary>Status.</summary>
    public int Status { get; set; } = 200;

    /// <summary>Headers; Content-Length is that of the body unless it stands here, empty for none.</summary>
    public Dictionary<string, string> Headers { get; } = new(StringComparer.OrdinalIgnoreCase);

    /// <summary>The body.</summary>
    public HubBody Body { get; set; } = new([]);

    /// <summary>Part of the body that is sent.</summary>
    public (long From, long Count)? Part { get; set; }

    /// <summary>Closes the connection after so many bytes of the body; -1 never.</summary>
    public long BreakAfter { get; set; } = -1;

    /// <summary>Wait before every 64 KiB.</summary>
    public TimeSpan Slow { get; set; }

    /// <summary>Another status with its headers, without a body.</summary>
    public HubReply Refuse(int status, params (string Name, string Value)[] headers)
    {
        (Status, Body, Part) = (status, new HubBody([]), null);
        Headers.Clear();
        foreach ((string name, string value) in headers)
            Headers[name] = value;
        return this;
    }

    /// <summary>The whole body, whatever range was asked for.</summary>
    public HubReply Whole()
    {
        if (Status == 206)
            (Status, Part) = (200, null);
        Headers.Remove("Content-Range");
        return this;
    }
}

/// <summary>Bytes of a file: as they are, or repeated up to a length, so that a large file takes little memory.</summary>
public sealed class HubBody(byte[] bytes, long length = -1)
{
    /// <summary>Bytes in all.</summary>
    public long Length { get; } = length < 0 ? bytes.Length : length;

    /// <summary>At most so many bytes from an offset on.</summary>
    public ReadOnlyMemory<byte> At(long offset, long most)
    {
        int start = (int)(offset % bytes.Length);
        return bytes.AsMemory(start, (int)Math.Min(Math.Min(bytes.Length - start, most), Length - offset));
    }

    /// <summary>sha256 of all.</summary>
    public string Sha256() => Hash(HashAlgorithmName.SHA256, "");

    /// <summary>The name that git gives the content.</summary>
    public string GitSha1() => Hash(HashAlgorithmName.SHA1, $"blob {Length}\0");

    private string Hash(HashAlgorithmName name, string before)
    {
        using var hash = IncrementalHash.CreateHash(name);
        hash.AppendData(Encoding.ASCII.GetBytes(before));
        for (long at = 0; at < Length;)
        {
            ReadOnlyMemory<byte> part = At(at, 1 << 20);
            hash.AppendData(part.Span);
            at += part.Length;
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}

/// <summary>
/// A small Hugging Face hub on this machine: the listing, the description and the files of one repository, large files by a
/// redirect to a second address. <see cref="Change"/> makes it misbehave.
/// </summary>
public sealed class HubServer : IDisposable
{
    /// <summary>Files from this size on are "large": named by sha256 and sent from the store.</summary>
    public const int Large = 512;

    private readonly TcpListener _hub = new(IPAddress.Loopback, 0), _store = new(IPAddress.Loopback, 0);
    private readonly CancellationTokenSource _end = new();
    private readonly ConcurrentDictionary<string, (HubBody Body, string Etag)> _files = new();
    private readonly ConcurrentDictionary<string, int> _uses = new();
    private int _signed;

    /// <summary>Starts it.</summary>
    public HubServer(string repository = "org/model")
    {
        Repository = repository;
        _hub.Start();
        _store.Start();
        _ = Accept(_hub, store: false);
        _ = Accept(_store, store: true);
    }

    /// <summary>Name of its one repository.</summary>
    public string Repository { get; }

    /// <summary>Commit that main stands for.</summary>
    public string Commit { get; set; } = new('c', 40);

    /// <summary>Address of the hub.</summary>
    public string Endpoint => $"http://127.0.0.1:{((IPEndPoint)_hub.LocalEndpoint).Port}";

    /// <summary>Address of the store; another host as far as a client can tell.</summary>
    public string StoreEndpoint => $"http://127.0.0.1:{((IPEndPoint)_store.LocalEndpoint).Port}";

    /// <summary>Every request in its order.</summary>
    public ConcurrentQueue<HubRequest> Requests { get; } = new();

    /// <summary>Changes an honest answer; may be called by several threads at once.</summary>
    public Action<HubRequest, HubReply>? Change { get; set; }

    /// <summary>Requests that a signed address of the store is good for before it is refused as run out.</summary>
    public int GoodFor { get; set; } = int.MaxValue;

    /// <summary>Addresses that were signed.</summary>
    public int Signed => Volatile.Read(ref _signed);

    /// <summary>Token without which the hub answers 401.</summary>
    public string? Token { get; set; }

    /// <summary>Adds or replaces a file.</summary>
    public void Put(string name, byte[] content) => Put(name, new HubBody(content));

    /// <inheritdoc cref="Put(string, byte[])"/>
    public void Put(string name, HubBody body) => _files[name] = (body, body.Length >= Large ? body.Sha256() : body.GitSha1());

    /// <inheritdoc cref="Put(string, byte[])"/>
    public void Put(string name, string text) => Put(name, Encoding.UTF8.GetBytes(text));

    /// <summary>Takes a file out.</summary>
    public void Remove(string name) => _files.TryRemove(name, out _);

    /// <summary>Bytes of a file.</summary>
    public long Size(string name) => _files[name].Body.Length;

    /// <summary>Etag of a file.</summary>
    public string Etag(string name) => _files[name].Etag;

    /// <summary>Requests for the bytes of a file.</summary>
    public int Gets(string name) => Requests.Count(r => r.Method == "GET" && r.Store == (_files[name].Body.Length >= Large) && r.Path.Split('?')[0].EndsWith("/" + (r.Store ? _files[name].Etag : name), StringComparison.Ordinal));

    /// <inheritdoc/>
    public void Dispose()
    {
        _end.Cancel();
        _hub.Stop();
        _store.Stop();
    }

    private async Task Accept(TcpListener listener, bool store)
    {
        while (!_end.IsCancellationRequested)
        {
            try
            {
                TcpClient client = await listener.AcceptTcpClientAsync(_end.Token);
                _ = Task.Run(() => Serve(client, store));
            }
            catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
            {
                return;
            }
        }
    }

    private async Task Serve(TcpClient client, bool store)
    {
        using (client)
        {
            client.NoDelay = true;
            await using NetworkStream stream = client.GetStream();
            try
            {
                using var reader = new StreamReader(stream, Encoding.ASCII, false, 4096, leaveOpen: true);
                while (await reader.ReadLineAsync(_end.Token) is { Length: > 0 } first)
                {
                    string[] parts = first.Split(' ');
                    var headers = new Dictionary<string, string>(StringComparer.OrdinalIgnoreCase);
                    while (await reader.ReadLineAsync(_end.Token) is { Length: > 0 } line)
                        headers[line[..line.IndexOf(':')].ToLowerInvariant()] = line[(line.IndexOf(':') + 1)..].Trim();
                    var request = new HubRequest(store, parts[0], parts[1], headers);
                    Requests.Enqueue(request);
                    HubReply reply = Answer(request);
                    Change?.Invoke(request, reply);
                    if (!await Send(stream, request, reply))
                        return;
                }
            }
            catch (Exception e) when (e is OperationCanceledException or IOException or ObjectDisposedException)
            {
                // The client went away, or the test is over.
            }
        }
    }

    private HubReply Answer(HubRequest request)
    {
        var reply = new HubReply();
        string path = request.Path.Split('?')[0];
        if (request.Store)
        {
            (HubBody body, string etag) = _files.Values.FirstOrDefault(f => path.EndsWith("/" + f.Etag, StringComparison.Ordinal));
            if (body is null)
                return reply.Refuse(404);
            if (_uses.AddOrUpdate(request.Path, 1, (_, uses) => uses + 1) > GoodFor)
                return reply.Refuse(403);
            reply.Headers["ETag"] = $"\"store-{etag}\"";
            return Content(request, reply, body);
        }
        if (Token is { } token && (!request.Headers.TryGetValue("authorization", out string? given) || given != $"Bearer {token}"))
            return reply.Refuse(401, ("X-Error-Code", "RepoNotFound"));
        if (path.StartsWith("/api/models/", StringComparison.Ordinal))
            return Listing(path, reply);
        string prefix = $"/{Repository}/resolve/{Commit}/";
        if (!path.StartsWith(prefix, StringComparison.Ordinal))
            return reply.Refuse(404, ("X-Error-Code", path.StartsWith($"/{Repository}/", StringComparison.Ordinal) ? "RevisionNotFound" : "RepoNotFound"));
        string name = Uri.UnescapeDataString(path[prefix.Length..]);
        if (!_files.TryGetValue(name, out (HubBody Body, string Etag) file))
            return reply.Refuse(404, ("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", Commit));
        reply.Headers["X-Repo-Commit"] = Commit;
        if (file.Body.Length < Large)
        {
            reply.Headers["ETag"] = $"\"{file.Etag}\"";
            return Content(request, reply, file.Body);
        }
        reply.Status = 302;
        reply.Headers["X-Linked-Etag"] = $"\"{file.Etag}\"";
        reply.Headers["X-Linked-Size"] = file.Body.Length.ToString(CultureInfo.InvariantCulture);
        reply.Headers["Location"] = $"{StoreEndpoint}/signed/{file.Etag}?signature={Interlocked.Increment(ref _signed)}";
        return reply;
    }

    private HubReply Listing(string path, HubReply reply)
    {
        string[] parts = path["/api/models/".Length..].Split("/revision/");
        if (parts[0] != Repository)
            return reply.Refuse(404, ("X-Error-Code", "RepoNotFound"));
        string revision = Uri.UnescapeDataString(parts[1]);
        if (revision != "main" && revision != Commit)
            return reply.Refuse(404, ("X-Error-Code", "RevisionNotFound"));
        var siblings = new JsonArray();
        foreach ((string name, (HubBody body, string etag)) in _files.OrderBy(f => f.Key, StringComparer.Ordinal))
        {
            var file = new JsonObject { ["rfilename"] = name, ["size"] = body.Length };
            if (body.Length >= Large)
                file["lfs"] = new JsonObject { ["sha256"] = etag, ["size"] = body.Length };
            siblings.Add((JsonNode)file);
        }
        reply.Body = new HubBody(Encoding.UTF8.GetBytes(new JsonObject { ["sha"] = Commit, ["siblings"] = siblings }.ToJsonString()));
        return reply;
    }

    private static HubReply Content(HubRequest request, HubReply reply, HubBody body)
    {
        reply.Body = body;
        if (request.Range(body.Length) is not { } range)
            return reply;
        if (range.From >= body.Length)
            return reply.Refuse(416);
        reply.Status = 206;
        reply.Part = (range.From, range.To - range.From + 1);
        reply.Headers["Content-Range"] = $"bytes {range.From}-{range.To}/{body.Length}";
        return reply;
    }

    private async Task<bool> Send(NetworkStream stream, HubRequest request, HubReply reply)
    {
        (long from, long count) = reply.Part ?? (0, reply.Body.Length);
        reply.Headers.TryAdd("Content-Length", count.ToString(CultureInfo.InvariantCulture));
        var head = new StringBuilder($"HTTP/1.1 {reply.Status} {(HttpStatusCode)reply.Status}\r\n");
        foreach ((string name, string value) in reply.Headers.Where(h => h.Value.Length > 0))
            head.Append($"{name}: {value}\r\n");
        await stream.WriteAsync(Encoding.ASCII.GetBytes(head.Append("\r\n").ToString()), _end.Token);
        if (request.Method == "HEAD")
            return true;
        for (long done = 0; done < count;)
        {
            long most = Math.Min(count - done, reply.Slow > TimeSpan.Zero ? 1 << 16 : 1 << 20);
            if (reply.BreakAfter >= 0)
                most = Math.Min(most, reply.BreakAfter - done);
            if (most <= 0)
                return false;
            if (reply.Slow > TimeSpan.Zero)
                await Task.Delay(reply.Slow, _end.Token);
            ReadOnlyMemory<byte> part = reply.Body.At(from + done, most);
            await stream.WriteAsync(part, _end.Token);
            done += part.Length;
        }
        // A body that is shorter than its announced length can only end with the connection.
        return reply.BreakAfter < 0 && reply.Headers["Content-Length"] == count.ToString(CultureInfo.InvariantCulture);
    }
}
