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

    public static IEnumerable<TheoryDataRow<string>> Models => Golden.Files("gguf", "*.gguf").Select(n => new TheoryDataRow<string>(Path.GetFileNameWithoutExtension(n)));

    public static IEnumerable<TheoryDataRow<string>> Families => GoldenFiles.Folders("models", "config.json");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Models))]
    public void Logits_of_a_golden_file_are_those_of_its_dequantised_weights(string name)
    {
        string folder = Path.GetDirectoryName(Golden.Require("gguf", name + ".gguf"))!;
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
        WriteOrSkip(path, folder, new GgufModelWriter.Options { Type = "F32", Name = name });
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
        // The quantised golden files were made from an fp32 file beside them: that of the same norms, whose own file it may be.
        string wanted = Golden.Require("gguf", name + ".gguf"), folder = Path.GetDirectoryName(wanted)!;
        string type, source;
        using (GgufFile file = GgufFile.Open(wanted))
        {
            type = file.Info("token_embd.weight").Type;
            source = Directory.GetFiles(folder, "*.gguf").Order(StringComparer.Ordinal).FirstOrDefault(f => IsSourceOf(f, file)) ?? "";
        }
        Assert.SkipWhen(source.Length == 0, $"{name}: no file with its weights in F32 beside it");
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

    // A file of F32 alone with the same tensors, and the same values in those that the other holds in F32.
    private static bool IsSourceOf(string path, GgufFile quantised)
    {
        using GgufFile file = GgufFile.Open(path);
        return file.Architecture == quantised.Architecture && file.Names.Count == quantised.Names.Count
            && file.Names.All(n => file.Info(n).Type == "F32" && quantised.TryGetInfo(n, out TensorInfo other) && other.ShapeText == file.Info(n).ShapeText
                && (other.Type != "F32" || file.ReadBytes(n).AsSpan().SequenceEqual(quantised.ReadBytes(n))));
    }

    /// <summary>Writes a golden folder as GGUF; skips the test, visibly, where llama.cpp's architecture cannot say what the model is.</summary>
    internal static void WriteOrSkip(string path, string folder, GgufModelWriter.Options options)
    {
        string configPath = Path.Combine(folder, "config.json");
        using ITensorSource source = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors"));
        try
        {
            GgufModelWriter.Write(path, GoldenFiles.Json(configPath), configPath, source, options);
        }
        catch (UserErrorException e) when (e.Message.Contains("llama.cpp", StringComparison.Ordinal) || e.Message.Contains("GGUF", StringComparison.Ordinal))
        {
            Assert.Skip(e.Message);
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
