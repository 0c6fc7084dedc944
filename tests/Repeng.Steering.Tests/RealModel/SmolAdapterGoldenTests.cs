using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Adapters;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.RealModel;

/// <summary>The reference state's adapter on a real model: steering directions and a whole training history.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "smollm2")]
public sealed class SmolAdapterGoldenTests(RealModel real) : IClassFixture<RealModel>
{
    private const double History = 2e-3, Parameters = 2e-3, MinCosine = 0.9999;

    [Fact]
    public void Directions_are_those_of_the_original()
    {
        DecoderModel model = real.Bundle.Model;
        using ITensorSource tensors = Tensors();
        JsonObject json = Json();
        string[] layers = LossLayerNames(json);
        Assert.Equal(layers.Order(StringComparer.Ordinal), LossLayers.Select(model, Modules(tensors)).Order(StringComparer.Ordinal));
        Dictionary<string, float[]> mean = MeanDifferences.Collect(model, layers, Batches(json));
        foreach (string module in layers)
        {
            using LossLayer own = LossLayers.OnFullBasis(model, module, mean[module]);
            double cosine = Cosine(own.Direction.ToArray(), tensors.ReadF32($"direction_in_output_space.{module}"));
            Assert.True(cosine > MinCosine, $"direction of {module}: cosine {cosine:g8}");
        }
    }

    [Fact]
    public void Training_gives_the_original_history_and_parameters()
    {
        DecoderModel model = real.Bundle.Model;
        using ITensorSource tensors = Tensors();
        JsonObject json = Json();
        var config = new SvdAdapterConfig
        {
            Rank = (int)json["rank"]!,
            Scale = (string)json["scale_s"]! switch { "mult" => ScaleMethod.Mult, "add" => ScaleMethod.AddTanh, "add2" => ScaleMethod.Add, "none" => ScaleMethod.None, var x => throw new InvalidDataException(x) },
            RotateU = (bool)json["rotate_u"]!,
            RotateV = (bool)json["rotate_v"]!,
            Rotation = RotationMethod.Cayley,
            TargetModules = (string)json["target_modules"]!,
        };
        string[] modules = Modules(tensors);
        using var adapter = new SvdAdapter(config, model, [.. modules.Select(m => GoldenCase.Layer(model.Device, config, tensors, m, "init."))]);
        LossLayer[] layers = [.. LossLayerNames(json).Select(m => Layer(model, tensors, m))];
        var step = new ContrastiveStep(model, adapter, layers, new ContrastiveLossConfig());
        using var optimiser = new AdamW(adapter.Parameters, weightDecay: (double)json["weight_decay"]!);
        var schedule = new OneCycle((int)json["onecycle_total_steps"]!, (double)json["max_lr"]!);
        TokenBatch[] batches = Batches(json);
        Reference[] references = [.. batches.Select(step.ComputeReference)];
        JsonObject[] records = [.. json["history"]!.AsArray().Select(h => h!.AsObject())];
        Dictionary<string, double> scales = Scales(records);

        int compared = 0;
        for (int i = 0; i < (int)json["steps"]!; i++)
        {
            int b = i % batches.Length;
            StepResult result = step.Run(batches[b], references[b], [-1, 1]);
            (double rate, double beta1) = schedule.At(optimiser.Steps);
            foreach (LossRow row in result.Rows)
            {
                JsonObject wanted = records.Single(r => (int)r["step"]! == i && r.ContainsKey("c") && (float)(double)r["c"]! == row.C && (string)r["layer"]! == row.Layer);
                Same(row, rate, wanted, scales);
                compared++;
            }
            foreach (JsonObject wanted in records.Where(r => (int)r["step"]! == i && r.ContainsKey("total")))
            {
                Assert.True(Math.Abs(result.Total - (double)wanted["total"]!) <= History * scales["total"], $"step {i} total: {result.Total:g8}, original {(double)wanted["total"]!:g8}");
                compared++;
            }
            optimiser.Beta1 = beta1;
            optimiser.Step(rate);
            optimiser.ZeroGrad();
        }
        Assert.Equal(records.Length, compared);

        string[] after = [.. tensors.Names.Where(n => n.StartsWith("after.", StringComparison.Ordinal))];
        Assert.Equal(adapter.Parameters.Count, after.Length);
        foreach (string name in after)
            Close.To(Parameters, adapter.Parameters.Single(p => p.Name == name["after.".Length..]).ToArray(), tensors.ReadF32(name), name);
        foreach (LossLayer layer in layers)
            layer.Dispose();
    }

    private static void Same(LossRow row, double rate, JsonObject wanted, Dictionary<string, double> scales)
    {
        foreach ((string key, JsonNode? value) in wanted)
        {
            if (key is "step" or "c" or "layer")
                continue;
            double actual = key switch
            {
                "lr" => rate,
                "loss_proj" => row.LossProj,
                "loss_coherence" => row.LossCoherence,
                "loss_total" => row.LossTotal,
                "logp_degradation" => row.LogpDegradation,
                "prob_ratio" => row.ProbRatio,
                "proj_pi_signed" => row.ProjPi,
                "proj_ref_signed" => row.ProjRef,
                "separation_norm" => row.SeparationNorm,
                _ => throw new InvalidDataException($"metric {key} is not understood"),
            };
            double allowed = (key == "lr" ? 1e-9 : History) * scales[key];
            Assert.True(Math.Abs(actual - (double)value!) <= allowed, $"step {wanted["step"]} c {row.C} {row.Layer} {key}: {actual:g8}, original {(double)value!:g8}, allowed difference {allowed:g3}");
        }
    }

    // A metric is judged by the largest value that it takes in the history.
    private static Dictionary<string, double> Scales(JsonObject[] records) => records.SelectMany(r => r).Where(p => p.Key is not ("step" or "c" or "layer"))
        .GroupBy(p => p.Key).ToDictionary(g => g.Key, g => g.Max(p => Math.Abs((double)p.Value!)));

    // The metric of the separation's norm needs the singular vector that the original's basis leaves out.
    private static LossLayer Layer(DecoderModel model, ITensorSource tensors, string module)
    {
        float[] golden = tensors.ReadF32($"direction_in_output_space.{module}");
        LossLayer full = LossLayers.OnFullBasis(model, module, golden);
        full.Direction.Dispose();
        return full with { Direction = LossLayers.Direction(model.Device, [.. golden.Select(x => (double)x)], module), Gap = 1 };
    }

    private TokenBatch[] Batches(JsonObject json)
    {
        int[][] rows = [.. json["rows"]!.AsArray().Select(r => real.Bundle.Tokenizer.Encode((string)r!, addSpecialTokens: false))];
        return [.. rows.Chunk((int)json["batch_rows"]!).Select(b => TokenBatch.Pad(b, real.Bundle.PadId))];
    }

    private static string[] Modules(ITensorSource tensors) =>
        [.. tensors.Names.Where(n => n.StartsWith("basis.", StringComparison.Ordinal) && n.EndsWith(".s", StringComparison.Ordinal)).Select(n => n["basis.".Length..^2])];

    private static string[] LossLayerNames(JsonObject json) => [.. json["loss_layers"]!.AsArray().Select(x => (string)x!)];

    private static JsonObject Json() => GoldenFiles.Json(Path.Combine(Golden.Require("smollm2"), "adapter.json"));

    private static ITensorSource Tensors() => SafetensorsFile.Open(Path.Combine(Golden.Require("smollm2"), "adapter.safetensors"));

    private static double Cosine(float[] a, float[] b)
    {
        double dot = 0, aa = 0, bb = 0;
        for (int i = 0; i < a.Length; i++)
            (dot, aa, bb) = (dot + (double)a[i] * b[i], aa + (double)a[i] * a[i], bb + (double)b[i] * b[i]);
        return dot / Math.Sqrt(aa * bb);
    }
}
