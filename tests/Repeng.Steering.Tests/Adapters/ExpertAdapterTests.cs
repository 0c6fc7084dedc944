using System.Text.RegularExpressions;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>Adapters on the linear layers of experts: each has its own path, only its own tokens see it, and what is trained is what differences say.</summary>
public sealed class ExpertAdapterTests : IDisposable
{
    private const string Experts = @".*\.mlp\.experts\.(0|2|3|5)\.(gate_proj|down_proj)";
    private readonly Device _device = Device.Cpu(2);
    private readonly DecoderModel _model;
    private readonly TokenBatch _tokens = TokenBatch.Pad([[3, 7, 11, 2, 19, 30, 8], [5, 9, 1, 33], [4, 4, 21, 17, 6]], 0);

    public ExpertAdapterTests() => _model = TinyDecoder.Load(_device, layers: 3, experts: true);

    public static IEnumerable<TheoryDataRow<string>> Kinds => new[] { "svd", "lora", "dora", "ia3", "vera", "delora", "road_1", "road_2", "road_4" }.Select(k => new TheoryDataRow<string>(k));

    public void Dispose()
    {
        _model.Dispose();
        _device.Dispose();
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A_row_sees_its_coefficient_as_the_merged_model_does(string kind)
    {
        using IAdapter adapter = Make(kind);
        Assert.Equal(3 * 4 * 2, adapter.Modules.Count);
        float[] coefficients = [1, 0, -0.7f];
        float[] all = Run(_model, adapter, coefficients, _tokens);
        int perRow = _tokens.Length * _model.Config.VocabSize;
        for (int b = 0; b < 3; b++)
        {
            using DecoderModel merged = MergedWeights.Load(adapter, coefficients[b]);
            float[] expected = Run(merged, null, [0, 0, 0], _tokens);
            // Padding is no one's.
            int from = b * perRow + _tokens.Starts[b] * _model.Config.VocabSize;
            Close.To(2e-5, all.AsSpan(from, (b + 1) * perRow - from), expected.AsSpan(from, (b + 1) * perRow - from), $"{kind} row {b}");
        }
        if (!kind.StartsWith("ro", StringComparison.Ordinal) && kind != "dora")
            Assert.Equal(Run(_model, null, coefficients, _tokens), Run(_model, adapter, [0, 0, 0], _tokens));
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Gradients_are_those_of_central_differences(string kind)
    {
        using IAdapter adapter = Make(kind);
        float[] coefficients = [1, 0.4f, -0.7f];
        float[] weights = [.. Enumerable.Range(0, _tokens.Ids.Length * _model.Config.HiddenSize).Select(i => MathF.Sin(i))];
        float[][] gradients;
        using (var tape = new Tape(_device))
        {
            Tensor loss = Loss(tape);
            tape.Backward(loss);
            gradients = [.. adapter.Parameters.Select(p => p.GradToArray())];
            foreach (Tensor p in adapter.Parameters)
                p.FreeGrad();
        }
        Assert.True(gradients.Count(g => g.Any(v => v != 0)) > gradients.Length / 2, "most adapted experts have tokens");
        float largest = gradients.Max(g => g.Max(Math.Abs));
        var random = new Random(1);
        foreach ((Tensor p, float[] g) in adapter.Parameters.Zip(gradients).Where(x => x.Second.Max(Math.Abs) > 0.05 * largest).Take(6))
        {
            int i = Array.FindIndex(g, v => Math.Abs(v) == g.Max(Math.Abs));
            float[] values = p.ToArray();
            float was = values[i];
            const float step = 2e-3f;
            double Moved(float value)
            {
                values[i] = value;
                p.Upload(values);
                using var tape = new Tape(_device, record: false);
                double y = Loss(tape).Item();
                values[i] = was;
                p.Upload(values);
                return y;
            }
            double difference = (Moved(was + step) - Moved(was - step)) / (2 * step);
            // DoRA's norms count as constants in the backward pass.
            if (kind != "dora" || p.Name!.EndsWith("vector", StringComparison.Ordinal))
                Assert.True(Math.Abs(difference - g[i]) <= 2e-2 * Math.Abs(g[i]), $"{kind} {p.Name}[{i}]: {g[i]:g5}, difference {difference:g5}");
        }

        Tensor Loss(Tape tape)
        {
            Tensor h = _model.Forward(new ForwardContext(tape, _tokens) { Adapter = adapter.Pass(tape, coefficients, _tokens.Length) });
            return tape.Sum(tape.Multiply(tape.Reshape(h, (int)h.Length), tape.Constant(weights, weights.Length)));
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Decoding_token_by_token_gives_what_the_whole_text_does(string kind)
    {
        using IAdapter adapter = Make(kind);
        float[] coefficients = [0.5f, -1, 0];
        float[] whole = Run(_model, adapter, coefficients, _tokens);
        using var cache = new KvCache(_device, _model.Config, 3, _tokens.Length, _tokens.Starts);
        int vocabulary = _model.Config.VocabSize;
        int prompt = _tokens.Starts.Max() + 1;
        for (int t = 0; t < _tokens.Length; t += t == 0 ? prompt : 1)
        {
            using var tape = new Tape(_device, record: false);
            int length = t == 0 ? prompt : 1, last = t + length - 1;
            var part = new TokenBatch(3, length, [.. Enumerable.Range(0, 3).SelectMany(b => _tokens.Ids[(b * _tokens.Length + t)..(b * _tokens.Length + t + length)])], _tokens.Starts);
            Tensor h = _model.Forward(new ForwardContext(tape, part, cache) { Adapter = adapter.Pass(tape, coefficients, length) });
            float[] logits = _model.Logits(tape, h).ToArray();
            for (int b = 0; b < 3; b++)
                Close.To(2e-5, logits.AsSpan(((b + 1) * length - 1) * vocabulary, vocabulary), whole.AsSpan((b * _tokens.Length + last) * vocabulary, vocabulary), $"{kind} row {b} token {last}");
        }
    }

    [Theory]
    [InlineData("svd")]
    [InlineData("lora")]
    public void A_saved_adapter_of_experts_loads_with_the_same_bits(string kind)
    {
        using IAdapter adapter = Make(kind);
        string folder = Directory.CreateTempSubdirectory("repeng-experts").FullName;
        try
        {
            adapter.Save(folder, "tiny");
            using IAdapter loaded = kind == "svd" ? AdapterFile.Load(_model, folder) : PeftFile.Load(_model, folder);
            Assert.Equal(adapter.Modules, loaded.Modules);
            Assert.Equal(Run(_model, adapter, [1, -1, 2], _tokens), Run(_model, loaded, [1, -1, 2], _tokens));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void The_bits_are_the_same_at_any_number_of_threads()
    {
        float[]? first = null;
        foreach (int threads in new[] { 1, 2, 5 })
        {
            using Device device = Device.Cpu(threads);
            using DecoderModel model = TinyDecoder.Load(device, layers: 3, experts: true);
            model.RequireGradients(true);
            using var tape = new Tape(device);
            Tensor h = model.Forward(new ForwardContext(tape, _tokens));
            tape.Backward(tape.Sum(tape.Multiply(h, h)));
            float[] all = [.. h.ToArray(), .. model.Parameters.Values.SelectMany(p => p.GradToArray())];
            Assert.Equal(first ??= all, all);
        }
    }

    [Fact]
    public void Outputs_of_experts_are_kept_for_their_tokens_and_steered_there()
    {
        string path = "model.layers.1.mlp.experts.2.down_proj", router = "model.layers.1.mlp.gate";
        Assert.Contains(path, _model.Modules);
        using var tape = new Tape(_device, record: false);
        var context = new ForwardContext(tape, _tokens) { Capture = m => m == path || m == router || m == "model.layers.1.mlp" };
        _model.Forward(context);
        Assert.Equal([_tokens.Ids.Length, _model.Config.HiddenSize], context.Outputs[path].Shape);
        float[] logits = context.Outputs[router].ToArray(), kept = context.Outputs[path].ToArray();
        bool[] goes = [.. Enumerable.Range(0, _tokens.Ids.Length).Select(t => Enumerable.Range(0, 6).OrderByDescending(e => logits[t * 6 + e]).Take(2).Contains(2))];
        Assert.Contains(true, goes);
        Assert.Contains(false, goes);
        for (int t = 0; t < goes.Length; t++)
            Assert.Equal(goes[t], kept.AsSpan(t * 16, 16).ContainsAnyExcept(0f));

        var edited = new ForwardContext(tape, _tokens) { Edit = new Doubling(path), Capture = m => m == path || m == "model.layers.1.mlp" };
        _model.Forward(edited);
        float[] before = context.Outputs["model.layers.1.mlp"].ToArray(), after = edited.Outputs["model.layers.1.mlp"].ToArray();
        Assert.Equal(kept.Select(v => 2 * v), edited.Outputs[path].ToArray());
        for (int t = 0; t < goes.Length; t++)
            Assert.Equal(goes[t], !before.AsSpan(t * 16, 16).SequenceEqual(after.AsSpan(t * 16, 16)));
    }

    [Fact]
    public void Gradients_at_the_outputs_of_experts_arrive_for_their_tokens()
    {
        string path = "model.layers.1.mlp.experts.2.up_proj";
        using var tape = new Tape(_device);
        var context = new ForwardContext(tape, _tokens) { Capture = m => m == path, DifferentiateCaptured = true };
        Tensor h = _model.Forward(context);
        tape.Backward(tape.Sum(tape.Multiply(h, h)));
        float[] kept = context.Outputs[path].ToArray(), gradient = context.Outputs[path].GradToArray();
        for (int t = 0; t < _tokens.Ids.Length; t++)
            Assert.Equal(kept.AsSpan(t * 12, 12).ContainsAnyExcept(0f), gradient.AsSpan(t * 12, 12).ContainsAnyExcept(0f));
    }

    private IAdapter Make(string kind)
    {
        if (kind == "svd")
            return SvdAdapter.Create(_model, new SvdAdapterConfig { Rank = 4, RotateU = true, TargetModules = Experts, InitRotation = 0.3 });
        PeftAdapter adapter = PeftFactory.Create(_model, new PeftSettings { Kind = kind, Rank = 3, GroupSize = 4, TargetModules = Experts, InitNoise = 0.2, Lambda = 3 });
        foreach (Tensor p in adapter.Parameters.Where(p => Regex.IsMatch(p.Name!, "theta")))
            p.Upload([.. Enumerable.Range(0, (int)p.Length).Select(i => 0.3f * MathF.Sin(i))]);
        return adapter;
    }

    private static float[] Run(DecoderModel model, IAdapter? adapter, float[] coefficients, TokenBatch tokens)
    {
        using var tape = new Tape(model.Device, record: false);
        Tensor h = model.Forward(new ForwardContext(tape, tokens) { Adapter = adapter?.Pass(tape, coefficients, tokens.Length) });
        return model.Logits(tape, h).ToArray();
    }

    private sealed class Doubling(string path) : IModuleEdit
    {
        public bool Touches(string module) => module == path;

        public Tensor Apply(ForwardContext context, string module, Tensor y, Tensor? tokens)
        {
            Assert.Equal(y.Rows, tokens!.Length);
            return context.Tape.Scale(y, 2);
        }
    }
}
