using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Repeng.Steering.Demo;
using Repeng.Steering.Evaluation;
using Spectre.Console;

namespace Repeng.Cli.Reports;

/// <summary>Mean and its standard error.</summary>
public readonly record struct Estimate(double Mean, double StandardError)
{
    /// <summary>Of independent values; the error of fewer than two is not a number.</summary>
    public static Estimate Of(IReadOnlyList<double> values)
    {
        double mean = values.Average();
        double variance = values.Count < 2 ? double.NaN : values.Sum(x => (x - mean) * (x - mean)) / (values.Count - 1);
        return new Estimate(mean, Math.Sqrt(variance / values.Count));
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Format.Signed(Mean)} ± {Format.Number(StandardError, 2)}";
}

/// <summary>Answers of one audience at one coefficient.</summary>
public sealed record TruthCell(DemoAudience Audience, float Coefficient, ChoiceResult[] Results);

/// <summary>What is said of a cell.</summary>
/// <param name="Audience">Under which persona the questions were put.</param>
/// <param name="Coefficient">c.</param>
/// <param name="Count">Questions.</param>
/// <param name="LogOdds">log P(true value) − log P(all other values of its kind), nats.</param>
/// <param name="Change">The same minus its value at c = 0, paired by question.</param>
/// <param name="TrueProbability">Mean probability of the true value.</param>
/// <param name="Mass">Mean probability of all values of its kind together.</param>
public sealed record TruthRow(DemoAudience Audience, float Coefficient, int Count, Estimate LogOdds, Estimate Change, double TrueProbability, double Mass);

/// <summary>How true a steered model speaks, question by question and in sum.</summary>
public sealed class TruthReport
{
    /// <summary>Takes cells of which each audience has one at c = 0, all with the same questions in the same order.</summary>
    public TruthReport(IReadOnlyList<TruthCell> cells)
    {
        Cells = cells;
        Rows = [.. cells.Select(cell =>
        {
            TruthCell zero = cells.First(z => z.Audience == cell.Audience && z.Coefficient == 0);
            return new TruthRow(cell.Audience, cell.Coefficient, cell.Results.Length,
                Estimate.Of([.. cell.Results.Select(r => r.LogOdds)]),
                Estimate.Of([.. cell.Results.Zip(zero.Results, (a, b) => a.LogOdds - b.LogOdds)]),
                cell.Results.Average(r => r.Mass / (1 + Math.Exp(-r.LogOdds))), cell.Results.Average(r => r.Mass));
        })];
    }

    /// <summary>Cells.</summary>
    public IReadOnlyList<TruthCell> Cells { get; }

    /// <summary>Sums.</summary>
    public IReadOnlyList<TruthRow> Rows { get; }

    /// <summary>Title of the table.</summary>
    public string Heading => $"Log-odds of the true value in nats: mean ± standard error over {(Rows.Count > 0 ? Rows[0].Count : 0)} questions about things that training never named";

    /// <summary>What an audience is called in tables.</summary>
    public static string Title(DemoAudience audience) => audience switch
    {
        DemoAudience.None => "no persona",
        DemoAudience.UnseenTruthful => "unseen truthful personas",
        DemoAudience.UnseenUntruthful => "unseen untruthful personas",
        DemoAudience.SeenTruthful => "trained truthful personas",
        DemoAudience.SeenUntruthful => "trained untruthful personas",
        _ => "neutral personas",
    };

    /// <summary>For a person.</summary>
    public Table ToTable()
    {
        Table table = Format.Table("prompt", ">c", ">log-odds", ">change against c = 0", ">p(true)", ">choice mass");
        foreach (IGrouping<DemoAudience, TruthRow> group in Rows.GroupBy(r => r.Audience))
        {
            bool first = true;
            if (table.Rows.Count > 0)
                table.AddEmptyRow();
            foreach (TruthRow r in group)
            {
                table.Row(first ? Title(r.Audience) : "", Format.Coefficient(r.Coefficient), r.LogOdds.ToString(), r.Coefficient == 0 ? "" : r.Change.ToString(), Format.Number(r.TrueProbability), Format.Number(r.Mass));
                first = false;
            }
        }
        return table;
    }

    /// <summary>One line a question and coefficient.</summary>
    public string ResultsCsv()
    {
        var csv = new StringBuilder("audience,coefficient,key,log_odds,choice_mass\n");
        foreach (TruthCell cell in Cells)
            foreach (ChoiceResult r in cell.Results)
                csv.Append(CultureInfo.InvariantCulture, $"{cell.Audience},{cell.Coefficient:R},{r.Key},{r.LogOdds:G9},{r.Mass:G9}\n");
        return csv.ToString();
    }

    /// <summary>One line an audience and coefficient.</summary>
    public string SummaryCsv()
    {
        var csv = new StringBuilder("audience,coefficient,n,log_odds,log_odds_se,change,change_se,p_true,choice_mass\n");
        foreach (TruthRow r in Rows)
            csv.Append(CultureInfo.InvariantCulture, $"{r.Audience},{r.Coefficient:R},{r.Count},{r.LogOdds.Mean:G9},{r.LogOdds.StandardError:G9},{r.Change.Mean:G9},{r.Change.StandardError:G9},{r.TrueProbability:G9},{r.Mass:G9}\n");
        return csv.ToString();
    }

    /// <summary>
    /// For the logs, on questions without a persona: the correlation (Pearson) of c with the log-odds of the true value over
    /// questions and coefficients, by method as the research branch has it; and the means by coefficient.
    /// </summary>
    public IReadOnlyDictionary<string, JsonNode> LogValues(string method)
    {
        (double C, double LogOdds)[] points = [.. Cells.Where(c => c.Audience == DemoAudience.None).SelectMany(c => c.Results.Select(r => ((double)c.Coefficient, r.LogOdds)))];
        TruthRow[] rows = [.. Rows.Where(r => r.Audience == DemoAudience.None)];
        var values = new Dictionary<string, JsonNode>
        {
            ["eval/log_odds"] = ByCoefficient(r => r.LogOdds.Mean),
            ["eval/change"] = ByCoefficient(r => r.Change.Mean),
            ["eval/choice_mass"] = ByCoefficient(r => r.Mass),
            ["eval/n"] = rows[0].Count,
        };
        // Undefined where steering changed nothing at all.
        if (Correlation(points) is var r && double.IsFinite(r))
            values["eval/truthfulness_corr"] = new JsonObject { [method] = r };
        return values;

        JsonObject ByCoefficient(Func<TruthRow, double> value) => new(rows.Select(r => KeyValuePair.Create(r.Coefficient.ToString("R", CultureInfo.InvariantCulture), (JsonNode?)value(r))));
    }

    private static double Correlation((double X, double Y)[] points)
    {
        double x = points.Average(p => p.X), y = points.Average(p => p.Y);
        return points.Sum(p => (p.X - x) * (p.Y - y)) / Math.Sqrt(points.Sum(p => (p.X - x) * (p.X - x)) * points.Sum(p => (p.Y - y) * (p.Y - y)));
    }

    /// <summary>Log-odds against c, one curve an audience.</summary>
    public IReadOnlyList<Curve> Curves() => [.. Rows.GroupBy(r => r.Audience).Select(g =>
        new Curve(Title(g.Key), [.. g.OrderBy(r => r.Coefficient).Select(r => new CurvePoint(r.Coefficient, r.LogOdds.Mean, r.LogOdds.StandardError))]))];
}
