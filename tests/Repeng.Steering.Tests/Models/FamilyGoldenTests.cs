using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>Every family's tiny model against transformers: hidden states, logits, loss, every gradient, greedy tokens.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "models")]
public sealed class FamilyGoldenTests
{
    public static IEnumerable<TheoryDataRow<string>> Names => GoldenFiles.Folders("models", "config.json");

    [Theory]
    [MemberData(nameof(Names))]
    public void Hidden_states_logits_and_loss_are_those_of_transformers(string name)
    {
        string folder = Golden.Require("models", name);
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, folder);
        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(expected);
        Assert.Equal(GoldenFiles.Ints(expected, "position_ids").Where((_, i) => tokens.IsReal(i / tokens.Length, i % tokens.Length)),
            tokens.Positions().Where((_, i) => tokens.IsReal(i / tokens.Length, i % tokens.Length)));
        using var tape = new Tape(device, record: false);
        var context = new ForwardContext(tape, tokens) { KeepHiddenStates = true };
        Tensor hidden = model.Forward(context);
        Assert.Equal(expected.Names.Count(n => n.StartsWith("hidden_states.", StringComparison.Ordinal)), context.HiddenStates.Count);
        for (int i = 0; i < context.HiddenStates.Count; i++)
            Check(2e-5, $"hidden_states.{i}", context.HiddenStates[i]);
        Check(2e-5, "logits", model.Logits(tape, hidden));
        (int[] index, int[] labels) = Labels(tokens);
        Tensor logProb = tape.LabelLogProb(tape.GatherRows(hidden, tape.New(index, index.Length)), model.Head, tape.New(labels, labels.Length), model.Config.LogitSoftCap).LogProb;
        float[] all = expected.ReadF32("label_logprob");
        float[] wanted = [.. index.Select(i => all[i / tokens.Length * (tokens.Length - 1) + i % tokens.Length])];
        Close.To(2e-5, logProb.ToArray(), wanted, "label_logprob");
        Close.To(2e-5, [-logProb.ToArray().Average()], expected.ReadF32("loss"), "loss");

        void Check(double tolerance, string tensor, Tensor actual)
        {
            double error = GoldenFiles.ErrorOverReal(tokens, actual.ToArray(), expected.ReadF32(tensor));
            Assert.True(error <= tolerance, $"{name} {tensor}: error {error:g4}, allowed {tolerance:g4}");
        }
    }

    /// <summary>Text models that a multimodal family nests.</summary>
    public static IEnumerable<TheoryDataRow<string>> Nested => Golden.OrAbsent(Names.Select(n => n.Data).Where(n => n != Golden.Absent && ModelType(n).EndsWith("_text", StringComparison.Ordinal))).Select(n => new TheoryDataRow<string>(n));

    [Theory]
    [MemberData(nameof(Nested))]
    public void A_multimodal_checkpoint_is_its_text_model_under_either_name(string name)
    {
        string folder = Golden.Require("models", name);
        JsonObject text = GoldenFiles.Json(Path.Combine(folder, "config.json"));
        using Device device = Device.Cpu();
        using DecoderModel plain = GoldenFiles.Load(device, folder);
        using SafetensorsFile source = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")), expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(expected);
        float[] wanted = Logits(plain);
        foreach (string prefix in new[] { "language_model.model.", "model.language_model." })
        {
            var writer = new SafetensorsWriter();
            foreach (string n in source.Names)
                writer.Add(n.StartsWith("model.", StringComparison.Ordinal) ? prefix + n["model.".Length..] : n, source.Info(n).Shape, source.ReadF32(n));
            writer.Add("vision_tower.weight", [2], new float[2]);
            DirectoryInfo made = Directory.CreateTempSubdirectory("repeng-multimodal-");
            try
            {
                writer.Write(Path.Combine(made.FullName, "model.safetensors"));
                File.WriteAllText(Path.Combine(made.FullName, "config.json"), new JsonObject { ["model_type"] = ModelType(name)[..^"_text".Length], ["text_config"] = text.DeepClone(), ["vision_config"] = new JsonObject() }.ToJsonString());
                using DecoderModel model = GoldenFiles.Load(device, made.FullName);
                Assert.Equal(wanted, Logits(model));
                Assert.All(model.Parameters.Keys.Where(k => k.Contains("layers", StringComparison.Ordinal)), k => Assert.StartsWith(prefix, k));
            }
            finally
            {
                made.Delete(recursive: true);
            }
        }

        float[] Logits(DecoderModel model)
        {
            using var tape = new Tape(device, record: false);
            return model.Logits(tape, model.Forward(new ForwardContext(tape, tokens))).ToArray();
        }
    }

    private static string ModelType(string name) => (string)GoldenFiles.Json(Path.Combine(Golden.Require("models", name), "config.json"))["model_type"]!;

    [Theory]
    [MemberData(nameof(Names))]
    public void Gradients_of_every_parameter_are_those_of_transformers(string name)
    {
        string folder = Golden.Require("models", name);
        foreach (bool checkpoint in new[] { false, true })
        {
            using Device device = Device.Cpu();
            using DecoderModel model = GoldenFiles.Load(device, folder);
            using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
            using ITensorSource gradients = SafetensorsFile.Open(Path.Combine(folder, "gradients.safetensors"));
            TokenBatch tokens = GoldenFiles.Batch(expected);
            model.RequireGradients(true);
            using (var tape = new Tape(device))
            {
                var context = new ForwardContext(tape, tokens) { CheckpointBlocks = checkpoint };
                Tensor hidden = model.Forward(context);
                (int[] index, int[] labels) = Labels(tokens);
                Tensor logProb = tape.LabelLogProb(tape.GatherRows(hidden, tape.New(index, index.Length)), model.Head, tape.New(labels, labels.Length), model.Config.LogitSoftCap).LogProb;
                tape.Backward(tape.Scale(tape.Mean(logProb), -1));
            }
            Assert.Equal(gradients.Names.Order(StringComparer.Ordinal), model.Parameters.Keys.Order(StringComparer.Ordinal));
            double floor = GoldenFiles.GradientFloor(gradients);
            foreach (string parameter in gradients.Names)
            {
                Tensor p = model.Parameters[parameter];
                float[] actual = p.GradToArray(), wanted = gradients.ReadF32(parameter);
                if (model.FileLayouts.TryGetValue(parameter, out FileLayout? layout))
                    actual = layout.ToFile<float>(actual);
                double error = GoldenFiles.GradientError(actual, wanted, floor);
                Assert.True(error <= 2e-4, $"{name} grad.{parameter} (checkpointing {checkpoint}): error {error:g4}, allowed 2e-4");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Greedy_tokens_are_those_of_transformers_alone_and_in_a_left_padded_batch(string name)
    {
        string folder = Golden.Require("models", name);
        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        Assert.SkipUnless(expected.Contains("greedy_tokens"), $"{name}: the original has no greedy tokens (longrope's factors depend on the batch)");
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, folder);
        TokenBatch tokens = GoldenFiles.Batch(expected);
        int count = (int)expected.Info("greedy_tokens").Shape[1];
        int[] wanted = GoldenFiles.Ints(expected, "greedy_tokens");
        Assert.Equal(wanted, Greedy(model, tokens, count));
        for (int b = 0; b < tokens.Batch; b++)
        {
            int[] row = tokens.Ids[(b * tokens.Length + tokens.Starts[b])..((b + 1) * tokens.Length)];
            Assert.Equal(wanted[(b * count)..((b + 1) * count)], Greedy(model, TokenBatch.Pad([row], 0), count));
        }
    }

    private static int[] Greedy(DecoderModel model, TokenBatch prompt, int count)
    {
        using var cache = new KvCache(model.Device, model.Config, prompt.Batch, prompt.Length + count, prompt.Starts);
        var chosen = new int[prompt.Batch * count];
        TokenBatch next = prompt;
        for (int i = 0; i < count; i++)
        {
            using var tape = new Tape(model.Device, record: false);
            Tensor hidden = model.Forward(new ForwardContext(tape, next, cache));
            int[] last = [.. Enumerable.Range(0, next.Batch).Select(b => (b + 1) * next.Length - 1)];
            Tensor logits = model.Logits(tape, tape.GatherRows(hidden, tape.New(last, last.Length)));
            float[] values = logits.ToArray();
            int[] ids = [.. Enumerable.Range(0, next.Batch).Select(b => ArgMax(values, b * logits.Cols, logits.Cols))];
            for (int b = 0; b < ids.Length; b++)
                chosen[b * count + i] = ids[b];
            next = new TokenBatch(prompt.Batch, 1, ids, prompt.Starts);
        }
        return chosen;
    }

    private static int ArgMax(float[] values, int start, int count)
    {
        int best = start;
        for (int i = start + 1; i < start + count; i++)
            if (values[i] > values[best])
                best = i;
        return best - start;
    }

    // A label counts where both it and its context are real.
    private static (int[] Index, int[] Labels) Labels(TokenBatch tokens)
    {
        var index = new List<int>();
        var labels = new List<int>();
        for (int b = 0; b < tokens.Batch; b++)
            for (int t = tokens.Starts[b]; t < tokens.Length - 1; t++)
            {
                index.Add(b * tokens.Length + t);
                labels.Add(tokens.Ids[b * tokens.Length + t + 1]);
            }
        return ([.. index], [.. labels]);
    }
}
