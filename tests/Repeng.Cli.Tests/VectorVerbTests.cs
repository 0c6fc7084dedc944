namespace Repeng.Cli.Tests;

/// <summary>vector: from texts to a file and back, and what it refuses.</summary>
public sealed class VectorVerbTests : IDisposable
{
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Theory]
    [InlineData("pca_diff", "blocks")]
    [InlineData("mean_diff", "self_attn$")]
    [InlineData("fisher_steer_cov_reg1", "down_proj$")]
    [InlineData("svd_gradient", "blocks")]
    [InlineData("pca_diff_weighted", "blocks")]
    [InlineData("kfac_steer_pca", "input_layernorm$")]
    public void A_vector_is_trained_shown_combined_and_applied(string method, string layers)
    {
        string file = _shop.At("v.gguf"), twice = _shop.At("twice.gguf");
        string[] where = layers == "blocks" ? ["--layer_range", "1:4"] : ["--layers", layers, "--layer_range", "0.2:0.7"];
        CliResult train = CliRun.Run(["vector", "train", "--method", method, "--max_pairs", "12", "--output", file, .. where]);
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        Assert.Contains("cosine with the one before", CliRun.Run("vector", "show", file).Out, StringComparison.Ordinal);
        Assert.Equal(ExitCodes.Ok, CliRun.Run("vector", "combine", file, $"1.0*{file}", "--output", twice).Code);
        CliResult apply = CliRun.Run("vector", "apply", "--vector", file, "--coefficient", "-1", "0", "1", "--max_new_tokens", "6", "--prompt", "make statements about the world.");
        Assert.True(apply.Code == ExitCodes.Ok, apply.Error);
        // Half of twice the vector is the vector.
        string a = CliRun.Run("generate", "--vector", file, "--coefficient", "1", "--max_new_tokens", "6", "--prompt", "make statements about the world.").Out;
        Assert.Equal(a, CliRun.Run("generate", "--vector", twice, "--coefficient", "0.5", "--max_new_tokens", "6", "--prompt", "make statements about the world.").Out);
        CliResult export = CliRun.Run("vector", "export", file, "--output", _shop.At("llama.gguf"));
        Assert.True(layers == "blocks" ? export.Code == ExitCodes.Ok : export.Code == ExitCodes.UserError && export.Error.Contains("is a module", StringComparison.Ordinal), export.Error);
        Assert.Equal(ExitCodes.Ok, CliRun.Run("vector", "import", file, "--model", "demo", "--output", _shop.At("again.gguf")).Code);
    }

    [Fact]
    public void A_weight_svd_edit_is_trained_applied_measured_and_exported_as_a_lora()
    {
        string folder = _shop.At("svd");
        CliResult train = CliRun.Run("vector", "train", "--method", "svd_weight_rank16", "--max_pairs", "12", "--output", folder);
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        Assert.Contains("a LoRA of rank 16", train.Out, StringComparison.Ordinal);
        string[] ask = ["--max_new_tokens", "6", "--prompt", "make statements about the world."];
        CliResult apply = CliRun.Run(["vector", "apply", "--adapter", folder, "--coefficient", "-1", "0", "1", .. ask]);
        Assert.True(apply.Code == ExitCodes.Ok, apply.Error);
        Assert.Equal(CliRun.Run(["generate", .. ask]).Out, CliRun.Run(["generate", "--adapter", folder, "--coefficient", "0", .. ask]).Out);
        CliResult eval = CliRun.Run("eval", "--adapter", folder, "--coefficients", "1", "--max_questions", "8");
        Assert.True(eval.Code == ExitCodes.Ok, eval.Error);
        CliResult again = CliRun.Run("export", "--adapter", folder, "--coefficient", "2", "--output", _shop.At("lora"));
        Assert.True(again.Code == ExitCodes.Ok, again.Error);
        Assert.Equal(CliRun.Run(["generate", "--adapter", folder, "--coefficient", "2", .. ask]).Out, CliRun.Run(["generate", "--adapter", _shop.At("lora"), "--coefficient", "1", .. ask]).Out);
        foreach (string[] args in new string[][] { ["vector", "export", folder, "--output", _shop.At("v.gguf")], ["vector", "show", folder], ["vector", "combine", folder, "--output", _shop.At("v.gguf")], ["generate", "--vector", folder, "--prompt", "x"] })
        {
            CliResult refused = CliRun.Run(args);
            Assert.Equal(ExitCodes.UserError, refused.Code);
            Assert.Contains("is an adapter, no control vector", refused.Error, StringComparison.Ordinal);
        }
        Assert.Contains("exists already", CliRun.Run("vector", "train", "--method", "svd_weight", "--max_pairs", "4", "--output", folder).Error, StringComparison.Ordinal);
        Assert.Contains("is no linear layer", CliRun.Run("vector", "train", "--method", "svd_weight", "--layers", "mlp$", "--max_pairs", "4", "--output", _shop.At("none")).Error, StringComparison.Ordinal);
        Assert.Contains("svd_weight_rank8", CliRun.Run("vector", "train", "--method", "svd_weight", "--n_components", "2", "--output", _shop.At("none")).Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(_shop.At("none")));
    }

    [Fact]
    public void Bad_input_gets_one_line_and_leaves_nothing_behind()
    {
        string file = _shop.At("bad.gguf");
        Refused("is not known", "vector", "train", "--method", "fisher_stear", "--output", file);
        Refused("match no module", "vector", "train", "--layers", "no_such_layer", "--output", file);
        Refused("tap block", "vector", "train", "--method", "svd_gradient", "--tap_layer", "99", "--max_pairs", "4", "--output", file);
        Refused("even number", "vector", "train", "--batch_size", "3", "--max_pairs", "4", "--output", file);
        Refused("components asked of", "vector", "train", "--n_components", "9", "--max_pairs", "4", "--output", file);
        Refused("layer range end", "vector", "train", "--layer_range", "a:b", "--output", file);
        Refused("--token_position -2", "vector", "train", "--method", "fisher_steer", "--layer_range", "5:", "--token_position", "-1", "--max_pairs", "4", "--output", file);
        Assert.False(File.Exists(file));

        Assert.Equal(ExitCodes.Ok, CliRun.Run("vector", "train", "--method", "mean_diff", "--max_pairs", "4", "--layer_range", "0:2", "--output", file).Code);
        Refused("is there already", "vector", "train", "--output", file);
        Refused("direction.0", "vector", "export", file, "--output", _shop.At("llama.gguf"));
        Assert.Equal(ExitCodes.Ok, CliRun.Run("vector", "export", file, "--drop_layer_0", "--output", _shop.At("llama.gguf")).Code);
        Refused("is there already", "vector", "export", file, "--drop_layer_0", "--output", _shop.At("llama.gguf"));
        Refused("is there already", "vector", "combine", file, "--output", file);
        Refused("no factor", "vector", "combine", $"x*{file}", "--output", _shop.At("sum.gguf"));
        Refused("there is no", "vector", "show", _shop.At("none.gguf"));
        Refused("nothing to steer with", "generate", "--coefficient", "1", "--prompt", "x");
        Refused("--vector", "generate", "--normalize", "--prompt", "x");
        Refused("is the first to leave the range of fp32", "vector", "apply", "--vector", file, "--coefficient", "1", "1e37", "--max_new_tokens", "2", "--prompt", "x");
        Refused("at coefficient 1E+37: the output of block 0 (model.layers.0)", "generate", "--vector", file, "--coefficient", "1e37", "--max_new_tokens", "2", "--prompt", "x");
        Refused("at coefficient 1E+37: the output of block 0 (model.layers.0)", "eval", "--vector", file, "--coefficients", "1e37", "--no-baselines", "--max_questions", "4");
        Refused("--max_pairs", "vector", "train", "--max_pairs", "-1", "--output", _shop.At("none.gguf"));
        Refused("condition number", "vector", "train", "--method", "fisher_steer_reg0", "--max_pairs", "4", "--output", _shop.At("none.gguf"));
        File.WriteAllText(_shop.At("text.gguf"), "not a vector");
        Refused("text.gguf", "vector", "show", _shop.At("text.gguf"));

        void Refused(string part, params string[] args)
        {
            CliResult result = CliRun.Run(args);
            Assert.True(result.Code is ExitCodes.UserError or ExitCodes.Usage, $"{string.Join(' ', args)}: {result.Code} {result.Out} {result.Error}");
            Assert.Contains(part, result.Error, StringComparison.Ordinal);
            Assert.DoesNotContain("   at ", result.Error, StringComparison.Ordinal);
        }
    }
}
