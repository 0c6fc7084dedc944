using System.Globalization;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Logging;

/// <summary>The values that a batch logs, under the names of the research branch (docs/logging.md has the table).</summary>
public static class RunMetrics
{
    private static readonly (string Name, Func<LossRow, double> Value)[] s_columns =
    [
        ("loss_proj", r => r.LossProj), ("loss_coherence", r => r.LossCoherence), ("loss_total", r => r.LossTotal), ("logp_degradation", r => r.LogpDegradation),
        ("prob_ratio", r => r.ProbRatio), ("proj_pi_signed", r => r.ProjPi), ("proj_ref_signed", r => r.ProjRef), ("separation_norm", r => r.SeparationNorm),
    ];

    /// <summary>
    /// Means over the rows of the batch (loss layers and coefficients), the same by coefficient, learning rate, mean number
    /// of the loss layers' blocks and epoch; where a validation came after the batch, its means under val/.
    /// </summary>
    public static IReadOnlyList<KeyValuePair<string, double>> Of(DecoderModel model, TrainingProgress progress)
    {
        var values = new Dictionary<string, double>();
        Add(values, "", progress.Rows);
        values.Add("lr", progress.LearningRate);
        int[] blocks = [.. progress.Rows.Select(r => LayerSelection.BlockOf(model, r.Layer)).OfType<int>()];
        if (blocks.Length > 0)
            values.Add("layer_num", blocks.Average());
        values.Add("epoch", progress.Epoch);
        if (progress.ValidationRows is { } rows)
            Add(values, "val/", rows);
        return [.. values];
    }

    private static void Add(Dictionary<string, double> values, string prefix, IReadOnlyList<LossRow> rows)
    {
        Means(prefix, rows);
        foreach (IGrouping<float, LossRow> side in rows.GroupBy(r => r.C))
            Means($"{prefix}by_coef/{side.Key.ToString("R", CultureInfo.InvariantCulture)}/", [.. side]);

        void Means(string before, IReadOnlyList<LossRow> of)
        {
            foreach ((string name, Func<LossRow, double> value) in s_columns)
                values.Add(before + name, of.Average(value));
            // An objective's own metric may bear one of the names above and then says the same of its own loss.
            foreach (string name in of[0].Metrics?.Keys.Where(m => !values.ContainsKey(before + m)) ?? [])
                values.Add(before + name, of.Average(r => r.Metrics![name]));
        }
    }
}
