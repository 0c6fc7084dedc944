using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Steering.Evaluation;

/// <summary>
/// How far c can go to both sides before the model is no longer coherent: the first |c| at which the input NLL of the questions has risen by
/// <see cref="EvalRow.MostRise"/> nat or their choice mass fallen to <see cref="EvalRow.LeastMass"/> of that at c = 0.
/// </summary>
/// <param name="Minus">Search over −c.</param>
/// <param name="Plus">Search over c.</param>
/// <param name="Questions">Questions that it was measured on.</param>
public sealed record UsableRange(BudgetResult Minus, BudgetResult Plus, int Questions)
{
    /// <summary>Searches to both sides of 0. The value that is searched is 1 where the first of both limits is met.</summary>
    public static UsableRange Find(DecoderModel model, IReadOnlyList<ChoiceItem> items, Generation.Steering steering, double start = 1, int batchSize = 16, CancellationToken stop = default)
    {
        if (items.Count == 0)
            throw new UserErrorException("no question to find the usable range of c on");
        var evaluator = new TruthEvaluator(model, batchSize) { MeasureInput = true, AllowInfinite = true };
        (double nll, double mass) = Measure(0);
        return new UsableRange(BudgetSearch.Find(c => Excess(-c), 1, start), BudgetSearch.Find(Excess, 1, start), items.Count);

        double Excess(double c)
        {
            stop.ThrowIfCancellationRequested();
            (double n, double m) = Measure((float)c);
            double excess = Math.Max((n - nll) / EvalRow.MostRise, (1 - m / mass) / (1 - EvalRow.LeastMass));
            // Logits that are no numbers are no answer either.
            return double.IsNaN(excess) ? double.PositiveInfinity : excess;
        }

        (double Nll, double Mass) Measure(float c)
        {
            ChoiceResult[] results = evaluator.Run(items, steering, c);
            double[] inputs = [.. results.Select(r => r.InputNll)];
            return (inputs.Any(x => !double.IsNaN(x)) ? inputs.Where(x => !double.IsNaN(x)).Average() : 0, results.Average(r => r.Mass));
        }
    }
}
