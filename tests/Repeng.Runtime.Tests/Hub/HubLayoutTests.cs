using System.Security.Cryptography;
using System.Text;
using Repeng.Kernels;
using Repeng.Runtime.Hub;

namespace Repeng.Runtime.Tests.Hub;

/// <summary>What lies in the cache after a fetch, what is found in it, and which files are taken.</summary>
public sealed class HubLayoutTests : IDisposable
{
    private readonly HubFixture _hub = new();

    public void Dispose() => _hub.Dispose();

    [Fact]
    public void Fetch_makes_the_layout_of_huggingface_hub()
    {
        string folder = _hub.Fetch();
        Assert.Equal(Path.Combine(_hub.Repository, "snapshots", _hub.Server.Commit), folder);
        Assert.Equal(_hub.Server.Commit, File.ReadAllText(Path.Combine(_hub.Repository, "refs", "main")));
        Assert.Equal(["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"], Directory.GetFiles(folder).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        string sha256 = Convert.ToHexStringLower(SHA256.HashData(_hub.Weights));
        string git = Convert.ToHexStringLower(SHA1.HashData(Encoding.UTF8.GetBytes("blob 2\0{}")));
        Assert.Equal("../../blobs/" + sha256, new FileInfo(_hub.Pointer("model.safetensors")).LinkTarget);
        Assert.Equal("../../blobs/" + git, new FileInfo(_hub.Pointer("tokenizer_config.json")).LinkTarget);
        Assert.True(File.Exists(Path.Combine(_hub.Repository, ".no_exist", _hub.Server.Commit, "chat_template.jinja")));
        Assert.True(File.Exists(Path.Combine(_hub.Settings.CacheFolder, ".locks", "models--org--model", sha256 + ".lock")));
        _hub.AssertWhole();
        Assert.DoesNotContain(_hub.Server.Requests, r => r.Path.Contains("pytorch_model", StringComparison.Ordinal) || r.Path.Contains("README", StringComparison.Ordinal));
    }

    [Fact]
    public void What_is_in_the_cache_is_not_asked_for_again()
    {
        _hub.Fetch();
        int before = _hub.Server.Requests.Count;
        _hub.Resolve();
        _hub.Resolve($"org/model@{_hub.Server.Commit}");
        Assert.Equal(before, _hub.Server.Requests.Count);
        _hub.Fetch();
        Assert.Equal(before + 1, _hub.Server.Requests.Count);
    }

    [Fact]
    public void A_new_commit_shares_the_blobs_that_did_not_change()
    {
        _hub.Fetch();
        string old = _hub.Pointer("config.json");
        _hub.Server.Commit = new string('d', 40);
        _hub.Server.Put("config.json", """{"model_type":"qwen3"}""");
        int gets = _hub.Server.Gets("model.safetensors");
        _hub.Resolve();
        Assert.False(Directory.Exists(Path.Combine(_hub.Repository, "snapshots", _hub.Server.Commit)));
        _hub.Fetch();
        Assert.Equal(gets, _hub.Server.Gets("model.safetensors"));
        Assert.Contains("llama", File.ReadAllText(old));
        Assert.Contains("qwen3", File.ReadAllText(_hub.Pointer("config.json")));
        _hub.AssertWhole();
    }

    [Fact]
    public void A_cache_that_others_made_is_found_and_what_is_missing_in_it_is_fetched()
    {
        string commit = _hub.Server.Commit, snapshot = Path.Combine(_hub.Repository, "snapshots", commit);
        Directory.CreateDirectory(snapshot);
        Directory.CreateDirectory(Path.Combine(_hub.Repository, "refs"));
        File.WriteAllText(Path.Combine(_hub.Repository, "refs", "main"), commit);
        foreach (string name in new[] { "config.json", "tokenizer.json", "model.safetensors" })
            File.WriteAllText(Path.Combine(snapshot, name), "{}");
        using ModelHub hub = _hub.Open();
        HubReference reference = HubReference.TryParse("org/model")!;
        // The tokenizer's configuration may exist or not; only a mark, the hub, or being offline decides.
        Assert.Null(hub.Find(reference));
        Directory.CreateDirectory(Path.Combine(_hub.Repository, ".no_exist", commit));
        File.WriteAllText(Path.Combine(_hub.Repository, ".no_exist", commit, "tokenizer_config.json"), "");
        Assert.Equal(snapshot, hub.Find(reference));
        File.Delete(Path.Combine(snapshot, "tokenizer.json"));
        Assert.Equal(snapshot, hub.Resolve(reference));
        Assert.Equal(3000, File.ReadAllBytes(Path.Combine(snapshot, "tokenizer.json")).Length);
        Assert.Equal("{}", File.ReadAllText(Path.Combine(snapshot, "model.safetensors")));
    }

    [Fact]
    public void Shards_are_taken_from_the_index_and_a_missing_one_is_an_error()
    {
        _hub.Server.Remove("model.safetensors");
        _hub.Server.Put("model.safetensors.index.json", """{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors","c":"model-1.safetensors"}}""");
        _hub.Server.Put("model-1.safetensors", HubFixture.Bytes(700, 5));
        _hub.Server.Put("other.safetensors", HubFixture.Bytes(700, 6));
        _hub.Fails(["model-2.safetensors", "does not have"]);
        Assert.False(File.Exists(Path.Combine(_hub.Repository, "refs", "main")));
        _hub.Server.Put("model-2.safetensors", HubFixture.Bytes(900, 7));
        string folder = _hub.Fetch();
        Assert.Equal(900, File.ReadAllBytes(Path.Combine(folder, "model-2.safetensors")).Length);
        Assert.False(File.Exists(Path.Combine(folder, "other.safetensors")));
        File.Delete(Path.Combine(folder, "model-2.safetensors"));
        using ModelHub hub = _hub.Open();
        Assert.Null(hub.Find(HubReference.TryParse("org/model")!));
    }

    [Fact]
    public void A_gguf_file_is_named_whole_or_by_a_part_and_must_be_one()
    {
        _hub.Server.Put("tiny-Q4_K_M.gguf", HubFixture.Bytes(5000, 1));
        _hub.Server.Put("tiny-Q4_K.gguf", HubFixture.Bytes(5000, 2));
        _hub.Server.Put("sub/big-Q8_0-00001-of-00002.gguf", HubFixture.Bytes(800, 3));
        _hub.Server.Put("sub/big-Q8_0-00002-of-00002.gguf", HubFixture.Bytes(800, 4));
        Assert.EndsWith("tiny-Q4_K_M.gguf", _hub.Fetch("org/model:tiny-Q4_K_M.gguf"));
        Assert.EndsWith("tiny-Q4_K.gguf", _hub.Fetch("org/model:q4_k"));
        string split = _hub.Fetch("org/model:Q8_0");
        Assert.EndsWith("00001-of-00002.gguf", split);
        Assert.True(File.Exists(split.Replace("00001-of", "00002-of")));
        Assert.Equal(split, _hub.Resolve("org/model:sub/big-Q8_0-00001-of-00002.gguf"));
        _hub.Fails(["several", "tiny-Q4_K.gguf", "big-Q8_0"], "org/model:gguf");
        _hub.Fails(["no GGUF file", "tiny-Q4_K_M.gguf"], "org/model:Q5_0");
        Assert.False(Directory.Exists(_hub.Repository) && File.Exists(_hub.Pointer("config.json")));
        foreach (string name in new[] { "model.safetensors", "pytorch_model.bin" })
            _hub.Server.Remove(name);
        _hub.Fails(["has GGUF files", "org/model:sub/big"]);
    }

    [Fact]
    public void Repositories_without_usable_weights_say_what_they_have()
    {
        _hub.Server.Remove("model.safetensors");
        _hub.Fails(["pytorch_model.bin", "pickled"]);
        _hub.Server.Remove("pytorch_model.bin");
        _hub.Fails(["no model.safetensors", "README.md"]);
        _hub.Server.Put("adapter_config.json", "{}");
        _hub.Server.Put("adapter_model.safetensors", HubFixture.Bytes(700, 5));
        _hub.Fails(["is an adapter", "--adapter"]);
        string folder = _hub.Fetch("org/model", HubContent.Adapter);
        Assert.Equal(["adapter_config.json", "adapter_model.safetensors"], Directory.GetFiles(folder).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.Empty(Directory.GetFiles(_hub.Settings.CacheFolder, "*.incomplete", SearchOption.AllDirectories));
    }

    [Fact]
    public void Without_links_the_snapshot_holds_the_files_themselves()
    {
        _hub.Server.Put("vocab.txt", "{}"); // The same bytes as tokenizer_config.json: the second name is a copy.
        _hub.Settings = _hub.Settings with { MakeLink = (_, _) => throw new IOException("the file system has no links") };
        _hub.Fetch();
        foreach (string name in new[] { "config.json", "tokenizer_config.json", "vocab.txt", "model.safetensors" })
            Assert.Null(new FileInfo(_hub.Pointer(name)).LinkTarget);
        _hub.AssertWhole();
        Assert.Equal("{}", File.ReadAllText(_hub.Pointer("vocab.txt")));
        int before = _hub.Server.Requests.Count;
        _hub.Resolve();
        Assert.Equal(before, _hub.Server.Requests.Count);
    }

    [Fact]
    public void A_link_whose_blob_was_removed_is_made_anew()
    {
        _hub.Fetch();
        File.Delete(_hub.Blob("model.safetensors"));
        _hub.Resolve();
        _hub.AssertWhole();
    }

    [Fact]
    public void Damaged_files_of_the_cache_are_named()
    {
        _hub.Fetch();
        string file = Path.Combine(_hub.Repository, "refs", "main");
        File.WriteAllText(file, "../../../../etc");
        Assert.Contains(file, Assert.Throws<UserErrorException>(() => _hub.Resolve()).Message);
    }

    [Theory]
    [InlineData("org/name", "org/name", "main", null)]
    [InlineData("org/name@v1.0", "org/name", "v1.0", null)]
    [InlineData("org/name@refs/pr/3", "org/name", "refs/pr/3", null)]
    [InlineData("org/name:file.gguf", "org/name", "main", "file.gguf")]
    [InlineData("org/na.me_x-1@dev:sub/Q4_0.gguf", "org/na.me_x-1", "dev", "sub/Q4_0.gguf")]
    [InlineData("./org/name")]
    [InlineData("../name")]
    [InlineData("/org/name")]
    [InlineData("a/b/c")]
    [InlineData("org/")]
    [InlineData("org/name@")]
    [InlineData("org/name@../x")]
    [InlineData("org/name:../x.gguf")]
    [InlineData("org/name:/x.gguf")]
    [InlineData("org--x/name")]
    [InlineData("org/.name")]
    [InlineData("C:\\models\\x")]
    [InlineData("name")]
    [InlineData("org/na me")]
    public void References_are_read_and_paths_are_not_taken_for_them(string text, string? repository = null, string? revision = null, string? file = null)
    {
        HubReference? reference = HubReference.TryParse(text);
        Assert.Equal(repository is null ? null : new HubReference(repository, revision!, file), reference);
        if (reference is not null)
            Assert.Equal(text, reference.ToString());
    }

    [Fact]
    public void Settings_come_from_the_environment_as_huggingface_hub_reads_it()
    {
        using var folder = new Formats.TempFolder();
        HubSettings Read(params (string Name, string Value)[] variables) => HubSettings.FromEnvironment(n => variables.FirstOrDefault(v => v.Name == n).Value);
        Assert.Equal("/home/me/.cache/huggingface/hub", Read(("HOME", "/home/me")).CacheFolder);
        Assert.Equal("/x/huggingface/hub", Read(("HOME", "/home/me"), ("XDG_CACHE_HOME", "/x")).CacheFolder);
        Assert.Equal("/hf/hub", Read(("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/x")).CacheFolder);
        Assert.Equal("/home/me/c", Read(("HOME", "/home/me"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "~/c")).CacheFolder);
        Assert.Equal("https://mirror.example/hub", Read(("HF_HOME", "/hf"), ("HF_ENDPOINT", "https://mirror.example/hub/")).Endpoint.AbsoluteUri);
        Assert.True(Read(("HF_HOME", "/hf"), ("HF_HUB_OFFLINE", "1")).Offline);
        Assert.False(Read(("HF_HOME", "/hf"), ("HF_HUB_OFFLINE", "0")).Offline);
        folder.File("token", "hf_file\n"u8);
        Assert.Equal("hf_file", Read(("HF_HOME", folder.Root)).Token);
        Assert.Equal("hf_env", Read(("HF_HOME", folder.Root), ("HF_TOKEN", "hf_env")).Token);
        Assert.Null(Read(("HF_HOME", folder.Root), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")).Token);
        Assert.Contains("HF_ENDPOINT", Assert.Throws<UserErrorException>(() => Read(("HF_HOME", "/hf"), ("HF_ENDPOINT", "ftp://x"))).Message);
        string secret = Assert.Throws<UserErrorException>(() => Read(("HF_HOME", "/hf"), ("HF_TOKEN", "hf_a b"))).Message;
        Assert.DoesNotContain("hf_a b", secret);
        Assert.Contains("seconds", Assert.Throws<UserErrorException>(() => Read(("HF_HOME", "/hf"), ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"))).Message);
    }
}
