using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>One way to steer, with the questions as they are put under it.</summary>
/// <param name="Name">For tables.</param>
/// <param name="Steering">What acts on the model.</param>
/// <param name="Coefficients">Coefficients to measure; 0 is added where it is missing.</param>
/// <param name="Items">The questions: under every method the same keys in the same order.</param>
public sealed record EvalMethod(string Name, Generation.Steering Steering, IReadOnlyList<float> Coefficients, IReadOnlyList<ChoiceItem> Items);

/// <summary>Answers of one method at one coefficient.</summary>
/// <param name="Method">Name of the method.</param>
/// <param name="Coefficient">c.</param>
/// <param name="Results">One a question.</param>
public sealed record EvalCell(string Method, float Coefficient, IReadOnlyList<ChoiceResult> Results)
{
    /// <summary>KL of the plain model from the steered one on neutral texts; null where it was not measured.</summary>
    public KlStatistics? Kl { get; init; }
}

/// <summary>Sums of a cell, in nats; standard errors are NaN with fewer than two questions.</summary>
/// <param name="Method">Name of the method.</param>
/// <param name="Coefficient">c.</param>
/// <param name="Count">Questions.</param>
/// <param name="LogOdds">Mean of log P(true) − log P(false).</param>
/// <param name="LogOddsError">Its standard error.</param>
/// <param name="Change">Mean difference to c = 0 of the first method, paired by question.</param>
/// <param name="ChangeError">Its standard error.</param>
/// <param name="Mass">Mean probability of all answers together: how much of the model's answer is an answer at all.</param>
/// <param name="ValidFraction">Part of all answers that have log-odds at all; thoughts that were cut have no answer and are left out here, <see cref="Thoughts"/> counts them.</param>
/// <param name="Draws">Answers to each question.</param>
/// <param name="InputNll">Mean negative log-probability of the questions' own tokens, nats a token.</param>
/// <param name="InputNllRise">The same less that of this method at c = 0.</param>
/// <param name="MassKept">Choice mass as a part of this method's at c = 0: open endings leave much of it to other answers even there.</param>
/// <remarks>Several draws of an answer to one question are averaged first: errors are over questions, which are independent.</remarks>
public sealed record EvalRow(string Method, float Coefficient, int Count, double LogOdds, double LogOddsError, double Change, double ChangeError, double Mass,
    double ValidFraction, int Draws, double InputNll, double InputNllRise, double MassKept)
{
    /// <summary>Input NLL rises by less than this many nats a token where a model still understands what it reads.</summary>
    public const double MostRise = 1;

    /// <summary>Least part of the choice mass at c = 0, and least part of valid answers, of a model that still answers.</summary>
    public const double LeastMass = 0.8;

    /// <summary>KL of the plain model from the steered one on neutral texts; null where it was not measured.</summary>
    public KlStatistics? Kl { get; init; }

    /// <summary>Thoughts before the answers; null where none were looked for.</summary>
    public ThoughtCounts? Thoughts { get; init; }

    /// <summary>Whether the model is still coherent at this coefficient.</summary>
    public bool Coherent => InputNllRise < MostRise && MassKept >= LeastMass && ValidFraction >= LeastMass;
}

/// <summary>An evaluation: several methods, each at several coefficients, on the same questions.</summary>
public sealed class EvalRun
{
    private EvalRun(IReadOnlyList<EvalCell> cells)
    {
        Cells = cells;
        Dictionary<string, double> zero = ByQuestion(cells.First(c => c.Coefficient == 0));
        Rows = [.. cells.Select(cell =>
        {
            EvalCell own = cells.First(c => c.Method == cell.Method && c.Coefficient == 0);
            Dictionary<string, double> known = ByQuestion(cell);
            double[] change = [.. known.Where(k => zero.ContainsKey(k.Key)).Select(k => k.Value - zero[k.Key])];
            double input = Mean(cell.Results.Select(r => r.InputNll)), mass = Mean(cell.Results.Select(r => r.Mass));
            return new EvalRow(cell.Method, cell.Coefficient, known.Count, Mean(known.Values), Error([.. known.Values]), Mean(change), Error(change), mass,
                Valid(cell), cell.Results.Max(r => r.Draw) + 1, input, input - Mean(own.Results.Select(r => r.InputNll)), mass / Mean(own.Results.Select(r => r.Mass))) { Kl = cell.Kl, Thoughts = ThoughtCounts.Of(cell.Results) };
        })];
        Regressions = cells.GroupBy(c => c.Method).Where(g => g.Select(c => c.Coefficient).Distinct().Count() > 1).ToDictionary(g => g.Key, g =>
        {
            LogRatioRegression line = LogRatioRegression.Of([.. g.Select(c => (double)c.Coefficient)], [.. g.Select(c => Mean(ByQuestion(c).Values))]);
            // What counts as valid is an answer, not a coefficient. As in the original, thoughts that were cut are none here.
            double valid = g.Average(c => c.Results.Count(r => !double.IsNaN(r.LogOdds)) / (double)c.Results.Count), score = Math.Abs(line.Slope) * valid * valid * line.R2;
            return line with { ValidFraction = valid, Score = score, ScoreWithRange = score * (line.Max - line.Min) };
        });
        UsableRange = Rows.GroupBy(r => r.Method).Where(g => g.Count() > 1).ToDictionary(g => g.Key, g => Usable([.. g.OrderBy(r => r.Coefficient)]));
    }

    /// <summary>Per method with several coefficients, the smallest and largest measured c between which it is coherent everywhere; null where it is not even at 0.</summary>
    public IReadOnlyDictionary<string, (float From, float To)?> UsableRange { get; }

    /// <summary>Question by question.</summary>
    public IReadOnlyList<EvalCell> Cells { get; }

    /// <summary>Sums, in the order of the methods and by rising coefficient.</summary>
    public IReadOnlyList<EvalRow> Rows { get; }

    /// <summary>How the mean log-odds follow the coefficient, of every method with several coefficients.</summary>
    public IReadOnlyDictionary<string, LogRatioRegression> Regressions { get; }

    /// <summary>Sums of results that are there already; the first cell at c = 0 is what changes are against.</summary>
    public static EvalRun Of(IReadOnlyList<EvalCell> cells) => new(cells);

    /// <summary>
    /// Measures. The first method must have c = 0 (it is added): every change is against it. A method that has only c = 0
    /// is a prompt alone. With generate, the answers are written by the model and scored where they decide. With neutral, KL
    /// is measured too, but for prompts, which put no question to neutral texts.
    /// </summary>
    public static EvalRun Run(DecoderModel model, IReadOnlyList<EvalMethod> methods, int batchSize = 16, Action<string, float>? progress = null, CancellationToken stop = default, GeneratedAnswers? generate = null, NeutralKl? neutral = null)
    {
        if (methods.Count == 0 || methods[0].Items.Count == 0)
            throw new UserErrorException("nothing to evaluate: no method or no question");
        string[] keys = [.. methods[0].Items.Select(i => i.Key)];
        if (methods.FirstOrDefault(m => !m.Items.Select(i => i.Key).SequenceEqual(keys)) is { } other)
            throw new ArgumentException($"the questions of {other.Name} are not those of {methods[0].Name}");
        if (methods.Select(m => m.Name).Distinct().Count() != methods.Count)
            throw new ArgumentException("two methods have the same name");
        var evaluator = new TruthEvaluator(model, batchSize) { MeasureInput = true };
        var cells = new List<EvalCell>();
        var known = new Dictionary<IReadOnlyList<ChoiceItem>, IReadOnlyList<ChoiceResult>>(ReferenceEqualityComparer.Instance);
        foreach (EvalMethod method in methods)
            foreach (float c in method.Coefficients.Append(0).Distinct().Order())
            {
                stop.ThrowIfCancellationRequested();
                // Without an adapter c = 0 is the model itself (some adapters change it even there): the same questions have the same answers.
                bool plain = c == 0 && method.Steering.Adapter is null;
                if (plain && known.TryGetValue(method.Items, out IReadOnlyList<ChoiceResult>? before))
                {
                    cells.Add(new EvalCell(method.Name, c, before) { Kl = Kl(method, c) });
                    continue;
                }
                ChoiceResult[] results = evaluator.Run(method.Items, method.Steering, c);
                if (generate is not null)
                {
                    Dictionary<string, double> input = results.ToDictionary(r => r.Key, r => r.InputNll);
                    results = [.. generate.Run(method.Items, method.Steering, c, stop).Select(r => r with { InputNll = input[r.Key] })];
                }
                cells.Add(new EvalCell(method.Name, c, results) { Kl = Kl(method, c) });
                if (plain)
                    known[method.Items] = results;
                progress?.Invoke(method.Name, c);
            }
        return new EvalRun(cells);

        KlStatistics? Kl(EvalMethod method, float c) => ReferenceEquals(method.Items, methods[0].Items) ? neutral?.Measure(method.Steering, c) : null;
    }

    /// <summary>
    /// How far a method turns the answers between two of its points: half of y(to) − y(from), mean and standard error over the questions
    /// that are answered in both, paired by question.
    /// </summary>
    public (double Effect, double Error, int Count) Spread((string Method, float C) from, (string Method, float C) to)
    {
        Dictionary<string, double> a = At(from), b = At(to);
        double[] halves = [.. b.Where(k => a.ContainsKey(k.Key)).Select(k => (k.Value - a[k.Key]) / 2)];
        return (Mean(halves), Error(halves), halves.Length);

        Dictionary<string, double> At((string Method, float C) point) =>
            ByQuestion(Cells.FirstOrDefault(c => c.Method == point.Method && c.Coefficient == point.C) ?? throw new ArgumentException($"{point.Method} was not measured at {point.C}"));
    }

    /// <summary>One line a method, coefficient and question.</summary>
    public string ResultsCsv()
    {
        var csv = new StringBuilder("method,coefficient,key,log_odds,choice_mass,draw,input_nll,think_tokens,cut,forced\n");
        foreach (EvalCell cell in Cells)
            foreach (ChoiceResult r in cell.Results)
                csv.Append(CultureInfo.InvariantCulture, $"{Quoted(cell.Method)},{cell.Coefficient:R},{Quoted(r.Key)},{r.LogOdds:G9},{r.Mass:G9},{r.Draw},{r.InputNll:G9},{r.Thought?.Tokens},{Flag(r.Thought?.Cut)},{Flag(r.Thought?.Forced)}\n");
        return csv.ToString();
    }

    /// <summary>One line a method and coefficient.</summary>
    public string SummaryCsv()
    {
        var csv = new StringBuilder("method,coefficient,n,log_odds,log_odds_se,change,change_se,choice_mass,valid_frac,seeds,input_nll,input_nll_rise,kl_p95,kl_mean,coherent,answers,cut,forced,think_tokens\n");
        foreach (EvalRow r in Rows)
            csv.Append(CultureInfo.InvariantCulture, $"{Quoted(r.Method)},{r.Coefficient:R},{r.Count},{r.LogOdds:G9},{r.LogOddsError:G9},{r.Change:G9},{r.ChangeError:G9},{r.Mass:G9},{r.ValidFraction:G9},{r.Draws},{r.InputNll:G9},{r.InputNllRise:G9},{r.Kl?.P95:G9},{r.Kl?.Mean:G9},{Flag(r.Coherent)},{r.Thoughts?.Answers},{r.Thoughts?.Cut},{r.Thoughts?.Forced},{r.Thoughts?.MeanTokens:G9}\n");
        return csv.ToString();
    }

    /// <summary>Sums and regressions; what is not a number is null.</summary>
    public JsonObject ToJson() => new()
    {
        ["rows"] = new JsonArray([.. Rows.Select(r => (JsonNode)new JsonObject
        {
            ["method"] = r.Method, ["coefficient"] = r.Coefficient, ["n"] = r.Count, ["log_odds"] = Number(r.LogOdds), ["log_odds_se"] = Number(r.LogOddsError),
            ["change"] = Number(r.Change), ["change_se"] = Number(r.ChangeError), ["choice_mass"] = Number(r.Mass),
            ["valid_frac"] = Number(r.ValidFraction), ["seeds"] = r.Draws, ["input_nll"] = Number(r.InputNll), ["input_nll_rise"] = Number(r.InputNllRise),
            ["kl_p95"] = Number(r.Kl?.P95 ?? double.NaN), ["kl_mean"] = Number(r.Kl?.Mean ?? double.NaN), ["kl_positions"] = r.Kl?.Positions, ["coherent"] = r.Coherent,
            ["thinking"] = r.Thoughts is not { } t ? null : new JsonObject { ["answers"] = t.Answers, ["cut"] = t.Cut, ["forced"] = t.Forced, ["mean_tokens"] = t.MeanTokens },
        })]),
        ["regressions"] = new JsonObject(Regressions.Select(p => KeyValuePair.Create(p.Key, (JsonNode?)new JsonObject
        {
            ["slope"] = Number(p.Value.Slope),
            ["slope_se"] = Number(p.Value.StandardError),
            ["intercept"] = Number(p.Value.Intercept),
            ["r2"] = Number(p.Value.R2),
            ["p_value"] = Number(p.Value.PValue),
            ["valid_frac"] = p.Value.ValidFraction,
            ["n"] = p.Value.Count,
            ["min"] = Number(p.Value.Min),
            ["max"] = Number(p.Value.Max),
            ["score"] = Number(p.Value.Score),
            ["usable_from"] = UsableRange[p.Key]?.From,
            ["usable_to"] = UsableRange[p.Key]?.To,
        }))),
    };

    // The mean over draws of each question that has a known answer.
    private static Dictionary<string, double> ByQuestion(EvalCell cell) => cell.Results.Where(r => !double.IsNaN(r.LogOdds)).GroupBy(r => r.Key).ToDictionary(g => g.Key, g => g.Average(r => r.LogOdds));

    // NaN where every answer was cut.
    private static double Valid(EvalCell cell) => cell.Results.Count(r => !double.IsNaN(r.LogOdds)) / (double)(ThoughtCounts.Of(cell.Results)?.Judged ?? cell.Results.Count);

    private static string Flag(bool? x) => x is { } known ? known ? "true" : "false" : "";

    private static double Mean(IEnumerable<double> values) => values.Where(v => !double.IsNaN(v)).DefaultIfEmpty(double.NaN).Average();

    private static (float, float)? Usable(EvalRow[] rows)
    {
        int zero = Array.FindIndex(rows, r => r.Coefficient == 0), from = zero, to = zero;
        if (!rows[zero].Coherent)
            return null;
        while (from > 0 && rows[from - 1].Coherent)
            from--;
        while (to + 1 < rows.Length && rows[to + 1].Coherent)
            to++;
        return (rows[from].Coefficient, rows[to].Coefficient);
    }

    internal static JsonNode? Number(double x) => double.IsFinite(x) ? JsonValue.Create(x) : null;

    /// <summary>A field of a CSV file.</summary>
    public static string Quoted(string text) => text.AsSpan().IndexOfAny(",\"\n") < 0 ? text : $"\"{text.Replace("\"", "\"\"", StringComparison.Ordinal)}\"";

    internal static double Error(double[] values)
    {
        if (values.Length < 2)
            return double.NaN;
        double mean = values.Average();
        return Math.Sqrt(values.Sum(v => (v - mean) * (v - mean)) / (values.Length - 1) / values.Length);
    }
}
