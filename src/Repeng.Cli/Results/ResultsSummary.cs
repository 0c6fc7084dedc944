using Repeng.Cli.Reports;

namespace Repeng.Cli.Results;

/// <summary>A method in a task over its seeds.</summary>
internal sealed class ResultsRow
{
    public ResultsRow(ResultsMethod method, IReadOnlyList<ResultsRecord> records)
    {
        (Method, Records) = (method, [.. records.OrderBy(r => r.Seed)]);
        Effect = Over(r => r.Effect);
        // Every seed has the same questions: their part of the error does not shrink with more seeds.
        QuestionError = Mean(r => r.EffectError);
        (Minus, Plus) = (Over(r => r.At(-1)?.Change), Over(r => r.At(1)?.Change));
    }

    /// <summary>The method.</summary>
    public ResultsMethod Method { get; }

    /// <summary>A record a seed, by seed.</summary>
    public IReadOnlyList<ResultsRecord> Records { get; }

    /// <summary>Mean and standard error over seeds of half the difference; null where no seed has one.</summary>
    public Estimate? Effect { get; }

    /// <summary>Mean over seeds of the standard error over questions.</summary>
    public double? QuestionError { get; }

    /// <summary>Change at the calibrated −c.</summary>
    public Estimate? Minus { get; }

    /// <summary>Change at the calibrated +c.</summary>
    public Estimate? Plus { get; }

    /// <summary>Seeds with an effect.</summary>
    public int Count => Records.Count(r => r.Effect is not null);

    /// <summary>Mean over the seeds that have it; null where none has.</summary>
    public double? Mean(Func<ResultsRecord, double?> value) => Over(value)?.Mean;

    /// <summary>
    /// Error of the effect with both its parts: seeds (other texts, other draws) and questions (others might have been asked). NaN where one is not known.
    /// </summary>
    public double Error => Effect is { } e && QuestionError is { } q ? Math.Sqrt((Varies ? e.StandardError * e.StandardError : 0) + q * q) : double.NaN;

    /// <summary>Whether seeds differ at all: the demo's prompts are the same for each.</summary>
    public bool Varies => Records.Select(r => r.Effect).Distinct().Count() > 1 || Records.Count == 1;

    private Estimate? Over(Func<ResultsRecord, double?> value) => Records.Select(value).OfType<double>().ToArray() is { Length: > 0 } known ? Estimate.Of(known) : null;
}

/// <summary>What the records of a task say.</summary>
internal sealed class ResultsSummary
{
    // A difference of two standard errors is the least that is called one.
    private const double Errors = 2;

    // Part of the seeds that stands for most of them.
    private const double Most = 0.5;

    public ResultsSummary(ResultsTask task, IReadOnlyList<ResultsRecord> records)
    {
        Task = task;
        Rows = [.. ResultsMethod.All.Select(m => (Method: m, Records: records.Where(r => r.Task == task.Name && r.Method == m.Name).ToArray())).Where(m => m.Records.Length > 0).Select(m => new ResultsRow(m.Method, m.Records))];
        Random = Rows.FirstOrDefault(r => r.Method.Kind == ResultsKind.Random);
    }

    /// <summary>The task.</summary>
    public ResultsTask Task { get; }

    /// <summary>In the order of the methods.</summary>
    public IReadOnlyList<ResultsRow> Rows { get; }

    /// <summary>The random directions, what chance looks like; null where they were not measured.</summary>
    public ResultsRow? Random { get; }

    /// <summary>Steering methods with an effect, largest first.</summary>
    public IEnumerable<ResultsRow> Ranked => Rows.Where(r => r.Effect is not null && r.Method.Kind is not (ResultsKind.Unsteered or ResultsKind.Prompts)).OrderByDescending(r => r.Effect!.Value.Mean);

    /// <summary>The steering methods with the largest effect that is told from random directions.</summary>
    public ResultsRow[] Best(int count) => [.. Ranked.Where(r => r.Method.Kind != ResultsKind.Random && Works(r)).Take(count)];

    /// <summary>
    /// Whether a method's effect lies above that of random directions by more than two standard errors, to which the spread of single random directions is counted: a
    /// vector is one direction, however sure its own effect is. Above 0 where no random direction was measured.
    /// </summary>
    public bool Works(ResultsRow row) => row.Effect is { } e && e.Mean - (Random?.Effect?.Mean ?? 0) > Errors * Math.Sqrt(Own(row) * Own(row) + Spread * Spread);

    /// <summary>Whether a method is coherent at both coefficients in at least half of its seeds.</summary>
    public static bool Coherent(ResultsRow row) => Incoherent(row) <= Most;

    /// <summary>Whether it lies below 0 by more than two standard errors of its own.</summary>
    public static bool Backwards(ResultsRow row) => row.Effect is { } e && e.Mean < -Errors * Own(row);

    /// <summary>What does not work, by rule, each with the methods that it is true of.</summary>
    public IReadOnlyList<(string What, IReadOnlyList<string> Methods)> Failures()
    {
        ResultsRow[] steering = [.. Rows.Where(r => r.Method.Kind is not (ResultsKind.Unsteered or ResultsKind.Prompts or ResultsKind.Random))], effects = [.. steering.Where(r => r.Effect is not null)];
        return [.. new (string, IEnumerable<string>)[]
        {
            ("gave nothing to measure", Rows.SelectMany(r => r.Records.Where(x => x.Error is not null).GroupBy(x => Short(x.Error!)).Select(g => $"{r.Method.Name} ({Seeds(g.Count())}: {g.Key})"))),
            ("never move the model by the budget, at any c that was tried, on one side at least", steering.Where(r => Ended(r, "never reached") > 0).Select(r => $"{r.Method.Name} ({Seeds(Ended(r, "never reached"))})")),
            ("move the model by more than the budget at every c, on one side at least", steering.Where(r => Ended(r, "always exceeded") > 0).Select(r => $"{r.Method.Name} ({Seeds(Ended(r, "always exceeded"))})")),
            ("do no better than random directions", effects.Where(r => !Works(r) && !Backwards(r)).Select(Named)),
            ("work the wrong way round (more than two standard errors below 0)", effects.Where(Backwards).Select(Named)),
            ("do not agree on a direction between seeds", effects.Where(r => r.Records.Where(x => x.Effect is not null).Select(x => Math.Sign(x.Effect!.Value)).Distinct().Count() > 1).Select(r => $"{r.Method.Name} ({r.Records.Count(x => x.Effect > 0)} of {r.Count} seeds up)")),
            ("move the answers to the same side at −c and at +c (on average over seeds)", effects.Where(r => r.Minus!.Value.Mean * r.Plus!.Value.Mean > 0).Select(r => $"{r.Method.Name} ({ResultsPage.Signed(r.Minus!.Value.Mean)} and {ResultsPage.Signed(r.Plus!.Value.Mean)})")),
            ($"are not coherent any more at −c or at +c in more than half of the seeds", effects.Where(r => !Coherent(r)).Select(r => r.Method.Name)),
        }.Select(f => (f.Item1, (IReadOnlyList<string>)[.. f.Item2])).Where(f => f.Item2.Count > 0)];
    }

    // Standard deviation of single random directions; of one alone only its questions are known.
    private double Spread => Random?.Effect is not { } e ? 0 : Random.Count > 1 ? e.StandardError * Math.Sqrt(Random.Count) : Random.QuestionError ?? 0;

    // Of a single seed nothing is known about others; the questions' error is then all there is.
    private static double Own(ResultsRow r) => double.IsFinite(r.Error) ? r.Error : r.QuestionError ?? 0;

    private static double Ended(ResultsRow row, string outcome) => row.Records.Count(x => x.Minus?.Outcome == outcome || x.Plus?.Outcome == outcome);

    private static double Incoherent(ResultsRow row) => row.Records.Count(x => x.Effect is not null && (x.At(-1)?.Coherent == false || x.At(1)?.Coherent == false)) / (double)row.Count;

    // What is wrong, without what to do about it; records have all of it.
    private static string Short(string error) => error.IndexOf(". ", StringComparison.Ordinal) is > 0 and var end ? error[..end] : error;

    private static string Named(ResultsRow row) => $"{row.Method.Name} ({ResultsPage.Signed(row.Effect!.Value.Mean)})";

    private static string Seeds(double count) => $"{count:0} seed{(count == 1 ? "" : "s")}";
}
