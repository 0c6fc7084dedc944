using Repeng.Runtime.Formats;
using Repeng.Steering.Evaluation;
using Spectre.Console;

namespace Repeng.Cli.Reports;

/// <summary>What eval says about dilemmas, as tables, CSV, JSON and pictures.</summary>
internal sealed class DilemmaReport(DilemmaRun run, EvalReport shared, Session session)
{
    /// <summary>Prints the tables, and writes the files where an output folder is given.</summary>
    public void Write(string dilemmas, string? output)
    {
        bool thinks = run.OnTarget.Rows.Any(r => r.Thoughts is not null);
        Table table = Format.Table(["method", ">c", $">p({run.Target})", ">log-odds", ">change", ">p(yes), control", ">p(yes), all", ">choice mass", ">valid", .. EvalReport.ThoughtColumns(thinks), ">input NLL", ">p95 KL", ">coherent"]);
        foreach ((EvalRow r, YesRow y) in run.OnTarget.Rows.Zip(run.Yes))
            table.Row([r.Method, EvalReport.Dose(r.Coefficient), Estimated(y.Target, y.TargetError), $"{Format.Signed(r.LogOdds)} ± {Format.Number(r.LogOddsError, 2)}", $"{Format.Signed(r.Change)} ± {Format.Number(r.ChangeError, 2)}",
                Estimated(y.Control, y.ControlError), Format.Number(y.Yes), Format.Number(r.Mass), Format.Number(r.ValidFraction, 2), .. EvalReport.Thoughts(r, thinks), $"{Format.Number(r.InputNll, 2)} ({Format.Signed(r.InputNllRise)})", EvalReport.Kl(r), r.Coherent ? "yes" : "no"]);
        session.Print($"{run.TargetCount} dilemmas with {run.Target}, log-odds toward it in nats and their change against c = 0, and {run.ControlCount} without; mean ± standard error over dilemmas; mass, valid and NLL of those with it{shared.NeutralNote()}{EvalReport.ThoughtNote(thinks)}", table);
        shared.SayCut(run.OnTarget);
        if (run.Yes.All(y => y.Count == 0))
            session.Say("no answer of any method has a final choice, so there is nothing to compare; give --max_new_tokens more room, a lower --temperature, --repetition_penalty 1, or leave --generate_answers out");
        if (run.OnTarget.Regressions.Count > 0)
        {
            Table slopes = Format.Table("method", ">slope", ">r²", ">p", ">score", ">separation", ">symmetry", ">monotonic", ">usable c");
            foreach ((string method, LogRatioRegression r) in run.OnTarget.Regressions)
            {
                DoseResponse d = run.Doses[method];
                slopes.Row(method, $"{Format.Signed(r.Slope, 3)} ± {Format.Number(r.StandardError)}", Format.Number(r.R2), Format.Number(r.PValue), Format.Number(r.Score), Format.Signed(d.Separation), Format.Number(d.Symmetry, 2),
                    d.Monotonic is { } m ? m ? "yes" : "no" : "?", EvalReport.Usable(run.OnTarget, method));
            }
            session.Print($"Mean log-odds toward {run.Target} against sign(c)·ln(1 + |c|); symmetry 1: as far to both sides of c = 0, 0: to one side only", slopes);
        }
        if (run.F1.Count > 0)
        {
            Table f1 = Format.Table("method", ">±c", ">Steering F1", ">precision", ">recall", ">turned right", ">turned wrong", ">others turned", ">mass ratio", ">focus");
            foreach (F1Row r in run.F1)
                f1.Row(r.Method, Format.Number(r.Coefficient, 2), Format.Number(r.Result.F1, 1), Format.Number(r.Result.Precision, 2), Format.Number(r.Result.Recall, 2), Format.Number(r.Result.Correct, 2), Format.Number(r.Result.Wrong, 2), Format.Number(r.Result.Arbitrary, 2), Format.Number(r.Result.MassRatio, 2), double.IsNaN(r.Focus) ? "–" : Format.Number(r.Focus, 2));
            session.Print("Steering F1 = 100·2PR/(P + R)·mass ratio; parts are shares of Σ|log-odds at c = 0|; focus: part of the target that turns between −c and +c, over that of the others", f1);
        }
        else if (run.ControlCount == 0)
            session.Say($"every dilemma has the value {run.Target}: without others there is no Steering F1");
        PrintTransfer();
        shared.PrintComparison(run.OnTarget, run.Target);
        if (output is not null)
            WriteFiles(dilemmas, output);
    }

    private void PrintTransfer()
    {
        if (run.Transfer.Count == 0)
            return;
        // One dilemma of a value says little: such values are in the files, and in the side effect.
        string[] values = [.. run.Transfer.Where(t => t.Value == run.Target || t.Count > 1).Select(t => t.Value).Distinct().Take(7)];
        Table table = Format.Table(["method", ">±c", .. values.Select(v => $">{v}"), ">side effect"]);
        foreach (IGrouping<(string Method, float C), TransferRow> g in run.Transfer.GroupBy(t => (t.Method, t.Coefficient)))
            table.Row([g.Key.Method, Format.Number(g.Key.C, 2), .. values.Select(v => g.First(t => t.Value == v)).Select(t => $"{Format.Signed(t.Effect)} ± {Format.Number(t.Error, 2)}"), Format.Number(run.SideEffect(g.Key.Method, g.Key.C), 2)]);
        session.Print("Effect by value: half the change of the log-odds toward the value from −c to +c, nats; side effect: mean |effect| over all values but the target", table);
    }

    private void WriteFiles(string dilemmas, string output)
    {
        Directory.CreateDirectory(output);
        AtomicFile.WriteText(Path.Combine(output, "eval_results.csv"), run.Run.ResultsCsv());
        AtomicFile.WriteText(Path.Combine(output, "eval_summary.csv"), run.OnTarget.SummaryCsv());
        AtomicFile.WriteText(Path.Combine(output, "p_yes.csv"), run.YesCsv());
        AtomicFile.WriteText(Path.Combine(output, "transfer.csv"), run.TransferCsv());
        shared.WriteShared(run.OnTarget, run.ToJson(), $"dilemmas: {dilemmas}", run.Target, $"{run.TargetCount} dilemmas", output);
        // Prompts have one point each, and would use up the colours.
        Plots.Pictures(Path.Combine(output, "p_yes"), [.. run.Yes.Where(r => run.Doses.Count == 0 || run.Doses.ContainsKey(r.Method)).GroupBy(r => r.Method).SelectMany(g => new[]
        {
            new Curve($"{g.Key}: {run.Target}", [.. g.Where(r => double.IsFinite(r.Target)).Select(r => new CurvePoint(r.Coefficient, r.Target, r.TargetError))]),
            new Curve($"{g.Key}: yes, control", [.. g.Where(r => double.IsFinite(r.Control)).Select(r => new CurvePoint(r.Coefficient, r.Control, r.ControlError))]),
        }.Where(c => c.Points.Count > 0))], $"{run.TargetCount} dilemmas and {run.ControlCount} controls", "probability", "steering coefficient c");
        session.Print($"Written: {output}");
    }

    private static string Estimated(double mean, double error) => $"{Format.Number(mean)} ± {Format.Number(error)}";
}
