using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Tests.Vectors;

/// <summary>A model under control and out of it, without a change of the model.</summary>
public sealed class ControlModelTests : IDisposable
{
    private const int Width = 16;

    private readonly Device _device = Device.Cpu(2);
    private readonly DecoderModel _model;
    private readonly TokenBatch _tokens = TokenBatch.Pad([[1, 2, 3, 4, 5], [7, 8]], 0);

    public ControlModelTests() => _model = TinyDecoder.Load(_device);

    public void Dispose()
    {
        _model.Dispose();
        _device.Dispose();
    }

    [Fact]
    public void Control_is_set_replaced_and_taken_off_and_the_model_is_never_changed()
    {
        byte[] weights = Bytes();
        using var controlled = new ControlModel(_model);
        float[] plain = controlled.Logits(_tokens);
        controlled.SetControl(Vector("1", "2"), 2);
        Assert.Equal(2, controlled.Coefficient);
        Assert.Equal(["model.layers.1", "model.layers.2"], controlled.SteeredModules);
        float[] twice = controlled.Logits(_tokens);
        Assert.NotEqual(plain, twice);
        // What repeng's own tests assert of the algebra.
        controlled.SetControl(2 * Vector("1", "2"));
        Assert.Equal(twice, controlled.Logits(_tokens));
        controlled.SetControl(-(Vector("1", "2") * -2));
        Assert.Equal(twice, controlled.Logits(_tokens));
        foreach ((ControlVector vector, float c) in new[] { (Vector("1"), 0f), (Vector("1") * 0, 1f), (Vector("1") - Vector("1"), 1f) })
        {
            controlled.SetControl(vector, c);
            Assert.Equal(plain, controlled.Logits(_tokens));
        }
        controlled.SetControl(Vector("1"), -1);
        Assert.NotEqual(plain, controlled.Logits(_tokens));
        using var other = new ControlModel(_model);
        Assert.Equal(plain, other.Logits(_tokens));
        controlled.Reset();
        Assert.Null(controlled.Vector);
        Assert.Equal(plain, controlled.Logits(_tokens));
        controlled.SetControl(Vector("3"));
        controlled.SetControl(null);
        Assert.Equal(plain, controlled.Logits(_tokens));
        controlled.SetControl(Vector("3"));
        Assert.Same(_model, controlled.Unwrap());
        Assert.Empty(controlled.SteeredModules);
        Assert.Equal(weights, Bytes());
    }

    [Fact]
    public void Text_is_steered_at_every_token_and_padding_is_not()
    {
        using var controlled = new ControlModel(_model, [-2]);
        controlled.SetControl(Vector("1", "2"), 3);
        string block = _model.Blocks[2].Path;
        float[] steered = Output(controlled, 3), plain = Output(controlled, 0);
        for (int i = 0; i < plain.Length; i++)
        {
            int token = i / Width;
            double added = _tokens.IsReal(token / _tokens.Length, token % _tokens.Length) ? 3 * Value(i % Width) : 0;
            Assert.Equal(plain[i] + added, steered[i], 1e-4);
        }
        int[][] rows = controlled.Generate([[1, 2, 3, 4, 5], [7, 8]], new SamplingSettings(), 6, []);
        int[] alone = controlled.Generate([[7, 8]], new SamplingSettings(), 6, [])[0];
        Assert.Equal(alone, rows[1]);
        // One token at a time gives what the whole text at once does.
        for (int k = 0; k < 6; k++)
        {
            float[] logits = controlled.Logits(TokenBatch.Pad([(int[])[7, 8, .. alone[..k]]], 0));
            Assert.Equal(alone[k], Array.IndexOf(logits, logits.Max()));
        }

        float[] Output(ControlModel m, float c)
        {
            using var tape = new Tape(_device, record: false);
            ForwardContext context = m.Context(tape, _tokens, coefficients: [c, c], capture: p => p == block);
            _model.Forward(context);
            return context.Outputs[block].ToArray();
        }
    }

    [Fact]
    public void Layers_are_chosen_from_either_end_and_by_path()
    {
        ControlVector vector = Vector("0", "1", "2", "3");
        using var all = new ControlModel(_model);
        all.SetControl(Vector("1", "3"));
        float[] expected = all.Logits(_tokens);
        foreach (ControlModel chosen in new[] { new ControlModel(_model, [1, 3]), new ControlModel(_model, [-1, -3]), new ControlModel(_model, LayerSelection.Modules(_model, @"\.[13]$", null)) })
            using (chosen)
            {
                chosen.SetControl(vector);
                Assert.Equal(expected, chosen.Logits(_tokens));
                Assert.Same(vector, chosen.Vector);
            }
        using var mlp = new ControlModel(_model, LayerSelection.Modules(_model, "up_proj$", (LayerSelection.End.Parse("-2"), LayerSelection.End.Parse("-1"))));
        mlp.SetControl(new ControlVector("qwen3", [KeyValuePair.Create("model.layers.2.mlp.up_proj", new Direction(new float[24]))]));
        Assert.Equal(["model.layers.2.mlp.up_proj"], mlp.SteeredModules);
    }

    [Fact]
    public void Normalising_keeps_lengths_and_an_operator_takes_the_place_of_the_sum()
    {
        string block = _model.Blocks[1].Path;
        using var controlled = new ControlModel(_model);
        float[] plain = Output();
        controlled.SetControl(Vector("1"), 5, normalize: true);
        float[] steered = Output();
        Assert.NotEqual(plain, steered);
        for (int t = 0; t < plain.Length / Width; t++)
            Assert.Equal(Length(plain, t), Length(steered, t), 1e-4);
        controlled.SetControl(Vector("1"), 5, operation: (tape, y, control) => tape.Subtract(y, control));
        float[] less = Output();
        controlled.SetControl(Vector("1"), -5);
        Assert.Equal(Output(), less, (a, b) => Math.Abs(a - b) < 1e-4);

        float[] Output()
        {
            using var tape = new Tape(_device, record: false);
            ForwardContext context = controlled.Context(tape, _tokens, capture: p => p == block);
            _model.Forward(context);
            return context.Outputs[block].ToArray();
        }

        static double Length(float[] y, int token) => Math.Sqrt(y.AsSpan(token * Width, Width).ToArray().Sum(v => (double)v * v));
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_the_control_stays()
    {
        using var controlled = new ControlModel(_model, [2]);
        controlled.SetControl(Vector("2"), 2);
        float[] before = controlled.Logits(_tokens);
        Refused("made for another model", () => controlled.SetControl(new ControlVector("llama", [KeyValuePair.Create("2", new Direction(new float[Width + 1]))])));
        Refused("has blocks 0 … 3", () => controlled.SetControl(Vector("9", "2")));
        Refused("has no direction for model.layers.2", () => controlled.SetControl(Vector("1")));
        Refused("not a finite number", () => controlled.SetControl(Vector("2"), float.NaN));
        Assert.Equal(before, controlled.Logits(_tokens));
        Assert.Equal(2, controlled.Coefficient);
        Refused("has blocks 0 … 3", () => new ControlModel(_model, [4]).Dispose());
        Refused("-1 … -4", () => new ControlModel(_model, [-5]).Dispose());
        Refused("named twice", () => new ControlModel(_model, [3, -1]).Dispose());
        Refused("no layer", () => new ControlModel(_model, (int[])[]).Dispose());
        Refused("no module x", () => new ControlModel(_model, ["x"]).Dispose());

        static void Refused(string part, Action run) => Assert.Contains(part, Assert.Throws<UserErrorException>(run).Message, StringComparison.Ordinal);
    }

    private static float Value(int i) => i % 3 - 0.5f;

    private static ControlVector Vector(params string[] layers) =>
        new("qwen3", layers.Select(l => KeyValuePair.Create(l, new Direction([.. Enumerable.Range(0, Width).Select(Value)]))));

    private byte[] Bytes() => [.. _model.Parameters.OrderBy(p => p.Key, StringComparer.Ordinal).SelectMany(p => p.Value.ToArray()).SelectMany(BitConverter.GetBytes)];
}
