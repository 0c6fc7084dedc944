using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Cli.Verbs;
using Repeng.Runtime.Formats;
using Repeng.Steering.Evaluation;

namespace Repeng.Cli.Reports;

/// <summary>A line of the comparison: half of the change of the log-odds between two points of a method, nats, paired by question.</summary>
/// <param name="Method">Name of the method.</param>
/// <param name="From">Row at its −c, or of the negative prompt; null for several seeds together.</param>
/// <param name="To">Row at its +c, or of the positive prompt; null for several seeds together.</param>
/// <param name="Effect">Mean.</param>
/// <param name="Error">Its standard error: over questions, or for several seeds over seeds.</param>
/// <param name="Count">Questions, or seeds.</param>
internal sealed record ComparedRow(string Method, EvalRow? From, EvalRow? To, double Effect, double Error, int Count)
{
    /// <summary>Both coefficients; null for seeds and prompts.</summary>
    public (float Minus, float Plus)? Doses => From is { } f && To is { } t && f.Method == t.Method ? (f.Coefficient, t.Coefficient) : null;

    /// <summary>Whether both ends are coherent; null for seeds and prompts, which have no c = 0 of their own.</summary>
    public bool? Coherent => Doses is null ? null : From!.Coherent && To!.Coherent;

    /// <summary>What Count is of.</summary>
    public string Unit => From is null ? "seeds" : "questions";
}

/// <summary>What eval says about any set of questions: the table by coefficient, the comparison of methods, CSV, JSON and plots.</summary>
internal sealed class EvalReport
{
    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
    private readonly EvalRun _run;
    private readonly EvalLimits _limits;
    private readonly Session _session;

    public EvalReport(EvalRun run, EvalLimits limits, IReadOnlyList<EvalSubject> subjects, Session session)
    {
        (_run, _limits, _session, Subjects) = (run, limits, session, subjects);
    }

    /// <summary>Name of the model.</summary>
    public required string Model { get; init; }

    /// <summary>Folders of the adapters.</summary>
    public required IReadOnlyList<string> Adapters { get; init; }

    /// <summary>Files of the vectors.</summary>
    public required IReadOnlyList<string> Vectors { get; init; }

    private IReadOnlyList<EvalSubject> Subjects { get; }

    /// <summary>p95 KL of a row for a table.</summary>
    public static string Kl(EvalRow row) => row.Kl is { } kl ? Format.Number(kl.P95) : "–";

    /// <summary>Heads of the columns about thoughts; none where no answer has any.</summary>
    public static string[] ThoughtColumns(bool thinks) => thinks ? [">cut", ">thought tokens"] : [];

    /// <summary>The same of a row: answers whose thoughts were cut of all, those that were forced, and the mean length of thoughts.</summary>
    public static string[] Thoughts(EvalRow row, bool thinks) => !thinks ? []
        : row.Thoughts is { } t ? [$"{t.Cut} of {t.Answers}{(t.Forced > 0 ? $", {t.Forced} forced" : "")}", Format.Number(t.MeanTokens, 0)] : ["–", "–"];

    /// <summary>Says how many answers are missing because their thoughts were cut, and what helps.</summary>
    public void SayCut(EvalRun run)
    {
        ThoughtCounts[] counts = [.. run.Rows.Select(r => r.Thoughts).OfType<ThoughtCounts>()];
        if (counts.Sum(t => t.Answers - t.Judged) is > 0 and var missing)
            _session.Say($"{missing} of {counts.Sum(t => t.Answers)} answers were still in their thoughts at the end and are not scored; give --max_think_tokens more room, or add --force_close");
    }

    /// <summary>What those columns are, for the title.</summary>
    public static string ThoughtNote(bool thinks) => thinks ? "; cut: answers whose thoughts had not ended, which valid leaves out unless they were forced" : "";

    /// <summary>Prints everything about a set, and writes the files where an output folder is given.</summary>
    public void Write(string set, string? output)
    {
        bool thinks = _run.Rows.Any(r => r.Thoughts is not null);
        Spectre.Console.Table table = Format.Table(["method", ">c", ">log-odds", ">change against c = 0", ">choice mass", ">valid", .. ThoughtColumns(thinks), ">input NLL", ">p95 KL", ">coherent"]);
        foreach (EvalRow r in _run.Rows)
            table.Row([r.Method, Dose(r.Coefficient), $"{Format.Signed(r.LogOdds)} ± {Format.Number(r.LogOddsError, 2)}", $"{Format.Signed(r.Change)} ± {Format.Number(r.ChangeError, 2)}", Format.Number(r.Mass), Format.Number(r.ValidFraction, 2), .. Thoughts(r, thinks), $"{Format.Number(r.InputNll, 2)} ({Format.Signed(r.InputNllRise)})", Kl(r), r.Coherent ? "yes" : "no"]);
        _session.Print($"Log-odds of the true answer in nats, set {set}, mean ± standard error over {_run.Cells[0].Results.Select(r => r.Key).Distinct().Count()} questions{(_run.Rows[0].Draws > 1 ? $", {_run.Rows[0].Draws} answers each" : "")}; input NLL in nats a token{NeutralNote()}{ThoughtNote(thinks)}", table);
        SayCut(_run);
        if (_run.Rows.All(r => r.Count == 0))
            _session.Say("no answer of any method has a final choice, so there is nothing to compare; give --max_new_tokens more room, a lower --temperature, --repetition_penalty 1, or leave --generate_answers out");
        if (_run.Regressions.Count > 0)
        {
            Spectre.Console.Table slopes = Format.Table("method", ">slope", ">r²", ">p", ">valid", ">score", ">usable c");
            foreach ((string method, LogRatioRegression r) in _run.Regressions)
                slopes.Row(method, $"{Format.Signed(r.Slope, 3)} ± {Format.Number(r.StandardError)}", Format.Number(r.R2), Format.Number(r.PValue), Format.Number(r.ValidFraction, 2), Format.Number(r.Score), Usable(_run, method));
            _session.Print($"Mean log-odds against sign(c)·ln(1 + |c|); score = |slope|·valid²·r²; usable among the measured c: input NLL rises by less than {EvalRow.MostRise} nat, choice mass at least {EvalRow.LeastMass} of that at c = 0, valid at least {EvalRow.LeastMass}", slopes);
        }
        PrintComparison(_run, "the true answer");
        if (output is null)
            return;
        Directory.CreateDirectory(output);
        AtomicFile.WriteText(Path.Combine(output, "eval_results.csv"), _run.ResultsCsv());
        AtomicFile.WriteText(Path.Combine(output, "eval_summary.csv"), _run.SummaryCsv());
        WriteShared(_run, _run.ToJson(), set, "the true answer", $"Set {set}", output);
        _session.Print($"Written: {output}");
    }

    /// <summary>The comparison of methods as a table and as a plot in text.</summary>
    public void PrintComparison(EvalRun run, string toward)
    {
        List<ComparedRow> compared = Compared(run);
        if (compared.Count > 0)
        {
            Spectre.Console.Table table = Format.Table("method", ">c", ">effect", ">change at −", ">change at +", ">p95 KL − / +", ">NLL rise − / +", ">coherent", ">n");
            foreach (ComparedRow r in compared)
                table.Row(r.Method, r.Doses is { } c ? $"{Dose(c.Minus)} / {Dose(c.Plus)}" : "", $"{Format.Signed(r.Effect)} ± {Format.Number(r.Error, 2)}", r.From is null ? "" : Format.Signed(r.From.Change), r.To is null ? "" : Format.Signed(r.To.Change),
                    r.Doses is null ? "" : $"{Kl(r.From!)} / {Kl(r.To!)}", r.Doses is null ? "" : $"{Format.Signed(r.From!.InputNllRise)} / {Format.Signed(r.To!.InputNllRise)}", r.Coherent is { } fine ? fine ? "yes" : "no" : "", $"{r.Count}{(r.From is null ? " seeds" : "")}");
            _session.Print($"Methods compared: effect = half the change of the log-odds toward {toward} from − to +, nats, ± standard error paired by question; {Where()}", table);
        }
        Curve[] doses = Doses(run), effects = Effects(run);
        if (effects.Length > 0 && _limits.Calibrations.Count > 0)
            _session.Print(Plots.Text(effects, $"change of the log-odds toward {toward}, nats", "sign(c) · p95 KL, nats"));
        else if (doses.Length > 0)
            _session.Print(Plots.Text(doses, $"log-odds of {toward}, nats", "coefficient c"));
    }

    /// <summary>eval.json, compared.csv and the plots eval and effect.</summary>
    public void WriteShared(EvalRun run, JsonObject json, string set, string toward, string title, string output)
    {
        List<ComparedRow> compared = Compared(run);
        (json["model"], json["adapter"], json["set"]) = (Model, Adapters.Count > 0 ? Adapters[0] : null, set);
        json["adapters"] = new JsonArray([.. Adapters.Select(a => (JsonNode)a)]);
        json["vectors"] = new JsonArray([.. Vectors.Select(a => (JsonNode)a)]);
        json["calibrations"] = _limits.ToJson();
        json["compared"] = new JsonArray([.. compared.Select(r => (JsonNode)new JsonObject
        {
            ["method"] = r.Method, ["c_minus"] = r.Doses?.Minus, ["c_plus"] = r.Doses?.Plus, ["effect"] = Finite(r.Effect), ["effect_se"] = Finite(r.Error), ["n"] = r.Count, ["n_of"] = r.Unit,
            ["change_minus"] = Finite(r.From?.Change), ["change_plus"] = Finite(r.To?.Change), ["kl_p95_minus"] = Finite(r.From?.Kl?.P95), ["kl_p95_plus"] = Finite(r.To?.Kl?.P95),
            ["input_nll_rise_minus"] = r.Doses is null ? null : Finite(r.From!.InputNllRise), ["input_nll_rise_plus"] = r.Doses is null ? null : Finite(r.To!.InputNllRise), ["coherent"] = r.Coherent,
        })]);
        AtomicFile.WriteText(Path.Combine(output, "eval.json"), json.ToJsonString(s_json) + "\n");
        var csv = new StringBuilder("method,c_minus,c_plus,effect,effect_se,n,n_of,change_minus,change_plus,kl_p95_minus,kl_p95_plus,input_nll_rise_minus,input_nll_rise_plus,coherent\n");
        foreach (ComparedRow r in compared)
        {
            (EvalRow? from, EvalRow? to) = r.Doses is null ? (null, null) : (r.From, r.To);
            csv.Append(CultureInfo.InvariantCulture, $"{EvalRun.Quoted(r.Method)},{r.Doses?.Minus:R},{r.Doses?.Plus:R},{r.Effect:G9},{r.Error:G9},{r.Count},{r.Unit},{r.From?.Change:G9},{r.To?.Change:G9},{from?.Kl?.P95:G9},{to?.Kl?.P95:G9},{from?.InputNllRise:G9},{to?.InputNllRise:G9},{(r.Coherent is { } c ? c ? "true" : "false" : "")}\n");
        }
        AtomicFile.WriteText(Path.Combine(output, "compared.csv"), csv.ToString());
        Curve[] all = [.. run.Rows.GroupBy(r => r.Method).Select(g => new Curve(g.Key, [.. g.Where(r => double.IsFinite(r.LogOdds)).Select(r => new CurvePoint(r.Coefficient, r.LogOdds, r.LogOddsError))]))];
        Plots.Pictures(Path.Combine(output, "eval"), all, title, $"log-odds of {toward}, nats", "steering coefficient c");
        if (Effects(run) is { Length: > 0 } effects)
            Plots.Pictures(Path.Combine(output, "effect"), effects, $"{title}: effect against coherence", $"change of the log-odds toward {toward}, nats", "sign(c) · p95 KL on neutral texts, nats");
    }

    /// <summary>What the KL of a table was measured on, for its title.</summary>
    public string NeutralNote() => _limits.Neutral is { } n ? $"; p95 over {n.Positions} tokens of neutral texts ({n.Source}) of KL(base ‖ steered)" : "";

    /// <summary>A coefficient in a table: calibrated ones have many digits.</summary>
    public static string Dose(double c) => Format.Coefficient(Math.Round(c, 4));

    /// <summary>Usable range of a method for a table.</summary>
    public static string Usable(EvalRun run, string method)
    {
        if (run.UsableRange[method] is not { } usable)
            return "none";
        float[] measured = [.. run.Rows.Where(r => r.Method == method).Select(r => r.Coefficient)];
        // As far as was measured is not as far as it goes.
        return $"{(usable.From == measured.Min() ? "≤ " : "")}{Dose(usable.From)} … {(usable.To == measured.Max() ? "≥ " : "")}{Dose(usable.To)}";
    }

    private string Where()
    {
        const string Measured = "the largest ±c that is coherent on both sides, else the smallest";
        int calibrated = _limits.Calibrations.Keys.Count(m => _limits.Calibrated(m) is not null);
        return calibrated == 0 ? $"at {Measured}" : $"at the coefficients of {_limits.Budget:0.###} nat of p95 KL{(calibrated < _limits.Calibrations.Count ? $"; of methods that have none, at {Measured}" : "")}";
    }

    private List<ComparedRow> Compared(EvalRun run)
    {
        var rows = new List<ComparedRow>();
        foreach (EvalSubject s in Subjects.Where(s => s.Steered))
        {
            EvalRow[] own = [.. run.Rows.Where(r => r.Method == s.Name)];
            (float Minus, float Plus)? pair = _limits.Calibrated(s.Name) is { } c && own.Any(r => r.Coefficient == c.Minus) && own.Any(r => r.Coefficient == c.Plus) ? c
                : Pair(own);
            if (pair is { } p)
                rows.Add(Row(s.Name, (s.Name, p.Minus), (s.Name, p.Plus)));
        }
        ComparedRow[] random = [.. rows.Where(r => r.Method.StartsWith("random direction, seed", StringComparison.Ordinal))];
        if (random.Length > 1)
        {
            Estimate e = Estimate.Of([.. random.Select(r => r.Effect)]);
            rows.Insert(rows.IndexOf(random[^1]) + 1, new ComparedRow("random direction, all seeds", null, null, e.Mean, e.StandardError, random.Length));
        }
        string[] prompts = [.. Subjects.Where(s => s.Persona is not null).Select(s => s.Name)];
        if (prompts.Length == 2)
            rows.Add(Row($"{prompts[0]} / {prompts[1].Replace("prompt: ", "", StringComparison.Ordinal)}", (prompts[1], 0), (prompts[0], 0)));
        return rows;

        ComparedRow Row(string name, (string Method, float C) from, (string Method, float C) to)
        {
            (double effect, double error, int count) = run.Spread(from, to);
            return new ComparedRow(name, At(from), At(to), effect, error, count);
        }

        // The largest pair that is coherent on both sides, else the smallest of all.
        static (float, float)? Pair(EvalRow[] own)
        {
            (float C, bool Coherent)[] both = [.. own.Where(r => r.Coefficient > 0).SelectMany(r => own.Where(o => o.Coefficient == -r.Coefficient).Select(o => (r.Coefficient, r.Coherent && o.Coherent))).OrderBy(r => r.Coefficient)];
            return both.Length == 0 ? null : both.Where(b => b.Coherent).Select(b => b.C).DefaultIfEmpty(both[0].C).Last() is var c ? (-c, c) : null;
        }

        EvalRow At((string Method, float C) point) => run.Rows.First(r => r.Method == point.Method && r.Coefficient == point.C);
    }

    // Prompts and no steering have one point each, and would use up the marks.
    private Curve[] Doses(EvalRun run) => [.. Steered(run).Select(g => new Curve(g.Key, [.. g.Where(r => double.IsFinite(r.LogOdds)).Select(r => new CurvePoint(r.Coefficient, r.LogOdds, r.LogOddsError))])).Where(c => c.Points.Count > 1)];

    private Curve[] Effects(EvalRun run) => [.. Steered(run).Select(g => new Curve(g.Key, [.. g.Where(r => r.Kl is { } kl && double.IsFinite(kl.P95) && double.IsFinite(r.Change)).Select(r => new CurvePoint(Math.Sign(r.Coefficient) * r.Kl!.Value.P95, r.Change, r.ChangeError)).OrderBy(p => p.X)])).Where(c => c.Points.Count > 1)];

    private IEnumerable<IGrouping<string, EvalRow>> Steered(EvalRun run) => run.Rows.Where(r => Subjects.Any(s => s.Steered && s.Name == r.Method)).GroupBy(r => r.Method);

    private static JsonNode? Finite(double? x) => x is { } v && double.IsFinite(v) ? JsonValue.Create(v) : null;
}
