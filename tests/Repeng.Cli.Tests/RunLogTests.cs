using System.Text.Json.Nodes;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>train --use_wandb --logdir from the command line.</summary>
public sealed class RunLogTests : IDisposable
{
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    private string[] Logs => ["--use_wandb", "--wandb_dir", _shop.At("wandb"), "--wandb_project", "ours", "--logdir", _shop.At("board")];

    [Fact]
    public void The_demo_logs_its_evaluation_and_names_the_command_that_uploads_it()
    {
        CliResult train = CliRun.Run([.. Demo("demo"), .. Logs]);
        Assert.True(train.Code == ExitCodes.Ok, train.Error);
        LoggedRun run = Read();
        Assert.Contains($"wandb sync {Path.GetRelativePath(".", Only())}", train.Out);
        Assert.Contains($"tensorboard --logdir {Path.GetRelativePath(".", _shop.At("board"))}", train.Out);
        Assert.Equal(("demo", "ours", 0), (run.Run!.DisplayName, run.Run.Project, run.Exit!.ExitCode));
        Assert.Equal(File.ReadLines(_shop.At("runs/demo/metrics.jsonl")).Count(), run.History.Count);
        Assert.Equal("3", run.Config["EvalQuestions"]);

        // The evaluation's own table is the judge.
        string[][] cells = [.. File.ReadLines(_shop.At("runs/demo/eval_results.csv")).Skip(1).Select(l => l.Split(',')).Where(r => r[0] == "None")];
        Assert.Equal(3 * 5, cells.Length);
        double[] c = [.. cells.Select(r => Number(r[1]))], odds = [.. cells.Select(r => Number(r[3]))];
        double Covariance(double[] a, double[] b) => a.Zip(b, (x, y) => (x - a.Average()) * (y - b.Average())).Sum();
        double r = Covariance(c, odds) / Math.Sqrt(Covariance(c, c) * Covariance(odds, odds));
        JsonObject corr = LoggedRun.Json(run.Summary, "eval/truthfulness_corr").AsObject();
        Assert.Equal(r, (double)Assert.Single(corr).Value!, 5);
        Assert.Equal(3, (int)LoggedRun.Json(run.Summary, "eval/n"));
        JsonObject means = LoggedRun.Json(run.Summary, "eval/log_odds").AsObject();
        foreach (IGrouping<double, string[]> side in cells.GroupBy(x => Number(x[1])))
            Assert.Equal(side.Average(x => Number(x[3])), (double)means[side.Key.ToString("R", null)]!, 5);
        Assert.Equal((float)r, Assert.Single(LoggedRun.Scalars(_shop.At("board/demo"))["eval/truthfulness_corr/" + corr.Single().Key]).Value, 5);
    }

    [Fact]
    public void A_stopped_run_says_so_and_goes_on_in_the_same_logs()
    {
        string model = _shop.Model();
        CliResult stopped = CliRun.RunUntilBatch(5, [.. _shop.Train(model, "cut"), .. Logs], ExitCodes.Terminated);
        Assert.Equal(ExitCodes.Terminated, stopped.Code);
        LoggedRun cut = Read();
        Assert.Equal(ExitCodes.Terminated, cut.Exit!.ExitCode);
        Assert.InRange(cut.History.Count, 5, 7);

        CliResult resumed = CliRun.Run("train", "--resume", _shop.At("runs/cut.partial"));
        Assert.True(resumed.Code == ExitCodes.Ok, resumed.Error);
        LoggedRun run = Read();
        Assert.Contains("wandb sync", resumed.Out);
        Assert.Equal(0, run.Exit!.ExitCode);
        string[] rows = File.ReadAllLines(_shop.At("runs/cut/metrics.jsonl"));
        Assert.True(rows.Length > cut.History.Count);
        Assert.Equal(rows.Select(l => (long)JsonNode.Parse(l)!["step"]!), run.History.Select(h => h.Step));
        Assert.Equal(rows.Select(l => (double)JsonNode.Parse(l)!["lr"]!), run.History.Select(h => h.Values["lr"]));
        Assert.Equal(run.History.Select(h => (h.Step, (float)h.Values["loss_total"])), LoggedRun.Scalars(_shop.At("board/cut"))["loss_total"].Select(p => (p.Key, p.Value)));
    }

    [Fact]
    public void A_run_that_fails_ends_its_log_with_the_exit_code()
    {
        CliResult train = CliRun.Run([.. _shop.Train(_shop.Model(), "explodes"), "--profile", "upstream", "--lr", "1e30", "--grad_accum_steps", "1", .. Logs]);
        Assert.Equal(ExitCodes.UserError, train.Code);
        Assert.Contains("--clip_norm", train.ErrorLines[^1]);
        Assert.Equal(ExitCodes.UserError, Read().Exit!.ExitCode);
    }

    [Theory]
    [InlineData("--wandb_dir x", "--use_wandb")]
    [InlineData("--wandb_project x", "--use_wandb")]
    [InlineData("--use_wandb --wandb_dir FILE/x", "FILE")]
    [InlineData("--logdir FILE", "FILE")]
    [InlineData("--logdir=", "--logdir")]
    public void What_cannot_be_logged_is_refused_before_anything_is_written(string more, string named)
    {
        File.WriteAllText(_shop.At("file"), "");
        string before = string.Join('\n', Directory.GetFileSystemEntries(_shop.Root).Order());
        CliResult train = CliRun.Run([.. Demo("refused"), .. more.Replace("FILE", _shop.At("file"), StringComparison.Ordinal).Split(' ')]);
        Assert.Equal(ExitCodes.UserError, train.Code);
        Assert.Contains(named.Replace("FILE", _shop.At("file"), StringComparison.Ordinal), Assert.Single(train.ErrorLines));
        Assert.Equal(before, string.Join('\n', Directory.GetFileSystemEntries(_shop.Root).Order()));
    }

    [Theory]
    [InlineData("0", null, 0)]
    [InlineData("2", null, 2)]
    [InlineData("0", "1", 1)]
    public void A_resumed_run_evaluates_what_the_first_start_was_told(string first, string? later, int questions)
    {
        CliResult stopped = CliRun.RunUntilBatch(1, [.. Demo("eval"), "--eval_dilemmas", first]);
        Assert.Equal(ExitCodes.Interrupted, stopped.Code);
        CliResult resumed = CliRun.Run(["train", "--resume", _shop.At("runs/eval.partial"), .. later is null ? Array.Empty<string>() : ["--eval_dilemmas", later]]);
        Assert.True(resumed.Code == ExitCodes.Ok, resumed.Error);
        string results = _shop.At("runs/eval/eval_results.csv");
        Assert.Equal(questions > 0, File.Exists(results));
        if (questions > 0)
            Assert.Equal(questions, File.ReadLines(results).Count(l => l.StartsWith("None,0,", StringComparison.Ordinal)));
    }

    [Fact]
    public void Settings_of_older_runs_do_not_say_how_many_questions()
    {
        string settings = _shop.At("old.json");
        File.WriteAllText(settings, """{"Model":"demo","Template":"{persona}","Personas":[],"Suffixes":[],"Train":{}}""");
        Assert.Null(Repeng.Steering.Training.RunSettings.Load(settings).EvalQuestions);
    }

    private string[] Demo(string run) =>
        ["train", "--n_epochs", "1", "--max_pairs", "8", "--batch_size", "4", "--rank", "4", "--eval_dilemmas", "3", "--threads", "2", "--log_n", "1000", "--output_dir", _shop.At("runs"), "--run_name", run];

    private string Only() => Assert.Single(Directory.GetDirectories(_shop.At("wandb")));

    private LoggedRun Read() => new(Assert.Single(Directory.GetFiles(Only(), "*.wandb")));

    private static double Number(string text) => double.Parse(text, System.Globalization.CultureInfo.InvariantCulture);
}
