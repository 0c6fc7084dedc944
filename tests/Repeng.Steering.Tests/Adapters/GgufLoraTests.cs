using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>
/// A LoRA in llama.cpp's layout, added to the GGUF tensors by the names and shapes of llama.cpp's rule (W + B·A), gives
/// the model that the adapter gives: on every family's tiny model, with q and k moved, fused, scaled, or stored transposed.
/// </summary>
[Trait("Category", "Golden")]
[Trait("Golden", "models")]
public sealed class GgufLoraTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-lora-").FullName;

    public static IEnumerable<TheoryDataRow<string>> Names => GoldenFiles.Folders("models", "config.json");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Names))]
    public void Added_to_the_file_it_is_the_adapter(string name)
    {
        string folder = Golden.Require("models", name), configPath = Path.Combine(folder, "config.json");
        JsonObject config = GoldenFiles.Json(configPath);
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, folder);
        LinearModule[] linears = [.. model.Blocks[^1].Linears.Where(l => !l.Path.EndsWith(".gate", StringComparison.Ordinal) && !l.Path.EndsWith(".router", StringComparison.Ordinal))];
        // Of the experts one is left as it is, and one has another rank.
        linears = [.. linears.Where(l => !l.Path.Contains(".experts.1.", StringComparison.Ordinal))];
        Assert.NotEmpty(linears);
        var random = new Random(4);
        LoraFactors[] parts = [.. linears.Select(l => (l, Rank: l.Path.Contains(".experts.0.", StringComparison.Ordinal) ? 2 : 3)).Select(x => new LoraFactors(x.l, Random(x.l.Outputs * x.Rank), Random(x.l.Inputs * x.Rank)))];
        using PeftAdapter adapter = LoraExport.Adapter(model, parts, name, name);
        string basePath = Path.Combine(_folder, "base.gguf"), loraPath = Path.Combine(_folder, "lora.gguf"), bothPath = Path.Combine(_folder, "both.gguf");
        Models.GgufGoldenTests.WriteOrSkip(basePath, folder, new GgufModelWriter.Options { Type = "F32" });
        using (ModelFiles files = ModelFiles.Open(folder))
            LoraExport.WriteGguf(loraPath, files, adapter, 1);
        Merge(basePath, loraPath, bothPath);

        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(expected);
        using GgufModel gguf = GgufModel.Open(bothPath);
        using DecoderModel actual = ModelLoader.Load(device, ModelBundle.ConfigOf(gguf, bothPath), gguf.Tensors);
        using DecoderModel wanted = MergedWeights.Load(adapter, 1);
        float[] reference = Logits(wanted, tokens);
        Assert.True(GoldenFiles.ErrorOverReal(tokens, Logits(model, tokens), reference) > 1e-3, $"{name}: the LoRA changes nothing");
        double error = GoldenFiles.ErrorOverReal(tokens, Logits(actual, tokens), reference);
        Assert.True(error <= 2e-5, $"{name}: error {error:g4}, allowed 2e-5");

        // Read as an adapter of the folder, and of the GGUF file, whose attention may be scaled otherwise.
        using GgufModel plain = GgufModel.Open(basePath);
        using DecoderModel fromGguf = ModelLoader.Load(device, ModelBundle.ConfigOf(plain, basePath), plain.Tensors);
        foreach (DecoderModel on in new[] { model, fromGguf })
        {
            using IAdapter read = AdapterFile.LoadAny(on, loraPath);
            error = GoldenFiles.ErrorOverReal(tokens, Logits(on, tokens, read), reference);
            Assert.True(error <= 2e-5, $"{name}: read on {on.Source}: error {error:g4}, allowed 2e-5");
            Assert.Equal(Logits(on, tokens), Logits(on, tokens, read, 0));
        }

        double[] Random(int n) => [.. Enumerable.Range(0, n).Select(_ => (random.NextDouble() - 0.5) * 0.3)];
    }

    // llama.cpp: y = W·x + scale·B·(A·x), scale = alpha / r.
    private static void Merge(string basePath, string loraPath, string path)
    {
        using GgufFile model = GgufFile.Open(basePath), lora = GgufFile.Open(loraPath);
        Assert.Equal(model.Architecture, lora.Architecture);
        double alpha = lora.Metadata.Number("adapter.lora.alpha");
        var writer = new GgufWriter(null);
        foreach (string key in model.Metadata.Keys)
            writer.Copy(model.Metadata, key);
        foreach (string name in model.Names)
        {
            TensorInfo info = model.Info(name);
            float[] w = model.ReadF32(name);
            if (lora.Contains(name + ".lora_a"))
            {
                float[] a = lora.ReadF32(name + ".lora_a"), b = lora.ReadF32(name + ".lora_b");
                int experts = info.Shape.Length == 3 ? (int)info.Shape[0] : 1, outputs = (int)info.Shape[^2], inputs = (int)info.Shape[^1], rank = a.Length / inputs / experts;
                string stack = info.Shape.Length == 3 ? $"{experts}, " : "";
                Assert.Equal($"[{stack}{rank}, {inputs}] [{stack}{outputs}, {rank}]", $"{lora.Info(name + ".lora_a").ShapeText} {lora.Info(name + ".lora_b").ShapeText}");
                double scale = alpha == 0 ? 1 : alpha / rank;
                for (int o = 0; o < experts * outputs; o++)
                    for (int i = 0; i < inputs; i++)
                    {
                        double sum = 0;
                        for (int r = 0; r < rank; r++)
                            sum += (double)b[o * rank + r] * a[(o / outputs * rank + r) * inputs + i];
                        w[o * inputs + i] += (float)(scale * sum);
                    }
            }
            writer.AddTensor(name, info.Shape, w);
        }
        writer.Write(path);
    }

    private static float[] Logits(DecoderModel model, TokenBatch tokens, IAdapter? adapter = null, float c = 1)
    {
        using var tape = new Tape(model.Device, record: false);
        IAdapterPass? pass = adapter?.Pass(tape, Enumerable.Repeat(c, tokens.Batch).ToArray(), tokens.Length);
        return model.Logits(tape, model.Forward(new ForwardContext(tape, tokens) { Adapter = pass })).ToArray();
    }
}
