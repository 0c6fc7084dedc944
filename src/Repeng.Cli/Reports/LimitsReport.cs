using System.Text.Json.Nodes;
using Repeng.Steering.Evaluation;

namespace Repeng.Cli.Reports;

/// <summary>What is known, by method, of the coefficients that it can take.</summary>
/// <param name="Budget">Nats of p95 KL that calibrations meet.</param>
/// <param name="Neutral">The texts that KL is measured on; null where it is not.</param>
public sealed record EvalLimits(double Budget, NeutralTexts? Neutral)
{
    /// <summary>Calibrations by method.</summary>
    public Dictionary<string, Calibration> Calibrations { get; } = new(StringComparer.Ordinal);

    /// <summary>Usable ranges of c by method.</summary>
    public Dictionary<string, UsableRange> Ranges { get; } = new(StringComparer.Ordinal);

    /// <summary>Both calibrated coefficients of a method as they are measured; null where one of them is not known.</summary>
    public (float Minus, float Plus)? Calibrated(string method) =>
        Calibrations.TryGetValue(method, out Calibration? c) && double.IsFinite(c.Coefficients.Minus + c.Coefficients.Plus) ? ((float)c.Coefficients.Minus, (float)c.Coefficients.Plus) : null;

    /// <summary>What a calibrated method is measured at: both calibrated coefficients, and the smaller of them and its half to both sides; null without calibration.</summary>
    public float[]? Doses(string method)
    {
        if (!Calibrations.TryGetValue(method, out Calibration? found))
            return null;
        float[] known = [.. new[] { found.Coefficients.Minus, found.Coefficients.Plus }.Where(double.IsFinite).Select(c => (float)c)];
        if (known.Length == 0)
            return null;
        float least = known.Min(Math.Abs);
        return [.. known.Concat([-least, -least / 2, least / 2, least]).Distinct().Order()];
    }

    /// <summary>For eval.json.</summary>
    public JsonObject ToJson() => new(Calibrations.Select(p =>
    {
        JsonObject json = p.Value.ToJson();
        if (Ranges.TryGetValue(p.Key, out UsableRange? range))
            json["usable_range"] = new JsonObject { ["from"] = Edge(range.Minus, -1), ["to"] = Edge(range.Plus, 1), ["n_questions"] = range.Questions };
        return KeyValuePair.Create(p.Key, (JsonNode?)json);

        static JsonNode? Edge(BudgetResult r, int sign) => double.IsFinite(r.Coefficient) ? JsonValue.Create(sign * r.Coefficient) : null;
    }));
}

/// <summary>Calibrations and usable ranges as a table.</summary>
public sealed class LimitsReport(EvalLimits limits, Session session)
{
    /// <summary>Prints the table, and a line for every search that did not go as it should.</summary>
    public void Print()
    {
        Spectre.Console.Table table = Format.Table("method", ">c −", ">p95 KL", ">mean KL", ">c +", ">p95 KL", ">mean KL", ">coherent for c in");
        foreach ((string method, Calibration c) in limits.Calibrations)
            table.Row(method, Shown(c.Minus, -1), Format.Number(c.Minus.Kl.P95), Format.Number(c.Minus.Kl.Mean), Shown(c.Plus, 1), Format.Number(c.Plus.Kl.P95), Format.Number(c.Plus.Kl.Mean),
                limits.Ranges.TryGetValue(method, out UsableRange? range) ? $"{Edge(range.Minus, -1)} … {Edge(range.Plus, 1)}" : "");
        Calibration any = limits.Calibrations.Values.First();
        int questions = limits.Ranges.Values.Select(r => r.Questions).FirstOrDefault();
        session.Print($"Coefficients at which p95 over {any.Positions} tokens of KL(base ‖ steered) is {limits.Budget:0.###} nat, neutral texts: {any.Neutral}{(questions == 0 ? "" : $"; coherent: input NLL up by less than {EvalRow.MostRise} nat, choice mass at least {EvalRow.LeastMass} of that at c = 0, on {questions} questions")}", table);
        foreach ((string method, Calibration c) in limits.Calibrations)
            foreach ((CalibratedSide side, int sign) in new[] { (c.Minus, -1), (c.Plus, 1) })
                Remark($"{method}, c {(sign < 0 ? "<" : ">")} 0", side, sign);
    }

    private void Remark(string what, CalibratedSide side, int sign)
    {
        BudgetPoint first = side.Search.Points[0], last = side.Search.Points[^1];
        if (side.Search.Outcome == BudgetOutcome.NeverReached)
            session.Say($"{what}: p95 KL is only {Format.Number(last.Value)} nats even at c = {Format.Coefficient(sign * last.Coefficient)}, below the budget of {limits.Budget:0.###}: no coefficient is calibrated on this side; take a smaller --kl_budget");
        else if (side.Search.Outcome == BudgetOutcome.AlwaysExceeded)
            session.Say($"{what}: p95 KL is {Format.Number(first.Value)} nats even at c = {Format.Coefficient(sign * first.Coefficient)}, above the budget of {limits.Budget:0.###}: no coefficient is calibrated on this side. A DoRA, RoAd or LoRA with a bias changes the model even at c = 0; take a larger --kl_budget");
        else if (side.Search.Fall(limits.Budget) is { } fall)
            session.Say($"{what}: p95 KL does not rise throughout; it falls from {Format.Number(fall.From.Value)} at c = {Format.Coefficient(sign * fall.From.Coefficient)} to {Format.Number(fall.To.Value)} at c = {Format.Coefficient(sign * fall.To.Coefficient)}. The coefficient is the smallest crossing that was seen");
    }

    private static string Shown(CalibratedSide side, int sign) => side.Search.Outcome switch
    {
        BudgetOutcome.Reached => Format.Coefficient(Math.Round(sign * side.Search.Coefficient, 4)),
        BudgetOutcome.NeverReached => "never reached",
        _ => "always above",
    };

    private static string Edge(BudgetResult side, int sign) => side.Outcome switch
    {
        BudgetOutcome.Reached => Format.Coefficient(Math.Round(sign * side.Coefficient, 3)),
        BudgetOutcome.NeverReached => $"beyond {Format.Coefficient(sign * side.Points[^1].Coefficient)}",
        _ => "0",
    };
}
