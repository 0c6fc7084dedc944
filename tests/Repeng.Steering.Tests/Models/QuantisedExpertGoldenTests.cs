using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>Mixtures of experts that are quantised when they are loaded: they compute what their decoded weights compute, and adapters train over them.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "models")]
public sealed class QuantisedExpertGoldenTests
{
    private const double Tolerance = 1e-4;

    private static readonly (string Name, Quantisation How)[] s_forms =
    [
        ("nf4", new(QuantisedForm.Nf4)), ("nf4+dq", new(QuantisedForm.Nf4, DoubleQuant: true)), ("fp4", new(QuantisedForm.Fp4)), ("int8", new(QuantisedForm.Int8)),
    ];

    /// <summary>Golden models with experts, times the forms.</summary>
    public static IEnumerable<TheoryDataRow<string, string>> Cases
    {
        get
        {
            string root = Golden.Path("models");
            string[] names = !Directory.Exists(root) ? [] : [.. Directory.GetDirectories(root).Where(HasExperts).Select(d => Path.GetFileName(d)!).Order(StringComparer.Ordinal)];
            return names.Length == 0 ? [new("(absent)", "")] : names.SelectMany(n => s_forms.Select(f => new TheoryDataRow<string, string>(n, f.Name)));
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_quantised_mixture_computes_and_learns_as_its_decoded_weights(string name, string form)
    {
        string folder = Golden.Require("models", name), configPath = Path.Combine(folder, "config.json");
        ModelConfig config = Families.Read(new ConfigReader(GoldenFiles.Json(configPath), configPath));
        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors")), source = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(expected);
        using Device device = Device.Cpu(2);
        using DecoderModel packed = ModelLoader.Load(device, config, source, new WeightStorage(Quantise: Form(form))), plain = ModelLoader.Load(device, config, source);
        Dictionary<string, float[]> decoded = packed.Parameters.Where(p => p.Value.Type == DType.Packed && source.Contains(p.Key)).ToDictionary(p => p.Key, p => WeightReader.ToHost(p.Value));
        foreach (IGrouping<string, LinearModule> stack in packed.Linears.Values.Where(l => l.Weight.Type == DType.Packed && l.WeightPart is not null).GroupBy(l => l.WeightPart!.Value.Name))
        {
            // Together they are the stack, in the layout of the file.
            var values = new float[source.Info(stack.Key).Elements];
            foreach (LinearModule l in stack)
                WeightReader.ToHost(l.Weight).CopyTo(values, l.WeightPart!.Value.Start);
            decoded[stack.Key] = packed.FileLayouts[stack.Key].ToFile<float>(values);
        }
        using DecoderModel reference = ModelLoader.Load(device, config, new Replaced(source, decoded));

        // Every linear layer of the blocks is packed, experts of a stack too, and routers where the original has a linear layer.
        foreach (LinearModule l in packed.Blocks.SelectMany(b => b.Linears))
        {
            bool bare = !config.Experts!.RouterIsLinear && l.Path.EndsWith($".{config.Experts.Router}", StringComparison.Ordinal);
            Assert.True(l.Weight.Type == DType.Packed != bare, $"{name} {form}: {l.Path} is {l.Weight.TypeName}");
        }
        Assert.Equal(plain.Fingerprint, packed.Fingerprint);

        float[] logits = Logits(reference, tokens);
        double error = GoldenFiles.ErrorOverReal(tokens, Logits(packed, tokens), logits);
        Assert.True(error <= Tolerance, $"{name} {form}: error {error:g4}, allowed {Tolerance:g4}");
        Assert.True(GoldenFiles.ErrorOverReal(tokens, logits, Logits(plain, tokens)) > 1e-4, $"{name} {form}: quantising changed nothing");

        // A LoRA on all of it: the same gradients over packed and over decoded weights, and steps that lower the loss.
        var settings = new PeftSettings { Kind = "lora", Rank = 2, TargetModules = @".*(\.experts\..*|q_proj)", InitNoise = 0.1 };
        using PeftAdapter over = PeftFactory.Create(packed, settings), beside = PeftFactory.Create(reference, settings);
        Assert.Contains(over.Modules, m => m.Contains(".experts.", StringComparison.Ordinal));
        double first = Loss(packed, over, tokens, out float[][] gradients), second = Loss(reference, beside, tokens, out float[][] wanted);
        Assert.True(Math.Abs(first - second) <= Tolerance * second, $"{name} {form}: loss {first} packed, {second} decoded");
        Close.To(1e-3, gradients.SelectMany(g => g).ToArray(), wanted.SelectMany(g => g).ToArray(), $"{name} {form}, gradients");
        float largest = gradients.Max(g => g.Max(Math.Abs));
        foreach ((Tensor p, float[] g) in over.Parameters.Zip(gradients))
            p.Upload([.. p.ToArray().Zip(g, (v, d) => v - 0.01f * d / largest)]);
        Assert.True(Loss(packed, over, tokens, out _) < first, $"{name} {form}: a step does not lower the loss");
    }

    internal static Quantisation Form(string name) => s_forms.Single(f => f.Name == name).How;

    private static bool HasExperts(string folder) => File.Exists(Path.Combine(folder, "config.json"))
        && GoldenFiles.Json(Path.Combine(folder, "config.json")) is { } json && (json.ContainsKey("num_local_experts") || json.ContainsKey("num_experts"));

    private static float[] Logits(DecoderModel model, TokenBatch tokens)
    {
        using var tape = new Tape(model.Device, record: false);
        return model.Logits(tape, model.Forward(new ForwardContext(tape, tokens))).ToArray();
    }

    // Half the mean square of the last block's output.
    private static double Loss(DecoderModel model, PeftAdapter adapter, TokenBatch tokens, out float[][] gradients)
    {
        using var tape = new Tape(model.Device);
        Tensor h = model.Forward(new ForwardContext(tape, tokens) { Adapter = adapter.Pass(tape, [.. Enumerable.Repeat(1f, tokens.Batch)], tokens.Length) });
        Tensor loss = tape.Scale(tape.Sum(tape.Multiply(h, h)), 0.5f / h.Length);
        tape.Backward(loss);
        gradients = [.. adapter.Parameters.Select(p => p.Grad.IsEmpty ? new float[p.Length] : p.GradToArray())];
        foreach (Tensor p in adapter.Parameters)
            p.FreeGrad();
        return loss.ToArray()[0];
    }

    /// <summary>A source with some of its tensors in the place of others.</summary>
    private sealed unsafe class Replaced(ITensorSource inner, Dictionary<string, float[]> values) : ITensorSource
    {
        public string Description => inner.Description;

        public IReadOnlyList<string> Names => inner.Names;

        public bool TryGetInfo(string name, out TensorInfo info) => inner.TryGetInfo(name, out info);

        public void ReadF32(string name, long firstRow, long rows, float* destination)
        {
            if (values.TryGetValue(name, out float[]? v))
                v.AsSpan((int)(firstRow * inner.Info(name).RowLength), (int)(rows * inner.Info(name).RowLength)).CopyTo(new Span<float>(destination, (int)(rows * inner.Info(name).RowLength)));
            else
                inner.ReadF32(name, firstRow, rows, destination);
        }

        public void ReadRaw(string name, long firstRow, long rows, byte* destination) => inner.ReadRaw(name, firstRow, rows, destination);

        public bool TryMap(string name, out MappedBytes bytes)
        {
            bytes = default;
            return false;
        }

        public void Dispose()
        {
        }
    }
}
