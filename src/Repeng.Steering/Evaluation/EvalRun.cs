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
public sealed record EvalCell(string Method, float Coefficient, IReadOnlyList<ChoiceResult> Results);

/// <summary>Sums of a cell, in nats; standard errors are NaN with fewer than two questions.</summary>
/// <param name="Method">Name of the method.</param>
/// <param name="Coefficient">c.</param>
/// <param name="Count">Questions.</param>
/// <param name="LogOdds">Mean of log P(true) − log P(false).</param>
/// <param name="LogOddsError">Its standard error.</param>
/// <param name="Change">Mean difference to c = 0 of the first method, paired by question.</param>
/// <param name="ChangeError">Its standard error.</param>
/// <param name="Mass">Mean probability of all answers together: how much of the model's answer is an answer at all.</param>
public sealed record EvalRow(string Method, float Coefficient, int Count, double LogOdds, double LogOddsError, double Change, double ChangeError, double Mass);

/// <summary>An evaluation: several methods, each at several coefficients, on the same questions.</summary>
public sealed class EvalRun
{
    private EvalRun(IReadOnlyList<EvalCell> cells)
    {
        Cells = cells;
        EvalCell zero = cells.First(c => c.Coefficient == 0);
        Rows = [.. cells.Select(cell =>
        {
            double[] odds = [.. cell.Results.Select(r => r.LogOdds)], change = [.. cell.Results.Zip(zero.Results, (a, b) => a.LogOdds - b.LogOdds)];
            return new EvalRow(cell.Method, cell.Coefficient, odds.Length, odds.Average(), Error(odds), change.Average(), Error(change), cell.Results.Average(r => r.Mass));
        })];
        Regressions = cells.GroupBy(c => c.Method).Where(g => g.Select(c => c.Coefficient).Distinct().Count() > 1).ToDictionary(g => g.Key, g => LogRatioRegression.Of(
            [.. g.Select(c => (double)c.Coefficient)], [.. g.Select(c => c.Results.Average(r => r.LogOdds))]));
    }

    /// <summary>Question by question.</summary>
    public IReadOnlyList<EvalCell> Cells { get; }

    /// <summary>Sums, in the order of the methods and by rising coefficient.</summary>
    public IReadOnlyList<EvalRow> Rows { get; }

    /// <summary>How the mean log-odds follow the coefficient, of every method with several coefficients.</summary>
    public IReadOnlyDictionary<string, LogRatioRegression> Regressions { get; }

    /// <summary>
    /// Measures. The first method must have c = 0 (it is added): every change is against it. A method that has only c = 0
    /// is a prompt alone.
    /// </summary>
    public static EvalRun Run(DecoderModel model, IReadOnlyList<EvalMethod> methods, int batchSize = 16, Action<string, float>? progress = null, CancellationToken stop = default)
    {
        if (methods.Count == 0 || methods[0].Items.Count == 0)
            throw new UserErrorException("nothing to evaluate: no method or no question");
        string[] keys = [.. methods[0].Items.Select(i => i.Key)];
        if (methods.FirstOrDefault(m => !m.Items.Select(i => i.Key).SequenceEqual(keys)) is { } other)
            throw new ArgumentException($"the questions of {other.Name} are not those of {methods[0].Name}");
        if (methods.Select(m => m.Name).Distinct().Count() != methods.Count)
            throw new ArgumentException("two methods have the same name");
        var evaluator = new TruthEvaluator(model, batchSize);
        var cells = new List<EvalCell>();
        foreach (EvalMethod method in methods)
            foreach (float c in method.Coefficients.Append(0).Distinct().Order())
            {
                stop.ThrowIfCancellationRequested();
                cells.Add(new EvalCell(method.Name, c, evaluator.Run(method.Items, method.Steering, c)));
                progress?.Invoke(method.Name, c);
            }
        return new EvalRun(cells);
    }

    /// <summary>One line a method, coefficient and question.</summary>
    public string ResultsCsv()
    {
        var csv = new StringBuilder("method,coefficient,key,log_odds,choice_mass\n");
        foreach (EvalCell cell in Cells)
            foreach (ChoiceResult r in cell.Results)
                csv.Append(CultureInfo.InvariantCulture, $"{Quote(cell.Method)},{cell.Coefficient:R},{Quote(r.Key)},{r.LogOdds:G9},{r.Mass:G9}\n");
        return csv.ToString();
    }

    /// <summary>One line a method and coefficient.</summary>
    public string SummaryCsv()
    {
        var csv = new StringBuilder("method,coefficient,n,log_odds,log_odds_se,change,change_se,choice_mass\n");
        foreach (EvalRow r in Rows)
            csv.Append(CultureInfo.InvariantCulture, $"{Quote(r.Method)},{r.Coefficient:R},{r.Count},{r.LogOdds:G9},{r.LogOddsError:G9},{r.Change:G9},{r.ChangeError:G9},{r.Mass:G9}\n");
        return csv.ToString();
    }

    /// <summary>Sums and regressions; what is not a number is null.</summary>
    public JsonObject ToJson() => new()
    {
        ["rows"] = new JsonArray([.. Rows.Select(r => (JsonNode)new JsonObject
        {
            ["method"] = r.Method, ["coefficient"] = r.Coefficient, ["n"] = r.Count, ["log_odds"] = Number(r.LogOdds), ["log_odds_se"] = Number(r.LogOddsError),
            ["change"] = Number(r.Change), ["change_se"] = Number(r.ChangeError), ["choice_mass"] = Number(r.Mass),
        })]),
        ["regressions"] = new JsonObject(Regressions.Select(p => KeyValuePair.Create(p.Key, (JsonNode?)new JsonObject
        {
            ["slope"] = Number(p.Value.Slope),
            ["intercept"] = Number(p.Value.Intercept),
            ["r2"] = Number(p.Value.R2),
            ["p_value"] = Number(p.Value.PValue),
            ["valid_frac"] = p.Value.ValidFraction,
            ["n"] = p.Value.Count,
            ["min"] = Number(p.Value.Min),
            ["max"] = Number(p.Value.Max),
            ["score"] = Number(p.Value.Score),
        }))),
    };

    private static JsonNode? Number(double x) => double.IsFinite(x) ? JsonValue.Create(x) : null;

    private static string Quote(string text) => text.AsSpan().IndexOfAny(",\"\n") < 0 ? text : $"\"{text.Replace("\"", "\"\"", StringComparison.Ordinal)}\"";

    private static double Error(double[] values)
    {
        if (values.Length < 2)
            return double.NaN;
        double mean = values.Average();
        return Math.Sqrt(values.Sum(v => (v - mean) * (v - mean)) / (values.Length - 1) / values.Length);
    }
}
