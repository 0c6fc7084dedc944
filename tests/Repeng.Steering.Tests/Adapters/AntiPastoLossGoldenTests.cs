using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Losses;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>AntiPaSTO's terms against its own code in float64: values and gradients of every input.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "adapter")]
public sealed class AntiPastoLossGoldenTests
{
    private const double Tolerance = 1e-5;

    [Fact]
    public void Projection_loss_and_its_gradients_are_those_of_the_original()
    {
        using var golden = new File();
        foreach (JsonObject c in golden.Cases("proj"))
        {
            string prefix = $"proj.{c["k"]}.";
            using var tape = new Tape(golden.Device);
            string[] names = ["ref_cho", "ref_rej", "pos_cho", "pos_rej", "neg_cho", "neg_rej", "full_pos", "full_neg"];
            Dictionary<string, Tensor> x = names.ToDictionary(n => n, n => golden.Parameter(prefix + n));
            float[] mask = golden.Tensors.ReadF32(prefix + "mask");
            int p = x["ref_cho"].Shape[0], t = x["ref_cho"].Shape[1], k = x["ref_cho"].Shape[2];
            Tensor weights = tape.Constant(WindowMean(mask, p, t, (int?)c["last_n_tokens"]), p * t);
            Tensor Difference(string side) => tape.Sum(tape.Reshape(tape.Multiply(tape.Reshape(tape.Subtract(x[side + "_cho"], x[side + "_rej"]), p * t, k), weights, Broadcast.OverCols), p, t, k), 1);
            var config = new AntiPastoLossConfig { OrthWeight = (float)c["orth_weight"]!, AntisymMargin = (float)c["antisym_margin"]! };
            Tensor loss = AntiPastoLoss.Projection(tape, config, Difference("ref"), Difference("pos"), Difference("neg"), x["full_pos"], x["full_neg"], (float)c["focus_softness"]!);
            Close.To(Tolerance, loss.ToArray(), golden.Tensors.ReadF64(prefix + "loss"), prefix + "loss");
            tape.Backward(tape.Mean(loss));
            foreach (string n in names)
                Close.To(Tolerance * 10, x[n].GradToArray(), golden.Tensors.ReadF64($"{prefix}grad.{n}"), $"{prefix}grad.{n}");
        }
    }

    [Fact]
    public void Monotone_loss_and_its_gradients_are_those_of_the_original()
    {
        using var golden = new File();
        foreach (JsonObject c in golden.Cases("mono"))
        {
            string prefix = $"mono.{c["k"]}.";
            using var tape = new Tape(golden.Device);
            Tensor pos = golden.Parameter(prefix + "delta_pos"), neg = golden.Parameter(prefix + "delta_neg");
            var config = new AntiPastoLossConfig { MonotoneMargin = (float)c["threshold_frac"]!, MonotoneFloor = (float)c["threshold_floor"]! };
            (Tensor loss, bool forward, _, _) = AntiPastoLoss.Monotone(tape, config, pos, neg, golden.Tensors.ReadF32(prefix + "H_ref"), (float)c["scale"]!);
            Assert.Equal((int)c["direction"]! == 1, forward);
            Close.To(Tolerance, loss.ToArray(), golden.Tensors.ReadF64(prefix + "loss"), prefix + "loss");
            tape.Backward(loss);
            Close.To(Tolerance, pos.GradToArray(), golden.Tensors.ReadF64(prefix + "grad_pos"), prefix + "grad_pos");
            Close.To(Tolerance, neg.GradToArray(), golden.Tensors.ReadF64(prefix + "grad_neg"), prefix + "grad_neg");
        }
    }

    [Fact]
    public void Total_variation_barrier_and_its_gradients_are_those_of_the_original()
    {
        using var golden = new File();
        JsonObject s = golden.Json["tv"]!.AsObject();
        foreach (string name in golden.Tensors.Names.Where(n => n.StartsWith("tv.", StringComparison.Ordinal) && n.EndsWith(".loss", StringComparison.Ordinal)))
        {
            string prefix = name[..^"loss".Length];
            BarrierMode mode = prefix.Split('.')[2] switch { "mean" => BarrierMode.Mean, "lse" => BarrierMode.LogSumExp, "max" => BarrierMode.Max, var m => throw new InvalidDataException($"mode {m} is not understood") };
            using var tape = new Tape(golden.Device) { VocabularyChunk = 7 };
            // Logits as hidden states under an identity head exercise the head's own chunked total variation.
            Tensor pi = golden.Parameter(prefix + "pi_logits");
            int b = pi.Shape[0], t = pi.Shape[1], v = pi.Shape[2];
            Tensor reference = Tensor.From(golden.Device, golden.Tensors.ReadF32(prefix + "ref_logits"), b * t, v);
            var one = new float[v * v];
            for (int i = 0; i < v; i++)
                one[i * v + i] = 1;
            Tensor head = Tensor.From(golden.Device, one, v, v), labels = tape.New(new int[b * t], b * t);
            Tensor lseRef = tape.LabelLogProb(reference, head, labels).LogSumExp;
            float[] entropy = tape.Entropy(reference, head, lseRef).ToArray();
            Tensor tv = tape.LabelLogProb(tape.Reshape(pi, b * t, v), head, labels, 0, new ReferenceDistribution(reference, lseRef)).TotalVariation!;
            float[] threshold = [.. entropy.Select(h => AntiPastoLoss.Threshold(h, (float)s["threshold_frac"]!, (float)s["threshold_floor"]!))];
            Tensor penalty = tape.Reshape(AntiPastoLoss.Barrier(tape, tv, threshold, (float)s["scale"]!), b, t);
            Tensor loss = AntiPastoLoss.Together(tape, penalty, golden.Tensors.ReadF32($"proj.{prefix.Split('.')[1]}.mask"), mode, (float)s["lse_temperature"]!);
            Close.To(Tolerance, loss.ToArray(), golden.Tensors.ReadF64(name), name);
            tape.Backward(tape.Mean(loss));
            Close.To(Tolerance * 10, pi.GradToArray(), golden.Tensors.ReadF64(prefix + "grad"), prefix + "grad");
            reference.Dispose();
            head.Dispose();
        }
    }

    // Weights of the masked mean; a row with more valid tokens than the window keeps its last columns only.
    private static float[] WindowMean(float[] mask, int p, int t, int? last)
    {
        var w = new float[p * t];
        for (int i = 0; i < p; i++)
        {
            float[] row = mask[(i * t)..((i + 1) * t)];
            if (last is { } n && row.Sum() > n)
                Array.Clear(row, 0, t - n);
            float count = row.Sum();
            for (int j = 0; j < t; j++)
                w[i * t + j] = count > 0 ? row[j] / count : 0;
        }
        return w;
    }

    private sealed class File : IDisposable
    {
        public File()
        {
            string folder = Path.GetDirectoryName(Golden.Require("adapter", "antipasto-loss.json"))!;
            Json = GoldenFiles.Json(Path.Combine(folder, "antipasto-loss.json"));
            Tensors = SafetensorsFile.Open(Path.Combine(folder, "antipasto-loss.safetensors"));
        }

        public JsonObject Json { get; }

        public ITensorSource Tensors { get; }

        public Device Device { get; } = Device.Cpu();

        public IEnumerable<JsonObject> Cases(string kind) => Json["cases"]!.AsArray().Select(c => c!.AsObject()).Where(c => (string)c["kind"]! == kind);

        public Tensor Parameter(string name)
        {
            Tensor t = Tensor.From(Device, Tensors.ReadF32(name), [.. Tensors.Info(name).Shape.Select(x => (int)x)]);
            t.RequiresGrad = t.RetainGrad = true;
            return t;
        }

        public void Dispose()
        {
            Tensors.Dispose();
            Device.Dispose();
        }
    }
}
