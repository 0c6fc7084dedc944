using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>
/// Tiny random models of every family that GGUF has, written by this program and run by llama.cpp: its log-probabilities of every
/// next token against ours, also with a LoRA. Needs Node, and node-llama-cpp installed in the folder that REPENG_LLAMACPP names;
/// skipped without, as in CI.
/// </summary>
[Trait("Category", "Peer")]
public sealed class LlamaCppPeerTests : IDisposable
{
    private const string Variable = "REPENG_LLAMACPP";

    // llama.cpp takes GELU, always in its tanh form, from a table of fp16.
    private const double Tolerance = 1e-5, TableTolerance = 1e-3;

    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-peer-").FullName;

    /// <summary>The golden models, and the families without one.</summary>
    public static IEnumerable<TheoryDataRow<string>> Names =>
        (Directory.Exists(Golden.Path("models")) ? Directory.GetDirectories(Golden.Path("models")).Select(d => "golden " + Path.GetFileName(d)).Order(StringComparer.Ordinal) : Enumerable.Empty<string>())
        .Concat(GgufFamilyTests.Configs.Keys).Select(n => new TheoryDataRow<string>(n));

    /// <summary>Golden models with experts in one tensor.</summary>
    public static IEnumerable<TheoryDataRow<string>> Mixtures => Golden.OrAbsent(Golden.Folders("models", "config.json")
        .Where(n => n != Golden.Absent && (string?)GoldenFiles.Json(Golden.Path("models", n, "config.json"))["model_type"] == "gpt_oss")).Select(n => new TheoryDataRow<string>(n));

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Names))]
    public void Llama_cpp_gives_the_same_log_probabilities(string name)
    {
        string? peer = Environment.GetEnvironmentVariable(Variable);
        Assert.SkipUnless(!string.IsNullOrEmpty(peer), $"set {Variable} to a folder with node-llama-cpp");
        bool golden = name.StartsWith("golden ", StringComparison.Ordinal);
        JsonObject config = golden ? GoldenFiles.Json(Golden.Path("models", name["golden ".Length..], "config.json"))
            : GgufFamilyTests.Config("""{"hidden_size":64,"intermediate_size":96,"vocab_size":300,"num_attention_heads":4}""", GgufFamilyTests.Configs[name]);
        using var checkpoint = golden ? null : new TinyCheckpoint(config, seed: 7);
        string folder = checkpoint?.Write() ?? Golden.Path("models", name["golden ".Length..]);
        int vocabulary = (int)config["vocab_size"]!;
        string path = Path.Combine(_folder, "model.gguf"), lora = Path.Combine(_folder, "lora.gguf");
        using Device device = Device.Cpu(2);
        using DecoderModel model = GoldenFiles.Load(device, folder);
        var warnings = new List<string>();
        using (ITensorSource source = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")))
            GgufModelWriter.Write(path, config, "config.json", source, new GgufModelWriter.Options { Type = "F32", Tokenizer = Tokens(vocabulary), Warn = warnings.Add });
        Assert.SkipWhen(warnings.Any(w => w.Contains("does not load", StringComparison.Ordinal)), string.Join("; ", warnings));
        // What llama.cpp was said to compute otherwise begins behind the window.
        int length = warnings.Any(w => w.Contains("sliding window", StringComparison.Ordinal)) ? (int)config["sliding_window"]! : 18;
        // Neither the head nor routers, whose choice a rounding may turn; of experts all, in one tensor.
        using PeftAdapter adapter = PeftFactory.Create(model, new PeftSettings { Kind = "lora", Rank = 2, TargetModules = @".*\.1\.(self_attn|attn|attention|mlp|block_sparse_moe)\.(?!.*gate$)(?!router).*", InitNoise = 0.05 });
        using (ModelFiles files = ModelFiles.Open(folder))
            LoraExport.WriteGguf(lora, files, adapter, 1);

        int[] ids = [.. Enumerable.Range(0, length).Select(i => 3 + i * 37 % (vocabulary - 3))];
        bool table = ((string?)config["hidden_act"] ?? (string?)config["hidden_activation"] ?? (string?)config["activation_function"] ?? ((string)config["model_type"]! == "gpt_neox" ? "gelu" : "silu")).StartsWith("gelu", StringComparison.Ordinal);
        foreach (bool with in new[] { false, true })
        {
            double[] theirs = LlamaCpp(peer, path, with ? lora : null, ids, vocabulary), ours = LogProbabilities(model, with ? adapter : null, ids);
            double error = ours.Zip(theirs, (a, b) => Math.Abs(a - b)).Max() / ours.Max(Math.Abs);
            int[] choice = Best(theirs, vocabulary), wanted = Best(ours, vocabulary);
            TestContext.Current.TestOutputHelper?.WriteLine($"{name}{(with ? " with a LoRA" : "")}: error {error:0.0e+0} of the largest log-probability, {choice.Zip(wanted, (a, b) => a == b ? 1 : 0).Sum()} of {ids.Length} likeliest tokens the same");
            Assert.True(error <= (table ? TableTolerance : Tolerance), $"{name}{(with ? " with a LoRA" : "")}: error {error:g4}");
            if (!table)
                Assert.Equal(wanted, choice);
        }
    }

    [Theory]
    [MemberData(nameof(Mixtures))]
    public void Llama_cpp_loads_mxfp4_experts(string name)
    {
        string? peer = Environment.GetEnvironmentVariable(Variable);
        Assert.SkipUnless(!string.IsNullOrEmpty(peer), $"set {Variable} to a folder with node-llama-cpp");
        string folder = Golden.Require("models", name), path = Path.Combine(_folder, "mxfp4.gguf");
        JsonObject config = GoldenFiles.Json(Path.Combine(folder, "config.json"));
        int vocabulary = (int)config["vocab_size"]!;
        using (ITensorSource source = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")))
            GgufModelWriter.Write(path, config, "config.json", source, new GgufModelWriter.Options { Type = "MXFP4", Tokenizer = Tokens(vocabulary) });
        using Device device = Device.Cpu(2);
        using GgufModel gguf = GgufModel.Open(path);
        Assert.Contains(gguf.File.Names, n => n.Contains("_exps.weight", StringComparison.Ordinal) && gguf.File.Info(n).Type == "MXFP4");
        using DecoderModel model = ModelLoader.Load(device, ModelBundle.ConfigOf(gguf, path), gguf.Tensors), plain = GoldenFiles.Load(device, folder);
        int[] ids = [.. Enumerable.Range(0, 18).Select(i => 3 + i * 37 % (vocabulary - 3))];
        double[] theirs = LlamaCpp(peer, path, null, ids, vocabulary), ours = LogProbabilities(model, null, ids), before = LogProbabilities(plain, null, ids);
        double scale = ours.Max(Math.Abs), error = ours.Zip(theirs, (a, b) => Math.Abs(a - b)).Max() / scale, change = ours.Zip(before, (a, b) => Math.Abs(a - b)).Max() / scale;
        TestContext.Current.TestOutputHelper?.WriteLine($"{name} in MXFP4: error {error:0.0e+0} of the largest log-probability; MXFP4 itself changes it by {change:0.0e+0}");
        // llama.cpp rounds activations to 8 bits beside these weights: far below what the weights' own rounding does.
        Assert.True(error < 0.2 * change, $"{name}: error {error:g4}, MXFP4 itself {change:g4}");
    }

    // Bytes as tokens, and fillers: ids go in as they are, but llama.cpp loads no model without a vocabulary.
    private static GgufTokenizer Tokens(int count)
    {
        string[] tokens = [.. Enumerable.Range(0, count).Select(i => i < 3 ? $"<s{i}>" : i < 259 ? Byte(i - 3) : $"filler{i}")];
        return new GgufTokenizer { Model = "gpt2", Pre = "gpt-2", Tokens = tokens, TokenTypes = [.. tokens.Select((_, i) => i < 3 ? 3 : 1)], Merges = [], BosId = 1, EosId = 2, PadId = 0 };
    }

    // GPT-2's letters for bytes: printable ones stand for themselves, others are letters from 256 on.
    private static string Byte(int b)
    {
        static bool Printable(int v) => v is >= '!' and <= '~' or >= 0xA1 and <= 0xAC or >= 0xAE and <= 0xFF;
        return ((char)(Printable(b) ? b : 256 + Enumerable.Range(0, b).Count(v => !Printable(v)))).ToString();
    }

    private static double[] LogProbabilities(DecoderModel model, IAdapter? adapter, int[] ids)
    {
        using var tape = new Tape(model.Device, record: false);
        var tokens = new TokenBatch(1, ids.Length, ids, [0]);
        float[] logits = model.Logits(tape, model.Forward(new ForwardContext(tape, tokens) { Adapter = adapter?.Pass(tape, [1], ids.Length) })).ToArray();
        int width = logits.Length / ids.Length;
        var result = new double[logits.Length];
        for (int t = 0; t < ids.Length; t++)
        {
            double max = logits.AsSpan(t * width, width).ToArray().Max(), sum = 0;
            for (int v = 0; v < width; v++)
                sum += Math.Exp(logits[t * width + v] - max);
            for (int v = 0; v < width; v++)
                result[t * width + v] = logits[t * width + v] - max - Math.Log(sum);
        }
        return result;
    }

    private static int[] Best(double[] values, int width) => [.. Enumerable.Range(0, values.Length / width).Select(t => Array.IndexOf(values, values.AsSpan(t * width, width).ToArray().Max(), t * width) - t * width)];

    private static double[] LlamaCpp(string folder, string model, string? lora, int[] ids, int vocabulary)
    {
        var start = new ProcessStartInfo("node") { RedirectStandardOutput = true, RedirectStandardError = true, WorkingDirectory = folder };
        foreach (string arg in new[] { Path.Combine(Golden.Repository, "tests", "peers", "llamacpp.mjs"), model, "--probabilities", string.Join(',', ids) }.Concat(lora is null ? [] : ["--lora", lora]))
            start.ArgumentList.Add(arg);
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string text = process.StandardOutput.ReadToEnd();
        Assert.True(process.WaitForExit(120_000), "llama.cpp does not end");
        Assert.True(process.ExitCode == 0 && text.Length > 0, $"llama.cpp: exit {process.ExitCode}: {error.Result}");
        var values = new double[ids.Length * vocabulary];
        JsonArray rows = JsonNode.Parse(text.Trim().Split('\n')[^1])!["logProbabilities"]!.AsArray();
        Assert.Equal(ids.Length, rows.Count);
        for (int t = 0; t < rows.Count; t++)
        {
            Assert.Equal(vocabulary, rows[t]!.AsArray().Count);
            for (int v = 0; v < vocabulary; v++)
                values[t * vocabulary + v] = double.Parse(rows[t]![v]!.ToString(), CultureInfo.InvariantCulture);
        }
        return values;
    }
}
