using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>Replays a golden training run: AdamW, OneCycle, accumulation as the JSON says.</summary>
internal static class GoldenTraining
{
    /// <summary>What may be off: values of the history, gradients over the largest of a step, parameters and logits each over the largest of their own.</summary>
    public sealed record Tolerances(double History = 1e-3, double Gradients = 1e-4, double Parameters = 2e-3, double Logits = 1e-3)
    {
        /// <summary>Where given, what is off is noted here, and nothing of it is an error.</summary>
        public Deviations? Seen { get; init; }
    }

    /// <summary>The largest that was off, measured as <see cref="Tolerances"/> are.</summary>
    public sealed class Deviations
    {
        public double History { get; set; }

        public double Gradients { get; set; }

        public double Parameters { get; set; }

        public double Logits { get; set; }

        public override string ToString() => $"history {History:g3}, gradients {Gradients:g3}, parameters {Parameters:g3}, logits {Logits:g3}";
    }

    /// <summary>Runs all steps, or the first few.</summary>
    public static void Run(GoldenCase golden, List<TokenBatch> batches, bool checkpoint, int steps = int.MaxValue, Tolerances? tolerances = null, int? microBatch = null)
    {
        tolerances ??= new Tolerances();
        JsonObject json = golden.Json;
        string name = (string)json["case"]!;
        LossLayer[] layers = [.. json["loss_layers"]!.AsArray().Select(x => golden.LossLayer((string)x!))];
        var step = new ContrastiveStep(golden.Model, golden.Adapter, layers, golden.Loss) { CheckpointBlocks = checkpoint, MicroBatchRows = microBatch };
        using var optimiser = new AdamW(golden.Adapter.Parameters, weightDecay: (double)json["weight_decay"]!);
        var schedule = new OneCycle((int)json["onecycle_total_steps"]!, (double)json["max_lr"]!);
        int accumulate = (int)json["grad_accum_steps"]!, epochs = (int)json["epochs"]!;
        JsonArray history = json["history"]!.AsArray();
        int all = epochs * batches.Count;
        Reference[] references = [.. batches.Take(steps).Select(step.ComputeReference)];
        var records = history.Select(h => h!.AsObject()).ToList();
        double scale = records.Where(r => r.ContainsKey("total")).Max(r => Math.Abs((double)r["total"]!));

        for (int i = 0; i < Math.Min(all, steps); i++)
        {
            int b = i % batches.Count;
            StepResult result = step.Run(batches[b], references[b], [-1, 1]);
            (double rate, double beta1) = schedule.At(optimiser.Steps);
            Assert.Equal(2 * layers.Length, result.Rows.Count);
            foreach (LossRow row in result.Rows)
            {
                JsonObject wanted = records.Single(r => (int)r["step"]! == i && r.ContainsKey("c") && (float)(double)r["c"]! == row.C && (string)r["layer"]! == row.Layer);
                Same(row, wanted, name, rate, beta1, scale, tolerances);
            }
            JsonObject total = records.Single(r => (int)r["step"]! == i && r.ContainsKey("total"));
            Near(result.Total, (double)total["total"]!, tolerances.History, scale, $"{name} step {i} total", tolerances.Seen);
            CompareTensors(golden, $"grad.{i}.", p => p.GradToArray(), tolerances, common: true);
            if (i % accumulate == 0)
            {
                optimiser.Beta1 = beta1;
                optimiser.Step(rate);
                optimiser.ZeroGrad();
                CompareTensors(golden, $"after.{optimiser.Steps}.", p => p.ToArray(), tolerances, common: false);
            }
        }
        if (steps < all)
        {
            DisposeLayers();
            return;
        }
        Assert.Equal((int)json["optimizer_steps"]!, optimiser.Steps);
        Assert.True(CompareTensors(golden, "after.end.", p => p.ToArray(), tolerances, common: false) > 0);
        foreach (string tensor in golden.Tensors.Names.Where(n => n.StartsWith("trained.", StringComparison.Ordinal)))
        {
            float c = float.Parse(tensor["trained.".Length..^".logits".Length], System.Globalization.CultureInfo.InvariantCulture);
            using var tape = new Tape(golden.Device, record: false);
            TokenBatch tokens = batches[0];
            float[] logits = golden.Model.Logits(tape, golden.Model.Forward(new ForwardContext(tape, tokens)
            {
                Adapter = golden.Adapter.Pass(tape, [.. Enumerable.Repeat(c, tokens.Batch)], tokens.Length),
            })).ToArray();
            double error = GoldenFiles.ErrorOverReal(tokens, logits, golden.Tensors.ReadF32(tensor));
            if (tolerances.Seen is { } seen)
                seen.Logits = Math.Max(seen.Logits, error);
            else
                Assert.True(error <= tolerances.Logits, $"{name} {tensor}: error {error:g4}");
        }
        DisposeLayers();

        void DisposeLayers()
        {
            foreach (LossLayer layer in layers)
                layer.Dispose();
        }
    }

    // Gradients are judged by the largest of all of a step's gradients; parameters each by its own scale.
    private static int CompareTensors(GoldenCase golden, string prefix, Func<Tensor, float[]> read, Tolerances tolerances, bool common)
    {
        double tolerance = common ? tolerances.Gradients : tolerances.Parameters;
        string[] names = [.. golden.Tensors.Names.Where(n => n.StartsWith(prefix, StringComparison.Ordinal))];
        float largest = names.Length == 0 ? 0 : names.Max(n => golden.Tensors.ReadF32(n).Max(Math.Abs));
        foreach (string tensor in names)
        {
            Tensor p = golden.Adapter.Parameters.Single(q => q.Name == tensor[prefix.Length..]);
            float[] actual = read(p), wanted = golden.Tensors.ReadF32(tensor);
            double scale = common ? largest : wanted.Max(Math.Abs);
            double worst = actual.Zip(wanted, (a, w) => Math.Abs((double)a - w)).Max();
            Assert.True(double.IsFinite(worst), tensor);
            if (tolerances.Seen is not { } seen)
                Assert.True(worst <= tolerance * scale, $"{tensor}: error {worst / scale:g4}, allowed {tolerance:g4}");
            else if (common)
                seen.Gradients = Math.Max(seen.Gradients, worst / scale);
            else
                seen.Parameters = Math.Max(seen.Parameters, worst / scale);
        }
        return names.Length;
    }

    private static void Same(LossRow row, JsonObject wanted, string name, double rate, double beta1, double scale, Tolerances tolerances)
    {
        string where = $"{name} step {wanted["step"]} c {row.C} {row.Layer}";
        var known = new Dictionary<string, double>
        {
            ["lr"] = rate,
            ["beta1"] = beta1,
            ["loss_proj"] = row.LossProj,
            ["loss_coherence"] = row.LossCoherence,
            ["loss_total"] = row.LossTotal,
            ["logp_degradation"] = row.LogpDegradation,
            ["prob_ratio"] = row.ProbRatio,
            ["proj_pi_signed"] = row.ProjPi,
            ["proj_ref_signed"] = row.ProjRef,
            ["separation_norm"] = row.SeparationNorm,
            ["separation"] = row.ProjPi,
            ["coherence"] = row.LossCoherence,
        };
        foreach ((string key, JsonNode? value) in wanted)
        {
            if (key is "step" or "c" or "layer")
                continue;
            Assert.True(known.TryGetValue(key, out double actual), $"{where}: metric {key} is not understood");
            if (key is "lr" or "beta1")
                Near(actual, (double)value!, 1e-9, 0, $"{where} {key}");
            else
                Near(actual, (double)value!, tolerances.History, Math.Min(1, scale), $"{where} {key}", tolerances.Seen);
        }
    }

    private static void Near(double actual, double wanted, double tolerance, double scale, string what, Deviations? seen = null)
    {
        double off = Math.Abs(actual - wanted), of = Math.Max(Math.Abs(wanted), scale);
        Assert.True(double.IsFinite(off), $"{what}: {actual:g8}, original {wanted:g8}");
        if (seen is null)
            Assert.True(off <= tolerance * of, $"{what}: {actual:g8}, original {wanted:g8}");
        else if (off > 0)
            seen.History = Math.Max(seen.History, off / of);
    }
}
