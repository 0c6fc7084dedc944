using System.Net;
using System.Net.Sockets;
using CsCheck;
using Repeng.Kernels;
using Repeng.Runtime.Hub;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Hub;

/// <summary>Servers, networks and disks that fail, and servers that lie.</summary>
public sealed class HubFaultTests : IDisposable
{
    private readonly HubFixture _hub = new();

    public void Dispose() => _hub.Dispose();

    [Fact]
    public void Ranges_go_on_where_a_connection_broke()
    {
        _hub.ChangeGets("model.safetensors", (n, _, reply) => reply.BreakAfter = n % 3 == 0 ? -1 : 1000 + n);
        _hub.Fetch();
        _hub.AssertWhole();
        Assert.True(_hub.Server.Gets("model.safetensors") > 2 * _hub.Weights.Length / HubFixture.RangeBytes);
    }

    [Fact]
    public void Any_file_comes_whole_over_any_breaks_and_leftovers() => Gen.Select(Gen.Int[HubServer.Large, 40_000], Gen.Int[600, 9000], Gen.Int[1, 6], Gen.Int[0, 5000].Array[1, 6], Gen.Bool, Gen.Double[0, 1]).Sample((size, range, connections, breaks, ignoresRange, left) =>
    {
        using var hub = new HubFixture();
        byte[] file = HubFixture.Bytes(size, size);
        hub.Server.Put("x.gguf", file);
        hub.Settings = hub.Settings with { RangeBytes = range, Connections = connections, Attempts = 100 };
        hub.ChangeGets("x.gguf", (n, _, reply) =>
        {
            if (ignoresRange)
                reply.Whole();
            // A server that always breaks at the same byte can never be read to its end.
            if (n % 4 != 0)
                reply.BreakAfter = breaks[n % breaks.Length];
        });
        if (left > 0.5)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(hub.Blob("x.gguf"))!);
            File.WriteAllBytes(hub.Blob("x.gguf") + ".incomplete", file[..(int)(left * size)]);
        }
        Assert.Equal(file, File.ReadAllBytes(hub.Fetch("org/model:x.gguf")));
    }, iter: 40, threads: 1);

    [Fact]
    public void A_near_server_gives_the_rest_as_one_stream_that_may_break()
    {
        // Longer than the ranges that show how far the server is.
        byte[] file = HubFixture.Bytes(28 << 20, 9);
        _hub.Server.Put("x.gguf", file);
        _hub.Settings = Near;
        int streams = 0;
        _hub.ChangeGets("x.gguf", (_, request, reply) =>
        {
            if (IsStream(request, file.Length) && Interlocked.Increment(ref streams) <= 2)
                reply.BreakAfter = 3_000_001;
        });
        Assert.Equal(file, File.ReadAllBytes(_hub.Fetch("org/model:x.gguf")));
        Assert.True(streams >= 3, $"{streams} long ranges");
    }

    [Fact]
    public void A_near_server_that_breaks_off_within_every_part_is_read_to_the_end()
    {
        byte[] file = HubFixture.Bytes(22 << 20, 10);
        _hub.Server.Put("x.gguf", file);
        _hub.Settings = Near;
        int streams = 0;
        _hub.ChangeGets("x.gguf", (_, request, reply) =>
        {
            if (!IsStream(request, file.Length))
                return;
            Interlocked.Increment(ref streams);
            reply.BreakAfter = 400_000;
        });
        Assert.Equal(file, File.ReadAllBytes(_hub.Fetch("org/model:x.gguf")));
        Assert.True(streams > _hub.Settings.Attempts, $"{streams} long ranges");
    }

    [Fact]
    public void A_slow_stream_of_a_near_server_gives_way_to_large_ranges()
    {
        const long Length = 48 << 20;
        _hub.Server.Put("x.gguf", new HubBody(HubFixture.Bytes(1_000_003, 11), Length));
        _hub.Settings = Near;
        var ranges = new System.Collections.Concurrent.ConcurrentQueue<(long From, long To)>();
        _hub.ChangeGets("x.gguf", (_, request, reply) =>
        {
            ranges.Enqueue(request.Range(Length)!.Value);
            if (IsStream(request, Length) && request.Range(Length)!.Value.From < Length / 2)
                reply.Slow = TimeSpan.FromMilliseconds(3);
        });
        _hub.Fetch("org/model:x.gguf");
        Assert.Contains(ranges, r => r.To - r.From + 1 == 8 << 20 && r.To < Length - 1);
    }

    /// <summary>However busy the machine is, the server is near.</summary>
    private HubSettings Near => _hub.Settings with { RangeBytes = null, NearLatency = TimeSpan.MaxValue };

    // Longer than any range, and to the end.
    private static bool IsStream(HubRequest request, long length) => request.Range(length) is { } range && range.To == length - 1 && range.To - range.From >= 8 << 20;

    [Fact]
    public void A_server_that_ignores_ranges_gives_one_stream()
    {
        _hub.ChangeGets("model.safetensors", (n, _, reply) =>
        {
            reply.Whole();
            reply.BreakAfter = n < 3 ? n * 15_000 : -1;
        });
        _hub.Fetch();
        _hub.AssertWhole();
        Assert.Equal(3, _hub.Server.Gets("model.safetensors"));
    }

    [Fact]
    public void A_connection_that_breaks_again_and_again_ends_and_keeps_what_came()
    {
        // The first range comes, then nothing.
        _hub.ChangeGets("model.safetensors", (_, request, reply) => reply.BreakAfter = request.Headers["range"].StartsWith("bytes=0-", StringComparison.Ordinal) ? -1 : 0);
        _hub.Fails(["model.safetensors", "broke 6 times", "4096 of 50000 bytes are kept", "run it again"]);
        Assert.Equal(_hub.Weights[..4096], File.ReadAllBytes(_hub.Blob("model.safetensors") + ".incomplete"));
        _hub.Server.Change = null;
        int before = _hub.Server.Gets("model.safetensors");
        _hub.Fetch();
        _hub.AssertWhole();
        Assert.DoesNotContain(_hub.Server.Requests.Where(r => r.Store).Skip(before), r => r.Headers.GetValueOrDefault("range") == "bytes=0-4095");
    }

    [Fact]
    public void A_silent_connection_is_given_up_and_made_anew()
    {
        _hub.Settings = _hub.Settings with { StallTimeout = TimeSpan.FromMilliseconds(300) };
        _hub.ChangeGets("model.safetensors", (n, _, reply) => reply.Slow = n == 2 ? TimeSpan.FromSeconds(30) : TimeSpan.Zero);
        _hub.Fetch();
        _hub.AssertWhole();
    }

    [Fact]
    public void Wrong_sizes_are_named_and_nothing_counts()
    {
        _hub.ChangeGets("model.safetensors", (_, _, reply) => reply.Headers["Content-Range"] = reply.Headers["Content-Range"].Replace("/50000", "/60000"));
        _hub.Fails(["model.safetensors", "50000 bytes", "60000"]);
        _hub.ChangeGets("model.safetensors", (_, request, reply) => reply.Headers["Content-Range"] = "bytes 0-9/50000");
        _hub.Fails(["asked for bytes 0-4095", "0-9/50000"]);
        _hub.ChangeGets("model.safetensors", (_, _, reply) =>
        {
            reply.Whole();
            reply.Headers["Content-Length"] = "60000";
        });
        _hub.Fails(["50000 bytes", "60000"]);
        _hub.ChangeGets("model.safetensors", (_, _, reply) =>
        {
            // Longer than it says, without a length: only counting finds it.
            reply.Whole();
            reply.Body = new HubBody(HubFixture.Bytes(60_000, 1));
            reply.Headers["Content-Length"] = "";
        });
        _hub.Fails(["sends more than the 50000 bytes"]);
        _hub.Server.Change = (request, reply) =>
        {
            if (request.Method == "HEAD" && request.Path.EndsWith("model.safetensors", StringComparison.Ordinal))
                reply.Headers["X-Linked-Size"] = "49999";
        };
        _hub.Fails(["the listing names 50000 bytes", "49999"]);
        Assert.False(File.Exists(_hub.Pointer("model.safetensors")));
        Assert.False(File.Exists(_hub.Blob("model.safetensors")));
    }

    [Theory]
    [InlineData("model.safetensors", "sha256")]
    [InlineData("config.json", "git sha1")]
    public void A_wrong_hash_is_an_error_and_nothing_is_kept(string name, string kind)
    {
        _hub.ChangeGets(name, (_, _, reply) =>
        {
            byte[] wrong = new byte[reply.Body.Length];
            reply.Body = new HubBody(wrong);
        });
        _hub.Fails([name, kind, _hub.Server.Etag(name), "nothing of it was kept"]);
        Assert.False(File.Exists(_hub.Pointer(name)));
        Assert.Empty(Directory.GetFiles(Path.Combine(_hub.Repository, "blobs"), _hub.Server.Etag(name) + "*"));
    }

    [Fact]
    public void A_part_of_another_file_is_found_by_the_hash_and_fetched_anew()
    {
        Directory.CreateDirectory(Path.Combine(_hub.Repository, "blobs"));
        File.WriteAllBytes(_hub.Blob("model.safetensors") + ".incomplete", new byte[20_000]);
        _hub.Fetch();
        _hub.AssertWhole();
        Assert.Contains(_hub.Notes, n => n.Contains("20000 bytes", StringComparison.Ordinal) && n.Contains("fetched anew", StringComparison.Ordinal));
        File.Delete(_hub.Blob("model.safetensors"));
        File.WriteAllBytes(_hub.Blob("model.safetensors") + ".incomplete", new byte[60_000]);
        _hub.Fetch();
        _hub.AssertWhole();
        // Whole but never renamed: nothing is left to ask for.
        File.Move(_hub.Blob("model.safetensors"), _hub.Blob("model.safetensors") + ".incomplete");
        int before = _hub.Server.Gets("model.safetensors");
        _hub.Fetch();
        _hub.AssertWhole();
        Assert.Equal(before, _hub.Server.Gets("model.safetensors"));
    }

    [Fact]
    public void A_busy_server_is_asked_again_after_the_time_that_it_names()
    {
        int count = 0;
        _hub.Server.Change = (_, reply) =>
        {
            switch (Interlocked.Increment(ref count))
            {
                case 1: reply.Refuse(429, ("Retry-After", "7")); break;
                case 2: reply.Refuse(503); break;
                case 3: reply.Refuse(500, ("Retry-After", DateTime.UtcNow.AddSeconds(60).ToString("R"))); break;
                default: break;
            }
        };
        _hub.Fetch();
        _hub.AssertWhole();
        TimeSpan[] waits = [.. _hub.Waits];
        Assert.Equal(TimeSpan.FromSeconds(7), waits[0]);
        Assert.InRange(waits[1].TotalSeconds, 0.7, 1.3);
        Assert.InRange(waits[2].TotalSeconds, 50, 60);
        Assert.Contains(_hub.Notes, n => n.Contains("429", StringComparison.Ordinal) && n.Contains("7 s", StringComparison.Ordinal));
    }

    [Fact]
    public void A_server_that_stays_busy_is_given_up()
    {
        _hub.Server.Change = (_, reply) => reply.Refuse(429);
        _hub.Fails(["429", "HF_TOKEN", "wait some minutes"]);
        Assert.Equal(_hub.Settings.Attempts, _hub.Server.Requests.Count);
        _hub.Server.Change = (_, reply) => reply.Refuse(502);
        _hub.Fails(["502", "try again later"]);
        _hub.Server.Change = (_, reply) => reply.Refuse(429, ("Retry-After", "86400"));
        int before = _hub.Server.Requests.Count;
        _hub.Fails(["429", "86400 s"]);
        Assert.Equal(before + 1, _hub.Server.Requests.Count);
    }

    [Fact]
    public void Refusals_say_what_to_do()
    {
        string page = _hub.Server.Endpoint + "/org/model";
        _hub.Server.Change = (_, reply) => reply.Refuse(401, ("X-Error-Code", "GatedRepo"), ("X-Error-Message", "Access to model org/model is restricted."));
        _hub.Fails(["gated", page, "HF_TOKEN", "restricted"]);
        _hub.Settings = _hub.Settings with { Token = "hf_secret" };
        Assert.DoesNotContain("hf_secret", _hub.Fails(["gated", "wait until access"]).Message);
        _hub.Server.Change = (_, reply) => reply.Refuse(403);
        _hub.Fails(["403", "token"]);
        _hub.Server.Change = null;
        _hub.Fails(["org/absent", "no repository of that name", "no folder or file"], "org/absent");
        _hub.Fails(["no revision 'v9'"], "org/model@v9");
        _hub.Server.Change = (request, reply) =>
        {
            if (request.Method == "HEAD" && request.Path.EndsWith("tokenizer.json", StringComparison.Ordinal))
                reply.Refuse(404, ("X-Error-Code", "EntryNotFound"));
        };
        _hub.Fails(["tokenizer.json", "no such file"]);
    }

    [Fact]
    public void The_token_goes_to_the_hub_and_not_to_its_store()
    {
        _hub.Server.Token = "hf_secret";
        _hub.Fails(["no repository of that name", "HF_TOKEN"]);
        _hub.Settings = _hub.Settings with { Token = "hf_secret" };
        _hub.Server.Requests.Clear();
        _hub.Fetch();
        Assert.All(_hub.Server.Requests, r => Assert.Equal(!r.Store, r.Headers.ContainsKey("authorization")));
        Assert.Contains(_hub.Server.Requests, r => r.Store);
    }

    [Fact]
    public void Renamed_repositories_are_followed_and_endless_or_strange_redirects_are_not()
    {
        _hub.Server.Change = (request, reply) =>
        {
            if (request.Path.Contains("old/name", StringComparison.Ordinal))
                reply.Refuse(307, ("Location", request.Path.Replace("old/name", "org/model", StringComparison.Ordinal)));
        };
        Assert.Contains("models--old--name", _hub.Fetch("old/name"));
        _hub.Server.Change = (request, reply) => reply.Refuse(307, ("Location", request.Path));
        _hub.Fails(["more than 10 times"]);
        _hub.Server.Change = (request, reply) =>
        {
            if (reply.Status == 302 && request.Method == "GET")
                reply.Headers["Location"] = "file:///etc/passwd";
        };
        _hub.Fails(["no safe address"]);
    }

    [Fact]
    public void Signed_addresses_that_ran_out_are_asked_for_anew()
    {
        _hub.Server.GoodFor = 3;
        _hub.Fetch();
        _hub.AssertWhole();
        Assert.True(_hub.Server.Signed >= 3, $"{_hub.Server.Signed} addresses were signed");
    }

    [Fact]
    public void A_store_that_refuses_a_new_address_is_not_asked_for_ever()
    {
        _hub.ChangeGets("model.safetensors", (n, _, reply) =>
        {
            if (n >= 3)
                reply.Refuse(403);
        });
        _hub.Fails(["model.safetensors", "403"]);
        Assert.InRange(_hub.Server.Signed, 2, 3 + 2 * _hub.Settings.Connections);
    }

    [Fact]
    public void A_file_that_changes_while_it_is_fetched_is_fetched_as_it_is_now()
    {
        byte[] changed = HubFixture.Bytes(50_000, 99);
        _hub.ChangeGets("model.safetensors", (n, _, _) =>
        {
            if (n != 4)
                return;
            _hub.Server.Put("model.safetensors", changed);
            _hub.Server.Commit = new string('e', 40);
        });
        string folder = _hub.Fetch();
        Assert.EndsWith(new string('e', 40), folder);
        Assert.Equal(changed, File.ReadAllBytes(Path.Combine(folder, "model.safetensors")));
    }

    [Fact]
    public void A_store_that_changes_its_etag_in_between_is_not_pieced_together()
    {
        _hub.ChangeGets("model.safetensors", (n, _, reply) => reply.Headers["ETag"] = $"\"{n / 3}\"");
        _hub.Fails(["changed", "twice", "etag"]);
        Assert.False(File.Exists(_hub.Blob("model.safetensors") + ".incomplete"));
    }

    [Fact]
    public void Missing_space_is_found_before_and_while_writing()
    {
        _hub.Settings = _hub.Settings with { FreeBytes = _ => 10_000 };
        _hub.Fails(["model.safetensors", "50000 bytes", "10000 bytes are free", "HF_HOME"]);
        Assert.Equal(0, _hub.Server.Gets("model.safetensors"));
        _hub.Settings = _hub.Settings with
        {
            FreeBytes = _ => long.MaxValue,
            Write = (file, bytes, offset) =>
            {
                if (offset + bytes.Length > 20_000)
                    throw new IOException("No space left on device", 28);
                RandomAccess.Write(file, bytes, offset);
            },
        };
        _hub.Fails(["no space left", "bytes; they are kept", "HF_HOME"]);
        _hub.Settings = _hub.Settings with { Write = static (file, bytes, offset) => RandomAccess.Write(file, bytes, offset) };
        Assert.InRange(new FileInfo(_hub.Blob("model.safetensors") + ".incomplete").Length, 4096, 20_000);
        _hub.Fetch();
        _hub.AssertWhole();
    }

    [Fact]
    public void A_flush_that_fails_in_between_is_not_forgotten()
    {
        int flushes = 0;
        void FailOnce(Microsoft.Win32.SafeHandles.SafeFileHandle file)
        {
            // Of the weights alone. The system tells of lost bytes once; the next flush succeeds.
            if (RandomAccess.GetLength(file) >= 10_000 && Interlocked.Increment(ref flushes) == 2)
                throw new IOException("Input/output error", 5);
            RandomAccess.FlushToDisk(file);
        }
        _hub.Settings = _hub.Settings with { FlushEvery = 10_000, Flush = FailOnce };
        _hub.Fails(["cannot be written", "Input/output error"]);
        Assert.False(File.Exists(_hub.Blob("model.safetensors")));
        // Kept is what the first flush covered.
        byte[] kept = File.ReadAllBytes(_hub.Blob("model.safetensors") + ".incomplete");
        Assert.InRange(kept.Length, 10_000, 30_000);
        Assert.Equal(_hub.Weights[..kept.Length], kept);
        _hub.Fetch();
        _hub.AssertWhole();
    }

    [Fact]
    public async Task Two_fetches_at_once_share_one_download()
    {
        _hub.ChangeGets("model.safetensors", (_, _, reply) => reply.Slow = TimeSpan.FromMilliseconds(20));
        string[] folders = await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => Task.Run(() => _hub.Fetch())));
        Assert.Single(folders.Distinct());
        _hub.AssertWhole();
        Assert.Equal((_hub.Weights.Length + HubFixture.RangeBytes - 1) / HubFixture.RangeBytes, _hub.Server.Gets("model.safetensors"));
    }

    [Fact]
    public async Task A_stop_keeps_what_came()
    {
        using var stop = new CancellationTokenSource();
        _hub.ChangeGets("model.safetensors", (n, _, reply) =>
        {
            if (n == 6)
                stop.Cancel();
            reply.Slow = TimeSpan.FromMilliseconds(n >= 6 ? 500 : 1);
        });
        using ModelHub hub = _hub.Open();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Task.Run(() => hub.Fetch(HubReference.TryParse("org/model")!, stop: stop.Token)));
        byte[] kept = File.ReadAllBytes(_hub.Blob("model.safetensors") + ".incomplete");
        Assert.Equal(_hub.Weights[..kept.Length], kept);
        _hub.Server.Change = null;
        _hub.Fetch();
        _hub.AssertWhole();
    }

    [Fact]
    public void Offline_and_without_a_network_the_cache_serves_and_its_lack_is_named()
    {
        var dead = new TcpListener(IPAddress.Loopback, 0);
        dead.Start();
        int port = ((IPEndPoint)dead.LocalEndpoint).Port;
        dead.Stop();
        HubSettings online = _hub.Settings, away = online with { Endpoint = new Uri($"http://127.0.0.1:{port}") };
        _hub.Settings = online with { Offline = true };
        _hub.Fails(["not whole in the cache", "HF_HUB_OFFLINE", online.CacheFolder]);
        _hub.Settings = away;
        _hub.Fails(["127.0.0.1 cannot be reached", "check the network", online.CacheFolder]);
        _hub.Settings = online;
        string folder = _hub.Fetch();
        _hub.Server.Requests.Clear();
        _hub.Settings = online with { Offline = true };
        Assert.Equal(folder, _hub.Fetch());
        Assert.Empty(_hub.Server.Requests);
        _hub.Settings = away;
        Assert.Equal(folder, _hub.Fetch());
        Assert.Contains(_hub.Notes, n => n.Contains("cannot be reached", StringComparison.Ordinal) && n.Contains("taken from the cache", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("not json", "not valid JSON")]
    [InlineData("[]", "no JSON object")]
    [InlineData("{}", "sha")]
    [InlineData("""{"sha":"../../x","siblings":[]}""", "no commit")]
    [InlineData("""{"sha":"cccccccccccccccccccccccccccccccccccccccc"}""", "siblings")]
    [InlineData("""{"sha":"cccccccccccccccccccccccccccccccccccccccc","siblings":[7]}""", "siblings")]
    [InlineData("""{"sha":"cccccccccccccccccccccccccccccccccccccccc","siblings":[{"rfilename":"config.json","size":-1}]}""", "size")]
    [InlineData("""{"sha":"cccccccccccccccccccccccccccccccccccccccc","siblings":[{"rfilename":"config.json","lfs":{"sha256":"../x"}}]}""", "sha256")]
    [InlineData("""{"sha":"cccccccccccccccccccccccccccccccccccccccc","siblings":[{"rfilename":"../../../tmp/model.safetensors"},{"rfilename":"/model.safetensors"}]}""", "no model.safetensors")]
    public void Listings_that_lie_are_refused(string listing, string part)
    {
        _hub.Server.Change = (request, reply) =>
        {
            if (request.Path.StartsWith("/api/", StringComparison.Ordinal))
                reply.Body = new HubBody(System.Text.Encoding.UTF8.GetBytes(listing));
        };
        _hub.Fails([part]);
    }

    [Theory]
    [InlineData("../../../../evil")]
    [InlineData("a/b")]
    [InlineData("..")]
    public void Etags_cannot_leave_the_cache(string etag)
    {
        _hub.Server.Change = (request, reply) =>
        {
            if (request.Method == "HEAD")
                reply.Headers["ETag"] = $"\"{etag}\"";
        };
        _hub.Fails(["config.json", "etag"]);
    }
}
