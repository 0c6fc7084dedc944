using System.Diagnostics;
using System.Runtime.InteropServices;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>Models of the hub in the verbs, in processes of their own: the environment names server and cache.</summary>
public sealed partial class HubVerbTests : IDisposable
{
    private const int LargeBytes = 24 << 20;
    private readonly Workshop _shop = new();
    private readonly HubServer _server = new();

    public void Dispose()
    {
        _server.Dispose();
        _shop.Dispose();
    }

    [Fact]
    public void A_model_of_the_hub_runs_by_its_name_and_stays_for_the_next_time()
    {
        foreach (string file in Directory.GetFiles(_shop.Model()))
            _server.Put(Path.GetFileName(file), File.ReadAllBytes(file));
        string[] generate = ["generate", "--prompt", "the ball is", "--raw", "--max_new_tokens", "6", "--model"];
        CliResult local = Run([.. generate, _shop.At("model")]);
        CliResult first = Run([.. generate, "org/model"]);
        Assert.True(first.Code == ExitCodes.Ok, first.Error);
        Assert.Equal(local.Out, first.Out);
        Assert.Contains("model.safetensors:", first.Error);
        int before = _server.Requests.Count;
        CliResult again = Run([.. generate, $"org/model@{_server.Commit}"]);
        Assert.Equal(local.Out, again.Out);
        Assert.Equal(before, _server.Requests.Count);

        CliResult trained = Run(_shop.Train("org/model", "run"));
        Assert.True(trained.Code == ExitCodes.Ok, trained.Error);
        Assert.Contains("\"org/model\"", File.ReadAllText(_shop.At("runs/run/adapter_config.json")));
        // The adapter names its base model, and can itself be fetched.
        _server.Put("adapter_config.json", File.ReadAllBytes(_shop.At("runs/run/adapter_config.json")));
        foreach (string file in new[] { "adapter_model.safetensors", "svd_bases.safetensors" })
            _server.Put(file, File.ReadAllBytes(_shop.At($"runs/run/{file}")));
        _server.Commit = new string('d', 40);
        CliResult fetched = Run("fetch", "org/model", "--adapter");
        Assert.True(fetched.Code == ExitCodes.Ok, fetched.Error);
        Assert.True(File.Exists(Path.Combine(fetched.Out.Trim(), "svd_bases.safetensors")));
        CliResult steered = Run([.. generate, "org/model@" + new string('c', 40), "--adapter", "org/model", "--coefficient", "2"]);
        CliResult same = Run([.. generate, _shop.At("model"), "--adapter", _shop.At("runs/run"), "--coefficient", "2"]);
        Assert.True(steered.Code == ExitCodes.Ok, steered.Error);
        Assert.Equal(same.Out, steered.Out);
        CliResult lora = Run("export", "--adapter", _shop.At("runs/run"), "--to", "gguf-lora", "--output", _shop.At("lora.gguf"));
        Assert.True(lora.Code == ExitCodes.Ok, lora.Error);
        _server.Put("lora.gguf", File.ReadAllBytes(_shop.At("lora.gguf")));
        CliResult inspected = Run("inspect", "org/model:lora.gguf");
        Assert.True(inspected.Code == ExitCodes.Ok, inspected.Error);
        Assert.Equal(Run("inspect", _shop.At("lora.gguf")).Out.Split('\n')[1..], inspected.Out.Split('\n')[1..]);
        foreach (string[] verb in new[] { new[] { "inspect", "org/model" }, ["plan", "--model", "org/model", "--personas", "honest:dishonest", "--suffixes", "demo", "--max_pairs", "8", "--rank", "4"] })
            Assert.Equal(ExitCodes.Ok, Run(verb).Code);
    }

    [Fact]
    public void A_killed_fetch_goes_on_and_two_at_once_share_it()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "signals are of Unix");
        byte[] block = new byte[1 << 20];
        new Random(4).NextBytes(block);
        var body = new HubBody(block, LargeBytes);
        _server.Put("big.gguf", body);
        _server.Change = (request, reply) => reply.Slow = request.Store ? TimeSpan.FromMilliseconds(4) : TimeSpan.Zero;
        string partial = _shop.At($"hf/hub/models--org--model/blobs/{_server.Etag("big.gguf")}.incomplete");

        using Process killed = Start("fetch", "org/model:big.gguf");
        WaitFor(() => File.Exists(partial) && new FileInfo(partial).Length >= LargeBytes / 4);
        Assert.Equal(0, Kill(killed.Id, 9));
        killed.WaitForExit();
        long kept = new FileInfo(partial).Length;
        Assert.InRange(kept, LargeBytes / 4, LargeBytes - 1);

        // So slow that the rest would take minutes: the signal comes long before the end, however busy the machine is.
        _server.Change = (request, reply) => reply.Slow = request.Store ? TimeSpan.FromSeconds(1) : TimeSpan.Zero;
        using Process stopped = Start("fetch", "org/model:big.gguf");
        WaitFor(() => new FileInfo(partial).Length > kept);
        Assert.Equal(0, Kill(stopped.Id, 2));
        CliResult end = Wait(stopped);
        Assert.Equal(ExitCodes.Interrupted, end.Code);
        Assert.Contains("what was fetched is kept", end.Error);
        Assert.Contains("goes on behind", end.Error);
        kept = new FileInfo(partial).Length;

        _server.Change = null;
        _server.Requests.Clear();
        using Process one = Start("fetch", "org/model:big.gguf"), two = Start("fetch", "org/model:big.gguf");
        CliResult[] both = [Wait(one), Wait(two)];
        Assert.All(both, r => Assert.True(r.Code == ExitCodes.Ok, r.Error));
        Assert.Equal(both[0].Out, both[1].Out);
        // Every missing byte was asked for once.
        Assert.Equal(LargeBytes - kept, _server.Requests.Where(r => r.Store).Sum(r => r.Range(LargeBytes) is { } range ? range.To - range.From + 1 : LargeBytes));
        byte[] bytes = File.ReadAllBytes(both[0].Out.Trim());
        Assert.Equal(body.Length, bytes.Length);
        Assert.Equal(_server.Etag("big.gguf"), Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(bytes)));
        Assert.False(File.Exists(partial));
    }

    [Theory]
    [InlineData(ExitCodes.UserError, "no repository of that name", "fetch", "org/absent")]
    [InlineData(ExitCodes.UserError, "is no repository of the hub", "fetch", "./org/name")]
    [InlineData(ExitCodes.UserError, "names a revision already", "fetch", "org/model@x", "--revision", "y")]
    [InlineData(ExitCodes.UserError, "names a file already", "fetch", "org/model:x.gguf", "--gguf_file", "y.gguf")]
    [InlineData(ExitCodes.UserError, "no GGUF files", "fetch", "org/model", "--gguf_file", "y.gguf")]
    [InlineData(ExitCodes.UserError, "no repository of that name", "generate", "--model", "org/absent", "--prompt", "x")]
    [InlineData(ExitCodes.UserError, "no such folder or .gguf file", "generate", "--model", "absent", "--prompt", "x")]
    [InlineData(ExitCodes.UserError, "no such folder or .gguf file", "train", "--model", "absent/model.gguf")]
    [InlineData(ExitCodes.UserError, "no repository of that name", "eval", "--adapter", "org/absent")]
    public void Wrong_names_are_one_line(int code, string part, params string[] args)
    {
        CliResult result = Run(args);
        Assert.Equal(code, result.Code);
        Assert.Contains(part, result.ErrorLines[^1]);
        Assert.Empty(result.Out);
    }

    private CliResult Run(params string[] args)
    {
        using Process process = Start(args);
        return Wait(process);
    }

    private Process Start(params string[] args)
    {
        ProcessStartInfo start = ProgramRun.Start(args);
        start.Environment["HF_ENDPOINT"] = _server.Endpoint;
        start.Environment["HF_HOME"] = _shop.At("hf");
        foreach (string name in new[] { "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY" })
            start.Environment.Remove(name);
        return Process.Start(start)!;
    }

    private static CliResult Wait(Process process)
    {
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return new CliResult(process.ExitCode, output, error.Result);
    }

    private static void WaitFor(Func<bool> done)
    {
        var watch = Stopwatch.StartNew();
        while (!done())
        {
            Assert.True(watch.Elapsed.TotalSeconds < 60, "what was waited for did not come");
            Thread.Sleep(5);
        }
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int process, int signal);
}
