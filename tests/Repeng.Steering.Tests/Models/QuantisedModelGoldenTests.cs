using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>Models whose weights stay packed: bitsandbytes folders and GGUF files against the reference on the decoded weights.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "nf4")]
public sealed class QuantisedModelGoldenTests
{
    private const double Tolerance = 1e-4;

    public static IEnumerable<TheoryDataRow<string>> Checkpoints => GoldenFiles.Folders("nf4", "config.json");

    /// <summary>GGUF files that hold something packed.</summary>
    public static IEnumerable<TheoryDataRow<string>> GgufFiles => Golden.OrAbsent(Golden.Files("gguf", "*.gguf").Where(n => n != Golden.Absent && HasPacked(Golden.Path("gguf", n)))).Select(n => new TheoryDataRow<string>(n));

    [Theory]
    [MemberData(nameof(Checkpoints))]
    public void A_bitsandbytes_checkpoint_runs_packed(string name)
    {
        string folder = Golden.Require("nf4", name);
        using Device device = Device.Cpu();
        using DecoderModel model = Load(device, folder, WeightType.AsStored), plain = Load(device, folder, WeightType.F32);
        // Modules may have been left out of it.
        string[] packed = Packed(folder);
        Assert.NotEmpty(packed);
        Assert.Equal(packed.Order(StringComparer.Ordinal), model.Parameters.Where(p => p.Value.Type == DType.Packed).Select(p => p.Key).Order(StringComparer.Ordinal));
        Assert.All(plain.Parameters.Values, p => Assert.Equal(DType.F32, p.Type));
        Assert.Equal(plain.Fingerprint, model.Fingerprint);
        long small = packed.Sum(p => model.Parameters[p].Data.Bytes), large = packed.Sum(p => plain.Parameters[p].Data.Bytes);
        Assert.True(small < large / 2, $"{small} bytes packed, {large} decoded");

        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        string[] decoded = [.. expected.Names.Where(n => n.StartsWith("dequant.", StringComparison.Ordinal))];
        Assert.NotEmpty(decoded);
        foreach (string tensor in decoded)
            Assert.Equal(expected.ReadF32(tensor), WeightReader.ToHost(model.Parameters[tensor["dequant.".Length..]]));
        Compare(model, expected, "", name);
        Assert.Equal(Logits(plain, expected), Logits(model, expected));
    }

    [Theory]
    [MemberData(nameof(GgufFiles))]
    public void A_gguf_model_runs_packed_in_place(string name)
    {
        string path = Golden.Require("gguf", name), prefix = Path.GetFileNameWithoutExtension(name) + ".";
        using ITensorSource expected = SafetensorsFile.Open(Golden.Require("gguf", "expected.safetensors"));
        Assert.SkipUnless(expected.Contains(prefix + "logits"), $"{name}: no expected logits");
        using Device device = Device.Cpu();
        DecoderModel model;
        int packed = 0;
        (ModelConfig config, ITensorSource tensors, _) = ModelBundle.OpenConfig(path);
        using (tensors)
        {
            model = ModelLoader.Load(device, config, tensors);
            packed = tensors.Names.Count(n => tensors.Packed(n) is not null);
        }
        // The file's own reader is gone; the weights hold its mapping.
        using (model)
        {
            Assert.Equal(packed, model.Parameters.Values.Count(p => p.Type == DType.Packed));
            Compare(model, expected, prefix, name);
            (config, ITensorSource again, _) = ModelBundle.OpenConfig(path);
            using (again)
            using (DecoderModel plain = ModelLoader.Load(device, config, again, WeightType.F32))
            {
                Assert.Equal(Logits(plain, expected), Logits(model, expected));
                Assert.Equal(plain.Fingerprint, model.Fingerprint);
            }
        }
        device.Pool.Trim();
        Assert.Equal(0, device.Pool.Reserved);
    }

    [Fact]
    public void Gradients_of_packed_weights_are_refused()
    {
        string folder = Golden.Require("nf4", (string)Checkpoints.First().Data);
        using Device device = Device.Cpu(1);
        using DecoderModel model = Load(device, folder, WeightType.AsStored);
        string message = Assert.Throws<UserErrorException>(() => model.Linears.Values.First(l => l.Weight.Type == DType.Packed).Weight.RequiresGrad = true).Message;
        Assert.Contains("packed weights have no gradients", message, StringComparison.Ordinal);
        Assert.Contains("--weight_type f32", Assert.Throws<UserErrorException>(() => model.RequireGradients(true)).Message, StringComparison.Ordinal);
    }

    private static DecoderModel Load(Device device, string folder, WeightType weights)
    {
        (ModelConfig config, ITensorSource tensors, _) = ModelBundle.OpenConfig(folder);
        using (tensors)
            return ModelLoader.Load(device, config, tensors, weights);
    }

    private static bool HasPacked(string path)
    {
        using ITensorSource file = GgufFile.Open(path);
        return file.Names.Any(n => file.Packed(n) is not null);
    }

    private static string[] Packed(string folder)
    {
        (_, ITensorSource tensors, _) = ModelBundle.OpenConfig(folder);
        using (tensors)
            return [.. tensors.Names.Where(n => tensors.Packed(n) is not null)];
    }

    private static float[] Logits(DecoderModel model, ITensorSource expected)
    {
        using var tape = new Tape(model.Device, record: false);
        return model.Logits(tape, model.Forward(new ForwardContext(tape, GoldenFiles.Batch(expected)))).ToArray();
    }

    private static void Compare(DecoderModel model, ITensorSource expected, string prefix, string name)
    {
        TokenBatch tokens = GoldenFiles.Batch(expected);
        int width = model.Config.HiddenSize, layers = model.Config.NumLayers;
        using var tape = new Tape(model.Device, record: false);
        var context = new ForwardContext(tape, tokens) { KeepHiddenStates = true, Capture = path => path == model.Blocks[^1].Path };
        Tensor hidden = model.Forward(context);
        double error = GoldenFiles.ErrorOverReal(tokens, model.Logits(tape, hidden).ToArray(), expected.ReadF32(prefix + "logits"));
        Assert.True(error <= Tolerance, $"{name} logits: error {error:g4}, allowed {Tolerance:g4}");

        float[] states = expected.ReadF32(prefix + "hidden_last");
        Assert.Equal((layers + 1) * tokens.Batch * width, states.Length);
        for (int k = 0; k <= layers; k++)
        {
            Tensor state = k == layers ? context.Outputs[model.Blocks[^1].Path] : context.HiddenStates[k];
            Close.To(Tolerance, Last(state), states.AsSpan(k * tokens.Batch * width, tokens.Batch * width), $"{name}, hidden state {k}");
        }
        Close.To(Tolerance, Last(hidden), expected.ReadF32(prefix + "final_norm_last"), $"{name}, after the final norm");

        float[] Last(Tensor state)
        {
            float[] all = state.ToArray();
            return [.. Enumerable.Range(0, tokens.Batch).SelectMany(b => all[(((b + 1) * tokens.Length - 1) * width)..((b + 1) * tokens.Length * width)])];
        }
    }
}
