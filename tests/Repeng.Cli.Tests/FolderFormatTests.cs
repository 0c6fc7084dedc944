using System.Text.Json.Nodes;
using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>The same values in folders of each storage type, whole and in shards: they run, train and are written alike.</summary>
public sealed class FolderFormatTests : IDisposable
{
    private readonly Workshop _shop = new();

    public void Dispose() => _shop.Dispose();

    [Theory]
    [InlineData("F32", 3)]
    [InlineData("F16", 1)]
    [InlineData("F16", 2)]
    [InlineData("BF16", 1)]
    [InlineData("BF16", 4)]
    public void Storage_types_and_shards_change_nothing(string type, int shards)
    {
        // Multiples of 1/128 below 2 are exact in all three types.
        string plain = _shop.Model("plain", weights: Coarsen), stored = _shop.Model("stored", weights: Coarsen);
        _shop.Store(stored, type, shards);
        Assert.Equal(shards > 1, File.Exists(Path.Combine(stored, "model.safetensors.index.json")));
        Close.To(1e-5, Logits(stored), Logits(plain), $"{type} in {shards}");

        CliResult trained = CliRun.Run(_shop.Train(stored, "r", "--n_epochs", "1"));
        Assert.True(trained.Code == ExitCodes.Ok, trained.Error);
        float[] steered = Logits(stored, "--adapter", _shop.At("runs/r"));
        Assert.True(Close.Error(steered, Logits(stored)) > 1e-6, "the adapter does something");
        // Written whole with the adapter, in fp32 and one file, it needs neither.
        Assert.Equal(ExitCodes.Ok, CliRun.Run("export", "--model", stored, "--adapter", _shop.At("runs/r"), "--to", "merged", "--output", _shop.At("merged")).Code);
        Close.To(1e-5, Logits(_shop.At("merged")), steered, "merged");
    }

    private static void Coarsen(string name, float[] values)
    {
        for (int i = 0; i < values.Length; i++)
            values[i] = Math.Clamp(MathF.Round(values[i] * 128) / 128, -1.9921875f, 1.9921875f);
    }

    private float[] Logits(string model, params string[] more)
    {
        string output = _shop.At($"{Path.GetRandomFileName()}.safetensors");
        CliResult r = CliRun.Run(["forward", "--model", model, "--text", "the ball is", "--output", output, .. more]);
        Assert.True(r.Code == ExitCodes.Ok, r.Error);
        using SafetensorsFile file = SafetensorsFile.Open(output);
        return file.ReadF32("logits");
    }
}
