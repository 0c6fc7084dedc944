using System.Collections.Concurrent;
using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Hub;
using Repeng.Runtime.Tests.Formats;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Hub;

/// <summary>A server with a small model, an empty cache, and a hub client that does not really wait.</summary>
public sealed class HubFixture : IDisposable
{
    /// <summary>Bytes of a range in these tests.</summary>
    public const int RangeBytes = 1 << 12;

    private readonly TempFolder _folder = new();

    public HubFixture()
    {
        Weights = Bytes(50_000, 1);
        Server.Put("config.json", """{"model_type":"llama"}""");
        Server.Put("tokenizer.json", Bytes(3000, 2));
        Server.Put("tokenizer_config.json", "{}");
        Server.Put("README.md", "not needed");
        Server.Put("pytorch_model.bin", Bytes(9000, 3));
        Server.Put("model.safetensors", Weights);
        Settings = new HubSettings
        {
            CacheFolder = Path.Combine(_folder.Root, "hub"),
            Endpoint = new Uri(Server.Endpoint),
            RangeBytes = RangeBytes,
            Connections = 4,
            StallTimeout = TimeSpan.FromSeconds(20),
            Wait = (time, stop) =>
            {
                Waits.Enqueue(time);
                return Task.Delay(1, stop);
            },
        };
    }

    public HubServer Server { get; } = new();

    public HubSettings Settings { get; set; }

    /// <summary>Content of model.safetensors.</summary>
    public byte[] Weights { get; }

    /// <summary>Waits that the client took, in order.</summary>
    public ConcurrentQueue<TimeSpan> Waits { get; } = new();

    public ConcurrentQueue<string> Notes { get; } = new();

    public string Repository => Path.Combine(Settings.CacheFolder, "models--org--model");

    public string Blob(string name) => Path.Combine(Repository, "blobs", Server.Etag(name));

    public string Pointer(string name) => Path.Combine(Repository, "snapshots", Server.Commit, name);

    public ModelHub Open() => new(Settings, new Listener(this));

    public string Fetch(string reference = "org/model", HubContent content = HubContent.Model)
    {
        using ModelHub hub = Open();
        return hub.Fetch(HubReference.TryParse(reference)!, content);
    }

    public string Resolve(string reference = "org/model")
    {
        using ModelHub hub = Open();
        return hub.Resolve(HubReference.TryParse(reference)!);
    }

    /// <summary>The one error of a fetch, whose message has all parts.</summary>
    public UserErrorException Fails(string[] parts, string reference = "org/model")
    {
        UserErrorException e = Assert.ThrowsAny<UserErrorException>(() => Fetch(reference));
        foreach (string part in parts)
            Assert.Contains(part, e.Message);
        Assert.DoesNotContain('\n', e.Message);
        return e;
    }

    /// <summary>The weights are there, whole, and nothing unfinished lies about.</summary>
    public void AssertWhole()
    {
        Assert.Equal(Weights, File.ReadAllBytes(Pointer("model.safetensors")));
        Assert.Empty(Directory.GetFiles(Path.Combine(Repository, "blobs"), "*.incomplete"));
    }

    /// <summary>Changes only the requests for the bytes of one file, with the number of the request.</summary>
    public void ChangeGets(string name, Action<int, HubRequest, HubReply> change)
    {
        int count = 0;
        string end = "/" + Server.Etag(name), path = "/" + name;
        Server.Change = (request, reply) =>
        {
            if (request.Method == "GET" && (request.Store ? request.Path.Split('?')[0].EndsWith(end, StringComparison.Ordinal) : request.Path.EndsWith(path, StringComparison.Ordinal) && reply.Status != 302))
                change(Interlocked.Increment(ref count), request, reply);
        };
    }

    public static byte[] Bytes(int count, int seed)
    {
        byte[] bytes = new byte[count];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    public void Dispose()
    {
        Server.Dispose();
        _folder.Dispose();
    }

    private sealed class Listener(HubFixture fixture) : HubListener
    {
        public override void Note(string text) => fixture.Notes.Enqueue(text);
    }
}
