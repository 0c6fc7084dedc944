using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Tests;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>Whole models on the kernels that ship: every family's logits, log-probabilities and gradients against transformers, on the emulator and, where there is one, a GPU.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "models")]
public sealed class ModelGoldenTests
{
    public static IEnumerable<TheoryDataRow<string, string>> Cases =>
        from row in GoldenFiles.Folders("models", "config.json")
        from backend in Backends.Names
        where backend != "cpu"
        select new TheoryDataRow<string, string>(row.Data, backend);

    [Theory, MemberData(nameof(Cases))]
    public void LogitsAndGradientsAreThoseOfTransformers(string name, string backend)
    {
        string folder = Golden.Require("models", name);
        using var device = new Device(Backends.Create(backend));
        using DecoderModel model = GoldenFiles.Load(device, folder);
        using (var cpu = Device.Cpu())
        using (DecoderModel same = GoldenFiles.Load(cpu, folder))
            Assert.Equal(same.Fingerprint, model.Fingerprint);
        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        using ITensorSource gradients = SafetensorsFile.Open(Path.Combine(folder, "gradients.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(expected);
        model.RequireGradients(true);
        using (var tape = new Tape(device))
        {
            var context = new ForwardContext(tape, tokens);
            Tensor hidden = model.Forward(context);
            double error = GoldenFiles.ErrorOverReal(tokens, model.Logits(tape, hidden).ToArray(), expected.ReadF32("logits"));
            Assert.True(error <= 2e-5, $"{name}: logits are off by {error:g4}, allowed 2e-5");
            int[] index = [.. Enumerable.Range(0, tokens.Ids.Length).Where(i => i % tokens.Length < tokens.Length - 1 && tokens.IsReal(i / tokens.Length, i % tokens.Length))];
            int[] labels = [.. index.Select(i => tokens.Ids[i + 1])];
            Tensor logProb = tape.LabelLogProb(tape.GatherRows(hidden, tape.New(index, index.Length)), model.Head, tape.New(labels, labels.Length), model.Config.LogitSoftCap).LogProb;
            Tensor loss = tape.Scale(tape.Mean(logProb), -1);
            Close.To(2e-5, [loss.Item()], expected.ReadF32("loss"), "loss");
            tape.Backward(loss);
        }
        foreach (string parameter in gradients.Names)
        {
            float[] actual = model.Parameters[parameter].GradToArray();
            if (model.FileLayouts.TryGetValue(parameter, out FileLayout? layout))
                actual = layout.ToFile<float>(actual);
            double error = GoldenFiles.GradientError(actual, gradients.ReadF32(parameter), GoldenFiles.GradientFloor(gradients));
            Assert.True(error <= 2e-4, $"{parameter}: error {error:g4}, allowed 2e-4");
        }
    }

    [Theory, MemberData(nameof(Cases))]
    public void GreedyTokensAreThoseOfTransformers(string name, string backend)
    {
        string folder = Golden.Require("models", name);
        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        Assert.SkipUnless(expected.Contains("greedy_tokens"), $"{name}: the original has no greedy tokens");
        using var device = new Device(Backends.Create(backend));
        using DecoderModel model = GoldenFiles.Load(device, folder);
        TokenBatch tokens = GoldenFiles.Batch(expected);
        int count = (int)expected.Info("greedy_tokens").Shape[1];
        int[][] prompts = [.. Enumerable.Range(0, tokens.Batch).Select(b => tokens.Ids[(b * tokens.Length + tokens.Starts[b])..((b + 1) * tokens.Length)])];
        int[][] made = new Generator(model).Generate(prompts, new float[tokens.Batch], Steering.Generation.Steering.None, new SamplingSettings { Sample = false, RepetitionPenalty = 1 }, count, []);
        Assert.Equal(GoldenFiles.Ints(expected, "greedy_tokens"), made.SelectMany(m => m));
    }
}
