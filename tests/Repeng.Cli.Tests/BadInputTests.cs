using System.Text.Json.Nodes;
using Repeng.Runtime.Formats;

namespace Repeng.Cli.Tests;

/// <summary>Everything that a person can get wrong ends in one line, exit code 1, and nothing half-written.</summary>
public sealed class BadInputTests : IDisposable
{
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Fact]
    public void Missing_model() => Fails(["no such folder"], _shop.Train(_shop.At("nowhere"), "r"));

    [Fact]
    public void Folder_without_config() => Fails(["config.json"], _shop.Train(Directory.CreateDirectory(_shop.At("empty")).FullName, "r"));

    [Fact]
    public void Truncated_weights()
    {
        string model = _shop.Model();
        using (FileStream f = File.OpenWrite(Path.Combine(model, "model.safetensors")))
            f.SetLength(f.Length / 2);
        Fails(["model.safetensors"], _shop.Train(model, "r"));
    }

    [Fact]
    public void Shapes_that_disagree_with_the_config() =>
        Fails(["48", "56", "configuration"], _shop.Train(_shop.Model(change: c => c["intermediate_size"] = 56), "r"));

    [Fact]
    public void Unknown_family() => Fails(["wonderformer"], _shop.Train(_shop.Model(change: c => c["model_type"] = "wonderformer"), "r"));

    [Fact]
    public void Weight_that_is_not_finite()
    {
        string model = _shop.Model(weights: (name, values) =>
        {
            if (name.EndsWith("1.mlp.up_proj.weight", StringComparison.Ordinal))
                values[7] = float.NaN;
        });
        Fails(["1.mlp.up_proj.weight", "7"], _shop.Train(model, "r"));
    }

    [Fact]
    public void Targets_that_match_nothing_name_the_nearest() =>
        Fails([@"blocks\.0\.mlp\.down_proj", "model.layers.0.mlp.down_proj"], _shop.Train(_shop.Model(), "r", "--target_modules", @"blocks\.0\.mlp\.down_proj"));

    [Fact]
    public void Targets_that_are_no_expression() => Fails(["(unclosed"], _shop.Train(_shop.Model(), "r", "--target_modules", "(unclosed"));

    [Fact]
    public void Rank_above_the_smaller_side() => Fails(["rank 33", "32"], _shop.Train(_shop.Model(), "r", "--rank", "33"));

    [Fact]
    public void Rows_that_run_together_and_are_no_pairs() => Fails(["3", "even"], _shop.Train(_shop.Model(), "r", "--micro_batch_size", "3"));

    [Fact]
    public void Rows_that_run_together_beside_a_loss_that_looks_at_all_of_them() => Fails(["micro_batch_size 4", "checkpoint_activations"], _shop.Train(_shop.Model(), "r", "--micro_batch_size", "4", "--profile", "antipasto"));

    [Fact]
    public void Odd_batch_size() => Fails(["5", "even"], _shop.Train(_shop.Model(), "r", "--batch_size", "5"));

    [Theory]
    [InlineData(new byte[0], "no suffix")]
    [InlineData(new byte[] { 0x61, 0xFF, 0x62 }, "UTF-8")]
    public void Suffix_files(byte[] content, string named)
    {
        string file = _shop.At("suffixes.txt");
        File.WriteAllBytes(file, content);
        Fails([named, file], _shop.Train(_shop.Model(), "r", "--suffixes", file));
    }

    [Fact]
    public void Suffix_so_long_that_the_cut_leaves_no_persona()
    {
        string file = _shop.At("suffixes.txt");
        File.WriteAllText(file, string.Join(' ', Enumerable.Repeat("the wood is red", 40)));
        Fails(["--max_tokens", "last 20"], _shop.Train(_shop.Model(), "r", "--suffixes", file, "--max_tokens", "20"));
    }

    [Fact]
    public void Suffix_set_that_is_not_known() => Fails(["fects", "facts"], _shop.Train(_shop.Model(), "r", "--suffixes", "fects"));

    [Theory]
    [InlineData("honest")]
    [InlineData("honest:")]
    [InlineData("a:b:c")]
    public void Personas(string personas) => Fails([personas], _shop.Train(_shop.Model(), "r", "--personas", personas));

    [Fact]
    public void Tokenizer_without_a_chat_template()
    {
        string model = _shop.Model(), path = Path.Combine(model, "tokenizer_config.json");
        JsonObject config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        config.Remove("chat_template");
        File.WriteAllText(path, config.ToJsonString());
        Fails(["chat template"], _shop.Train(model, "r"));
        Fails(["chat template", "--raw"], ["generate", "--model", model, "--prompt", "the ball"]);
        Assert.Equal(ExitCodes.Ok, CliRun.Run("generate", "--model", model, "--prompt", "the ball", "--raw", "--max_new_tokens", "3").Code);
    }

    [Fact]
    public void Tokenizers_of_another_size_than_the_embedding()
    {
        string model = _shop.Model(), path = Path.Combine(model, "tokenizer.json");
        JsonObject tokenizer = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        int rows = (int)JsonNode.Parse(File.ReadAllText(Path.Combine(model, "config.json")))!["vocab_size"]!;
        string[] run = ["generate", "--model", model, "--raw", "--max_new_tokens", "1", "--prompt"];
        Assert.DoesNotContain("tokenizer has", CliRun.Run([.. run, "the ball"]).Error);
        tokenizer["added_tokens"]!.AsArray().Add(JsonNode.Parse($$"""{"id":{{rows + 2}},"content":"<late>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}"""));
        File.WriteAllText(path, tokenizer.ToJsonString());
        CliResult warned = CliRun.Run([.. run, "the ball"]);
        Assert.Equal(ExitCodes.Ok, warned.Code);
        Assert.Contains($"the tokenizer has {rows + 3} tokens, the model's embedding {rows} rows; 1 added token lie", warned.Error);
        Assert.Contains($"<late> ({rows + 2})", warned.Error);
        Fails([$"token id {rows + 2}", "outside the vocabulary"], [.. run, "the <late> ball"]);
        // Fewer rows than tokens of the vocabulary itself.
        Fails(["do not belong together"], ["generate", "--model", _shop.Model("small", change: c => c["vocab_size"] = 20), "--raw", "--prompt", "the ball"]);
    }

    [Fact]
    public void Index_that_names_absent_and_doubled_tensors()
    {
        string model = _shop.Model(), weights = Path.Combine(model, "model.safetensors");
        File.Move(weights, Path.Combine(model, "a.safetensors"));
        string[] names;
        using (var source = SafetensorsFile.Open(Path.Combine(model, "a.safetensors")))
            names = [.. source.Names];
        void Index(string last) => File.WriteAllText(Path.Combine(model, "model.safetensors.index.json"), new JsonObject { ["weight_map"] = new JsonObject(names.Select((n, i) => KeyValuePair.Create(n, (JsonNode?)(i == names.Length - 1 ? last : "a.safetensors")))) }.ToJsonString());
        Index("b.safetensors");
        string[] run = ["generate", "--model", model, "--raw", "--max_new_tokens", "1", "--prompt", "the ball"];
        Fails([names[^1], "b.safetensors", "no such file beside the index"], run);
        File.Copy(Path.Combine(model, "a.safetensors"), Path.Combine(model, "b.safetensors"));
        Fails([names[0], "a.safetensors", "and in", "b.safetensors"], run);
    }

    [Theory]
    [InlineData("gptq")]
    [InlineData("awq")]
    [InlineData("compressed-tensors")]
    [InlineData("fp8")]
    [InlineData("torchao")]
    public void Weights_quantised_in_a_way_that_is_not_read(string method)
    {
        string model = _shop.Model(change: c => c["quantization_config"] = new JsonObject { ["quant_method"] = method, ["bits"] = 4 });
        string[] named = [$"'{method}' (quantization_config)", "read are bitsandbytes (NF4, FP4, INT8), mxfp4 of gpt-oss, and GGUF", "--quantization_type 4bit"];
        Fails(named, ["generate", "--model", model, "--raw", "--prompt", "the ball"]);
        Fails(named, _shop.Train(model, "r"));
        Fails(named, ["convert", "--model", model, "--output", _shop.At("a.gguf")]);
        Fails(named, ["quantize", "--model", model, "--output", _shop.At("nf4")]);
        // What it is can be said all the same.
        CliResult seen = CliRun.Run("inspect", model);
        Assert.True(seen.Code == ExitCodes.Ok, seen.Error);
        Assert.Contains($"{method}, which cannot be run", seen.Out);
    }

    [Fact]
    public void Weights_of_gptq_without_a_word_of_it_in_the_config()
    {
        string model = _shop.Model(), weights = Path.Combine(model, "model.safetensors"), packed = Path.Combine(model, "packed.safetensors");
        using (var source = SafetensorsFile.Open(weights))
        {
            var writer = new SafetensorsWriter();
            foreach (string name in source.Names)
                if (name.EndsWith("_proj.weight", StringComparison.Ordinal))
                    writer.AddRaw(name.Replace(".weight", ".qweight", StringComparison.Ordinal), "I32", [1], new byte[4]);
                else
                    writer.AddRaw(name, source.Info(name).Type, source.Info(name).Shape, source.ReadBytes(name));
            writer.Write(packed);
        }
        File.Move(packed, weights, overwrite: true);
        Fails(["'gptq or awq'"], ["generate", "--model", model, "--raw", "--prompt", "the ball"]);
    }

    [Fact]
    public void Chat_template_that_raises()
    {
        string model = _shop.Model(), path = Path.Combine(model, "tokenizer_config.json");
        JsonObject config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        config["chat_template"] = "{% if messages[0].role != 'system' %}\n{{ raise_exception('Conversations must begin with a system message') }}{% endif %}{{ messages[0].content }}";
        File.WriteAllText(path, config.ToJsonString());
        Fails(["Conversations must begin with a system message", "tokenizer_config.json", "line 2"], ["generate", "--model", model, "--prompt", "the ball"]);
        Assert.Equal(ExitCodes.Ok, CliRun.Run("generate", "--model", model, "--system", "the cup", "--prompt", "the ball", "--max_new_tokens", "1").Code);
    }

    [Fact]
    public void Prompt_longer_than_the_context() =>
        Fails(["200", "128"], ["generate", "--model", _shop.Model(), "--raw", "--prompt", string.Join(' ', Enumerable.Repeat("ball", 200))]);

    [Fact]
    public void Adapter_of_another_base_model()
    {
        string model = _shop.Model(), other = _shop.Model("other", seed: 4);
        Assert.Equal(ExitCodes.Ok, CliRun.Run(_shop.Train(model, "r", "--n_epochs", "1")).Code);
        Fails(["fingerprint"], ["generate", "--model", other, "--adapter", _shop.At("runs/r"), "--prompt", "hello"], runs: 1);
    }

    [Theory]
    [InlineData("300", true)]
    [InlineData("1e20", false)]
    public void Loss_that_is_no_number_keeps_the_last_good_checkpoint(string rate, bool everGood)
    {
        // The first step at 1e20 already leaves parameters that give no loss: no state was ever good.
        CliResult result = CliRun.Run(_shop.Train(_shop.Model(), "r", "--lr", rate, "--scale_s", "mult", "--clip_norm", "0", "--checkpoint_every", "1"));
        Assert.Equal(ExitCodes.UserError, result.Code);
        Assert.Contains("loss became", result.ErrorLines[^1]);
        Assert.Equal(everGood, result.ErrorLines[^1].Contains("last good checkpoint is in", StringComparison.Ordinal));
        Assert.DoesNotContain("   at ", result.Error);
        Assert.Equal(everGood, File.Exists(_shop.At("runs/r.partial/checkpoint.safetensors")));
        Assert.False(Directory.Exists(_shop.At("runs/r")));
    }

    [Fact]
    public void Output_folder_that_exists()
    {
        Directory.CreateDirectory(_shop.At("runs/r"));
        Fails(["exists"], _shop.Train(_shop.Model(), "r"), runs: 1);
    }

    [Fact]
    public void Output_folder_below_a_file()
    {
        File.WriteAllText(_shop.At("runs"), "");
        Fails(["runs"], _shop.Train(_shop.Model(), "r"));
    }

    [Fact]
    public void Name_that_leaves_the_output_folder() => Fails(["--run_name"], _shop.Train(_shop.Model(), "../r"));

    [Fact]
    public void Resume_of_what_is_no_run()
    {
        Fails(["--resume", "no such folder"], ["train", "--resume", _shop.At("nothing.partial")]);
        Directory.CreateDirectory(_shop.At("hollow.partial"));
        Fails(["checkpoint"], ["train", "--resume", _shop.At("hollow.partial")]);
        Fails(["--lr"], ["train", "--resume", _shop.At("hollow.partial"), "--lr", "1e-3"]);
    }

    [Fact]
    public void Resume_of_a_damaged_checkpoint_does_not_call_it_good()
    {
        string model = _shop.Model(), partial = _shop.At("runs/r.partial");
        CliResult broken = CliRun.Run(_shop.Train(model, "r", "--lr", "300", "--scale_s", "mult", "--clip_norm", "0", "--checkpoint_every", "1"));
        Assert.Contains("last good checkpoint", broken.ErrorLines[^1]);
        using (FileStream f = File.OpenWrite(Path.Combine(partial, "checkpoint.safetensors")))
            f.SetLength(f.Length / 2);
        CliResult result = CliRun.Run(["train", "--resume", partial]);
        Assert.Equal(ExitCodes.UserError, result.Code);
        Assert.Contains("checkpoint.safetensors", result.ErrorLines[^1]);
        Assert.DoesNotContain("last good checkpoint", result.ErrorLines[^1]);
    }

    [Theory]
    [InlineData("--temperature", "0")]
    [InlineData("--top_p", "1.5")]
    [InlineData("--repetition_penalty", "0")]
    [InlineData("--max_new_tokens", "0")]
    public void Sampling_values(string option, string value) => Fails([option[2..], value], ["generate", "--prompt", "x", option, value]);

    [Fact]
    public void Coefficient_without_adapter() => Fails(["--adapter"], ["generate", "--prompt", "x", "--coefficient", "1"]);

    [Fact]
    public void Empty_prompt() => Fails(["prompt"], ["generate", "--prompt", ""]);

    private void Fails(string[] named, string[] args, int runs = 0)
    {
        CliResult result = CliRun.Run(args);
        Assert.True(result.Code == ExitCodes.UserError, $"exit {result.Code}: {result.Error}");
        string[] errors = [.. result.ErrorLines.Where(l => l.StartsWith("error:", StringComparison.Ordinal))];
        Assert.Equal(result.ErrorLines[^1], Assert.Single(errors));
        Assert.DoesNotContain("   at ", result.Error);
        foreach (string word in named)
            Assert.Contains(word, errors[0]);
        Assert.Equal(runs, Directory.Exists(_shop.At("runs")) ? Directory.GetFileSystemEntries(_shop.At("runs")).Length : 0);
    }
}
