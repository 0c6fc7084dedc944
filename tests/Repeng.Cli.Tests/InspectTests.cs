using System.Text.Json.Nodes;
using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>inspect says of every kind of file what it is; GGUF files of all kinds: <see cref="GgufVerbTests"/>.</summary>
public sealed class InspectTests : IDisposable
{
    private readonly Workshop _shop = new();

    public static TheoryData<string> PeftFolders => Below("peft", "adapter_config.json");

    public static TheoryData<string> BitsAndBytes => Below("nf4", "config.json");

    public static TheoryData<string> Families => Below("models", "config.json");

    public static TheoryData<string> Tokenizers
    {
        get
        {
            var rows = new TheoryData<string>();
            foreach (string root in new[] { Golden.Beside("tokenizers"), Golden.Path("tokenizers") }.Where(Directory.Exists))
                foreach (string file in Directory.EnumerateFiles(root, "tokenizer.json", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
                    rows.Add(Path.GetRelativePath(Golden.Root, file));
            if (rows.Count == 0)
                rows.Add("(absent)");
            return rows;
        }
    }

    public void Dispose() => _shop.Dispose();

    [Theory]
    [InlineData("F32", false)]
    [InlineData("F16", true)]
    [InlineData("BF16", true)]
    public void A_folder_of_transformers(string type, bool sharded)
    {
        string model = _shop.Model();
        _shop.Store(model, type, sharded ? 3 : 1);
        string text = Says("inspect", model, "--tensors");
        Contains(text, "family", "blocks", "2", "width", "heads", "vocabulary", "context", "tokenizer.json", "chat template", "yes", type, "model.layers.1.mlp.down_proj.weight");
        Assert.DoesNotContain("quantised by", text);
    }

    [Theory]
    [MemberData(nameof(Families))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "models")]
    public void A_model_of_every_family(string name)
    {
        string folder = Golden.Require("models", name);
        JsonObject config = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!.AsObject();
        string text = Says("inspect", folder);
        Contains(text, (string)config["model_type"]!, $"{config["vocab_size"]}");
        if ((config["num_local_experts"] ?? config["num_experts"]) is { } experts)
            Contains(text, $"{experts} of width", $"{config["num_experts_per_tok"]} a token");
    }

    [Theory]
    [MemberData(nameof(BitsAndBytes))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "nf4")]
    public void A_folder_of_bitsandbytes(string name)
    {
        string folder = Golden.Require("nf4", name);
        JsonObject settings = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!["quantization_config"]!.AsObject();
        bool four = (bool)settings["load_in_4bit"]!, nested = (bool)settings["bnb_4bit_use_double_quant"]!;
        Contains(Says("inspect", folder), "quantised by", "bitsandbytes", !four ? "INT8" : ((string)settings["bnb_4bit_quant_type"]!).ToUpperInvariant() + (nested ? "+DQ" : ""), four ? "4." : "8.");
    }

    [Fact]
    public void A_folder_of_gpt_oss_in_mxfp4()
    {
        string folder = Directory.CreateDirectory(_shop.At("oss")).FullName;
        File.WriteAllText(Path.Combine(folder, "config.json"), """
            {"model_type":"gpt_oss","hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"vocab_size":40,"max_position_embeddings":64,
             "num_local_experts":3,"num_experts_per_tok":2,"sliding_window":4,"quantization_config":{"quant_method":"mxfp4"}}
            """);
        new SafetensorsWriter().AddRaw("model.layers.0.mlp.experts.down_proj_blocks", "U8", [3, 32, 2, 16], new byte[3 * 32 * 2 * 16])
            .AddRaw("model.layers.0.mlp.experts.down_proj_scales", "U8", [3, 32, 2], new byte[3 * 32 * 2]).Write(Path.Combine(folder, "model.safetensors"));
        string text = Says("inspect", folder);
        Contains(text, "gpt_oss", "3 of width 64, 2 a token", "mxfp4");
        Assert.DoesNotContain("cannot be run", text);
    }

    [Theory]
    [MemberData(nameof(PeftFolders))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "peft")]
    public void A_folder_of_peft(string name)
    {
        string folder = Golden.Require("peft", name);
        JsonObject config = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "adapter_config.json")))!.AsObject();
        Contains(Says("inspect", folder, "--tensors"), "peft_type", (string)config["peft_type"]!, "target_modules", "adapter_model.safetensors", "base_model.");
    }

    [Fact]
    public void An_adapter_of_train()
    {
        string model = _shop.Model();
        Assert.Equal(ExitCodes.Ok, CliRun.Run(_shop.Train(model, "r", "--n_epochs", "1")).Code);
        Contains(Says("inspect", _shop.At("runs/r")), "base_model_name_or_path", "base_model_fingerprint", "rotation_method", "scale_s", "svd_bases.safetensors", "F32");
    }

    [Theory]
    [MemberData(nameof(Tokenizers))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "tokenizers")]
    public void A_tokenizer(string name)
    {
        string path = Path.GetFullPath(Path.Combine(Golden.Root, name));
        Assert.SkipUnless(File.Exists(path), $"golden data absent: {path} (set REPENG_GOLDEN)");
        JsonNode json = JsonNode.Parse(File.ReadAllText(path))!;
        Contains(Says("inspect", path), "model", json["model"]!["type"]?.ToString() ?? "BPE", "vocabulary", $"{((JsonArray?)json["added_tokens"])?.Count ?? 0} added", "pre-tokenizer", "decoder");
    }

    [Fact]
    public void Files_that_are_none_of_these()
    {
        File.WriteAllText(_shop.At("tokenizer.json"), """{"model":{"type":"Sorcery"}}""");
        File.WriteAllText(_shop.At("notes.txt"), "x");
        foreach ((string name, string part) in new[] { ("tokenizer.json", "Sorcery"), ("notes.txt", "is a file but no .gguf file"), ("nowhere", "no such folder") })
        {
            CliResult r = CliRun.Run("inspect", _shop.At(name));
            Assert.Equal(ExitCodes.UserError, r.Code);
            Assert.Contains(part, Assert.Single(r.ErrorLines));
        }
    }

    private static TheoryData<string> Below(string folder, string file)
    {
        var rows = new TheoryData<string>();
        if (Directory.Exists(Golden.Path(folder)))
            foreach (string path in Directory.GetDirectories(Golden.Path(folder)).Where(d => File.Exists(Path.Combine(d, file))).Order(StringComparer.Ordinal))
                rows.Add(Path.GetFileName(path));
        if (rows.Count == 0)
            rows.Add("(absent)");
        return rows;
    }

    private static string Says(params string[] args)
    {
        CliResult r = CliRun.Run(args);
        Assert.True(r.Code == ExitCodes.Ok, r.Error);
        return r.Out;
    }

    private static void Contains(string text, params string[] parts)
    {
        foreach (string part in parts)
            Assert.Contains(part, text, StringComparison.Ordinal);
    }
}
