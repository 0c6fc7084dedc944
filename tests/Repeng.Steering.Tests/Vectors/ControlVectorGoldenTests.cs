using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Vectors;

/// <summary>Control vectors against repeng: algebra and GGUF bytes, steered logits and text, names of layers.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "vectors")]
public sealed class ControlVectorGoldenTests
{
    private const double Tolerance = 1e-5;

    private static string At(string name) => Path.Combine(Golden.Require("vectors"), name);

    [Fact]
    public void Files_round_trip_to_the_byte()
    {
        string folder = Directory.CreateTempSubdirectory().FullName;
        try
        {
            string[] files = [.. Directory.EnumerateFiles(Golden.Require("vectors"), "*.gguf")];
            Assert.NotEmpty(files);
            foreach (string file in files)
            {
                ControlVector vector = ControlVectorFile.Read(file);
                bool matrices;
                using (GgufFile gguf = GgufFile.Open(file))
                    matrices = gguf.Info(gguf.Names[0]).Shape.Length == 2;
                string copy = Path.Combine(folder, Path.GetFileName(file));
                ControlVectorFile.Write(copy, vector, keepComponents: matrices);
                Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(copy));
                Assert.Equal(vector, ControlVectorFile.Read(copy));
            }
        }
        finally
        {
            Directory.Delete(folder, true);
        }
    }

    [Fact]
    public void Algebra_is_upstreams_bit_for_bit()
    {
        ControlVector a = ControlVectorFile.Read(At("vgel.gguf")), b = ControlVectorFile.Read(At("vgel_b.gguf"));
        using var file = SafetensorsFile.Open(At("vgel.safetensors"));
        string[] names = [.. file.Names.Where(n => n.StartsWith("algebra/", StringComparison.Ordinal)).Select(n => n.Split('/')[1]).Distinct()];
        Assert.NotEmpty(names);
        foreach (string name in names)
        {
            ControlVector result = name switch
            {
                "a_plus_b" => a + b,
                "a_minus_b" => a - b,
                "b_minus_a" => b - a,
                "neg_a" => -a,
                "a_times_2" => a * 2,
                "a_over_3" => a / 3,
                "mix" => 0.5f * a - b / 7 + a * 1.5f,
                _ => throw new InvalidDataException($"algebra {name} is not understood"),
            };
            string[] layers = [.. file.Names.Where(n => n.StartsWith($"algebra/{name}/", StringComparison.Ordinal)).Select(n => n.Split('/')[2])];
            Assert.Equal(layers.Order(StringComparer.Ordinal), result.Layers.Order(StringComparer.Ordinal));
            foreach (string layer in layers)
                Assert.Equal(file.ReadF32($"algebra/{name}/{layer}"), result.Directions[layer].Values);
        }
        Assert.Equal(ControlVectorFile.Read(At("vgel_mix.gguf")), 0.5f * a - b / 7 + a * 1.5f);
        Assert.Equal(a + b, b + a);
        Assert.NotEqual(a, b);
    }

    [Fact]
    public void Layers_are_those_of_get_available_layers()
    {
        JsonArray cases = JsonNode.Parse(File.ReadAllText(At("layers.json")))!.AsArray();
        int compared = 0;
        // Models without a case of their whole list have the same kind of block as the one with it.
        string[] everything = Texts(cases.First(c => c!["regex"] is null && c["layer_range"] is null)!["full"]!);
        // Candidates are parameters first and what contains them after.
        string[] leaves = [.. everything.Where(n => !everything.Any(o => o.StartsWith(n + ".", StringComparison.Ordinal)))];
        string[] block = [.. leaves.Where(n => n.StartsWith("model.layers.0.", StringComparison.Ordinal)).Select(n => n["model.layers.0.".Length..])];
        foreach (IGrouping<string, JsonNode?> model in cases.GroupBy(c => (string)c!["model"]!))
        {
            int blocks = 1 + model.SelectMany(c => c!["full"] is { } full ? Texts(full) : []).SelectMany(n => n.Split('.')).Where(x => int.TryParse(x, out _)).Max(int.Parse);
            bool tied = model.Key.EndsWith("_tied", StringComparison.Ordinal);
            string[] parameters =
            [
                .. leaves.TakeWhile(n => !n.StartsWith("model.layers.", StringComparison.Ordinal)),
                .. Enumerable.Range(0, blocks).SelectMany(i => block.Select(n => $"model.layers.{i}.{n}")),
                .. leaves.SkipWhile(n => !n.StartsWith("model.layers.", StringComparison.Ordinal)).Where(n => !n.StartsWith("model.layers.", StringComparison.Ordinal) && !(tied && n == "lm_head")),
            ];
            foreach (JsonNode? c in model)
            {
                // What upstream crashes on is defined by us, and tested below.
                if (c!["upstream_error"] is not null)
                    continue;
                (LayerSelection.End, LayerSelection.End)? range = c["layer_range"] is JsonArray r
                    ? (End(r[0]!, (string)c["range_number_types"]![0]!), End(r[1]!, (string)c["range_number_types"]![1]!))
                    : null;
                (string[] brief, string[] full) = LayerSelection.Available(parameters, blocks, (string?)c["regex"], range);
                Assert.Equal(Texts(c["short"]!), brief);
                Assert.Equal(Texts(c["full"]!), full);
                compared++;
            }
        }
        Assert.True(compared > 0);

        static LayerSelection.End End(JsonNode value, string type) => new((double)value, type == "float");
        static string[] Texts(JsonNode node) => [.. node.AsArray().Select(x => (string)x!)];
    }

    [Theory]
    [InlineData("-3", "-1", new[] { 3, 4 })]
    [InlineData("-0.5", "-0.1", new[] { 3, 4 })]
    [InlineData("0.3", "5", new[] { 1, 2, 3, 4 })]
    [InlineData("2", "1.0", new[] { 2, 3, 4, 5 })]
    public void Ranges_that_upstream_crashes_on_have_a_meaning(string low, string high, int[] blocks) =>
        Assert.Equal(blocks, LayerSelection.Blocks((LayerSelection.End.Parse(low), LayerSelection.End.Parse(high)), 6));

    [Fact]
    public void Steered_logits_and_blocks_are_those_of_repeng()
    {
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, At("model"));
        using var data = SafetensorsFile.Open(At("data.safetensors"));
        using var file = SafetensorsFile.Open(At("vgel.safetensors"));
        ControlVector a = ControlVectorFile.Read(At("vgel.gguf"));
        TokenBatch prompts = GoldenFiles.Batch(data, "prompts/left/input_ids", "prompts/left/attention_mask");
        int compared = 0;
        foreach (string name in file.Names.Where(n => n.StartsWith("logits/", StringComparison.Ordinal) || n.StartsWith("block2_output/", StringComparison.Ordinal)))
        {
            string[] parts = name.Split('/');
            (string rows, string where, bool normalize, float c) = (parts[1], parts[2], parts[3] == "normalize", float.Parse(parts[4], CultureInfo.InvariantCulture));
            TokenBatch tokens = rows == "batch" ? prompts : Alone(prompts, 0);
            using ControlModel controlled = On(model, where);
            controlled.SetControl(a, c, normalize);
            using var tape = new Tape(device, record: false);
            string block = model.Blocks[2].Path;
            ForwardContext context = controlled.Context(tape, tokens, capture: m => m == block);
            Tensor hidden = model.Forward(context);
            if (parts[0] == "block2_output")
            {
                // On padding, upstream's attention sees other keys than ours; what a real token has is the same.
                double error = GoldenFiles.ErrorOverReal(tokens, context.Outputs[block].ToArray(), file.ReadF32(name));
                Assert.True(error <= Tolerance, $"{name}: {error}");
            }
            else
            {
                Near(file.ReadF32(name), LastLogits(model, tape, tokens, hidden), name);
            }
            compared++;
        }
        Assert.True(compared > 0);
    }

    [Fact]
    public void Steered_modules_give_the_logits_of_the_research_branch()
    {
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, At("model"));
        using var data = SafetensorsFile.Open(At("data.safetensors"));
        using var file = SafetensorsFile.Open(At("steer.safetensors"));
        TokenBatch tokens = GoldenFiles.Batch(data, "prompts/left/input_ids", "prompts/left/attention_mask");
        int compared = 0;
        foreach (IGrouping<string, string> set in file.Names.GroupBy(n => n.Split('/')[0]))
        {
            string before = $"{set.Key}/direction/";
            var vector = new ControlVector(model.Config.ModelType, set.Where(n => n.StartsWith(before, StringComparison.Ordinal)).Select(n => KeyValuePair.Create(n[before.Length..], new Direction(file.ReadF32(n)))));
            using var control = new VectorControl(model, vector);
            foreach (string name in set.Where(n => !n.StartsWith(before, StringComparison.Ordinal)))
            {
                float c = float.Parse(name.Split('/')[1], CultureInfo.InvariantCulture);
                using var tape = new Tape(device, record: false);
                Tensor hidden = model.Forward(new ForwardContext(tape, tokens) { Edit = control.Pass([.. Enumerable.Repeat(c, tokens.Batch)]) });
                Near(file.ReadF32(name), LastLogits(model, tape, tokens, hidden), name);
                compared++;
            }
        }
        Assert.True(compared > 0);
    }

    [Fact]
    public void Steered_text_is_that_of_repeng()
    {
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, At("model"));
        using var data = SafetensorsFile.Open(At("data.safetensors"));
        using var file = SafetensorsFile.Open(At("vgel.safetensors"));
        JsonObject settings = GoldenFiles.Json(At("vgel.json"))["generate"]!.AsObject();
        var sampling = new SamplingSettings { RepetitionPenalty = (float)(double)settings["repetition_penalty"]! };
        ControlVector a = ControlVectorFile.Read(At("vgel.gguf"));
        TokenBatch prompts = GoldenFiles.Batch(data, "prompts/left/input_ids", "prompts/left/attention_mask");
        int compared = 0;
        foreach (string name in file.Names.Where(n => n.StartsWith("gen/", StringComparison.Ordinal) && !n.StartsWith("gen/batch", StringComparison.Ordinal)))
        {
            string[] parts = name.Split('/');
            int prompt = parts[1] == "single" ? 0 : int.Parse(parts[1]["alone".Length..], CultureInfo.InvariantCulture);
            int[] expected = GoldenFiles.Ints(file, name);
            float c = float.Parse(parts[4], CultureInfo.InvariantCulture);
            using ControlModel controlled = On(model, parts[2]);
            controlled.SetControl(a, c, parts[3] == "normalize");
            using var control = new VectorControl(model, new ControlVector(a.ModelType, controlled.SteeredModules.Select(m => KeyValuePair.Create(m, a.Directions[LayerSelection.LayerName(model, m)]))), parts[3] == "normalize");
            // Once alone and once in a padded batch with unsteered rows: neither may notice the other.
            int[][] rows = controlled.Generate([Alone(prompts, prompt).Ids], sampling, expected.Length, []);
            Assert.Equal(expected, rows[0]);
            int[][] all = [.. Enumerable.Range(0, prompts.Batch).Select(b => Alone(prompts, b).Ids)];
            int[][] together = new Generator(model).Generate(all, [.. all.Select((_, b) => b == prompt ? c : 0)], new Repeng.Steering.Generation.Steering(null, control), sampling, expected.Length, []);
            Assert.Equal(expected, together[prompt]);
            compared++;
        }
        Assert.True(compared > 0);
    }

    private static float[] LastLogits(DecoderModel model, Tape tape, TokenBatch tokens, Tensor hidden)
    {
        int[] last = [.. Enumerable.Range(0, tokens.Batch).Select(b => (b + 1) * tokens.Length - 1)];
        return model.Logits(tape, tape.GatherRows(hidden, tape.New(last, last.Length))).ToArray();
    }

    private static TokenBatch Alone(TokenBatch batch, int row)
    {
        int[] ids = batch.Ids[(row * batch.Length + batch.Starts[row])..((row + 1) * batch.Length)];
        return new TokenBatch(1, ids.Length, ids, [0]);
    }

    // "all": wherever the vector has a direction; "mid": blocks 2 and 3, one of them counted from the end.
    private static ControlModel On(DecoderModel model, string where) => where switch
    {
        "all" => new ControlModel(model),
        "mid" => new ControlModel(model, [2, 3 - model.Blocks.Count]),
        _ => throw new InvalidDataException($"layers {where} are not understood"),
    };

    private static void Near(float[] expected, float[] actual, string where)
    {
        Assert.Equal(expected.Length, actual.Length);
        double largest = expected.Max(Math.Abs), error = expected.Zip(actual, (x, y) => Math.Abs((double)x - y)).Max() / largest;
        Assert.True(error <= Tolerance, $"{where}: {error}");
    }
}
