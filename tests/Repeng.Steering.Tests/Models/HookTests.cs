using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Tests.Models;

/// <summary>What can be hooked, and that the head is read, changed and differentiated as any other module.</summary>
public sealed class HookTests : IDisposable
{
    private const double Tolerance = 1e-5;

    private readonly Device _device = Device.Cpu(2);
    private readonly TokenBatch _tokens = TokenBatch.Pad([[1, 2, 3, 4, 5], [7, 8, 9]], 0);

    public void Dispose() => _device.Dispose();

    [Fact]
    public void Every_kind_of_module_is_there_in_the_order_of_the_pass()
    {
        using DecoderModel model = TinyDecoder.Load(_device);
        string block = model.Blocks[1].Path;
        Assert.Equal(
        [
            "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_norm", "self_attn.k_norm", "self_attn.o_proj", "self_attn",
            "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp", "",
        ], model.Modules.Where(m => m == block || m.StartsWith(block + ".", StringComparison.Ordinal)).Select(m => m[block.Length..].TrimStart('.')));
        Assert.Equal("model.embed_tokens", model.Modules[0]);
        Assert.Equal(["model.norm", "lm_head"], model.Modules.TakeLast(2));
    }

    [Theory]
    [InlineData(0f)]
    [InlineData(1.5f)]
    public void The_heads_input_and_output_are_read(float cap)
    {
        using DecoderModel model = TinyDecoder.Load(_device, change: c => c with { LogitSoftCap = cap });
        string head = model.Config.HeadPath, norm = model.Modules[^2];
        using var tape = new Tape(_device, record: false);
        var context = new ForwardContext(tape, _tokens) { Capture = m => m == head || m == norm };
        Tensor hidden = model.Forward(context);
        Assert.DoesNotContain(head, context.Outputs.Keys);
        float[] logits = model.Logits(context, hidden).ToArray(), x = context.Outputs[norm].ToArray(), y = context.Outputs[head].ToArray(), w = model.Parameters["lm_head.weight"].ToArray();
        int d = model.Config.HiddenSize, v = model.Config.VocabSize;
        for (int i = 0; i < y.Length; i++)
        {
            double expected = 0;
            for (int j = 0; j < d; j++)
                expected += (double)x[i / v * d + j] * w[i % v * d + j];
            Assert.Equal(expected, y[i], Tolerance);
            // The module's output comes before the cap.
            Assert.Equal(cap > 0 ? cap * Math.Tanh(expected / cap) : expected, logits[i], Tolerance);
        }
        int[] some = [1, 9];
        Assert.Equal(some.SelectMany(r => logits[(r * v)..((r + 1) * v)]), model.Logits(context, hidden, some).ToArray(), (a, b) => Math.Abs(a - b) < Tolerance);
        Assert.Equal(2, context.Outputs[head].Rows);
    }

    [Theory]
    [InlineData(0f)]
    [InlineData(1.5f)]
    public void A_vector_on_the_head_moves_logits_labels_and_evaluations_alike(float cap)
    {
        using DecoderModel model = TinyDecoder.Load(_device, change: c => c with { LogitSoftCap = cap });
        int v = model.Config.VocabSize;
        float[] direction = [.. Enumerable.Range(0, v).Select(i => i % 5 - 2f)];
        using var control = new VectorControl(model, new ControlVector(model.Config.ModelType, [KeyValuePair.Create("lm_head", new Direction(direction))]));
        float[] cs = [0.5f, -2];
        using var tape = new Tape(_device, record: false);
        var context = new ForwardContext(tape, _tokens) { Edit = control.Pass(cs) };
        Tensor hidden = model.Forward(context);
        float[] raw = tape.Linear(hidden, model.Head).ToArray(), steered = model.Logits(context, hidden).ToArray();
        for (int i = 0; i < raw.Length; i++)
        {
            int token = i / v, b = token / _tokens.Length;
            double y = raw[i] + (_tokens.IsReal(b, token % _tokens.Length) ? cs[b] * direction[i % v] : 0);
            Assert.Equal(cap > 0 ? cap * Math.Tanh(y / cap) : y, steered[i], Tolerance);
        }
        int[] at = [2, 8], labels = [11, 30];
        float[] logProb = model.LabelLogProb(context, hidden, at, labels).ToArray();
        for (int k = 0; k < at.Length; k++)
        {
            float[] row = steered[(at[k] * v)..((at[k] + 1) * v)];
            Assert.Equal(row[labels[k]] - Math.Log(row.Sum(z => Math.Exp(z))), logProb[k], Tolerance);
        }

        var steering = new Repeng.Steering.Generation.Steering(Vector: control);
        var item = new ChoiceItem("q", [1, 2, 3], [[12]], [[14]]);
        ChoiceResult[] plain = new TruthEvaluator(model).Run([item], steering, 0), moved = new TruthEvaluator(model).Run([item], steering, 1);
        if (cap == 0)
            Assert.Equal(direction[12] - direction[14], moved[0].LogOdds - plain[0].LogOdds, Tolerance);
        // Completions of two tokens go by their labels, single ones by the logits.
        var longer = new ChoiceItem("q", [1, 2], [[3, 12]], [[3, 14]]);
        Assert.Equal(moved[0].LogOdds, new TruthEvaluator(model).Run([longer], steering, 1)[0].LogOdds, Tolerance);
        using var always = new VectorControl(model, new ControlVector(model.Config.ModelType, [KeyValuePair.Create("lm_head", new Direction([.. Enumerable.Range(0, v).Select(i => i == 17 ? 100f : 0)]))]));
        if (cap == 0)
            Assert.Equal([17, 17, 17], new Generator(model).Generate([[1, 2]], [1], new Repeng.Steering.Generation.Steering(Vector: always), new SamplingSettings(), 3, [])[0]);
    }

    [Fact]
    public void The_heads_gradient_is_that_of_the_softmax_and_rows_of_it_can_be_collected()
    {
        using DecoderModel model = TinyDecoder.Load(_device);
        string head = model.Config.HeadPath;
        int v = model.Config.VocabSize;
        using var tape = new Tape(_device);
        var context = new ForwardContext(tape, _tokens) { Capture = m => m == head, DifferentiateCaptured = true };
        Tensor hidden = model.Forward(context);
        tape.Backward(tape.Sum(model.LabelLogProb(context, hidden, [3], [21])));
        float[] y = context.Outputs[head].ToArray(), g = context.Outputs[head].GradToArray();
        double sum = y[(3 * v)..(4 * v)].Sum(z => Math.Exp(z));
        for (int i = 0; i < g.Length; i++)
            Assert.Equal(i / v == 3 ? (i % v == 21 ? 1 : 0) - Math.Exp(y[i]) / sum : 0, g[i], Tolerance);

        TokenPair[] pairs = [new([1, 2, 3, 4], [5, 6, 3, 4]), new([9, 2, 7, 8], [5, 7, 8])];
        using Representations found = Representations.Collect(model, [head], pairs, 0, VectorNeeds.Hidden | VectorNeeds.Gradients, new RepresentationSettings());
        LayerRows rows = found.Layers[head];
        Assert.Equal(v, rows.Width);
        Assert.Contains(rows.Gradients!.ToArray(), x => x != 0);
        using Representations alone = Representations.Collect(model, [head], pairs, 0, VectorNeeds.Hidden, new RepresentationSettings { TokenFromEnd = 2 });
        Assert.Equal(alone.Layers[head].Hidden!.ToArray(), rows.Hidden!.ToArray(), (a, b) => Math.Abs(a - b) < Tolerance);
        ControlVector vector = ControlVectorTrainer.Train(model, [head], pairs, 0, VectorMethod.Parse("mean_diff"), new RepresentationSettings());
        Assert.Equal(v, vector.Directions[head].Width);
    }
}
