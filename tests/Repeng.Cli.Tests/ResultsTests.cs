using Repeng.Cli.Results;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Cli.Tests;

/// <summary>results: what is measured, how a stopped run goes on, what is refused, and what the page says of its records.</summary>
public sealed class ResultsTests : IDisposable
{
    private static readonly ResultsTask s_small = ResultsTask.All[0] with { Questions = 8, Neutral = (2, 12), Texts = ["--max_pairs", "4"], Training = ["--max_pairs", "8", "--n_epochs", "1", "--rank", "2", "--val_split", "0"] };
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Fact]
    public void Every_kind_is_measured_at_its_budget_and_what_fails_says_why()
    {
        ResultsPlan plan = Plan("no steering", "prompts", "random", "mean_diff", "svd_gradient:cosine", "svd_gradient:reprpo_hinge", "svd_weight_rank32", "lora");
        using ResultsStore store = ResultsStore.Open(_shop.At("out"), write: true);
        string said = Measure(plan, store);
        Assert.Equal(plan.Cells().Select(c => c.Key), store.Records.Select(r => r.Key));
        Assert.Equal(plan.Cells().Select(c => c.Settings), store.Records.Select(r => r.Settings));
        Assert.Contains("[16/16]", said);
        ResultsRecord Of(string method, ulong seed = 42) => store.Records.Single(r => r.Method == method && r.Seed == seed);
        Assert.Contains("no gradient reaches it", Of("svd_gradient:reprpo_hinge").Error);
        Assert.Equal((0.0, 0.0), (Of("no steering").Points.Single().Dose, Of("no steering").Points.Single().Change));
        foreach (ResultsRecord r in store.Records.Where(r => r.Error is null && r.Method is not "no steering"))
        {
            Assert.Equal(8, r.Questions);
            Assert.Equal((r.At(1)!.Change!.Value - r.At(-1)!.Change!.Value) / 2, r.Effect!.Value, 1e-5);
            if (r.Method == "prompts")
                continue;
            foreach (ResultsSide side in new[] { r.Minus!, r.Plus! })
                Assert.InRange(side.Kl!.Value, 0.95, 1.05);
            Assert.Equal([-1, -0.5, 0.5, 1], r.Points.Select(p => p.Dose));
            Assert.Equal(r.Plus!.C!.Value / 2, r.At(0.5)!.C!.Value, 1e-5 * r.Plus.C.Value);
        }
        Assert.True(Of("lora").TrainedValues > 0);
        // Another seed is another draw of texts, of directions.
        Assert.NotEqual(Of("mean_diff").Effect, Of("mean_diff", 43).Effect);
        Assert.NotEqual(Of("random").Effect, Of("random", 43).Effect);
        Assert.Empty(new ResultsRunner(plan, store, Silent()).Missing());
    }

    [Fact]
    public void A_stopped_run_goes_on_and_ends_with_the_same_records()
    {
        ResultsPlan plan = Plan("random", "mean_diff", "rotation:recommended");
        using (ResultsStore whole = ResultsStore.Open(_shop.At("whole"), write: true))
            Measure(plan, whole);
        using var stop = new CancellationTokenSource();
        var lines = new Lines(line =>
        {
            if (line.StartsWith("[2/6]", StringComparison.Ordinal))
                stop.Cancel();
        });
        using (ResultsStore part = ResultsStore.Open(_shop.At("part"), write: true))
        {
            Assert.ThrowsAny<OperationCanceledException>(() => Measure(plan, part, new Session(TextReader.Null, TextWriter.Null, lines, stop: stop.Token)));
            Assert.Throws<UserErrorException>(() => ResultsStore.Open(_shop.At("part"), write: true));
        }
        using ResultsStore rest = ResultsStore.Open(_shop.At("part"), write: true);
        Assert.Equal(2, rest.Records.Count);
        Measure(plan, rest);
        Assert.Equal(Comparable(_shop.At("whole")), Comparable(_shop.At("part")));

        static string[] Comparable(string folder)
        {
            using ResultsStore store = ResultsStore.Open(folder, write: false);
            return [.. store.Records.Select(r => $"{r with { Seconds = 0, Points = [] }} {string.Join(' ', r.Points)}")];
        }
    }

    [Fact]
    public void Records_of_other_settings_or_commits_are_never_mixed_in_silently()
    {
        string folder = _shop.At("out"), file = Path.Combine(folder, ResultsStore.FileName);
        string[] results = ["results", "--output", folder, "--methods", "no steering", "mean_diff", "--seeds", "42"];
        var plan = new ResultsPlan([ResultsTask.All[0]], ResultsMethod.Named(["no steering", "mean_diff"]), [42], null, 1);
        string settings = plan.Cells()[1].Settings;
        Write(Record("mean_diff", 42, 0.5) with { Settings = "0000" });
        Fails("other settings", results);
        Fails("other settings", [.. results, "--stale", "keep"]);
        Fails("other settings", [.. results, "--render"]);
        Write(Record("mean_diff", 42, 0.5) with { Settings = settings, Commit = "abcdef123" });
        Fails("abcdef123", results);
        CliResult page = CliRun.Run([.. results, "--render"], "");
        Assert.True(page.Code == ExitCodes.Ok, page.Error);
        string text = File.ReadAllText(folder + ".md");
        Assert.Contains("Commit abcdef123 (1 record). 1 record of the 2 that the command makes", text);
        Assert.Contains("+0.50", text);
        File.WriteAllText(file, File.ReadAllText(file) + "{\"task\": \"demo\"}\n");
        Fails("records.jsonl, line 2", results);

        void Write(ResultsRecord record)
        {
            using ResultsStore store = ResultsStore.Open(folder, write: true);
            store.Add(record);
        }

        void Fails(string part, string[] args)
        {
            string before = File.ReadAllText(file);
            CliResult result = CliRun.Run(args, "");
            Assert.Equal(ExitCodes.UserError, result.Code);
            Assert.Contains(part, result.Error);
            Assert.Equal(before, File.ReadAllText(file));
        }
    }

    [Theory]
    [InlineData("'nope' is no task", "--tasks", "nope")]
    [InlineData("'nope' is none of the results' methods", "--methods", "nope")]
    [InlineData("first..last", "--seeds", "46..42")]
    [InlineData("mood is on a real model", "--tasks", "mood")]
    [InlineData("--model demo", "--model", "demo")]
    [InlineData("no such folder", "--model", "nowhere")]
    [InlineData("without a task that runs on it", "--tasks", "demo", "--model", "nowhere")]
    [InlineData("must be above 0", "--kl_budget", "0")]
    [InlineData("--stale beside --render", "--render", "--stale", "redo")]
    [InlineData("has no record", "--render")]
    public void What_is_asked_wrongly_is_refused(string part, params string[] args)
    {
        CliResult result = CliRun.Run(["results", "--output", _shop.At("none"), .. args], "");
        Assert.Equal(ExitCodes.UserError, result.Code);
        Assert.Contains(part, Assert.Single(result.ErrorLines));
        Assert.False(File.Exists(_shop.At("none.md")));
    }

    [Fact]
    public void The_page_says_what_its_records_say()
    {
        ResultsRecord[] records =
        [
            .. new[] { "no steering" }.SelectMany(m => Seeds(m, 0, 0)).Select(r => r with { Effect = null, Minus = null, Plus = null, Points = [new ResultsPoint(0, 0, 0.7, 0, 0, 0.9, 0, true)] }),
            .. Seeds("random", 0.02, -0.02), .. Seeds("mean_diff", 0.5, 0.7), .. Seeds("pca_diff", 0.03, 0.01), .. Seeds("fisher_steer", -0.4, -0.2), Record("umap", 42, 0.3),
            .. Seeds("kfac_steer", 0, 0).Select(r => r with { Effect = null, EffectError = null, Minus = new ResultsSide("never reached", null, 0.3), Points = [.. r.Points.Where(p => p.Dose > 0)] }),
            .. Seeds("svd_gradient", 0, 0).Select(r => r with { Effect = null, Minus = null, Plus = null, Points = [], Error = "no gradient. Do something" }),
        ];
        ResultsPlan plan = Plan([.. records.Select(r => r.Method).Distinct()]);
        var summary = new ResultsSummary(s_small, records);
        Assert.Equal(["mean_diff", "umap", "pca_diff", "random", "fisher_steer"], summary.Ranked.Select(r => r.Method.Name));
        Assert.Equal(0.6, summary.Rows.Single(r => r.Method.Name == "mean_diff").Effect!.Value.Mean, 1e-12);
        Assert.Equal(0.1, summary.Rows.Single(r => r.Method.Name == "mean_diff").Effect!.Value.StandardError, 1e-12);
        Dictionary<string, string> failures = summary.Failures().ToDictionary(f => f.What, f => string.Join("; ", f.Methods));
        Assert.Equal("svd_gradient (2 seeds: no gradient)", failures.Single(f => f.Key.StartsWith("gave nothing", StringComparison.Ordinal)).Value);
        Assert.Equal("kfac_steer (2 seeds)", failures.Single(f => f.Key.StartsWith("never move", StringComparison.Ordinal)).Value);
        Assert.Equal("pca_diff (+0.02)", failures["do no better than random directions"]);
        Assert.Equal("fisher_steer (−0.30)", failures.Single(f => f.Key.StartsWith("work the wrong way", StringComparison.Ordinal)).Value);
        Assert.DoesNotContain(failures, f => f.Value.Contains("mean_diff", StringComparison.Ordinal));

        var page = new ResultsPage(plan, records, "repeng-native results");
        string text = page.Text("results");
        Assert.Contains("| 1 | [mean_diff](methods/mean-difference-and-pca.md) | **+0.60 ± 0.10** | 0.05 | −0.60 ± 0.10 | +0.60 ± 0.10 |", text);
        Assert.Contains("Told from chance, upwards, and coherent at both ends: mean_diff, umap. Told from chance, but not coherent any more at one end at least: none.", text);
        ResultsRecord[] broken = [.. records.Select(r => r.Method == "mean_diff" ? r with { Points = [r.Points[0], r.Points[1] with { Coherent = false }] } : r)];
        Assert.Contains("**+0.60 ± 0.10** †", new ResultsPage(plan, broken, "").Text("results"));
        Assert.Contains("both ends: umap. Told from chance, but not coherent any more at one end at least: mean_diff.", new ResultsPage(plan, broken, "").Text("results"));
        Assert.Contains("43 in part (7 of 8 methods)", text);
        Assert.Contains("| – | [svd_gradient](methods/svd-of-gradients.md) | failed |", text);
        Assert.Contains("| – | [kfac_steer](methods/kfac.md) | no c of both signs |", text);
        Assert.Contains("15 records of the 16 that the command makes", text);
        IReadOnlyList<string> written = page.Write(_shop.At("results"));
        Assert.All(written, f => Assert.True(new FileInfo(f).Length > 100, f));
        string[] csv = File.ReadAllLines(_shop.At("results/results.csv"));
        Assert.Equal(records.Length + 1, csv.Length);
        Assert.All(csv, l => Assert.Equal(csv[0].Count(c => c == ','), l.Count(c => c == ',')));
        Assert.Equal([0x89, (byte)'P', (byte)'N', (byte)'G'], File.ReadAllBytes(_shop.At("results/demo-effect.png"))[..4]);
    }

    private static ResultsPlan Plan(params string[] methods) => new([s_small], ResultsMethod.Named(methods), [42, 43], null, 1);

    private static string Measure(ResultsPlan plan, ResultsStore store, Session? session = null)
    {
        var said = new StringWriter();
        using Device device = Device.Cpu(2);
        new ResultsRunner(plan, store, session ?? new Session(TextReader.Null, TextWriter.Null, said)).Run(device);
        return said.ToString();
    }

    private static Session Silent() => new(TextReader.Null, TextWriter.Null, TextWriter.Null);

    private static ResultsRecord[] Seeds(string method, double first, double second) => [Record(method, 42, first), Record(method, 43, second)];

    private static ResultsRecord Record(string method, ulong seed, double effect) => new()
    {
        Task = "demo",
        Method = method,
        Seed = seed,
        Settings = "s",
        Commit = "123456789",
        Effect = effect,
        EffectError = 0.05,
        Questions = 8,
        Minus = new ResultsSide("reached", -2, 1),
        Plus = new ResultsSide("reached", 3, 1),
        Points = [new ResultsPoint(-1, -2, 0.7 - effect, -effect, 0.05, 0.9, 0.1, true), new ResultsPoint(1, 3, 0.7 + effect, effect, 0.05, 0.9, 0.2, true)],
    };

    private sealed class Lines(Action<string> line) : StringWriter
    {
        public override void WriteLine(string? value) => line(value ?? "");
    }
}
