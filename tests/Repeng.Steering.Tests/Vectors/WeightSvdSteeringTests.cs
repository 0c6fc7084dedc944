using System.Globalization;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Vectors;

/// <summary>Weight-SVD steering: the original's numbers with its singular pairs, and with our own but for their signs.</summary>
public sealed class WeightSvdSteeringTests : IDisposable
{
    private const double Tolerance = 1e-5, OfPairs = 1e-3;

    private readonly Device _device = Device.Cpu(2);

    public void Dispose() => _device.Dispose();

    [Fact]
    [Trait("Category", "Golden")]
    [Trait("Golden", "vectors")]
    public void Edits_are_the_originals()
    {
        string folder = Golden.Require("vectors");
        using DecoderModel model = GoldenFiles.Load(_device, Path.Combine(folder, "model"));
        using var rows = SafetensorsFile.Open(Path.Combine(folder, "gradients.safetensors"));
        using var data = SafetensorsFile.Open(Path.Combine(folder, "data.safetensors"));
        using var file = SafetensorsFile.Open(Path.Combine(folder, "directions.safetensors"));
        TokenBatch all = GoldenFiles.Batch(data, "left/input_ids", "left/attention_mask");
        TokenPair[] pairs = [.. Enumerable.Range(0, all.Batch).Select(all.Row).Chunk(2).Select(p => new TokenPair(p[0], p[1]))];
        // novel/{set}/svd_weight/{layer}/{what}, perhaps with a rank in the method's name.
        var layers = file.Names.Select(n => n.Split('/')).Where(p => p is ["novel", _, var method, _, _] && method.StartsWith(WeightSvdSteering.Name, StringComparison.Ordinal)).GroupBy(p => string.Join('/', p[..4])).ToArray();
        Assert.NotEmpty(layers);
        foreach (IGrouping<string, string[]> layer in layers)
        {
            string[] first = layer.First();
            (string token, string method, string path) = (first[1].Split('_')[0], first[2], first[3]);
            Assert.NotNull(WeightSvdSteering.RankOf(method));
            LinearModule module = model.Linears[path];
            float[] u = file.ReadF32($"{layer.Key}/U"), vt = file.ReadF32($"{layer.Key}/Vt"), x = file.ReadF32($"{layer.Key}/x");
            double[] delta = file.ReadF64($"{layer.Key}/delta_sigma");
            int r = delta.Length;
            double[] mean = new LayerRows(module.Outputs, rows.ReadF64($"{token}/H/{path}")).MeanDifference;
            Near(delta, WeightSvdSteering.DeltaSigma(mean, u), $"{layer.Key} delta");

            var v = new float[vt.Length];
            for (int i = 0; i < v.Length; i++)
                v[i % module.Inputs * r + i / module.Inputs] = vt[i];
            LoraFactors theirs = WeightSvdSteering.Factors(module, u, v, delta);
            using (PeftAdapter adapter = LoraExport.Adapter(model, [theirs], "golden", "test"))
            {
                string[] outputs = [.. layer.Select(p => p[^1]).Where(n => n.StartsWith("y_steered_", StringComparison.Ordinal))];
                Assert.NotEmpty(outputs);
                foreach (string output in outputs)
                {
                    float c = float.Parse(output["y_steered_".Length..], CultureInfo.InvariantCulture);
                    using var tape = new Tape(_device, record: false);
                    int n = x.Length / module.Inputs;
                    float[] y = adapter.Pass(tape, [c], n).Output(tape, module, tape.Constant(x, n, module.Inputs))!.ToArray();
                    Near(file.ReadF64($"{layer.Key}/{output}"), [.. y.Select(e => (double)e)], $"{layer.Key} {output}");
                }
            }

            // Ours from the texts: each pair of singular vectors is theirs or its opposite.
            using PeftAdapter trained = WeightSvdSteering.Train(model, [path], pairs, 0, r, new RepresentationSettings { TokenFromEnd = int.Parse(token[1..], CultureInfo.InvariantCulture) }, "golden");
            (double[] left, double[] right) = Factors(trained, path);
            var wanted = new double[module.Outputs * module.Inputs];
            var made = new double[wanted.Length];
            for (int q = 0; q < r; q++)
            {
                double sign = Math.Sign(Enumerable.Range(0, module.Inputs).Sum(i => right[q * module.Inputs + i] * vt[q * module.Inputs + i]));
                for (int o = 0; o < module.Outputs; o++)
                    for (int i = 0; i < module.Inputs; i++)
                    {
                        wanted[o * module.Inputs + i] += theirs.Left[o * r + q] * theirs.Right[q * module.Inputs + i];
                        made[o * module.Inputs + i] += sign * left[o * r + q] * right[q * module.Inputs + i];
                    }
            }
            double error = Math.Sqrt(wanted.Zip(made, (a, b) => (a - b) * (a - b)).Sum() / wanted.Sum(a => a * a));
            Assert.True(error <= OfPairs, $"{layer.Key}: our edit differs by {error}");
        }
    }

    [Fact]
    public void The_edit_is_linear_in_c_survives_its_file_and_cuts_ranks_after_normalising()
    {
        using DecoderModel model = TinyDecoder.Load(_device);
        TokenPair[] pairs = [new([1, 2, 3, 4], [5, 6, 3, 4]), new([9, 2, 7, 8], [5, 7, 8])];
        string[] modules = LayerSelection.Modules(model, WeightSvdSteering.DefaultLayers(model), (new(1, false), new(4, false)));
        Assert.Equal(6, modules.Length);
        // Widths differ, so do the ranks of the whole.
        modules = [.. modules, "model.layers.2.self_attn.k_proj"];
        using PeftAdapter whole = WeightSvdSteering.Train(model, modules, pairs, 0, WeightSvdSteering.DefaultRank, new RepresentationSettings(), "tiny");
        using PeftAdapter cut = WeightSvdSteering.Train(model, modules, pairs, 0, 3, new RepresentationSettings(), "tiny");
        foreach (string path in modules)
        {
            LinearModule m = model.Linears[path];
            (double[] left, double[] right) = Factors(whole, path);
            int r = Math.Min(m.Inputs, m.Outputs);
            // ‖ΔS‖ = 1, and the largest element of each u is positive.
            Assert.Equal(1, left.Sum(v => v * v), 1e-5);
            (double[] some, double[] rows) = Factors(cut, path);
            Assert.Equal(right.Take(3 * m.Inputs), rows, (a, b) => Math.Abs(a - b) < 1e-5);
            Assert.Equal(Enumerable.Range(0, 3 * m.Outputs).Select(i => left[i / 3 * r + i % 3]), some, (a, b) => Math.Abs(a - b) < 1e-5);
        }

        float[] base0 = Logits(whole, 0), one = Logits(whole, 1e-3f), two = Logits(whole, 2e-3f), minus = Logits(whole, -1e-3f);
        Assert.Equal(Logits(null, 0), base0);
        Assert.NotEqual(base0, one);
        double scale = one.Zip(base0, (a, b) => Math.Abs(a - b)).Max();
        for (int i = 0; i < base0.Length; i++)
        {
            Assert.Equal(2 * (one[i] - base0[i]), two[i] - base0[i], 0.05 * scale);
            Assert.Equal(base0[i] - one[i], minus[i] - base0[i], 0.05 * scale);
        }
        string folder = Directory.CreateTempSubdirectory().FullName;
        try
        {
            whole.Save(folder, "tiny");
            using IAdapter again = AdapterFile.LoadAny(model, folder);
            Assert.Equal(Logits(whole, 1.5f), Logits(again, 1.5f));
            Assert.Contains("is an adapter, no control vector", Assert.Throws<UserErrorException>(() => ControlVectorFile.Read(folder)).Message, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, true);
        }

        float[] Logits(IAdapter? adapter, float c)
        {
            using var tape = new Tape(_device, record: false);
            TokenBatch tokens = TokenBatch.Pad([[1, 2, 3]], 0);
            return model.Logits(tape, model.Forward(new ForwardContext(tape, tokens) { Adapter = adapter?.Pass(tape, [c], tokens.Length) })).ToArray();
        }
    }

    [Fact]
    public void What_has_no_weight_or_no_difference_is_refused()
    {
        using DecoderModel model = TinyDecoder.Load(_device);
        TokenPair[] pairs = [new([1, 2, 3], [5, 6, 3])];
        Refused("is no linear layer", () => Train([model.Blocks[1].Path], pairs, 4));
        Refused("same mean output", () => Train(["model.layers.1.mlp.down_proj"], [new([1, 2], [1, 2])], 4));
        Refused("must be at least 1", () => Train(["model.layers.1.mlp.down_proj"], pairs, 0));
        Refused("no pair of texts", () => Train(["model.layers.1.mlp.down_proj"], [], 4));
        Refused("rank K from 1 up", () => WeightSvdSteering.RankOf("svd_weight_rank0"));
        Refused("rank K from 1 up", () => WeightSvdSteering.RankOf("svd_weight_rankx"));
        Refused("a change of weights", () => VectorMethod.Parse("svd_weight_rank8"));
        Refused("is not known", () => VectorMethod.Parse("svd_weights"));
        Assert.Equal(8, WeightSvdSteering.RankOf("svd_weight_rank8"));
        Assert.Null(WeightSvdSteering.RankOf("pca_diff"));

        void Train(string[] modules, TokenPair[] texts, int rank) => WeightSvdSteering.Train(model, modules, texts, 0, rank, new RepresentationSettings(), "tiny").Dispose();
        static void Refused(string part, Action run) => Assert.Contains(part, Assert.Throws<UserErrorException>(run).Message, StringComparison.Ordinal);
    }

    private static (double[] Left, double[] Right) Factors(PeftAdapter adapter, string path) => ((LowRankLayer)adapter.Layers[path]).Factors(1);

    private static void Near(double[] expected, double[] actual, string where)
    {
        Assert.Equal(expected.Length, actual.Length);
        double largest = expected.Max(Math.Abs), error = expected.Zip(actual, (x, y) => Math.Abs(x - y)).Max();
        Assert.True(error <= Tolerance * largest, $"{where}: {error / largest}");
    }
}
