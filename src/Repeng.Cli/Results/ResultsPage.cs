using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Repeng.Cli.Reports;
using Repeng.Runtime.Formats;
using Repeng.Steering.Evaluation;

namespace Repeng.Cli.Results;

/// <summary>The page, the tables and the pictures of a set of records. Every number in them is of a record.</summary>
internal sealed class ResultsPage(ResultsPlan plan, IReadOnlyList<ResultsRecord> records, string command)
{
    private const int BestCurves = 4;
    private readonly ResultsSummary[] _tasks = [.. plan.Tasks.Select(t => new ResultsSummary(t, records)).Where(s => s.Rows.Count > 0)];

    /// <summary>Writes folder.md and into the folder results.csv, results.json and the pictures; returns what was written.</summary>
    public IReadOnlyList<string> Write(string folder)
    {
        folder = Path.TrimEndingDirectorySeparator(folder);
        string page = folder + ".md";
        var written = new List<string> { page };
        foreach (ResultsSummary task in _tasks)
        {
            (string Name, Estimate Value)[] bars = [.. task.Ranked.Select(r => (r.Method.Name, r.Effect!.Value))];
            if (bars.Length > 0)
            {
                Plots.Ranking(Add($"{task.Task.Name}-effect.png"), bars, task.Task.Title, $"effect at {plan.Budget:0.###} nat of KL, nats of log-odds, ± standard error over seeds");
                Curve[] doses = Doses(task);
                if (doses.Length > 0)
                    Plots.Png(Add($"{task.Task.Name}-dose.png"), doses, $"{task.Task.Title}: the best methods", "change of the log-odds, nats", "part of the coefficient at which p95 KL meets the budget");
            }
        }
        AtomicFile.WriteText(Add("results.csv"), Csv());
        AtomicFile.WriteText(Add("results.json"), Json().ToJsonString(new System.Text.Json.JsonSerializerOptions { WriteIndented = true, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }) + "\n");
        AtomicFile.WriteText(page, Text(Path.GetFileName(folder)));
        return written;

        string Add(string name)
        {
            written.Add(Path.Combine(folder, name));
            return written[^1];
        }
    }

    /// <summary>The page. files is the folder of the pictures as links name it.</summary>
    public string Text(string files)
    {
        var page = new StringBuilder();
        page.Append(CultureInfo.InvariantCulture, $"""
            # Results
            Every method on every task, at equal damage. This page is written by one command from what it measured, and nothing on it by hand:

                {command}

            {Made(files)}

            ## How to read it
            * A coefficient means nothing by itself. Each method is measured at the two coefficients, one of each sign, at which the 95th percentile of KL(plain ‖ steered) over tokens of neutral texts is {plan.Budget:0.###} nat ([evaluation.md](evaluation.md)); to {ResultsSubject.Tolerance * 100:0} % of that.
            * **Effect** is half of what lies between the log-odds at +c and at −c, in nats: mean over seeds ± standard error over seeds, and beside it the mean standard error over questions. What one seed differs from another in: which training texts are drawn, an adapter's start and the order of its texts, the random directions;
              methods on activations and gradients draw nothing else, so that for them seeds are other texts. Of the prompts each seed has another pair of words (the demo's are the same for all).
            * NLL: rise of the input NLL of the questions at −c / +c, nats a token, against the plain model. Mass: part of the plain model's choice mass that is left. Both are means over seeds. A method that passes 1 nat or 0.8 there is not coherent any more.
            * "Told from chance" is more than two standard errors above the random directions: the method's own error (seeds and questions together) and the standard deviation of single random directions, as a vector is one direction however sure its own effect is. Among so many methods some pass it by luck. Where a task has one seed, only the errors of the questions are known, and much that looks told from chance there may not be with the next seed: adapters of five seeds on the demo show how far those can lie apart.
            * Settings were not searched for this page; the demo's preset was searched for the rotation with AntiPaSTO's loss ([decisions.md](decisions.md)), at the seed 45: its effect here over all seeds is the one to believe, not that of the quick start. The tasks on the real model are small, so that all of it can be made again in under two hours on two cores: read them as what little training does, not as what a method can do.


            """);
        page.Append("## Effect by method and task\n");
        page.Append($"| method | {string.Join(" | ", _tasks.Select(t => $"{t.Task.Title}"))} |\n|---|{string.Concat(_tasks.Select(_ => "---|"))}\n");
        foreach (ResultsMethod method in ResultsMethod.All.Where(m => m.Kind != ResultsKind.Unsteered && _tasks.Any(t => t.Rows.Any(r => r.Method == m))))
            page.Append($"| {method.Link} | {string.Join(" | ", _tasks.Select(t => Cell(t, method)))} |\n");
        page.Append("\nBold: told from chance, upwards. †: not coherent at −c or at +c in more than half of the seeds: the answers that are compared have become improbable, or what was read is not understood any more. In brackets how many seeds have both coefficients, where that is not all of them.\n");
        foreach (ResultsSummary task in _tasks)
            Append(page, task, files);
        page.Append("\n## Settings\n`vector train` and `train` with these options and `--seed`, 42 for the first; blocks of vectors, neutral texts and questions above.\n\n| task | texts | every adapter |\n|---|---|---|\n");
        foreach (ResultsTask task in _tasks.Select(t => t.Task))
            page.Append($"| {task.Name} | {Code(task.Texts, "the demo's own")} | {Code(task.Training, "the demo's preset")} |\n");
        page.Append("\n| method | options on the demo | on real models |\n|---|---|---|\n");
        foreach (ResultsMethod m in ResultsMethod.All.Where(m => m.Kind is ResultsKind.Vector or ResultsKind.WeightSvd or ResultsKind.Adapter && records.Any(r => r.Method == m.Name)))
            page.Append($"| {m.Name} | {Code(m.Options, "none")} | {Code(m.For(false), "none")} |\n");
        return page.ToString();
    }

    private void Append(StringBuilder page, ResultsSummary summary, string files)
    {
        ResultsTask task = summary.Task;
        ResultsRecord? plain = summary.Rows.FirstOrDefault(r => r.Method.Kind == ResultsKind.Unsteered)?.Records[0];
        ResultsPoint? zero = plain?.At(0);
        page.Append($"\n## {task.Title}\n{(task.Demo ? "The demo model" : plan.ModelName)}. Log-odds of {task.Measure}, {summary.Rows.Max(r => r.Records.Max(x => x.Questions))} questions{(zero is null ? "" : $"; without steering {Signed(zero.LogOdds)}, choice mass {Format.Number(zero.Mass)}")}. ");
        page.Append($"KL on {task.Neutral.Count} neutral texts, at most {task.Neutral.Tokens} tokens of each. Vectors act on blocks {task.Blocks.Replace(":", " … ", StringComparison.Ordinal)} (the last not included). Seeds: {Seeds(summary)}.\n\n");
        page.Append("| rank | method | effect | ± questions | at −c | at +c | c− / c+ | NLL − / + | mass − / + | seeds |\n|---|---|---|---|---|---|---|---|---|---|\n");
        foreach ((int i, ResultsRow row) in summary.Ranked.Index())
            page.Append(Line($"{i + 1}", summary, row));
        foreach (ResultsRow row in summary.Rows.Where(r => r.Method.Kind == ResultsKind.Prompts || r.Effect is null && r.Method.Kind != ResultsKind.Unsteered))
            page.Append(Line("", summary, row));
        if (summary.Ranked.Any())
            page.Append($"\n![effect of each method]({files}/{task.Name}-effect.png)\n");
        if (Doses(summary).Length > 0)
            page.Append($"\n![dose-response of the best methods]({files}/{task.Name}-dose.png)\n");
        page.Append("\n### What does not work\n");
        ResultsRow[] told = [.. summary.Ranked.Where(r => r.Method.Kind != ResultsKind.Random && summary.Works(r))];
        page.Append($"Told from chance, upwards, and coherent at both ends: {Names(told.Where(ResultsSummary.Coherent))}. Told from chance, but not coherent any more at one end at least: {Names(told.Where(r => !ResultsSummary.Coherent(r)))}. Of the others, and of these:\n\n");
        foreach ((string what, IReadOnlyList<string> methods) in summary.Failures())
            page.Append($"* **{char.ToUpperInvariant(what[0])}{what[1..]}**: {string.Join(", ", methods)}.\n");
    }

    private static string Names(IEnumerable<ResultsRow> rows) => string.Join(", ", rows.Select(r => r.Method.Name).DefaultIfEmpty("none"));

    private static string Line(string rank, ResultsSummary summary, ResultsRow row)
    {
        if (row.Effect is not { } effect)
            return $"| – | {row.Method.Link} | {(row.Records.All(r => r.Error is not null) ? "failed" : "no c of both signs")} | | {Side(row.Minus)} | {Side(row.Plus)} | {Outcome(row, r => r.Minus)} / {Outcome(row, r => r.Plus)} | | | 0 of {row.Records.Count} |\n";
        bool steered = row.Method.Kind != ResultsKind.Prompts;
        string value = Marked(summary, row, effect);
        return $"| {rank} | {row.Method.Link} | {value} | {Number(row.QuestionError)} | {Side(row.Minus)} | {Side(row.Plus)} | {(steered ? $"{Dose(row.Mean(r => r.Minus?.C))} / {Dose(row.Mean(r => r.Plus?.C))}" : "")} | {(steered ? $"{Signed(row.Mean(r => r.At(-1)?.NllRise))} / {Signed(row.Mean(r => r.At(1)?.NllRise))}" : "")} | {Part(summary, row, -1)} / {Part(summary, row, 1)} | {row.Count}{(row.Count == row.Records.Count ? "" : $" of {row.Records.Count}")} |\n";
    }

    private string Cell(ResultsSummary summary, ResultsMethod method)
    {
        if (summary.Rows.FirstOrDefault(r => r.Method == method) is not { } row)
            return "";
        if (row.Effect is not { } effect)
            return row.Records.All(r => r.Error is not null) ? "failed" : "no c of both signs";
        string text = Marked(summary, row, effect);
        return row.Count == row.Records.Count ? text : $"{text} ({row.Count} of {row.Records.Count})";
    }

    // Bold where it is told from chance, with a dagger where that is bought with answers that are hardly any.
    private static string Marked(ResultsSummary summary, ResultsRow row, Estimate effect)
    {
        string text = Both(row, effect);
        if (row.Method.Kind == ResultsKind.Prompts)
            return text;
        if (row.Method.Kind != ResultsKind.Random && summary.Works(row))
            text = $"**{text}**";
        return ResultsSummary.Coherent(row) ? text : text + " †";
    }

    private Curve[] Doses(ResultsSummary summary) =>
    [
        .. summary.Best(BestCurves).Select(row => new Curve(row.Method.Name, [.. row.Records.SelectMany(r => r.Points).Where(p => p.Change is not null).GroupBy(p => p.Dose).OrderBy(g => g.Key)
            // One seed has only the error of its questions.
            .Select(g => g.Count() > 1 ? Estimate.Of([.. g.Select(p => p.Change!.Value)]) is var e ? new CurvePoint(g.Key, e.Mean, e.StandardError) : default : new CurvePoint(g.Key, g.First().Change!.Value, g.First().ChangeError ?? double.NaN))
            .Append(new CurvePoint(0, 0, 0)).OrderBy(p => p.X)])).Where(c => c.Points.Count > 2),
    ];

    private string Made(string files)
    {
        string[] commits = [.. records.GroupBy(r => r.Commit).Select(g => $"{g.Key} ({Records(g.Count())})")];
        string[] tasks = [.. _tasks.Select(t => $"{t.Task.Name} {Seeds(t)}")];
        int cells = plan.Cells().Count;
        return $"Commit{(commits.Length == 1 ? "" : "s")} {string.Join(", ", commits)}. {Records(records.Count)}{(records.Count < cells ? $" of the {cells} that the command makes; what is missing was not measured" : "")}: {string.Join("; ", tasks)}. Numbers of each record: [{ResultsStore.FileName}]({files}/{ResultsStore.FileName}), [results.csv]({files}/results.csv).";
    }

    private static string Records(int count) => $"{count} record{(count == 1 ? "" : "s")}";

    // Seeds that every method has, and those that are begun.
    private static string Seeds(ResultsSummary summary)
    {
        int methods = summary.Rows.Count;
        var bySeed = summary.Rows.SelectMany(r => r.Records).GroupBy(r => r.Seed).OrderBy(g => g.Key).Select(g => (Seed: g.Key, Count: g.Count())).ToArray();
        ulong[] whole = [.. bySeed.Where(s => s.Count == methods).Select(s => s.Seed)];
        string text = whole.Length == 0 ? "no whole seed" : whole.Length > 1 && whole[^1] - whole[0] == (ulong)whole.Length - 1 ? $"{whole[0]}–{whole[^1]}" : string.Join(", ", whole);
        return text + string.Concat(bySeed.Where(s => s.Count < methods).Select(s => $", {s.Seed} in part ({s.Count} of {methods} methods)"));
    }

    private string Csv()
    {
        var csv = new StringBuilder("task,method,seed,commit,effect,effect_se_questions,n,c_minus,c_plus,kl_minus,kl_plus,change_minus,change_plus,nll_rise_minus,nll_rise_plus,mass_minus,mass_plus,coherent_minus,coherent_plus,trained_values,seconds,error\n");
        foreach (ResultsRecord r in records)
            csv.Append(CultureInfo.InvariantCulture, $"{r.Task},{EvalRun.Quoted(r.Method)},{r.Seed},{r.Commit},{r.Effect},{r.EffectError},{r.Questions},{r.Minus?.C},{r.Plus?.C},{r.Minus?.Kl},{r.Plus?.Kl},{r.At(-1)?.Change},{r.At(1)?.Change},{r.At(-1)?.NllRise},{r.At(1)?.NllRise},{r.At(-1)?.Mass},{r.At(1)?.Mass},{Flag(r.At(-1)?.Coherent)},{Flag(r.At(1)?.Coherent)},{r.TrainedValues},{r.Seconds},{EvalRun.Quoted(r.Error ?? "")}\n");
        return csv.ToString();

        static string Flag(bool? x) => x is { } known ? known ? "true" : "false" : "";
    }

    private JsonObject Json() => new(_tasks.Select(t => KeyValuePair.Create(t.Task.Name, (JsonNode?)new JsonObject
    {
        ["methods"] = new JsonArray([.. t.Rows.Select(r => (JsonNode)new JsonObject
        {
            ["method"] = r.Method.Name, ["seeds"] = new JsonArray([.. r.Records.Select(x => (JsonNode)JsonValue.Create(x.Seed))]), ["n"] = r.Count,
            ["effect"] = Known(r.Effect?.Mean), ["effect_se_seeds"] = Known(r.Effect?.StandardError), ["effect_se_questions"] = Known(r.QuestionError),
            ["change_minus"] = Known(r.Minus?.Mean), ["change_minus_se"] = Known(r.Minus?.StandardError), ["change_plus"] = Known(r.Plus?.Mean), ["change_plus_se"] = Known(r.Plus?.StandardError), ["told_from_chance"] = t.Works(r),
        })]),
        ["what_does_not_work"] = new JsonObject(t.Failures().Select(f => KeyValuePair.Create(f.What, (JsonNode?)new JsonArray([.. f.Methods.Select(m => (JsonNode)JsonValue.Create(m))])))),
    })));

    private static JsonNode? Known(double? x) => x is { } v && double.IsFinite(v) ? JsonValue.Create(v) : null;

    private static string Both(ResultsRow row, Estimate e) => $"{Signed(e.Mean)}{(row.Varies && double.IsFinite(e.StandardError) ? $" ± {Format.Number(e.StandardError, 2)}" : "")}";

    private static string Side(Estimate? e) => e is { } known ? $"{Signed(known.Mean)}{(double.IsFinite(known.StandardError) ? $" ± {Format.Number(known.StandardError, 2)}" : "")}" : "";

    private static string Outcome(ResultsRow row, Func<ResultsRecord, ResultsSide?> side) => string.Join(", ", row.Records.Select(r => side(r)?.Outcome).OfType<string>().Distinct());

    private static string Part(ResultsSummary summary, ResultsRow row, double dose) =>
        summary.Rows.FirstOrDefault(r => r.Method.Kind == ResultsKind.Unsteered)?.Records[0].At(0) is { Mass: > 0 } plain && row.Mean(r => r.At(dose)?.Mass) is { } mass ? Format.Number(mass / plain.Mass, 2) : "";

    /// <summary>With a sign as print has it.</summary>
    internal static string Signed(double? x) => x is { } known ? Format.Signed(known).Replace('-', '−') : "";

    private static string Number(double? x) => x is { } known ? Format.Number(known, 2) : "";

    private static string Dose(double? c) => c is { } known ? (known > 0 ? "+" : "") + known.ToString("G3", CultureInfo.InvariantCulture).Replace("E+0", "e", StringComparison.Ordinal).Replace("E-0", "e-", StringComparison.Ordinal).Replace('-', '−') : "";

    private static string Code(IReadOnlyList<string> options, string none) => options.Count == 0 ? none : $"`{string.Join(' ', options.Select(o => o.AsSpan().IndexOfAny("|*(") >= 0 ? $"'{o}'" : o)).Replace("|", "\\|", StringComparison.Ordinal)}`";
}
