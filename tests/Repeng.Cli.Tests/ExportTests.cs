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
    public void Adapters_act_together_each_at_its_weight()
    {
        string model = _shop.Model(), folder = _shop.At("runs/r"), lora = _shop.At("lora"), copy = _shop.At("copy");
        Assert.Equal(ExitCodes.Ok, CliRun.Run([.. _shop.Train(model, "r")]).Code);
        foreach (string to in new[] { lora, copy })
            Assert.Equal(ExitCodes.Ok, CliRun.Run("export", "--adapter", folder, "--coefficient", "20", "--output", to).Code);
        string wanted = Text("--adapter", lora);
        Assert.Equal(wanted, Text("--adapter", lora, "--adapter", copy, "--adapter_weights", "0.25", "0.75"));
        Assert.Equal(wanted, Text("--adapter", lora, copy, "--adapter_weights", "1.5", "-1", "--coefficient", "2"));
        Assert.Equal(Text("--model", model), Text("--adapter", lora, copy, "--adapter_weights", "1", "-1"));
        CliResult forward = CliRun.Run("forward", "--text", "the ball", "--adapter", folder, lora, "--adapter_weights", "1", "0.5", "--output", _shop.At("f.safetensors"));
        Assert.True(forward.Code == ExitCodes.Ok, forward.Error);
        CliResult eval = CliRun.Run("eval", "--adapter", lora, copy, "--adapter_weights", "1", "2", "--coefficients", "1", "--max_questions", "4", "--no-kl", "--no-baselines");
        Assert.True(eval.Code == ExitCodes.Ok, eval.Error);
        Assert.Contains("1·lora + 2·copy", eval.Out);
        Assert.Contains("has 1 number for 2 adapters", CliRun.Run("generate", "--adapter", lora, copy, "--adapter_weights", "1", "--prompt", "x").Error);
        Assert.Contains("given twice", CliRun.Run("generate", "--adapter", lora, lora, "--prompt", "x").Error);
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
