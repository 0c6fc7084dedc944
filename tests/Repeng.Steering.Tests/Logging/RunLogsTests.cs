using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Data;
using Repeng.Steering.Demo;
using Repeng.Steering.Logging;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Logging;

/// <summary>Whole small trainings of the demo model, and what their logs say of them.</summary>
public sealed class RunLogsTests : IDisposable
{
    private static readonly string[] s_rows = ["loss_proj", "loss_coherence", "loss_total", "logp_degradation", "prob_ratio", "proj_pi_signed", "proj_ref_signed", "separation_norm"];
    private static readonly string[] s_own = ["_step", "_timestamp", "_runtime"];
    private static readonly string[] s_sides = ["-1", "1"];
    private readonly string _root = Directory.CreateTempSubdirectory("repeng-logs-").FullName;
    private readonly Device _device = Device.Cpu(2);
    private readonly Clock _clock = new();

    public void Dispose()
    {
        _device.Dispose();
        Directory.Delete(_root, recursive: true);
    }

    [Theory]
    [InlineData("recommended")]
    [InlineData("antipasto")]
    public void Every_step_has_every_key_with_the_values_of_the_history(string profile)
    {
        RunSettings settings = Settings(profile);
        using ModelBundle bundle = ModelBundle.Load(_device, settings.Model);
        using var logs = new RunLogs(Asked, _clock);
        TrainOutcome outcome = Train(bundle, settings, "whole", logs);
        var loss = new JsonObject { ["ours"] = 0.5, ["none"] = 0 };
        logs.Summary(new Dictionary<string, JsonNode> { ["eval/truthfulness_corr"] = loss });
        string folder = logs.WandbRunFolder!;
        logs.End(0);
        LoggedRun run = Read(folder);

        // Training's own history is the judge: rows of a step are averaged, all of them and by coefficient.
        string[][] csv = [.. File.ReadLines(At("runs/whole/training_history.csv")).Select(l => l.Split(','))];
        string[] columns = csv[0], metrics = [.. columns.Except(["step", "epoch", "c", "layer", "lr"])];
        if (profile == "antipasto")
            Assert.Empty(AntiPastoMetrics.Names.Except(metrics));
        else
            Assert.Equal(s_rows, metrics);
        IGrouping<int, string[]>[] steps = [.. csv[1..].GroupBy(r => int.Parse(r[0], CultureInfo.InvariantCulture))];
        double Mean(IEnumerable<string[]> rows, string column) => rows.Average(r => double.Parse(r[Array.IndexOf(columns, column)], CultureInfo.InvariantCulture));
        Assert.Equal(outcome.State.Step, run.History.Count);
        Assert.Equal(Enumerable.Range(0, steps.Length).Select(s => (long)s), run.History.Select(h => h.Step));
        Dictionary<long, double> validation = Validation("whole");
        Assert.NotEmpty(validation);
        Assert.True(validation.Count < steps.Length, "the test needs steps without a validation");
        string[] train = [.. metrics, .. s_sides.SelectMany(c => metrics.Select(m => $"by_coef/{c}/{m}"))];
        foreach (((long step, Dictionary<string, double> values), IGrouping<int, string[]> rows) in run.History.Zip(steps))
        {
            bool validated = validation.ContainsKey(step);
            IEnumerable<string> keys = [.. train, "lr", "layer_num", "epoch", .. s_own, .. validated ? train.Select(k => "val/" + k) : []];
            Assert.Equal(keys.Order(StringComparer.Ordinal), values.Keys.Order(StringComparer.Ordinal));
            Assert.Equal(step, values["_step"]);
            foreach (string m in metrics.Append("lr").Append("epoch"))
                Near(Mean(rows, m), values[m], m);
            foreach (string c in s_sides)
                foreach (string m in metrics)
                    Near(Mean(rows.Where(r => r[Array.IndexOf(columns, "c")] == c), m), values[$"by_coef/{c}/{m}"], m);
            Near(rows.Average(r => Block(r[Array.IndexOf(columns, "layer")])), values["layer_num"], "layer_num");
            if (validated && profile == "antipasto")
                Near(validation[step], values["val/loss_total"], "val/loss_total");
            // The reference state's loss is the sum over the rows, of which the mean is logged.
            else if (validated)
                Near(validation[step] / rows.Count(), values["val/loss_total"], "val/loss_total");
        }
        Assert.Equal(run.History.Select(h => h.Values["_timestamp"]), run.History.Select(h => h.Values["_timestamp"]).Order());
        foreach ((_, Dictionary<string, double> values) in run.History)
            Near(Clock.Began + values["_runtime"], values["_timestamp"] - 1, "_runtime");

        // Settings and counts.
        Assert.Equal(["Header", "Run"], run.Records.Take(2).Select(r => r.RecordTypeCase.ToString()));
        Assert.Equal("whole", run.Run!.DisplayName);
        Assert.Equal("our project", run.Run.Project);
        foreach ((string name, JsonNode? value) in JsonNode.Parse(settings.ToJson())!.AsObject())
            Assert.True(JsonNode.DeepEquals(value, JsonNode.Parse(run.Config[name])), name);
        IAdapter adapter = outcome.Adapter;
        double Count(string name) => (double)LoggedRun.Json(run.Config, name);
        Assert.Equal(adapter.Modules.Count, Count("n_adapter_layers"));
        Assert.Equal(outcome.LossLayers.Count, Count("n_loss_layers"));
        Assert.Equal(bundle.Model.Config.NumLayers * 7, Count("n_candidate_layers"));
        Assert.Equal(adapter.ParameterCount, Count("trainable_params"));
        Assert.Equal(adapter.ParameterCount + bundle.Model.Parameters.Values.Sum(p => p.Length), Count("total_params"));
        Near(100 * Count("trainable_params") / Count("total_params"), Count("trainable_pct"), "trainable_pct");

        // Final values, and the end.
        Assert.True(JsonNode.DeepEquals(loss, LoggedRun.Json(run.Summary, "eval/truthfulness_corr")));
        foreach ((string name, double value) in run.History[^1].Values.Where(v => v.Key != "_runtime"))
            Assert.Equal(value, double.Parse(run.Summary[name], CultureInfo.InvariantCulture));
        Assert.Equal(0, run.Exit!.ExitCode);
        Assert.Equal(run.Exit.Runtime, (int)LoggedRun.Json(run.Summary, "_wandb.runtime"));

        // TensorBoard has the same numbers in single precision.
        Dictionary<string, SortedDictionary<long, float>> scalars = LoggedRun.Scalars(At("board/whole"));
        Assert.Equal(run.History.SelectMany(h => h.Values.Keys).Distinct().Except(s_own).Concat(["eval/truthfulness_corr/ours", "eval/truthfulness_corr/none"]).Order(), scalars.Keys.Order());
        foreach ((long step, Dictionary<string, double> values) in run.History)
            foreach (string name in values.Keys.Except(s_own))
                Assert.Equal((float)values[name], scalars[name][step]);
        Assert.Equal(0.5f, scalars["eval/truthfulness_corr/ours"][steps.Length - 1]);
        outcome.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_resumed_run_has_one_history_without_a_seam(bool killed)
    {
        RunSettings settings = Settings("recommended");
        using ModelBundle bundle = ModelBundle.Load(_device, settings.Model);
        using var whole = new RunLogs(Asked, _clock);
        Train(bundle, settings, "whole", whole).Dispose();
        whole.End(0);
        LoggedRun expected = Read(whole.WandbRunFolder!);

        // A checkpoint is due after every third step; the fifth is under way when the run ends.
        const int end = 5, checkpoint = 3;
        var first = new RunLogs(Asked, _clock);
        using (var stop = new CancellationTokenSource())
        {
            if (killed)
                Assert.Throws<Killed>(() => Train(bundle, settings, "cut", first, new AtBatch(end, () => throw new Killed())));
            else
            {
                Train(bundle, settings, "cut", first, new AtBatch(end, stop.Cancel), stop.Token).Dispose();
                first.End(143);
            }
        }
        first.Dispose();
        string folder = first.WandbRunFolder!, file = FileOf(folder);
        if (killed)
            File.AppendAllBytes(file, [1, 2, 3, 4, 200, 0, 1, 9, 9]);
        LoggedRun cut = new(file, allowCutEnd: true);
        Assert.Equal(end, cut.History.Count);
        Assert.Equal(killed ? null : 143, cut.Exit?.ExitCode);
        File.WriteAllText(file + ".synced", "");

        RunLogs again = RunLogs.Resume(At("runs/cut.partial"), _clock)!;
        var seen = new List<int>();
        Train(bundle, settings, "cut.partial", again, new Each(p => seen.Add(p.Step - 1)), resume: true).Dispose();
        again.End(0);
        Assert.Equal(killed ? checkpoint : end, seen[0]);
        Assert.Equal(folder, again.WandbRunFolder);
        Assert.Null(again.MissingFrom);
        Assert.False(File.Exists(file + ".synced"));
        LoggedRun run = Read(folder);
        Assert.Equal(0, run.Exit!.ExitCode);
        Assert.Equal(cut.Run, run.Run);
        Assert.Equal(expected.History.Select(h => h.Step), run.History.Select(h => h.Step));
        foreach ((var want, var got) in expected.History.Zip(run.History))
            Assert.Equal(want.Values.Where(v => !s_own.Contains(v.Key)), got.Values.Where(v => !s_own.Contains(v.Key)));
        double[] runtime = [.. run.History.Select(h => h.Values["_runtime"])];
        Assert.Equal(runtime.Order(), runtime);
        Assert.Equal(runtime.Length, runtime.Distinct().Count());

        Dictionary<string, SortedDictionary<long, float>> board = LoggedRun.Scalars(At("board/cut")), wanted = LoggedRun.Scalars(At("board/whole"));
        Assert.Equal(2, Directory.GetFiles(At("board/cut")).Length);
        Assert.Equal(wanted.Keys.Order(), board.Keys.Order());
        Assert.All(wanted, w => Assert.Equal(w.Value, board[w.Key]));
        // Logs and run can be moved together, and the finished run still knows its logs.
        Assert.NotNull(RunLogs.Resume(At("runs/cut"), _clock));
    }

    [Fact]
    public void A_log_that_lost_its_end_goes_on_and_says_so()
    {
        RunSettings settings = Settings("recommended");
        using ModelBundle bundle = ModelBundle.Load(_device, settings.Model);
        using var first = new RunLogs(Asked with { TensorBoardFolder = null }, _clock);
        Assert.Throws<Killed>(() => Train(bundle, settings, "cut", first, new AtBatch(4, () => throw new Killed())));
        first.Dispose();
        string file = FileOf(first.WandbRunFolder!);
        Runtime.Logging.WandbWriter.Continue(file, r => (r.History?.Step?.Num ?? 0) < 1).Dispose();

        using RunLogs again = RunLogs.Resume(At("runs/cut.partial"), _clock)!;
        Train(bundle, settings, "cut.partial", again, resume: true).Dispose();
        again.End(0);
        Assert.Equal(1, again.MissingFrom);
        Assert.Equal([0L, 3L], new LoggedRun(file).History.Take(2).Select(h => h.Step));
    }

    [Fact]
    public void A_place_that_cannot_be_written_is_refused_before_training_and_nothing_stays()
    {
        RunSettings settings = Settings("recommended");
        using ModelBundle bundle = ModelBundle.Load(_device, settings.Model);
        File.WriteAllText(At("file"), "");
        Directory.CreateDirectory(At("board/used"));
        File.WriteAllText(At("board/used/events.out.tfevents.1.host"), "");
        File.WriteAllText(At("board/taken"), "");
        foreach ((string name, string named, RunLogSettings asked) in new[]
        {
            ("a", At("file"), Asked with { WandbFolder = At("file/below/it") }),
            ("b", At("file"), Asked with { TensorBoardFolder = At("file") }),
            ("used", "board/used", Asked),
            // Here the W&B run is open already when the other log fails.
            ("taken", "board/taken", Asked),
        })
        {
            using var logs = new RunLogs(asked, _clock);
            int batches = 0;
            var error = Assert.Throws<UserErrorException>(() => Train(bundle, settings, name, logs, new Each(_ => batches++)));
            Assert.Contains(named, error.Message);
            Assert.DoesNotContain('\n', error.Message);
            Assert.Equal(0, batches);
            logs.End(1);
            Assert.Empty(Directory.GetDirectories(At("runs")));
            Assert.Empty(Directory.Exists(At("wandb")) ? Directory.GetFileSystemEntries(At("wandb")) : []);
            Assert.Equal(["board/taken", "board/used"], Directory.GetFileSystemEntries(At("board")).Select(e => Path.GetRelativePath(_root, e).Replace('\\', '/')).Order());
        }
    }

    [Fact]
    public void A_log_that_is_gone_or_spoilt_stops_a_resumed_run_in_one_line()
    {
        string run = Directory.CreateDirectory(At("run.partial")).FullName, names = Path.Combine(run, RunLogs.FileName);
        Assert.Null(RunLogs.Resume(run));
        foreach ((string json, string named) in new[] { ("""{"wandb":"../gone.wandb"}""", "gone.wandb"), ("""{"tensorboard":7}""", "tensorboard"), ("[]", "no object"), ("{", "not valid JSON") })
        {
            File.WriteAllText(names, json);
            var error = Assert.Throws<UserErrorException>(() => RunLogs.Resume(run));
            Assert.Contains(named, error.Message);
            Assert.Contains(names, error.Message);
        }
        File.WriteAllText(At("no.wandb"), "something else");
        File.WriteAllText(names, """{"wandb":"../no.wandb"}""");
        using RunLogs logs = RunLogs.Resume(run)!;
        RunSettings settings = Settings("recommended");
        using ModelBundle bundle = ModelBundle.Load(_device, settings.Model);
        using IAdapter adapter = TrainRun.MakeAdapter(bundle.Model, settings.Train);
        var start = new TrainRunStart(run, "run", Resumed: true, 3, settings, adapter, []);
        Assert.Contains("no.wandb", Assert.Throws<UserErrorException>(() => logs.Open(start)).Message);
        Assert.Equal("something else", File.ReadAllText(At("no.wandb")));
    }

    private RunLogSettings Asked => new() { WandbFolder = At("wandb"), WandbProject = "our project", TensorBoardFolder = At("board") };

    private static RunSettings Settings(string profile)
    {
        TrainConfig config = TrainConfig.FromProfile(profile);
        return new RunSettings
        {
            Model = ModelBundle.Demo,
            Template = DemoSteering.Templates[0],
            Personas = [.. DemoSteering.PersonaPairs.Select(p => new PersonaPair(p.Positive, p.Negative))],
            Suffixes = SuffixSets.Load(SuffixSets.DemoName),
            MaxPairs = 10,
            Train = config with
            {
                Adapter = config.Adapter with { TargetModules = @".*\.(2|4)\..*down_proj", Rank = 4 },
                BatchSize = 4,
                Epochs = 2,
                ValidationSplit = 0.2,
                GradAccumSteps = 1,
                CheckpointEvery = 3,
                CalibrateSign = false,
            },
        };
    }

    private TrainOutcome Train(ModelBundle bundle, RunSettings settings, string name, RunLogs logs, TrainRunListener? also = null, CancellationToken stop = default, bool resume = false) =>
        TrainRun.Execute(bundle, settings, Path.Combine(Directory.CreateDirectory(At("runs")).FullName, name), resume, new TrainRunListeners(logs, also ?? new TrainRunListener()), stop);

    private string At(string name) => Path.Combine(_root, name);

    private static string FileOf(string folder)
    {
        string id = Path.GetFileName(folder).Split('-')[^1];
        Assert.Matches($"^offline-run-20[0-9]{{6}}_[0-9]{{6}}-{id}$", Path.GetFileName(folder));
        foreach (string beside in new[] { "files", "logs" })
            Assert.True(Directory.Exists(Path.Combine(folder, beside)));
        return Path.Combine(folder, $"run-{id}.wandb");
    }

    private static LoggedRun Read(string folder)
    {
        var run = new LoggedRun(FileOf(folder));
        Assert.EndsWith("-" + run.Run!.RunId, folder);
        return run;
    }

    private Dictionary<long, double> Validation(string name) => File.ReadLines(At($"runs/{name}/metrics.jsonl")).Select(l => JsonNode.Parse(l)!).Where(r => r["val_loss"] is not null).ToDictionary(r => (long)r["step"]!, r => (double)r["val_loss"]!);

    private static int Block(string layer) => int.Parse(layer.Split('.').First(p => int.TryParse(p, out _)), CultureInfo.InvariantCulture);

    private static void Near(double want, double got, string what) => Assert.True(Math.Abs(want - got) <= 1e-6 * Math.Max(1, Math.Abs(want)) || double.IsNaN(want) && double.IsNaN(got), $"{what}: {want} is wanted, {got} found");

    /// <summary>A second passes whenever it is looked at.</summary>
    private sealed class Clock : TimeProvider
    {
        public const double Began = 1.8e9;
        private int _looks;

        public override DateTimeOffset GetUtcNow() => DateTimeOffset.UnixEpoch.AddSeconds(Began + ++_looks);
    }

    private sealed class Killed : Exception;

    private class Each(Action<TrainingProgress> done) : TrainRunListener
    {
        public override void Batch(TrainingProgress progress) => done(progress);
    }

    private sealed class AtBatch(int batch, Action action) : Each(p =>
    {
        if (p.Step == batch)
            action();
    });
}
