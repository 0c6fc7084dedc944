using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Vectors;

/// <summary>Rows of activations, gradients and log-probabilities against the original's, and vectors made from end to end.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "vectors")]
public sealed class RepresentationsGoldenTests : IDisposable
{
    private const double Tolerance = 1e-5, Loss = 5e-5;

    private readonly string _folder = Golden.Require("vectors");
    private readonly Device _device;
    private readonly DecoderModel _model;
    private readonly TokenPair[] _pairs;

    public RepresentationsGoldenTests()
    {
        _device = Device.Cpu(2);
        _model = GoldenFiles.Load(_device, Path.Combine(_folder, "model"));
        using var data = SafetensorsFile.Open(Path.Combine(_folder, "data.safetensors"));
        TokenBatch all = GoldenFiles.Batch(data, "left/input_ids", "left/attention_mask");
        int[][] rows = [.. Enumerable.Range(0, all.Batch).Select(b => all.Ids[(b * all.Length + all.Starts[b])..((b + 1) * all.Length)])];
        _pairs = [.. rows.Chunk(2).Select(p => new TokenPair(p[0], p[1]))];
    }

    public void Dispose()
    {
        _model.Dispose();
        _device.Dispose();
    }

    [Fact]
    public void Gradients_outputs_and_losses_are_the_originals()
    {
        using var file = SafetensorsFile.Open(Path.Combine(_folder, "gradients.safetensors"));
        // Sets with the corrected label mask; raw_ ones keep upstream's.
        string[] sets = [.. file.Names.Where(n => n.Contains("/G/", StringComparison.Ordinal) && n[0] == 't').Select(n => n.Split('/')[0]).Distinct()];
        Assert.NotEmpty(sets);
        foreach (string set in sets)
        {
            string[] parts = set.Split('_');
            string[] modules = [.. file.Names.Where(n => n.StartsWith($"{set}/G/", StringComparison.Ordinal)).Select(n => n.Split('/')[2])];
            using Representations found = Representations.Collect(_model, modules, _pairs, 0, VectorNeeds.Hidden | VectorNeeds.Gradients, new RepresentationSettings
            {
                TokenFromEnd = int.Parse(parts[0][1..], System.Globalization.CultureInfo.InvariantCulture),
                BatchRows = parts[1] == "all" ? 2 * _pairs.Length : int.Parse(parts[1][1..], System.Globalization.CultureInfo.InvariantCulture),
                Reduction = LossReduction.BatchMean,
                LossSettings = new SampledLossSettings { MarginOnNegative = parts.Contains("neglabel") },
            });
            foreach (string module in modules)
            {
                LayerRows rows = found.Layers[module];
                Near(file.ReadF64($"{parts[0]}/H/{module}"), rows.Hidden!.ToArray(), $"{set} H {module}");
                Near(file.ReadF64($"{set}/G/{module}"), rows.Gradients!.ToArray(), $"{set} G {module}");
                Near(file.ReadF64($"{set}/logp"), rows.LogProb!, $"{set} logp");
                Near(file.ReadF64($"{set}/w_in"), rows.TapGradient!, $"{set} w_in");
                if (file.Contains($"f64/{set}/G/{module}"))
                    Near(file.ReadF64($"f64/{set}/G/{module}"), rows.Gradients!.ToArray(), $"{set} G {module} in double");
            }
            double[] losses = file.ReadF64($"{set}/loss");
            Assert.Equal(losses.Length, found.Batches.Count);
            for (int i = 0; i < losses.Length; i++)
                Assert.True(Math.Abs(losses[i] - found.Batches[i].Loss) <= Loss * Math.Abs(losses[i]), $"{set} loss {i}: {found.Batches[i].Loss} instead of {losses[i]}");
        }
    }

    [Fact]
    public void Per_pair_gradients_do_not_depend_on_the_batch()
    {
        string[] modules = [.. _model.Blocks.Take(2).Select(b => b.Path)];
        using Representations small = Collect(4), large = Collect(2 * _pairs.Length), ragged = Collect(10);
        foreach (string module in modules)
        {
            Near(small.Layers[module].Gradients!.ToArray(), large.Layers[module].Gradients!.ToArray(), module);
            Near(small.Layers[module].Gradients!.ToArray(), ragged.Layers[module].Gradients!.ToArray(), module);
            Near(small.Layers[module].TapGradient!, ragged.Layers[module].TapGradient!, module);
        }

        Representations Collect(int rows) => Representations.Collect(_model, modules, _pairs, 0, VectorNeeds.Gradients, new RepresentationSettings { BatchRows = rows });
    }

    [Fact]
    public void Vectors_from_end_to_end_are_those_of_repeng()
    {
        using var file = SafetensorsFile.Open(Path.Combine(_folder, "vgel.safetensors"));
        System.Text.Json.Nodes.JsonObject signs = GoldenFiles.Json(Path.Combine(_folder, "vgel.json"))["sign_counts"]!.AsObject();
        int last = _model.Blocks.Count - 1;
        foreach (string method in new[] { "pca_diff", "pca_center" })
        {
            // Upstream's rows of the last block come after the final norm.
            string[] modules = [.. _model.Blocks.Take(last).Select(b => b.Path), _model.Modules.Single(m => m.EndsWith("." + _model.Config.FinalNorm, StringComparison.Ordinal) && LayerSelection.BlockOf(_model, m) is null)];
            ControlVector vector = ControlVectorTrainer.Train(_model, modules, _pairs, 0, VectorMethod.Parse(method), new RepresentationSettings());
            for (int l = 0; l <= last; l++)
            {
                float[] expected = file.ReadF32($"{method}/{l}"), actual = vector.Directions[l < last ? $"{l}" : modules[last]].Values;
                double cosine = expected.Zip(actual, (a, b) => (double)a * b).Sum();
                if (VectorMethodGoldenTests.SignIsTied(signs, $"{method}/{l}"))
                    cosine = Math.Abs(cosine);
                Assert.True(cosine > 1 - 1e-5, $"{method}, block {l}: cosine {cosine}");
            }
        }
    }

    [Fact]
    public void Directions_that_cancel_and_texts_that_do_not_differ_are_refused_with_the_reason()
    {
        string tap = _model.Blocks[^3].Path;
        UserErrorException zero = Assert.Throws<UserErrorException>(() => ControlVectorTrainer.Train(_model, [tap], _pairs, 0, VectorMethod.Parse("fisher_steer"), new RepresentationSettings { TokenFromEnd = 1 }));
        Assert.Contains("--token_position -2", zero.Message, StringComparison.Ordinal);
        UserErrorException after = Assert.Throws<UserErrorException>(() => ControlVectorTrainer.Train(_model, [_model.Blocks[^1].Path], _pairs, 0, VectorMethod.Parse("svd_gradient"), new RepresentationSettings { TokenFromEnd = 1 }));
        Assert.Contains("no gradient reaches it", after.Message, StringComparison.Ordinal);
        TokenPair[] same = [new([1, 2, 3], [1, 2, 3])];
        UserErrorException equal = Assert.Throws<UserErrorException>(() => ControlVectorTrainer.Train(_model, [tap], same, 0, VectorMethod.Parse("pca_diff"), new RepresentationSettings()));
        Assert.Contains("very same activations", equal.Message, StringComparison.Ordinal);
        Assert.Throws<UserErrorException>(() => ControlVectorTrainer.Train(_model, [tap], [], 0, VectorMethod.Parse("pca_diff"), new RepresentationSettings()));
        Assert.Throws<UserErrorException>(() => ControlVectorTrainer.Train(_model, [tap], [new([1], [2, 3])], 0, VectorMethod.Parse("svd_gradient"), new RepresentationSettings()));
        Assert.Contains("pca_diff", Assert.Throws<UserErrorException>(() => VectorMethod.Parse("fisher_stear")).Message, StringComparison.Ordinal);
        UserErrorException singular = Assert.Throws<UserErrorException>(() => ControlVectorTrainer.Train(_model, [tap], _pairs[..3], 0, VectorMethod.Parse("fisher_steer_emp_reg0"), new RepresentationSettings()));
        Assert.Contains("condition number", singular.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_module_and_every_loss_can_be_collected_and_steered()
    {
        foreach (string loss in SampledLosses.Names)
        {
            using Representations found = Representations.Collect(_model, _model.Modules, _pairs[..2], 0, VectorNeeds.Gradients, new RepresentationSettings { Loss = loss });
            Assert.All(_model.Modules, m => Assert.Equal(LayerSelection.Width(_model, m), found.Layers[m].Width));
            // A hinge that is satisfied has no gradient anywhere; every other loss reaches the embeddings.
            bool acts = SampledLosses.ReadsLogp(loss) || found.Layers[_model.Modules[0]].TapGradient!.Any(g => g != 0);
            Assert.True(acts || found.Batches.All(b => b.Loss == 0), loss);
            Assert.Equal(acts, found.Layers[_model.Modules[0]].Gradients!.SquareSum() != 0);
        }
        Assert.NotEmpty(SampledLosses.Names);
        foreach (string module in _model.Modules)
        {
            using var control = new VectorControl(_model, Vector(module, LayerSelection.Width(_model, module)));
            Assert.NotEqual(Logits(null), Logits(control));
            Assert.Contains("was made for another model", Assert.Throws<UserErrorException>(() => new VectorControl(_model, Vector(module, LayerSelection.Width(_model, module) + 1))).Message, StringComparison.Ordinal);
        }

        ControlVector Vector(string module, int width) => new(_model.Config.ModelType, [KeyValuePair.Create(module, new Direction([.. Enumerable.Range(0, width).Select(i => i % 7 - 2f)]))]);

        float[] Logits(VectorControl? control)
        {
            TokenBatch tokens = TokenBatch.Pad([_pairs[0].Positive], 0);
            using var tape = new Tape(_device, record: false);
            var context = new ForwardContext(tape, tokens) { Edit = control?.Pass([3]) };
            return _model.Logits(context, _model.Forward(context)).ToArray();
        }
    }

    private static void Near(double[] expected, double[] actual, string where)
    {
        Assert.Equal(expected.Length, actual.Length);
        double largest = expected.Max(Math.Abs), error = expected.Zip(actual, (x, y) => Math.Abs(x - y)).Max();
        Assert.True(error <= Tolerance * Math.Max(largest, 1e-30), $"{where}: {error / largest}");
    }
}
