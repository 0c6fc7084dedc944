using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>The later version of the adapter: forward and twelve training steps against AntiPaSTO's own code.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "adapter")]
public sealed class AntiPastoTrainingGoldenTests
{
    [Fact]
    public void Forward_and_gradients_of_the_later_version_are_those_of_the_original()
    {
        string folder = Path.GetDirectoryName(Golden.Require("adapter", "antipasto-train.json"))!;
        using ITensorSource tensors = SafetensorsFile.Open(Path.Combine(folder, "antipasto-forward.safetensors"));
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, Path.Combine(folder, "model"));
        TokenBatch tokens = Batches(folder)[0];
        string[] variants = [.. tensors.Names.Where(n => n.Contains(".forward.", StringComparison.Ordinal)).Select(n => n[..n.IndexOf(".forward.", StringComparison.Ordinal)]).Distinct()];
        Assert.NotEmpty(variants);
        string[] modules = Modules(tensors);
        double cap = (double)GoldenFiles.Json(Path.Combine(folder, "antipasto-train.json"))["max_rotation_angle"]!;
        int compared = 0;
        foreach (string variant in variants)
        {
            string[] parts = variant.Split('.');
            var config = new SvdAdapterConfig
            {
                Rank = (int)tensors.Info($"basis.{modules[0]}.s").Elements,
                RotateU = tensors.Names.Any(n => n.StartsWith($"{variant}.init.", StringComparison.Ordinal) && n.EndsWith("_u", StringComparison.Ordinal)),
                RotateV = tensors.Names.Any(n => n.StartsWith($"{variant}.init.", StringComparison.Ordinal) && n.EndsWith("_v", StringComparison.Ordinal)),
                Scale = ScaleMethod.Add,
                Rotation = Names.ParseRotation(parts[0]),
                MaxRotationAngle = parts[1] switch { "cap" => cap, "nocap" => null, var x => throw new InvalidDataException(x) },
            };
            using var adapter = new SvdAdapter(config, model, [.. modules.Select(m => GoldenCase.Layer(device, config, tensors, m, $"{variant}.init."))]);
            foreach (string name in tensors.Names.Where(n => n.StartsWith($"{variant}.forward.", StringComparison.Ordinal)))
            {
                string setting = name[$"{variant}.forward.".Length..^".logits".Length];
                float c = float.Parse(setting, CultureInfo.InvariantCulture);
                using var tape = new Tape(device);
                Tensor hidden = model.Forward(new ForwardContext(tape, tokens) { Adapter = Pass(tape), EagerPadding = true });
                // With padding as the original's attention treats it, padding's own logits are the original's, too.
                Close.To(2e-5, model.Logits(tape, hidden).ToArray(), tensors.ReadF32(name), name);
                using (var plain = new Tape(device, record: false))
                {
                    float[] logits = model.Logits(plain, model.Forward(new ForwardContext(plain, tokens) { Adapter = Pass(plain) })).ToArray();
                    double error = GoldenFiles.ErrorOverReal(tokens, logits, tensors.ReadF32(name));
                    Assert.True(error <= 2e-5, $"{name}: error {error:g4}");
                }

                string prefix = $"{variant}.grad.{setting}.";
                string[] gradients = [.. tensors.Names.Where(n => n.StartsWith(prefix, StringComparison.Ordinal))];
                if (gradients.Length == 0)
                    continue;
                // The original scores every real label, the first one from the padding before it.
                int[] at = [.. Enumerable.Range(0, tokens.Ids.Length - 1).Where(i => (i + 1) % tokens.Length != 0 && tokens.IsReal(i / tokens.Length, i % tokens.Length + 1))];
                Tensor rows = tape.GatherRows(hidden, tape.New(at, at.Length)), labels = tape.New([.. at.Select(i => tokens.Ids[i + 1])], at.Length);
                tape.Backward(tape.Sum(tape.LabelLogProb(rows, model.Head, labels, model.Config.LogitSoftCap).LogProb));
                foreach (string gradient in gradients)
                {
                    Tensor parameter = adapter.Parameters.Single(p => p.Name == gradient[prefix.Length..]);
                    Close.To(1e-4, parameter.GradToArray(), tensors.ReadF32(gradient), gradient);
                    compared++;
                }
                foreach (Tensor p in adapter.Parameters)
                    p.FreeGrad();

                IAdapterPass Pass(Tape t) => adapter.Pass(t, [.. Enumerable.Repeat(c, tokens.Batch)], tokens.Length);
            }
        }
        Assert.True(compared > 0, "no gradient was compared");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Training_steps_are_those_of_the_original(bool checkpoint)
    {
        string folder = Path.GetDirectoryName(Golden.Require("adapter", "antipasto-train.json"))!;
        JsonObject json = GoldenFiles.Json(Path.Combine(folder, "antipasto-train.json"));
        using ITensorSource tensors = SafetensorsFile.Open(Path.Combine(folder, "antipasto-train.safetensors"));
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, Path.Combine(folder, "model"));
        List<TokenBatch> batches = Batches(folder);
        JsonObject c = json["config"]!.AsObject();
        var config = new SvdAdapterConfig
        {
            Rank = (int)json["r"]!,
            RotateU = (bool)json["rotate_u"]!,
            RotateV = (bool)json["rotate_v"]!,
            Scale = ScaleMethod.Add,
            MaxRotationAngle = (double)json["max_rotation_angle"]!,
        };
        string[] modules = [.. json["modules"]!.AsArray().Select(m => (string)m!)];
        using var adapter = new SvdAdapter(config, model, [.. modules.Select(m => GoldenCase.Layer(device, config, tensors, m, "init."))]);
        int[] shape = [.. tensors.Info("loss_subspace").Shape.Select(x => (int)x)];
        using Tensor subspace = Tensor.From(device, tensors.ReadF32("loss_subspace"), shape);
        var loss = new AntiPastoLossConfig
        {
            LastTokens = (int)c["n_last_tokens"]!,
            Coherence = (bool)c["coh"]!,
            CoherenceWeight = (float)c["coh_weight"]!,
            CoherenceThreshold = (float)c["coh_thresh"]!,
            Monotone = (bool)c["mono"]!,
            MonotoneWeight = (float)c["mono_weight"]!,
            MonotoneMargin = (float)c["mono_margin"]!,
            MonotoneFloor = (float)c["mono_threshold_floor"]!,
            FocusSoftness = (float)c["focus_softness"]!,
            OrthWeight = (float)c["orth_weight"]!,
            AntisymMargin = (float)c["antisym_margin"]!,
            VarianceFloorFraction = (float)c["fisher_var_floor_frac"]!,
            DeviationFloor = (float)c["fisher_abs_std_floor"]!,
        };
        var step = new AntiPastoStep(model, adapter, (int)json["loss_layer"]!, subspace, loss)
        {
            CheckpointBlocks = checkpoint,
            WarmupFraction = (double)c["coh_warmup_frac"]!,
            WarmupPct = (double)c["warmup_pct"]!,
        };
        int total = (int)json["total_steps"]!;
        var schedule = new OneCycle(total, (double)json["max_lr"]!, (double)json["pct_start"]!, FinalDivFactor: (double)json["final_div_factor"]!);
        using var optimiser = new AdamW(adapter.Parameters, weightDecay: (double)json["weight_decay"]!);
        Dictionary<string, double> scales = json["history"]!.AsArray().SelectMany(h => h!["infos"]!.AsArray()).SelectMany(x => x!.AsObject())
            .Where(x => x.Value!.GetValueKind() == System.Text.Json.JsonValueKind.Number).GroupBy(x => x.Key).ToDictionary(g => g.Key, g => g.Max(x => Math.Abs((double)x.Value!)));
        foreach (JsonObject wanted in json["history"]!.AsArray().Select(h => h!.AsObject()))
        {
            int i = (int)wanted["step"]!;
            AntiPastoResult r = step.Run(batches[i % batches.Count], i, total);
            double[] parts = [r.Projection, r.CoherencePlus, r.CoherenceMinus, r.Monotone], expected = [.. wanted["components"]!.AsArray().Select(x => (double)x!)];
            double scale = Math.Max(1, Math.Abs((double)wanted["total"]!));
            for (int k = 0; k < parts.Length; k++)
                Near(parts[k], expected[k], scale, $"step {i} component {k}");
            Near(r.Total, (double)wanted["total"]!, scale, $"step {i} total");
            Metrics(r, wanted, batches[i % batches.Count], scales);
            Near(optimiser.ClipGradNorm((double)json["clip"]!), (double)wanted["grad_norm"]!, 0, $"step {i} gradient norm");
            (double rate, double beta1) = schedule.At(i);
            Assert.Equal((double)wanted["lr"]!, rate, 9);
            Compare($"clipped_grad.{i}.", p => p.GradToArray(), 1e-3);
            optimiser.Beta1 = beta1;
            optimiser.Step(rate);
            optimiser.ZeroGrad();
        }
        Assert.True(Compare("after.", p => p.ToArray(), 2e-3) > 0);

        int Compare(string prefix, Func<Tensor, float[]> read, double tolerance)
        {
            string[] names = [.. tensors.Names.Where(n => n.StartsWith(prefix, StringComparison.Ordinal))];
            foreach (string name in names)
            {
                float[] actual = read(adapter.Parameters.Single(p => p.Name == name[prefix.Length..])), wanted = tensors.ReadF32(name);
                double error = Close.Error(actual, wanted);
                Assert.True(error <= tolerance, $"{name}: error {error:g4}, allowed {tolerance:g4}");
            }
            return names.Length;
        }
    }

    // Every number of the original's row, within 1e-3 of the largest that the metric takes over the run.
    private static void Metrics(AntiPastoResult r, JsonObject wanted, TokenBatch batch, Dictionary<string, double> scales)
    {
        string[] notMetrics = ["lr", "coef", "step"];
        bool padded = batch.Starts.Any(s => s > 0);
        foreach (JsonObject info in wanted["infos"]!.AsArray().Select(x => x!.AsObject()))
        {
            IReadOnlyDictionary<string, double> ours = r.Metrics[(double)info["coef"]! < 0 ? 0 : 1];
            string[] names = [.. info.Where(x => x.Value!.GetValueKind() == System.Text.Json.JsonValueKind.Number).Select(x => x.Key).Except(notMetrics)];
            Assert.Equal(names.Order(), AntiPastoMetrics.Names.Order());
            // The original takes this maximum over padding as well.
            foreach (string name in names.Where(n => n != "coh_tv_max" || !padded))
                Assert.True(Math.Abs(ours[name] - (double)info[name]!) <= 1e-3 * scales[name] + 1e-12, $"step {wanted["step"]} c {info["coef"]} {name}: {ours[name]:g8}, original {(double)info[name]!:g8}");
        }
    }

    private static void Near(double actual, double wanted, double scale, string what) =>
        Assert.True(Math.Abs(actual - wanted) <= 1e-3 * Math.Max(Math.Abs(wanted), scale), $"{what}: {actual:g8}, original {wanted:g8}");

    private static string[] Modules(ITensorSource tensors) =>
        [.. tensors.Names.Where(n => n.StartsWith("basis.", StringComparison.Ordinal) && n.EndsWith(".s", StringComparison.Ordinal)).Select(n => n["basis.".Length..^2])];

    private static List<TokenBatch> Batches(string folder)
    {
        using ITensorSource source = SafetensorsFile.Open(Path.Combine(folder, "batches.safetensors"));
        return GoldenCase.ReadBatches(source);
    }
}
