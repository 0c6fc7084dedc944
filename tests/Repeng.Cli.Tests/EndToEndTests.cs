using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Repeng.Steering.Demo;

namespace Repeng.Cli.Tests;

/// <summary>Whole runs on a small random model.</summary>
public sealed partial class EndToEndTests : IDisposable
{
    private const string Adapter = "adapter_model.safetensors", History = "training_history.csv";
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Fact]
    public void Train_writes_a_whole_folder_and_generate_uses_it()
    {
        string model = _shop.Model();
        CliResult train = CliRun.Run(_shop.Train(model, "a"));
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        string folder = _shop.At("runs/a");
        Assert.Equal([folder], Directory.GetDirectories(_shop.At("runs")));
        foreach (string file in new[] { Adapter, History, "adapter_config.json", "training_config.json", "svd_bases.safetensors", "metrics.jsonl" })
            Assert.True(File.Exists(Path.Combine(folder, file)), file);
        Assert.False(File.Exists(Path.Combine(folder, "checkpoint.safetensors")));
        Assert.Contains("gate_proj", train.Out);
        Assert.Contains("generate --adapter", train.Out);
        Assert.Contains("100 %  batch", train.Error);
        Assert.DoesNotContain('\u001b', train.Out + train.Error);

        // The adapter names its model; at c = 0 it is bypassed, so the text is the base model's.
        CliResult json = CliRun.Run("generate", "--adapter", folder, "--coefficient", "-40", "0", "40", "--prompt", "the ball is", "--max_new_tokens", "12", "--json");
        Assert.True(json.Code == ExitCodes.Ok, json.Error);
        JsonArray results = JsonNode.Parse(json.Out)!["results"]!.AsArray();
        Assert.Equal([-40, 0, 40], results.Select(r => (int)r!["coefficient"]!.GetValue<double>()));
        CliResult plain = CliRun.Run("generate", "--model", model, "--prompt", "the ball is", "--max_new_tokens", "12");
        Assert.Equal(plain.Out.Trim(), results[1]!["text"]!.GetValue<string>());
        Assert.True(results[0]!["text"]!.GetValue<string>() != results[2]!["text"]!.GetValue<string>(), json.Out);
        Assert.Contains("do_sample false", plain.Error);

        CliResult table = CliRun.Run(["generate", "--adapter", folder, "--coefficient", "-1", "1", "--max_new_tokens", "4", "--do_sample", "--seed", "5"], "the ball is\n");
        Assert.Contains("c = -1", table.Out);
        Assert.Contains("c = +1", table.Out);
        Assert.Contains("do_sample true, temperature 1, top_k 0, top_p 1, min_p 0, repetition_penalty 1, seed 5", table.Error);
    }

    [Fact]
    public void Eval_measures_an_adapter_on_dilemmas()
    {
        CliResult train = CliRun.Run(_shop.Train(_shop.Model(), "dilemmas", "--n_epochs", "1"));
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        string output = _shop.At("measured");
        CliResult eval = CliRun.Run("eval", "--adapter", _shop.At("runs/dilemmas"), "--dilemmas", "own", "--coefficients", "-20", "20", "--no-baselines", "--output_dir", output);
        Assert.True(eval.Code == ExitCodes.Ok, eval.Error);
        Assert.Contains("Steering F1", eval.Out);
        JsonObject json = JsonNode.Parse(File.ReadAllText(Path.Combine(output, "eval.json")))!.AsObject();
        int target = (int)json["n_target"]!, control = (int)json["n_control"]!;
        Assert.Equal(Repeng.Steering.Data.Dilemmas.Own.Count, target + control);
        JsonArray yes = json["p_yes"]!.AsArray();
        Assert.Equal([-20.0, 0, 20], yes.Select(r => (double)r!["coefficient"]!));
        Assert.All(yes, r => Assert.InRange((double)r!["p_target"]!, 0, 1));
        Assert.NotEqual((double)yes[0]!["p_yes"]!, (double)yes[2]!["p_yes"]!);
        Assert.Equal("truthfulness", (string)json["transfer"]![0]!["value"]!);
        Assert.Equal(target, (int)json["transfer"]![0]!["n"]!);
        Assert.Single(json["steering_f1"]!.AsArray());
        Assert.Equal(1 + 3 * (target + control), File.ReadLines(Path.Combine(output, "eval_results.csv")).Count());
        foreach (string file in new[] { "eval_summary.csv", "p_yes.csv" })
            Assert.Equal(1 + 3, File.ReadLines(Path.Combine(output, file)).Count());
        foreach (string picture in new[] { "eval.png", "p_yes.png" })
            Assert.Equal([0x89, (byte)'P', (byte)'N', (byte)'G'], File.ReadAllBytes(Path.Combine(output, picture))[..4]);
    }

    [Fact]
    public void AntiPaSTO_trains_on_its_own_subspace_and_writes_all_of_its_metrics()
    {
        string model = _shop.Model();
        string[] args = [.. _shop.Train(model, "anti"), "--profile", "antipasto", "--loss_subspace_rank", "2", "--mono_weight", "7"];
        CliResult train = CliRun.Run(args);
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        string[] lines = File.ReadAllLines(_shop.At($"runs/anti/{History}"));
        string[] columns = lines[0].Split(',');
        Assert.Equal(columns.Length, columns.Distinct().Count());
        Assert.Empty(Repeng.Steering.Losses.AntiPastoMetrics.Names.Except(columns));
        Assert.All(lines, l => Assert.Equal(columns.Length, l.Split(',').Length));
        JsonObject settings = JsonNode.Parse(File.ReadAllText(_shop.At("runs/anti/training_config.json")))!["Train"]!.AsObject();
        Assert.Equal("taskdiff_x_suppressed_x_write", (string)settings["LossSubspace"]!);
        Assert.Equal(7, (double)settings["AntiPasto"]!["MonotoneWeight"]!);
        JsonObject row = JsonNode.Parse(File.ReadLines(_shop.At("runs/anti/metrics.jsonl")).Last())!.AsObject();
        Assert.Equal(0.9, (double)row["coh_tv_thresh_frac"]!, 6);

        CliResult other = CliRun.Run([.. _shop.Train(model, "taskdiff"), "--profile", "antipasto", "--loss_subspace_rank", "2", "--mono_weight", "7", "--loss_subspace", "taskdiff"]);
        Assert.True(other.Code == ExitCodes.Ok, other.Error);
        Assert.NotEqual(lines[1], File.ReadAllLines(_shop.At($"runs/taskdiff/{History}"))[1]);
        CliResult wrong = CliRun.Run([.. _shop.Train(model, "wrong"), "--profile", "upstream", "--loss_subspace", "taskdiff"]);
        Assert.Equal(ExitCodes.UserError, wrong.Code);
        Assert.Contains("--loss_subspace", wrong.ErrorLines[^1]);
    }

    [Theory]
    [InlineData("1e3")]
    [InlineData("1e30")]
    public void An_exploding_learning_rate_stops_with_one_line_and_leaves_no_bad_checkpoint(string rate)
    {
        // Upstream's exponential scale overflows; its rate rises from a 25th of the largest, so some runs first step well.
        string[] args = [.. _shop.Train(_shop.Model(), "explodes"), "--profile", "upstream", "--lr", rate, "--grad_accum_steps", "1", "--checkpoint_every", "1"];
        CliResult train = CliRun.Run(args);
        Assert.Equal(ExitCodes.UserError, train.Code);
        Assert.Contains("--clip_norm", train.ErrorLines[^1]);
        Assert.False(Directory.Exists(_shop.At("runs/explodes")));
        string checkpoint = _shop.At("runs/explodes.partial/checkpoint.safetensors");
        Assert.False(File.Exists(_shop.At("runs/explodes.partial/checkpoint.proven.safetensors")));
        if (!File.Exists(checkpoint))
            return;
        // The step after what was kept is finite: the same failure comes later, at the same batch.
        CliResult again = CliRun.Run("train", "--resume", _shop.At("runs/explodes.partial"));
        Assert.Equal(train.ErrorLines[^1], again.ErrorLines[^1]);
        Assert.True(File.Exists(checkpoint));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(10)]
    [InlineData(17)]
    public void A_stopped_and_resumed_run_ends_with_the_same_bytes(int batch)
    {
        string model = _shop.Model();
        Assert.Equal(ExitCodes.Ok, CliRun.Run(_shop.Train(model, "whole")).Code);
        CliResult stopped = CliRun.RunUntilBatch(batch, _shop.Train(model, "cut"), ExitCodes.Terminated);
        Assert.Equal(ExitCodes.Terminated, stopped.Code);
        Assert.Contains("--resume", stopped.ErrorLines[^1]);
        Assert.False(Directory.Exists(_shop.At("runs/cut")));

        CliResult resumed = CliRun.Run("train", "--resume", _shop.At("runs/cut.partial"), "--threads", "1");
        Assert.True(resumed.Code == ExitCodes.Ok, resumed.Error);
        Assert.False(Directory.Exists(_shop.At("runs/cut.partial")));
        Same("whole", "cut");
    }

    [Fact]
    public void A_kill_between_two_checkpoints_leaves_one_to_resume_from()
    {
        // The proven checkpoint was put aside, the next one not yet written.
        string model = _shop.Model();
        Assert.Equal(ExitCodes.Ok, CliRun.Run(_shop.Train(model, "whole")).Code);
        Assert.Equal(ExitCodes.Terminated, CliRun.RunUntilBatch(10, _shop.Train(model, "cut"), ExitCodes.Terminated).Code);
        File.Move(_shop.At("runs/cut.partial/checkpoint.safetensors"), _shop.At("runs/cut.partial/checkpoint.proven.safetensors"));
        CliResult resumed = CliRun.Run("train", "--resume", _shop.At("runs/cut.partial"));
        Assert.True(resumed.Code == ExitCodes.Ok, resumed.Error);
        Same("whole", "cut");
    }

    [Fact]
    public void Bytes_on_standard_input_that_are_no_text_are_refused()
    {
        ProcessStartInfo start = ProgramRun.Start("generate", "--raw", "--max_new_tokens", "1");
        start.RedirectStandardInput = true;
        using Process process = Process.Start(start)!;
        process.StandardInput.BaseStream.Write([.. "the ball "u8, 0xff, 0xfe]);
        process.StandardInput.Close();
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.Equal(ExitCodes.UserError, process.ExitCode);
        Assert.Contains("standard input is not UTF-8", error);
        Assert.Contains("FF", error);
    }

    [Theory]
    [InlineData(15)]
    [InlineData(9)]
    public void A_process_that_is_ended_by_a_signal_can_be_resumed(int signal)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "signals are of Unix");
        string model = _shop.Model();
        string[] more = ["--n_epochs", "40", "--patience", "0", "--checkpoint_every", "1"];
        Assert.Equal(ExitCodes.Ok, CliRun.Run(_shop.Train(model, "whole", more)).Code);
        using Process process = Process.Start(ProgramRun.Start(_shop.Train(model, "cut", more)))!;
        string? line;
        // Two batches: by then the first checkpoint is on the disk.
        do
            line = process.StandardError.ReadLine();
        while (line is not null && !line.Contains("batch 2/", StringComparison.Ordinal));
        Assert.NotNull(line);
        Assert.Equal(0, Kill(process.Id, signal));
        string rest = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.Equal(128 + signal, process.ExitCode);
        if (signal == 15)
            Assert.Contains("--resume", rest);

        CliResult resumed = CliRun.Run("train", "--resume", _shop.At("runs/cut.partial"));
        Assert.True(resumed.Code == ExitCodes.Ok, resumed.Error);
        Same("whole", "cut");
    }

    [Fact]
    public void Plot_losses_writes_a_picture_of_each_kind_or_says_what_is_missing()
    {
        string folder = _shop.At("plots");
        CliResult drawn = CliRun.Run("plot-losses", "--output_dir", folder);
        Assert.True(drawn.Code == ExitCodes.Ok, drawn.Error);
        string[] names = [.. from name in new[] { "loss-coherence", "loss-projection", "loss-separation" } from kind in new[] { ".png", ".svg" } select name + kind];
        Assert.Equal(names, Directory.GetFiles(folder).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal));
        Assert.All(Directory.GetFiles(folder), f => Assert.True(new FileInfo(f).Length > 1000, f));

        // All or nothing: a name that is taken by a folder leaves what was there, and no other picture.
        string taken = _shop.At("taken");
        Directory.CreateDirectory(Path.Combine(taken, "loss-separation.svg"));
        CliResult refused = CliRun.Run("plot-losses", "--output_dir", taken);
        Assert.Equal(ExitCodes.UserError, refused.Code);
        Assert.Contains("loss-separation.svg", refused.ErrorLines[^1]);
        Assert.Equal(["loss-separation.svg"], Directory.GetFileSystemEntries(taken).Select(Path.GetFileName));

        Assert.Contains("--output_dir", CliRun.Run("plot-losses").ErrorLines[^1]);
        string file = _shop.At("a-file");
        File.WriteAllText(file, "");
        CliResult onFile = CliRun.Run("plot-losses", "--output_dir", file);
        Assert.Equal(ExitCodes.UserError, onFile.Code);
        Assert.Contains(file, onFile.ErrorLines[^1]);
    }

    [Fact]
    public void Help_of_make_demo_shows_the_recipe_as_it_is()
    {
        string help = CliRun.Run("make-demo", "--help").Out;
        var recipe = new DemoModelRecipe();
        foreach ((string option, double value) in new (string, double)[] { ("--corpus_truthful_share", recipe.Corpus.TruthfulShare), ("--corpus_value_weight", recipe.Corpus.ValueWeight), ("--intermediate", recipe.Intermediate) })
            Assert.Contains(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"(default {value})"), help.Split('\n').Single(l => l.TrimStart().StartsWith(option + " ", StringComparison.Ordinal)));
    }

    [Fact]
    public void Make_demo_writes_a_model_that_loads_and_names_its_recipe()
    {
        string folder = _shop.At("demo");
        string[] args = ["make-demo", folder, "--steps", "2", "--layers", "2", "--hidden", "32", "--intermediate", "48", "--heads", "1", "--batch", "2", "--corpus_list_share", "0.5", "--threads", "2"];
        CliResult made = CliRun.Run(args);
        Assert.True(made.Code == ExitCodes.Ok, made.Error);
        Assert.Contains("no persona", made.Out);
        string readme = File.ReadAllText(Path.Combine(folder, "README.md"));
        Assert.Contains("--steps 2", readme);
        Assert.Contains("--corpus_list_share 0.5", readme);
        byte[] first = File.ReadAllBytes(Path.Combine(folder, "model.safetensors"));
        Assert.Equal(ExitCodes.Ok, CliRun.Run("generate", "--model", folder, "--prompt", "hello", "--max_new_tokens", "2").Code);
        Assert.Equal(ExitCodes.UserError, CliRun.Run(args).Code);
        Assert.Equal(ExitCodes.Ok, CliRun.Run([.. args, "--force"]).Code);
        Assert.Equal(first, File.ReadAllBytes(Path.Combine(folder, "model.safetensors")));
    }

    private void Same(string a, string b)
    {
        foreach (string file in new[] { Adapter, History, "metrics.jsonl" })
            Assert.True(File.ReadAllBytes(Path.Combine(_shop.At("runs"), a, file)).AsSpan().SequenceEqual(File.ReadAllBytes(Path.Combine(_shop.At("runs"), b, file))), file);
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int pid, int signal);
}
