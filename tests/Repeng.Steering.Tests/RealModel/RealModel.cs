using System.Text.Json.Nodes;
using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.RealModel;

/// <summary>The GGUF whose sizes are those of the golden config.json, loaded once for all tests of a class.</summary>
public sealed class RealModel : IDisposable
{
    private Device? _device;
    private ModelBundle? _bundle;

    /// <summary>The model; skips the running test when golden data or models are absent.</summary>
    public ModelBundle Bundle => _bundle ??= Load();

    /// <inheritdoc/>
    public void Dispose()
    {
        _bundle?.Dispose();
        _device?.Dispose();
    }

    private ModelBundle Load()
    {
        JsonObject wanted = GoldenFiles.Json(Path.Combine(Golden.Require("smollm2"), "config.json"));
        string[] files = [.. Directory.EnumerateFiles(Golden.RequireBeside("models"), "*.gguf", SearchOption.AllDirectories).Order(StringComparer.Ordinal)];
        Assert.SkipUnless(files.Length > 0, $"no .gguf in {Golden.Beside("models")}");
        string[] fitting = [.. files.Where(f => Fits(f, wanted))];
        Assert.True(fitting.Length > 0, $"none of {string.Join(", ", files)} has the sizes of the golden config.json");
        _device = Device.Cpu();
        return ModelBundle.Load(_device, fitting[0]);
    }

    private static bool Fits(string file, JsonObject wanted)
    {
        (ModelConfig config, Runtime.Formats.ITensorSource tensors, _) = ModelBundle.OpenConfig(file);
        tensors.Dispose();
        return config.HiddenSize == (int)wanted["hidden_size"]! && config.NumLayers == (int)wanted["num_hidden_layers"]! && config.VocabSize == (int)wanted["vocab_size"]!;
    }
}
