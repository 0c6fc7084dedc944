using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Chat;
using Repeng.Runtime.Formats;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.RealModel;

/// <summary>Control vectors of a real model: directions and steered text of repeng, the GGUF file, and llama.cpp's steered logits.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "smollm2")]
public sealed class SmolVectorGoldenTests(RealModel real) : IClassFixture<RealModel>
{
    private const double Tolerance = 2e-4, Cosine = 1e-4;

    // llama.cpp multiplies by activations rounded to 8 bits: its logits differ from the exact ones by up to a few per cent of
    // their size, steered or not, and a change of logits carries the noise of both of its ends.
    private const double EightBit = 0.02, Alike = 0.98;

    [Fact]
    public void Directions_are_those_of_repeng()
    {
        string folder = Golden.Require("smollm2");
        using var file = SafetensorsFile.Open(Path.Combine(folder, "vectors.safetensors"));
        DecoderModel model = real.Bundle.Model;
        foreach (string set in Sets(file))
        {
            int[][] texts = [.. GoldenFiles.Json(Path.Combine(folder, set + ".json"))["pairs"]!.AsArray().SelectMany(p => p!.AsArray()).Select(t => real.Bundle.Tokenizer.Encode((string)t!, addSpecialTokens: false))];
            TokenPair[] pairs = [.. texts.Chunk(2).Select(p => new TokenPair(p[0], p[1]))];
            string[] layers = [.. file.Names.Where(n => n.StartsWith(set + ".", StringComparison.Ordinal)).Select(n => n.Split('.')[^1]).Distinct()];
            // Upstream takes the rows of the last block after the final norm.
            int last = model.Blocks.Count - 1;
            string norm = model.Modules[^2];
            string[] modules = [.. layers.Select(l => int.Parse(l) == last ? norm : model.Blocks[int.Parse(l)].Path)];
            using Representations rows = Representations.Collect(model, modules, pairs, real.Bundle.PadId, VectorNeeds.Hidden, new RepresentationSettings());
            foreach (string name in file.Names.Where(n => n.StartsWith(set + ".", StringComparison.Ordinal)))
            {
                string[] parts = name.Split('.');
                double[] actual = VectorMethod.Parse(parts[1]).Directions(model.Device.HostWorkers, rows.Layers[modules[Array.IndexOf(layers, parts[2])]], 1);
                double cosine = file.ReadF32(name).Zip(actual, (a, b) => a * b).Sum();
                Assert.True(cosine > 1 - Cosine, $"{name}: cosine {cosine}");
            }

            string copy = Path.GetTempFileName();
            try
            {
                string gguf = Path.Combine(folder, set + ".gguf");
                ControlVectorFile.Write(copy, ControlVectorFile.Read(gguf), forLlamaCpp: true);
                Assert.Equal(File.ReadAllBytes(gguf), File.ReadAllBytes(copy));
            }
            finally
            {
                File.Delete(copy);
            }
        }
    }

    [Fact]
    public void Steered_text_and_logits_are_those_of_repeng()
    {
        string folder = Golden.Require("smollm2");
        using var file = SafetensorsFile.Open(Path.Combine(folder, "vectors.safetensors"));
        foreach (string set in Sets(file))
        {
            JsonObject json = GoldenFiles.Json(Path.Combine(folder, set + ".json"));
            using VectorControl control = Control(folder, set, json);
            Assert.NotEmpty(json["generations"]!.AsArray());
            foreach (JsonNode? g in json["generations"]!.AsArray())
            {
                float c = (float)(double)g!["coefficient"]!;
                int[] prompt = Ints(g["prompt_ids"]!), top = Ints(g["top_ids"]!);
                Assert.Equal(real.Bundle.EncodeChat([new ChatMessage("user", (string)g["prompt"]!)]), prompt);
                float[] logits = Logits(prompt, control, c);
                double[] wanted = [.. g["top_logits"]!.AsArray().Select(v => (double)v!)];
                for (int i = 0; i < top.Length; i++)
                    Assert.True(Math.Abs(wanted[i] - logits[top[i]]) <= Tolerance * wanted.Max(Math.Abs), $"{set} c = {c}: logit {top[i]} is {logits[top[i]]} instead of {wanted[i]}");
                int[] expected = Ints(g["greedy_ids"]!);
                int[] actual = new Generator(real.Bundle.Model).Generate([prompt], [c], new Steering.Generation.Steering(null, control), new SamplingSettings(), expected.Length, [])[0];
                Assert.Equal(expected, actual);
            }
        }
    }

    [Fact]
    public void The_same_file_moves_the_logits_of_llama_cpp_alike()
    {
        string folder = Golden.Require("smollm2");
        JsonObject[] steered = [.. GoldenFiles.Json(Path.Combine(folder, "llamacpp.json"))["steered"]!.AsArray().Select(s => s!.AsObject())];
        Assert.NotEmpty(steered);
        foreach (IGrouping<string, JsonObject> set in steered.GroupBy(s => (string)s["vector"]!))
        {
            JsonObject json = GoldenFiles.Json(Path.Combine(folder, set.Key + ".json"));
            using VectorControl control = Control(folder, set.Key, json);
            double squares = 0, errors = 0, logits = 0, products = 0, ourSquares = 0;
            int compared = 0;
            foreach (IGrouping<string, JsonObject> prompt in set.GroupBy(s => (string)s["prompt"]!))
            {
                int[] ids = Ints(json["generations"]!.AsArray().First(g => (string)g!["prompt"]! == prompt.Key)!["prompt_ids"]!);
                Dictionary<int, double> Top(JsonObject s) => Ints(s["top_ids"]!).Zip(s["top_logits"]!.AsArray().Select(v => (double)v!)).ToDictionary(p => p.First, p => p.Second);
                var entries = prompt.Select(s => ((float)(double)s["coefficient"]!, Top(s), Logits(ids, control, (float)(double)s["coefficient"]!))).ToArray();
                // Changes of the logits that both coefficients list.
                foreach ((float c1, Dictionary<int, double> theirs1, float[] ours1) in entries)
                    foreach ((float c2, Dictionary<int, double> theirs2, float[] ours2) in entries.Where(e => e.Item1 > c1))
                        foreach (int id in theirs1.Keys.Where(theirs2.ContainsKey))
                        {
                            double theirs = theirs2[id] - theirs1[id], ours = (double)ours2[id] - ours1[id];
                            squares += theirs * theirs;
                            (products, ourSquares) = (products + theirs * ours, ourSquares + ours * ours);
                            errors += (theirs - ours) * (theirs - ours);
                            logits += theirs1[id] * theirs1[id];
                            compared++;
                        }
            }
            double noise = Math.Sqrt(errors / logits), alike = products / Math.Sqrt(squares * ourSquares);
            TestContext.Current.TestOutputHelper?.WriteLine($"{set.Key}: {compared} changes of logits, cosine with ours {alike:F4}, difference {Math.Sqrt(errors / compared):F3} of {Math.Sqrt(squares / compared):F3}, {noise:P2} of the logits");
            Assert.True(compared > 0 && noise < EightBit && alike > Alike, $"{set.Key}: {compared} changes differ by {noise:P2} of the logits, cosine {alike}");
        }
    }

    private static string[] Sets(SafetensorsFile file)
    {
        string[] sets = [.. file.Names.Select(n => n.Split('.')[0]).Distinct()];
        Assert.NotEmpty(sets);
        return sets;
    }

    private VectorControl Control(string folder, string set, JsonObject json)
    {
        ControlVector whole = ControlVectorFile.Read(Path.Combine(folder, set + ".gguf"));
        int[] blocks = Ints(json["controlled_blocks"]!);
        return new VectorControl(real.Bundle.Model, new ControlVector(whole.ModelType, blocks.Select(b => KeyValuePair.Create($"{b}", whole.Directions[$"{b}"]))));
    }

    private float[] Logits(int[] prompt, VectorControl control, float c)
    {
        DecoderModel model = real.Bundle.Model;
        using var tape = new Tape(model.Device, record: false);
        Tensor hidden = model.Forward(new ForwardContext(tape, TokenBatch.Pad([prompt], 0)) { Edit = control.Pass([c]) });
        return model.Logits(tape, tape.GatherRows(hidden, tape.New([prompt.Length - 1], 1))).ToArray();
    }

    private static int[] Ints(JsonNode node) => [.. node.AsArray().Select(x => (int)x!)];
}
