using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd.Tests;

/// <summary>Every op of the tape: its gradients against central differences, and nothing left in memory afterwards.</summary>
public sealed class GradientTests
{
    private static readonly Dictionary<string, (int[][] Shapes, Func<Tape, Tensor[], Tensor> Run)> s_ops = Ops();

    public static IEnumerable<TheoryDataRow<string>> Names => s_ops.Keys.Order(StringComparer.Ordinal).Select(n => new TheoryDataRow<string>(n));

    [Theory]
    [MemberData(nameof(Names))]
    public void Gradients_are_those_of_central_differences(string name)
    {
        (int[][] shapes, Func<Tape, Tensor[], Tensor> run) = s_ops[name];
        using Device device = Device.Cpu(2);
        Tensor[] inputs = [.. shapes.Select((s, i) => Input(device, s, 11 + (ulong)i))];
        float[] weights;
        long before = device.Pool.InUse;
        using (var tape = new Tape(device))
        {
            Tensor y = run(tape, inputs);
            weights = Values((int)y.Length, 99);
            tape.Backward(tape.Sum(tape.Multiply(tape.Reshape(y, (int)y.Length), tape.Constant(weights, weights.Length))));
        }
        float[][] gradients = [.. inputs.Select(x => x.GradToArray())];
        foreach (Tensor x in inputs)
            x.FreeGrad();
        Assert.Equal(before, device.Pool.InUse);

        for (int i = 0; i < inputs.Length; i++)
        {
            float[] values = inputs[i].ToArray();
            double scale = Math.Max(1e-3, gradients[i].Max(Math.Abs));
            for (int k = 0; k < values.Length; k += Math.Max(1, values.Length / 7))
            {
                const float step = 1e-2f;
                double difference = (Loss(i, k, values[k] + step) - Loss(i, k, values[k] - step)) / (2 * step);
                Assert.True(Math.Abs(difference - gradients[i][k]) <= 5e-3 * scale, $"{name}: input {i} element {k}: gradient {gradients[i][k]:g6}, difference {difference:g6}");
                inputs[i].Upload(values);
            }
        }

        double Loss(int i, int k, float value)
        {
            float[] moved = inputs[i].ToArray();
            moved[k] = value;
            inputs[i].Upload(moved);
            using var tape = new Tape(device, record: false);
            float[] y = run(tape, inputs).ToArray();
            return y.Zip(weights, (a, w) => (double)a * w).Sum();
        }
    }

    [Fact]
    public void Checkpointing_gives_the_same_gradients_and_counts_a_tensor_returned_twice_once()
    {
        using Device device = Device.Cpu(2);
        Tensor x = Input(device, [4, 6], 1), w = Input(device, [6, 6], 2);
        float[][] Run(bool checkpoint)
        {
            using var tape = new Tape(device);
            Tensor[] Body(Tensor[] i)
            {
                Tensor y = tape.Unary(tape.Linear(i[0], w), UnaryOp.Silu);
                return [y, y];
            }
            Tensor[] outputs = checkpoint ? tape.Checkpoint(Body, true, x) : Body([x]);
            tape.Backward(tape.Sum(tape.Multiply(outputs[0], outputs[1])));
            float[][] g = [x.GradToArray(), w.GradToArray()];
            x.FreeGrad();
            w.FreeGrad();
            return g;
        }
        Assert.Equal(Run(false), Run(true));
    }

    [Fact]
    public void A_sum_that_keeps_its_gradient_still_has_it_after_passing_it_on()
    {
        using Device device = Device.Cpu(1);
        using Tensor a = Input(device, [3, 4], 1), b = Input(device, [3, 4], 2);
        using var tape = new Tape(device);
        Tensor y = tape.Add(a, b);
        y.RetainGrad = true;
        float[] weights = Values(12, 5);
        tape.Backward(tape.Sum(tape.Multiply(y, tape.Constant(weights, 3, 4))));
        Assert.Equal(weights, y.GradToArray());
        Assert.Equal(weights, a.GradToArray());
        Assert.Equal(weights, b.GradToArray());
        Assert.Equal(3, new[] { y.Grad.Address, a.Grad.Address, b.Grad.Address }.Distinct().Count());
        foreach (Tensor t in (Tensor[])[y, a, b])
            t.FreeGrad();
    }

    [Fact]
    public void Gradients_are_shared_until_one_of_them_is_written()
    {
        using Device device = Device.Cpu(1);
        using Tensor from = Input(device, [3, 4], 1), to = Input(device, [3, 4], 2), kept = Input(device, [3, 4], 3), other = Input(device, [3, 5], 4);
        float[] values = Values(12, 5);
        (from.RetainGrad, to.RetainGrad, other.RetainGrad) = (false, false, false);
        Upload(from, values);
        long before = device.Pool.InUse;
        Assert.False(kept.ShareGradOf(from));
        Assert.False(other.ShareGradOf(from));
        Assert.True(to.ShareGradOf(from));
        Assert.Equal(before, device.Pool.InUse);
        Assert.Equal(from.Grad.Address, to.Grad.Address);
        Assert.False(to.ShareGradOf(from));

        device.Backend.Fill(to.GradForWrite(out bool fresh), 3);
        Assert.False(fresh);
        Assert.Equal(values, from.GradToArray());
        Assert.Equal(Enumerable.Repeat(3f, 12), to.GradToArray());
        // Whichever goes first leaves the memory to the other.
        to.FreeGrad();
        Assert.True(to.ShareGradOf(from));
        from.FreeGrad();
        Assert.Equal(values, to.GradToArray());
        nint address = to.Grad.Address;
        Assert.Equal(address, to.GradForWrite(out _).Address);
        to.FreeGrad();
        Assert.True(device.Pool.InUse < before);

        void Upload(Tensor t, float[] gradient) => device.Backend.Upload(t.GradForWrite(out _), System.Runtime.InteropServices.MemoryMarshal.AsBytes(gradient.AsSpan()));
    }

    [Fact]
    public void A_stack_leaves_parts_that_are_not_reached_without_a_gradient()
    {
        using Device device = Device.Cpu(1);
        using Tensor a = Input(device, [2, 3], 1), b = Input(device, [2, 3], 2);
        using var tape = new Tape(device);
        Tensor[] parts = [];
        Tensor y = tape.Unary(tape.Stack([a, b], i => parts[i].GradArrived), UnaryOp.Square);
        parts = [tape.Own(y.Part(0, 2, 3)), tape.Own(y.Part(6, 2, 3))];
        tape.Backward(tape.Sum(parts[1]));
        Assert.True(a.Grad.IsEmpty);
        Assert.Equal(b.ToArray().Select(v => 2 * v), b.GradToArray());
        // A second pass adds to what is there.
        parts = [];
        y = tape.Unary(tape.Stack([a, b], i => parts[i].GradArrived), UnaryOp.Square);
        parts = [tape.Own(y.Part(0, 2, 3)), tape.Own(y.Part(6, 2, 3))];
        tape.Backward(tape.Add(tape.Sum(parts[0]), tape.Sum(parts[1])));
        Assert.Equal(a.ToArray().Select(v => 2 * v), a.GradToArray());
        Assert.Equal(b.ToArray().Select(v => 4 * v), b.GradToArray());
        a.FreeGrad();
        b.FreeGrad();
    }

    [Fact]
    public void A_frozen_path_records_nothing()
    {
        using Device device = Device.Cpu(1);
        using Tensor x = Tensor.From(device, Values(12, 3), 3, 4), w = Tensor.From(device, Values(16, 4), 4, 4);
        using var tape = new Tape(device);
        tape.Unary(tape.Linear(x, w), UnaryOp.Silu);
        Assert.Equal(0, tape.NodeCount);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(25)]
    public void One_cycle_begins_at_a_25th_peaks_and_ends_at_a_ten_thousandth_of_that(int steps)
    {
        var schedule = new OneCycle(steps, 1e-2);
        Assert.All(Enumerable.Range(0, steps), i => Assert.InRange(schedule.At(i).LearningRate, 1e-2 / 25 / 1e4 * 0.999, 1e-2 * 1.001));
        if (steps > 10)
        {
            Assert.Equal(1e-2 / 25, schedule.At(0).LearningRate, 12);
            Assert.Equal(1e-2 / 25 / 1e4, schedule.At(steps - 1).LearningRate, 12);
        }
        Assert.Throws<ArgumentOutOfRangeException>(() => schedule.At(steps));
    }

    private static Dictionary<string, (int[][], Func<Tape, Tensor[], Tensor>)> Ops()
    {
        var ops = new Dictionary<string, (int[][], Func<Tape, Tensor[], Tensor>)>
        {
            ["MatMul"] = ([[3, 4], [4, 5]], (t, x) => t.MatMul(x[0], x[1])),
            ["MatMul aT"] = ([[4, 3], [4, 5]], (t, x) => t.MatMul(x[0], x[1], transA: true)),
            ["MatMul bT"] = ([[3, 4], [5, 4]], (t, x) => t.MatMul(x[0], x[1], transB: true)),
            ["MatMul aTbT"] = ([[4, 3], [5, 4]], (t, x) => t.MatMul(x[0], x[1], true, true)),
            ["Linear"] = ([[3, 4], [5, 4], [5]], (t, x) => t.Linear(x[0], x[1], x[2])),
            ["Linear with low-rank terms"] = ([[6, 4], [2, 2], [2, 2]], (t, x) => t.Linear(x[0], Fixed(t, 5, 4, 7), null,
                new LowRankTerm(Fixed(t, 4, 2, 8), Fixed(t, 5, 2, 9), [new LowRankSegment(0, 2, x[1]), new LowRankSegment(3, 3, x[2])]))),
            ["Attention"] = ([[2 * 5, 4 * 4], [2 * 5, 2 * 4], [2 * 5, 2 * 4]], (t, x) => t.Attention(x[0], x[1], x[2], t.New([0, 2], 2), new AttentionArgs(2, 5, 5, 4, 2, 4, 0.5f, 3, 3))),
            ["Attention with sinks"] = ([[2 * 5, 4 * 4], [2 * 5, 2 * 4], [2 * 5, 2 * 4], [4]], (t, x) => t.Attention(x[0], x[1], x[2], t.New([0, 2], 2), new AttentionArgs(2, 5, 5, 4, 2, 4, 0.5f, 0, 3), x[3])),
            ["Linear in groups"] = ([[7, 4], [3, 4], [3, 4], [3], [2, 2]], (t, x) => t.LinearGroups(x[0], new LinearGroup(0, 2, x[1]), new LinearGroup(2, 0, Fixed(t, 3, 4, 5)), new LinearGroup(2, 4, x[2], x[3],
                new LowRankTerm(Fixed(t, 4, 2, 8), Fixed(t, 3, 2, 9), [new LowRankSegment(1, 2, x[4])])), new LinearGroup(6, 1, x[1]))),
            ["Route"] = ([[5, 4]], (t, x) => t.Route(t.Scale(x[0], 3), 2, normalise: false).Weights),
            ["Route normalised"] = ([[5, 4]], (t, x) => t.Route(t.Scale(x[0], 3), 2, normalise: true).Weights),
            ["Combine"] = ([[6, 3], [3, 2]], (t, x) => t.Combine(x[0], t.New([5, 0, 3, 1, 2, 4], 3, 2), x[1])),
            ["ScatterRows"] = ([[3, 4]], (t, x) => t.ScatterRows(x[0], t.New([4, 0, 2], 3), 5)),
            ["ClampedGated"] = ([[3, 4], [3, 4]], (t, x) => t.ClampedGated(x[0], x[1], 1.702f, 5)),
            ["RmsNorm"] = ([[3, 6], [6]], (t, x) => t.RmsNorm(x[0], x[1], 1e-6f, 1)),
            ["LayerNorm"] = ([[3, 6], [6], [6]], (t, x) => t.LayerNorm(x[0], x[1], x[2], 1e-5f)),
            ["Rope"] = ([[4, 8]], (t, x) => t.Rope(x[0], Fixed(t, 5, 2, 3), Fixed(t, 5, 2, 4), t.New([0, 1, 2, 4], 4), 2, 4, interleaved: false)),
            ["Rope interleaved"] = ([[4, 8]], (t, x) => t.Rope(x[0], Fixed(t, 5, 2, 3), Fixed(t, 5, 2, 4), t.New([0, 1, 2, 4], 4), 2, 4, interleaved: true)),
            ["NormRope"] = ([[4, 8], [4]], (t, x) => t.NormRope(x[0], x[1], 1e-6f, 1, Fixed(t, 5, 2, 3), Fixed(t, 5, 2, 4), t.New([0, 1, 2, 4], 4), 4, interleaved: false)),
            ["NormRope of a part, interleaved"] = ([[4, 12], [6]], (t, x) => t.NormRope(x[0], x[1], 1e-6f, 0, Fixed(t, 5, 2, 3), Fixed(t, 5, 2, 4), t.New([0, 1, 2, 4], 4), 4, interleaved: true)),
            ["Gated Silu"] = ([[3, 4], [3, 4]], (t, x) => t.Gated(x[0], x[1], UnaryOp.Silu)),
            ["Gated GeluTanh"] = ([[3, 4], [3, 4]], (t, x) => t.Gated(x[0], x[1], UnaryOp.GeluTanh)),
            ["Residual stream"] = ([[3, 4]], (t, x) =>
            {
                Tensor a = t.Add(x[0], t.Unary(x[0], UnaryOp.Silu));
                return t.Add(a, t.Unary(a, UnaryOp.Square));
            }
            ),
            ["Sum of a tensor and itself"] = ([[3, 4]], (t, x) => t.Add(x[0], x[0])),
            ["Sum whose terms are used again"] = ([[3, 4], [3, 4]], (t, x) =>
            {
                Tensor a = t.Unary(x[0], UnaryOp.Silu), b = t.Unary(x[1], UnaryOp.Silu), sum = t.Add(a, b);
                return t.Add(t.Multiply(t.Add(sum, a), b), sum);
            }
            ),
            ["AddOuter"] = ([[4, 3], [3]], (t, x) => t.AddOuter(x[0], Fixed(t, 4, 1, 5), x[1])),
            ["Sum of all"] = ([[3, 4]], (t, x) => t.Sum(x[0])),
            ["Sum 0"] = ([[3, 4, 2]], (t, x) => t.Sum(x[0], 0)),
            ["Sum 1"] = ([[3, 4, 2]], (t, x) => t.Sum(x[0], 1)),
            ["Sum -1"] = ([[3, 4, 2]], (t, x) => t.Sum(x[0], -1)),
            ["Mean"] = ([[3, 4]], (t, x) => t.Mean(x[0])),
            ["GatherRows"] = ([[4, 3]], (t, x) => t.GatherRows(x[0], t.New([2, 0, 2], 3))),
            ["SliceRows"] = ([[4, 3]], (t, x) => t.SliceRows(x[0], 1, 2)),
            ["SplitColumns"] = ([[3, 6]], (t, x) => t.SplitColumns(x[0], 2, 1, 3) is var p ? t.MatMul(p[0], p[2], transA: true) : null!),
            ["ConcatRows"] = ([[2, 3], [1, 3]], (t, x) => t.ConcatRows(x[0], x[1])),
            ["Stack"] = ([[2, 3], [2, 3]], (t, x) => t.Stack([x[0], x[1], x[0]])),
            ["ScaleColumns"] = ([[2, 3, 4], [2, 4]], (t, x) => t.ScaleColumns(x[0], x[1])),
            ["MatMulEach"] = ([[2, 3, 4], [2, 4, 5]], (t, x) => t.MatMulEach(x[0], x[1])),
            ["MatMulEach bT"] = ([[2, 3, 4], [2, 5, 4]], (t, x) => t.MatMulEach(x[0], x[1], transB: true)),
            ["Difference from a constant"] = ([[3, 4]], (t, x) => t.Subtract(t.Multiply(x[0], x[0]), Fixed(t, 3, 4, 7))),
            ["BlockDiagonal of a stack"] = ([[2, 2, 3, 3]], (t, x) => t.BlockDiagonal(x[0])),
            ["BlockDiagonal"] = ([[2, 3, 3]], (t, x) => t.BlockDiagonal(x[0])),
            ["Skew"] = ([[2, 3, 3]], (t, x) => t.Skew(x[0])),
            ["Cayley"] = ([[4, 4]], (t, x) => t.Cayley(t.Skew(x[0]))),
            ["MatrixExp"] = ([[2, 3, 3]], (t, x) => t.MatrixExp(t.Skew(x[0]))),
            ["Embedding"] = ([[5, 3]], (t, x) => t.Embedding(x[0], t.New([4, 1, 4], 3), 2)),
            ["LabelLogProb"] = ([[3, 4], [9, 4]], (t, x) => Head(t, x[0], x[1], 0, null).LogProb),
            ["LabelLogProb with a soft cap"] = ([[3, 4], [9, 4]], (t, x) => Head(t, x[0], x[1], 2, null).LogProb),
            ["LabelLogProb of held logits"] = ([[3, 9]], (t, x) => t.LabelLogProb(x[0], t.New([0, 8, 5], 3))),
            ["TotalVariation"] = ([[3, 4]], (t, x) =>
            {
                Tensor w = Fixed(t, 9, 4, 6), reference = Fixed(t, 3, 4, 7);
                Tensor lse = Head(t, reference, w, 2, null).LogSumExp;
                HeadOutput h = Head(t, x[0], w, 2, new ReferenceDistribution(reference, lse));
                return t.Add(h.TotalVariation!, h.LogProb);
            }
            ),
        };
        foreach (UnaryOp op in Enum.GetValues<UnaryOp>())
            ops[$"Unary {op}"] = ([[3, 5]], (t, x) => t.Unary(Domain(t, x[0], op), op, op is UnaryOp.Min or UnaryOp.Max ? 5 : 1.5f));
        foreach (BinaryOp op in Enum.GetValues<BinaryOp>())
            foreach (Broadcast b in Enum.GetValues<Broadcast>())
                ops[$"Binary {op} {b}"] = ([[3, 5], b switch { Broadcast.None => [3, 5], Broadcast.OverRows => [5], Broadcast.OverCols => [3], _ => [1] }],
                    (t, x) => t.Binary(x[0], op == BinaryOp.Divide ? t.Unary(t.Unary(x[1], UnaryOp.Square), UnaryOp.Offset, 1) : x[1], op, b));
        return ops;
    }

    // Functions with a limited domain or a kink are measured away from its edge.
    private static Tensor Domain(Tape t, Tensor x, UnaryOp op) => op is UnaryOp.Log or UnaryOp.Log1p or UnaryOp.Sqrt or UnaryOp.Power or UnaryOp.Reciprocal or UnaryOp.Abs or UnaryOp.Relu or UnaryOp.Min or UnaryOp.Max
        ? t.Unary(t.Unary(x, UnaryOp.Square), UnaryOp.Offset, 0.5f)
        : x;

    private static HeadOutput Head(Tape t, Tensor h, Tensor w, float cap, ReferenceDistribution? reference)
    {
        t.VocabularyChunk = 4;
        return t.LabelLogProb(h, w, t.New([0, 8, 5], 3), cap, reference);
    }

    private static Tensor Fixed(Tape t, int rows, int cols, ulong seed) => t.Constant(Values(rows * cols, seed), rows, cols);

    private static Tensor Input(Device device, int[] shape, ulong seed)
    {
        Tensor x = Tensor.From(device, Values((int)Tensor.Count(shape), seed), shape);
        x.RequiresGrad = x.RetainGrad = true;
        return x;
    }

    private static float[] Values(int n, ulong seed)
    {
        var v = new float[n];
        Philox.FillNormal(v, seed, 0);
        return v;
    }
}
