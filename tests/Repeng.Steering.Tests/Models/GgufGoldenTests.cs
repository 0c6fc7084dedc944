using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>
/// GGUF models with the real engine: those of the golden folder against its logits, and every family's tiny model
/// written in llama.cpp's layout, read back, and held against what transformers computed.
/// </summary>
[Trait("Category", "Golden")]
[Trait("Golden", "gguf")]
public sealed class GgufGoldenTests : IDisposable
{
    // The gguf folder's README; the models folder's is below.
    private const double GgufTolerance = 1e-4, FamilyTolerance = 2e-5;

    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-gguf-").FullName;

    public static IEnumerable<TheoryDataRow<string>> Models => Directory.Exists(Golden.Path("gguf"))
        ? Directory.GetFiles(Golden.Path("gguf"), "*.gguf").Select(f => Path.GetFileNameWithoutExtension(f)!).Order(StringComparer.Ordinal).Select(n => new TheoryDataRow<string>(n))
        : [new TheoryDataRow<string>("(absent)")];

    public static IEnumerable<TheoryDataRow<string>> Families => GoldenFiles.Folders("models", "config.json");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Models))]
    public void Logits_of_a_golden_file_are_those_of_its_dequantised_weights(string name)
    {
        string folder = Golden.Require("gguf");
        using Device device = Device.Cpu();
        using ModelBundle bundle = ModelBundle.Load(device, Path.Combine(folder, name + ".gguf"));
        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        CheckLogits(bundle.Model, expected, $"{name}.logits", GgufTolerance);
    }

    [Theory]
    [MemberData(nameof(Families))]
    public void A_family_written_as_gguf_and_read_back_is_that_of_transformers(string name)
    {
        string folder = Golden.Require("models", name);
        string path = Path.Combine(_folder, name + ".gguf"), configPath = Path.Combine(folder, "config.json");
        JsonObject config = GoldenFiles.Json(configPath);
        if (IsUnknown(config, configPath) is { } why)
        {
            Assert.Skip(why);
            return;
        }
        using (ITensorSource source = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")))
            GgufModelWriter.Write(path, config, configPath, source, new GgufModelWriter.Options { Type = "F32", Name = name });
        using Device device = Device.Cpu();
        using GgufModel gguf = GgufModel.Open(path);
        using DecoderModel model = ModelLoader.Load(device, ModelBundle.ConfigOf(gguf, path), gguf.Tensors);
        using ITensorSource expected = SafetensorsFile.Open(Path.Combine(folder, "expected.safetensors"));
        CheckLogits(model, expected, "logits", FamilyTolerance);

        // Read and written again it is the same file.
        string again = Path.Combine(_folder, "again.gguf");
        using (GgufModel first = GgufModel.Open(path))
            GgufModelWriter.Write(again, first.Config, path, first.Tensors, new GgufModelWriter.Options { Type = "F32", Name = name, FromGguf = true });
        using GgufFile one = GgufFile.Open(path), two = GgufFile.Open(again);
        foreach (string tensor in one.Names)
            Assert.True(one.ReadBytes(tensor).AsSpan().SequenceEqual(two.ReadBytes(tensor)), $"{name}: {tensor} differs when it is written again");
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void Quantised_files_are_those_of_the_reference_package(string name)
    {
        // The quantised golden files were made from the fp32 file of the same name.
        string folder = Golden.Require("gguf");
        string wanted = Path.Combine(folder, name + ".gguf");
        string type, source;
        using (GgufFile file = GgufFile.Open(wanted))
        {
            type = file.Info("token_embd.weight").Type;
            source = Path.Combine(folder, name.Replace("-" + type.ToLowerInvariant(), "", StringComparison.Ordinal) + ".gguf");
        }
        string path = Path.Combine(_folder, "written.gguf");
        using (GgufModel model = GgufModel.Open(source))
            GgufModelWriter.Write(path, model.Config, source, model.Tensors, new GgufModelWriter.Options { Type = type, FromGguf = true, Tokenizer = model.Tokenizer });
        using GgufFile expected = GgufFile.Open(wanted), actual = GgufFile.Open(path);
        Assert.Equal(expected.Names.Order(StringComparer.Ordinal), actual.Names.Order(StringComparer.Ordinal));
        foreach (string tensor in expected.Names)
        {
            Assert.Equal((expected.Info(tensor).Type, expected.Info(tensor).ShapeText), (actual.Info(tensor).Type, actual.Info(tensor).ShapeText));
            Assert.True(expected.ReadBytes(tensor).AsSpan().SequenceEqual(actual.ReadBytes(tensor)), $"{name}: bytes of {tensor} differ");
        }
        foreach (string key in expected.Metadata.Keys.Where(k => !k.StartsWith("general.", StringComparison.Ordinal)))
        {
            Assert.True(actual.Metadata.Has(key), $"{name}: metadata {key} is not written");
            Assert.Equal(expected.Metadata.Preview(key), actual.Metadata.Preview(key));
        }
    }

    /// <summary>Why a family cannot be held against its golden yet: the error that a person sees, which names it.</summary>
    private static string? IsUnknown(JsonObject config, string path)
    {
        string type = (string)config["model_type"]!;
        try
        {
            Steering.Models.Families.Read(new ConfigReader(config, path));
            return null;
        }
        catch (UserErrorException e)
        {
            Assert.Contains(type, e.Message);
            return e.Message;
        }
    }

    private static void CheckLogits(DecoderModel model, ITensorSource expected, string name, double tolerance)
    {
        TokenBatch tokens = GoldenFiles.Batch(expected);
        using var tape = new Tape(model.Device, record: false);
        Tensor logits = model.Logits(tape, model.Forward(new ForwardContext(tape, tokens)));
        double error = GoldenFiles.ErrorOverReal(tokens, logits.ToArray(), expected.ReadF32(name));
        Assert.True(error <= tolerance, $"{name}: error {error:g4}, allowed {tolerance:g4}");
    }
}
