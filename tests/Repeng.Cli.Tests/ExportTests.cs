using System.Text.Json.Nodes;

namespace Repeng.Cli.Tests;

/// <summary>An adapter goes out as a LoRA and as a merged model; both generate what the adapter does.</summary>
public sealed class ExportTests : IDisposable
{
    private readonly Workshop _shop = new();

    [Fact]
    public void Exports_generate_what_the_adapter_does()
    {
        string model = _shop.Model(), folder = _shop.At("runs/r");
        Assert.Equal(ExitCodes.Ok, CliRun.Run([.. _shop.Train(model, "r")]).Code);
        CliResult lora = CliRun.Run("export", "--adapter", folder, "--coefficient", "20", "--output", _shop.At("lora"));
        Assert.True(lora.Code == ExitCodes.Ok, lora.Error);
        Assert.Equal(ExitCodes.Ok, CliRun.Run("export", "--adapter", folder, "--coefficient", "20", "--to", "merged", "--output", _shop.At("merged")).Code);
        Assert.Equal(ExitCodes.Ok, CliRun.Run("export", "--adapter", _shop.At("lora"), "--to", "merged", "--output", _shop.At("both")).Code);
        string wanted = Text("--adapter", folder, "--coefficient", "20");
        Assert.NotEqual(Text("--model", model), wanted);
        Assert.Equal(wanted, Text("--adapter", _shop.At("lora"), "--coefficient", "1"));
        Assert.Equal(wanted, Text("--model", _shop.At("merged")));
        Assert.Equal(wanted, Text("--model", _shop.At("both")));
    }

    [Fact]
    public void What_is_missing_or_taken_is_said()
    {
        Assert.Contains("--adapter", CliRun.Run("export", "--output", _shop.At("x")).Error);
        Assert.Contains("--output", CliRun.Run("export", "--adapter", _shop.At("x")).Error);
        Directory.CreateDirectory(_shop.At("full"));
        File.WriteAllText(_shop.At("full/file"), "x");
        CliResult taken = CliRun.Run("export", "--adapter", _shop.At("x"), "--output", _shop.At("full"));
        Assert.Equal(ExitCodes.UserError, taken.Code);
        Assert.Contains("full", taken.Error);
    }

    public void Dispose() => _shop.Dispose();

    private string Text(params string[] how)
    {
        CliResult r = CliRun.Run(["generate", .. how, "--prompt", "the ball is", "--max_new_tokens", "12", "--json"]);
        Assert.True(r.Code == ExitCodes.Ok, r.Error);
        return JsonNode.Parse(r.Out)!["results"]![0]!["text"]!.ToString();
    }
}
