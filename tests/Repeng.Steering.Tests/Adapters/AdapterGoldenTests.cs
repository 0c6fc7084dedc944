using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>The SVD adapter and the reference state's losses against the original modules: forward, gradients, whole training histories.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "adapter")]
public sealed class AdapterGoldenTests
{
    public static IEnumerable<TheoryDataRow<string>> Cases => GoldenCase.Names;

    [Theory]
    [MemberData(nameof(Cases))]
    public void Rotations_are_those_of_the_original(string name)
    {
        using var golden = new GoldenCase(Golden.Require("adapter"), name);
        int checkedCount = 0;
        foreach (string tensor in golden.Tensors.Names.Where(n => n.StartsWith("rotation.", StringComparison.Ordinal)))
        {
            (string module, char side, float c) = ParseRotation(tensor, golden.Modules);
            using var tape = new Tape(golden.Device, record: false);
            var layer = golden.Adapter.Layers[module];
            Tensor r = layer.Rotation(tape, (side == 'u' ? layer.RotationU : layer.RotationV)!, c);
            Close.To(2e-5, r.ToArray(), golden.Tensors.ReadF32(tensor), $"{name} {tensor}");
            checkedCount++;
        }
        Assert.Equal(golden.Adapter.Config is { RotateU: false, RotateV: false }, checkedCount == 0);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Forward_at_every_coefficient_is_that_of_the_original_and_zero_bypasses_exactly(string name)
    {
        string folder = Golden.Require("adapter");
        using var golden = new GoldenCase(folder, name);
        TokenBatch tokens = GoldenCase.Batches(folder)[0];
        string[] settings = [.. golden.Tensors.Names.Where(n => n.StartsWith("forward.", StringComparison.Ordinal) && n.EndsWith(".logits", StringComparison.Ordinal)).Select(n => n["forward.".Length..^".logits".Length])];
        Assert.NotEmpty(settings);
        float[] off = Run(null, out Dictionary<string, float[]> offTaps);
        foreach (string setting in settings)
        {
            float[] logits = setting == "off" ? off : Run(float.Parse(setting, CultureInfo.InvariantCulture), out _);
            double error = GoldenFiles.ErrorOverReal(tokens, logits, golden.Tensors.ReadF32($"forward.{setting}.logits"));
            Assert.True(error <= 2e-5, $"{name} logits at {setting}: error {error:g4}");
            Dictionary<string, float[]> taps = offTaps;
            if (setting != "off")
                Run(float.Parse(setting, CultureInfo.InvariantCulture), out taps);
            foreach ((string module, float[] values) in taps)
                Assert.True(GoldenFiles.ErrorOverReal(tokens, values, golden.Tensors.ReadF32($"forward.{setting}.{module}")) <= 2e-5, $"{name} {module} at {setting}");
        }
        Assert.Equal(off, Run(0, out _));

        // One coefficient a row: each row equals the same row of a batch with one coefficient.
        float[] mixed = RunRows([.. Enumerable.Range(0, tokens.Batch).Select(b => b % 3 - 1f)]);
        for (int b = 0; b < tokens.Batch; b++)
        {
            float[] alone = Run(b % 3 - 1f, out _);
            int row = mixed.Length / tokens.Batch;
            Close.To(1e-5, mixed.AsSpan(b * row, row), alone.AsSpan(b * row, row), $"{name} row {b} of a mixed batch");
        }

        float[] Run(float? c, out Dictionary<string, float[]> taps)
        {
            using var tape = new Tape(golden.Device, record: false);
            string[] tapped = [.. golden.Json["loss_layers"]!.AsArray().Select(x => (string)x!)];
            var context = new ForwardContext(tape, tokens)
            {
                Adapter = c is null ? null : golden.Adapter.Pass(tape, [.. Enumerable.Repeat(c.Value, tokens.Batch)], tokens.Length),
                Capture = tapped.Contains,
            };
            float[] logits = golden.Model.Logits(tape, golden.Model.Forward(context)).ToArray();
            taps = context.Outputs.ToDictionary(o => o.Key, o => o.Value.ToArray());
            return logits;
        }

        float[] RunRows(float[] cs)
        {
            using var tape = new Tape(golden.Device, record: false);
            return golden.Model.Logits(tape, golden.Model.Forward(new ForwardContext(tape, tokens) { Adapter = golden.Adapter.Pass(tape, cs, tokens.Length) })).ToArray();
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Decoding_with_folded_terms_equals_one_pass_over_the_text(string name)
    {
        string folder = Golden.Require("adapter");
        using var golden = new GoldenCase(folder, name);
        TokenBatch tokens = GoldenCase.Batches(folder)[0];
        const int decoded = 2;
        int prompt = tokens.Length - decoded;
        Assert.True(tokens.Starts.Max() < prompt, "the prompt must hold a real token of each row");
        // One coefficient for all rows, one for some, and many: each has its own way through the term.
        float[][] settings = [[.. tokens.Starts.Select(_ => 0.7f)], [.. tokens.Starts.Select((_, b) => b % 2 == 0 ? 0 : -1f)], [.. tokens.Starts.Select((_, b) => b % 4 / 2f - 0.5f)]];
        foreach (float[] cs in settings)
        {
            using var tape = new Tape(golden.Device, record: false);
            float[] whole = Logits(tape, tokens, null, golden.Adapter.Pass(tape, cs, tokens.Length));
            float[] off = Logits(tape, tokens, null, null);
            using var cache = new KvCache(golden.Device, golden.Model.Config, tokens.Batch, tokens.Length, tokens.Starts);
            Logits(tape, Columns(0, prompt), cache, golden.Adapter.Pass(tape, cs, prompt));
            IAdapterPass pass = golden.Adapter.Pass(tape, cs, 1);
            int row = golden.Model.Config.VocabSize;
            for (int t = prompt; t < tokens.Length; t++)
            {
                float[] step = Logits(tape, Columns(t, 1), cache, pass);
                for (int b = 0; b < tokens.Batch; b++)
                {
                    ReadOnlySpan<float> expected = whole.AsSpan((b * tokens.Length + t) * row, row);
                    Close.To(1e-5, expected, step.AsSpan(b * row, row), $"{name} row {b} token {t} at c = {cs[b]}");
                    if (cs[b] != 0)
                        Assert.False(expected.SequenceEqual(off.AsSpan((b * tokens.Length + t) * row, row)), "the adapter does nothing");
                }
            }
        }

        TokenBatch Columns(int first, int count) => new(tokens.Batch, count,
            [.. Enumerable.Range(0, tokens.Batch).SelectMany(b => tokens.Ids[(b * tokens.Length + first)..(b * tokens.Length + first + count)])], tokens.Starts);

        float[] Logits(Tape tape, TokenBatch batch, KvCache? cache, IAdapterPass? pass) =>
            golden.Model.Logits(tape, golden.Model.Forward(new ForwardContext(tape, batch, cache) { Adapter = pass })).ToArray();
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Training_gives_the_original_history_gradients_and_parameters(string name)
    {
        string folder = Golden.Require("adapter");
        foreach ((bool checkpoint, int? microBatch, int steps) in new (bool, int?, int)[] { (false, null, int.MaxValue), (true, null, int.MaxValue), (false, 2, 2), (true, 4, 2) })
        {
            using var golden = new GoldenCase(folder, name);
            GoldenTraining.Run(golden, GoldenCase.Batches(folder), checkpoint, steps, microBatch: microBatch);
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void The_direction_is_the_mean_difference_in_the_loss_basis_and_the_loss_layers_follow_the_rule(string name)
    {
        string folder = Golden.Require("adapter");
        using var golden = new GoldenCase(folder, name);
        string[] layers = [.. golden.Json["loss_layers"]!.AsArray().Select(x => (string)x!)];
        Assert.Equal(layers.Order(StringComparer.Ordinal), LossLayers.Select(golden.Model, golden.Modules).Order(StringComparer.Ordinal));
        Dictionary<string, float[]> mean = MeanDifferences.Collect(golden.Model, layers, GoldenCase.Batches(folder));
        foreach (string module in layers)
        {
            using LossLayer given = golden.LossLayer(module);
            bool full = (bool)golden.Json["full_loss_u"]!;
            using LossLayer own = full
                ? LossLayers.OnFullBasis(golden.Model, module, mean[module])
                : LossLayers.OnAdapterBasis(golden.Model, golden.Adapter.Layers[module], mean[module]);
            Close.To(1e-4, own.Direction.ToArray(), given.Direction.ToArray(), $"{name} direction of {module}");
        }
    }

    private static (string Module, char Side, float C) ParseRotation(string tensor, string[] modules)
    {
        string module = modules.Single(m => tensor.StartsWith($"rotation.{m}.", StringComparison.Ordinal));
        string rest = tensor[$"rotation.{module}.".Length..];
        return (module, rest[0], float.Parse(rest[2..], CultureInfo.InvariantCulture));
    }
}
