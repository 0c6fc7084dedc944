using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Steering.Tests;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>Models whose weights stay packed on the device: bitsandbytes folders and GGUF files against the reference, and their gradients against the CPU's.</summary>
[Trait("Category", "Golden")]
public sealed class QuantisedGoldenTests
{
    private const double Tolerance = 1e-4;

    public static IEnumerable<TheoryDataRow<string, string>> Models()
    {
        IEnumerable<string> files = Golden.Files("gguf", "*.gguf").Select(f => Path.Combine("gguf", f));
        foreach (string backend in Backends.Names.Where(n => n != "cpu"))
            foreach (string model in GoldenFiles.Folders("nf4", "config.json").Select(r => Path.Combine("nf4", r.Data)).Concat(files))
                yield return new(model, backend);
    }

    [Theory, MemberData(nameof(Models))]
    public void APackedModelRunsAsItIsStored(string name, string backend)
    {
        string path = Golden.Require(name), prefix = name.EndsWith(".gguf", StringComparison.Ordinal) ? Path.GetFileNameWithoutExtension(name) + "." : "";
        using ITensorSource expected = SafetensorsFile.Open(prefix.Length > 0 ? Golden.Require("gguf", "expected.safetensors") : Path.Combine(path, "expected.safetensors"));
        Assert.SkipUnless(expected.Contains(prefix + "logits"), $"{name}: no expected logits");
        (ModelConfig config, ITensorSource tensors, _) = ModelBundle.OpenConfig(path);
        using ITensorSource source = tensors;
        string[] packed = [.. source.Names.Where(n => source.Packed(n) is not null)];
        Assert.SkipUnless(packed.Length > 0, $"{name}: nothing in it is packed");

        using var device = new Device(Backends.Create(backend));
        using var cpu = Device.Cpu();
        using DecoderModel model = ModelLoader.Load(device, config, source), same = ModelLoader.Load(cpu, config, source);
        Assert.Equal(packed.Length, model.Parameters.Values.Count(p => p.Type == DType.Packed));
        Assert.Equal(same.Fingerprint, model.Fingerprint);
        foreach ((string parameter, Tensor weight) in model.Parameters.Where(p => p.Value.Type == DType.Packed))
            Assert.Equal(WeightReader.ToHost(same.Parameters[parameter]), WeightReader.ToHost(weight));
        foreach (string tensor in expected.Names.Where(n => n.StartsWith("dequant.", StringComparison.Ordinal)))
            Assert.Equal(expected.ReadF32(tensor), WeightReader.ToHost(model.Parameters[tensor["dequant.".Length..]]));

        TokenBatch tokens = GoldenFiles.Batch(expected);
        (float[] logits, Dictionary<string, float[]> gradients) = Run(model, tokens);
        double error = GoldenFiles.ErrorOverReal(tokens, logits, expected.ReadF32(prefix + "logits"));
        Assert.True(error <= Tolerance, $"{name} logits: error {error:g4}, allowed {Tolerance:g4}");
        (_, Dictionary<string, float[]> wanted) = Run(same, tokens);
        Assert.NotEmpty(wanted);
        foreach ((string parameter, float[] gradient) in wanted)
            Close.To(Tolerance, gradients[parameter], gradient, $"{name} gradient of {parameter}");
    }

    // Logits, and the gradients of what is fp32 (the norms), which flow through the packed weights of all blocks.
    private static (float[] Logits, Dictionary<string, float[]> Gradients) Run(DecoderModel model, TokenBatch tokens)
    {
        Tensor[] plain = [.. model.Parameters.Values.Where(p => p.Type == DType.F32 && p.Shape.Length == 1)];
        foreach (Tensor p in plain)
            p.RequiresGrad = p.RetainGrad = true;
        using var tape = new Tape(model.Device);
        Tensor hidden = model.Forward(new ForwardContext(tape, tokens));
        float[] logits = model.Logits(tape, hidden).ToArray();
        int[] index = [.. Enumerable.Range(0, tokens.Ids.Length).Where(i => i % tokens.Length < tokens.Length - 1 && tokens.IsReal(i / tokens.Length, i % tokens.Length))];
        int[] labels = [.. index.Select(i => tokens.Ids[i + 1])];
        Tensor logProb = tape.LabelLogProb(tape.GatherRows(hidden, tape.New(index, index.Length)), model.Head, tape.New(labels, labels.Length), model.Config.LogitSoftCap).LogProb;
        tape.Backward(tape.Scale(tape.Mean(logProb), -1));
        return (logits, plain.ToDictionary(p => p.Name!, p => p.GradToArray()));
    }
}
