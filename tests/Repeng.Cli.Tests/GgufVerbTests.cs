using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Runtime.Tokenizers;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>convert, export to GGUF, inspect of GGUF files.</summary>
public sealed class GgufVerbTests : IDisposable
{
    private readonly Workshop _shop = new();

    public static TheoryData<string> GoldenFiles()
    {
        var rows = new TheoryData<string>();
        if (Directory.Exists(Golden.Root))
            foreach (string path in Directory.EnumerateFiles(Golden.Root, "*.gguf", SearchOption.AllDirectories).Order(StringComparer.Ordinal))
                rows.Add(Path.GetRelativePath(Golden.Root, path));
        if (rows.Count == 0)
            rows.Add("(absent)");
        return rows;
    }

    [Theory]
    [MemberData(nameof(GoldenFiles))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "gguf")]
    public void Inspect_describes_every_golden_file_or_says_what_is_wrong_with_it(string name)
    {
        string path = Path.Combine(Golden.Require(), name);
        Assert.SkipUnless(File.Exists(path), $"golden data absent: {path}");
        CliResult r = CliRun.Run("inspect", path, "--tensors");
        Assert.True(r.Code is ExitCodes.Ok or ExitCodes.UserError, $"{name}: code {r.Code}: {r.Error}");
        bool readable = Readable(path, out string why);
        if (readable)
        {
            Assert.True(r.Code == ExitCodes.Ok, $"{name}: {r.Error}");
            Assert.Contains("GGUF", r.Out);
            using GgufFile file = GgufFile.Open(path);
            Assert.Contains(file.Architecture ?? "none", r.Out);
        }
        else
        {
            Assert.Equal(ExitCodes.UserError, r.Code);
            Assert.Contains(Path.GetFileName(path), r.Error);
            Assert.Single(r.Error.Trim().Split('\n'));
            Assert.Contains(why.ReplaceLineEndings(" ")[..20], r.Error);
        }
    }

    [Fact]
    public void A_lora_and_a_merged_model_go_out_as_gguf()
    {
        string model = _shop.Model(), folder = _shop.At("runs/r");
        Assert.Equal(ExitCodes.Ok, CliRun.Run([.. _shop.Train(model, "r")]).Code);
        CliResult lora = CliRun.Run("export", "--adapter", folder, "--coefficient", "2", "--to", "gguf-lora", "--output", _shop.At("lora.gguf"));
        Assert.True(lora.Code == ExitCodes.Ok, lora.Error);
        CliResult seen = CliRun.Run("inspect", _shop.At("lora.gguf"));
        Assert.True(seen.Code == ExitCodes.Ok, seen.Error);
        Assert.Contains("lora, alpha", seen.Out);
        using GgufFile file = GgufFile.Open(_shop.At("lora.gguf"));
        Assert.Equal(("adapter", "lora"), (file.Metadata.Text("general.type"), file.Metadata.Text("adapter.type")));
        Assert.All(file.Names, n => Assert.True(n.EndsWith(".weight.lora_a", StringComparison.Ordinal) || n.EndsWith(".weight.lora_b", StringComparison.Ordinal), n));

        // The file is an adapter for every verb that takes one: it does what the exported adapter did.
        string path = _shop.At("lora.gguf");
        float[] wanted = Logits(folder, "2");
        Assert.True(Close.Error(Logits(folder, "0"), wanted) > 1e-4, "the adapter does something");
        Close.To(1e-5, Logits(path, "1"), wanted, "lora.gguf");
        CliResult said = CliRun.Run("generate", "--model", model, "--adapter", path, "--coefficient", "-1", "1", "--raw", "--prompt", "the ball is", "--max_new_tokens", "4");
        Assert.True(said.Code == ExitCodes.Ok, said.Error);
        CliResult measured = CliRun.Run("eval", "--model", model, "--adapter", path, "--set", "mood", "--coefficients", "0", "1", "--max_questions", "2", "--no-generate_answers");
        Assert.True(measured.Code == ExitCodes.Ok, measured.Error);
        CliResult back = CliRun.Run("export", "--model", model, "--adapter", path, "--output", _shop.At("peft"));
        Assert.True(back.Code == ExitCodes.Ok, back.Error);
        Close.To(1e-5, Logits(_shop.At("peft"), "1"), wanted, "the LoRA as PEFT has it");
        Assert.Contains("give it as --model", CliRun.Run("generate", "--adapter", path, "--prompt", "x").Error);
        Assert.Contains("no control vector", CliRun.Run("generate", "--model", model, "--vector", path, "--prompt", "x").Error);

        float[] Logits(string adapter, string c)
        {
            string output = _shop.At($"{Path.GetRandomFileName()}.safetensors");
            CliResult r = CliRun.Run("forward", "--model", model, "--adapter", adapter, "--coefficient", c, "--text", "the ball is", "--output", output);
            Assert.True(r.Code == ExitCodes.Ok, r.Error);
            using SafetensorsFile file = SafetensorsFile.Open(output);
            return file.ReadF32("logits");
        }
    }

    [Fact]
    public void A_converted_model_generates_what_the_model_does()
    {
        // The tokenizer of the golden GGUF files stands beside them as tokenizer.json.
        string tokenizer = Golden.Require("gguf", "tokenizer.json");
        string folder = Directory.CreateDirectory(_shop.At("with-tokenizer")).FullName;
        JsonObject json = Workshop.Recipe.Config();
        json["vocab_size"] = Tokenizer.Load(tokenizer).VocabularySize + 5;
        using (var random = new ModelInitialiser(Families.Read(new ConfigReader(json, folder)), 3, 0.2))
        {
            var writer = new SafetensorsWriter();
            foreach (string tensor in random.Names)
                writer.Add(tensor, random.Info(tensor).Shape, random.ReadF32(tensor));
            writer.Write(Path.Combine(folder, "model.safetensors"));
        }
        File.WriteAllText(Path.Combine(folder, "config.json"), json.ToJsonString());
        File.Copy(tokenizer, Path.Combine(folder, "tokenizer.json"));
        File.WriteAllText(Path.Combine(folder, "tokenizer_config.json"), "{}");
        string wanted = Text("--model", folder);
        foreach ((string type, bool exact) in new[] { ("F32", true), ("q8_0", false) })
        {
            string path = _shop.At($"{type}.gguf");
            CliResult r = CliRun.Run("convert", "--model", folder, "--type", type, "--output", path);
            Assert.True(r.Code == ExitCodes.Ok, r.Error);
            string text = Text("--model", path);
            if (exact)
                Assert.Equal(wanted, text);
        }
        Assert.Contains("is there already", CliRun.Run("convert", "--model", folder, "--output", _shop.At("F32.gguf")).Error);
    }

    [Fact]
    public void What_cannot_be_written_is_said_before_anything_is()
    {
        string folder = _shop.Model();
        Refused("cannot be written; types that can: F32, F16", "convert", "--model", folder, "--type", "Q4_K", "--output", _shop.At("a.gguf"));
        Refused("must end in .gguf", "convert", "--model", folder, "--output", _shop.At("a.bin"));
        Refused("--output FILE.gguf is missing", "convert", "--model", folder);
        // The demo's words are no tokenizer that GGUF has.
        Refused("cannot be written as GGUF", "convert", "--model", folder, "--output", _shop.At("a.gguf"));
        Refused("--type is for --to gguf", "export", "--adapter", _shop.At("x"), "--type", "F16", "--output", _shop.At("y"));
        Refused("must end in .gguf", "export", "--adapter", _shop.At("x"), "--to", "gguf-lora", "--output", _shop.At("y"));
        Assert.False(File.Exists(_shop.At("a.gguf")));

        void Refused(string message, params string[] args)
        {
            CliResult r = CliRun.Run(args);
            Assert.True(r.Code is ExitCodes.UserError, $"{string.Join(' ', args)}: code {r.Code} {r.Out}");
            Assert.Contains(message, r.Error);
        }
    }

    public void Dispose() => _shop.Dispose();

    private static bool Readable(string path, out string why)
    {
        try
        {
            using GgufFile file = GgufFile.Open(path);
            why = "";
            // A model of a known architecture must also have what a model needs.
            if (file.Architecture != "controlvector" && GgufModel.Architectures.Split(", ").Contains(file.Architecture))
                GgufModel.Open(path).Dispose();
            return true;
        }
        catch (UserErrorException e)
        {
            why = e.Message;
            return false;
        }
    }

    private static string Text(params string[] how)
    {
        CliResult r = CliRun.Run(["generate", .. how, "--raw", "--prompt", "the ball is", "--max_new_tokens", "8", "--no-do_sample", "--json"]);
        Assert.True(r.Code == ExitCodes.Ok, r.Error);
        return JsonNode.Parse(r.Out)!["results"]![0]!["text"]!.ToString();
    }
}
