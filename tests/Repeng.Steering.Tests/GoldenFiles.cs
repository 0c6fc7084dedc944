using System.Text.Json.Nodes;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests;

/// <summary>Reading golden folders: configuration, weights, expected tensors.</summary>
internal static class GoldenFiles
{
    /// <summary>Subfolders of a golden folder, or one row that makes the test skip visibly.</summary>
    public static IEnumerable<TheoryDataRow<string>> Folders(string folder, string file) => Golden.Folders(folder, file).Select(n => new TheoryDataRow<string>(n));

    public static JsonObject Json(string path) => JsonNode.Parse(File.ReadAllText(path))!.AsObject();

    public static DecoderModel Load(Device device, string folder)
    {
        string config = Path.Combine(folder, "config.json");
        using ITensorSource source = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors"));
        return ModelLoader.Load(device, Families.Read(new ConfigReader(Json(config), config)), source);
    }

    public static int[] Ints(ITensorSource source, string name) => [.. source.ReadI64(name).Select(x => checked((int)x))];

    public static TokenBatch Batch(ITensorSource source, string ids = "input_ids", string mask = "attention_mask")
    {
        long[] shape = source.Info(ids).Shape;
        return TokenBatch.FromMask(Ints(source, ids), Ints(source, mask), (int)shape[0], (int)shape[1]);
    }

    /// <summary>A gradient that is smaller than this in all its elements may be rounding: one of keys' biases without rotary embedding is 0 by the mathematics.</summary>
    public static double GradientFloor(ITensorSource gradients) => 1e-3 * gradients.Names.Max(n => gradients.ReadF32(n).Max(v => (double)Math.Abs(v)));

    /// <summary>max |a − b| over max |b|, or over the floor where that is larger.</summary>
    public static double GradientError(float[] actual, float[] expected, double floor)
    {
        Assert.Equal(expected.Length, actual.Length);
        double worst = 0, scale = floor;
        for (int i = 0; i < expected.Length; i++)
        {
            double difference = Math.Abs((double)actual[i] - expected[i]);
            if (double.IsNaN(difference))
                return double.NaN;
            (worst, scale) = (Math.Max(worst, difference), Math.Max(scale, Math.Abs(expected[i])));
        }
        return worst / scale;
    }

    /// <summary>max |a − b| / max |b| over real positions; the leading dimensions of both are [batch, length].</summary>
    public static double ErrorOverReal(TokenBatch tokens, ReadOnlySpan<float> actual, ReadOnlySpan<float> expected)
    {
        Assert.Equal(expected.Length, actual.Length);
        int width = expected.Length / tokens.Ids.Length;
        double worst = 0, scale = 0;
        for (int b = 0; b < tokens.Batch; b++)
            for (int t = tokens.Starts[b]; t < tokens.Length; t++)
                for (int d = 0; d < width; d++)
                {
                    int at = (b * tokens.Length + t) * width + d;
                    double difference = Math.Abs((double)actual[at] - expected[at]);
                    if (double.IsNaN(difference))
                        return double.NaN;
                    worst = Math.Max(worst, difference);
                    scale = Math.Max(scale, Math.Abs(expected[at]));
                }
        return worst / scale;
    }
}
