using Repeng.Kernels;
using Repeng.Kernels.Dry;
using Repeng.Runtime;

namespace Repeng.Autograd.Tests;

/// <summary>A training step over the backend that only counts takes the same memory as a real one and makes the products that it should.</summary>
public sealed class DryRunTests
{
    private const int Rows = 24, Vocabulary = 500, Dim = 32, Inner = 48;

    [Fact]
    public void ADryStepTakesTheMemoryOfARealOne()
    {
        using Device real = Device.Cpu(2), dry = new(new DryBackend());
        long expected = Step(real), predicted = Step(dry);
        Assert.Equal(expected, predicted);
        Assert.True(expected > 4L * Rows * Dim * 3, $"a peak of {expected} bytes holds no activations");
        Assert.Equal(dry.Pool.PeakReserved, ((DryBackend)dry.Backend).PeakAllocatedBytes);
    }

    [Fact]
    public void ADryStepCountsTheProductsOfForwardAndBackward()
    {
        using Device device = new(new DryBackend());
        Step(device);
        DryBackend dry = (DryBackend)device.Backend;
        // Every product is a linear layer with a gradient by input and by weight (three products of the same size)
        // but the head, whose logits are computed again on the way back (four).
        double layers = 3 * 2.0 * Rows * Dim * Inner * 3;
        double head = 4 * 2.0 * Rows * Vocabulary * Dim;
        Assert.Equal(layers + head, dry[OpFamily.MatMul].Flops, 1e-6);
        Assert.Equal(dry[OpFamily.MatMul].Flops, dry.Flops, 1e-6);
        Assert.True(dry[OpFamily.Vocabulary].Elements >= 2.0 * Rows * Vocabulary);
    }

    /// <summary>Embedding, gated layer, residual and head, forward and backward; returns the peak of the pool.</summary>
    private static long Step(Device device)
    {
        using Tensor table = Parameter(device, Vocabulary, Dim), gate = Parameter(device, Inner, Dim), up = Parameter(device, Inner, Dim), down = Parameter(device, Dim, Inner);
        using (Tape tape = new(device) { VocabularyChunk = 128 })
        {
            int[] ids = [.. Enumerable.Range(0, Rows)];
            Tensor tokens = tape.New(ids, Rows), labels = tape.New(ids, Rows);
            Tensor x = tape.Embedding(table, tokens);
            Tensor inner = tape.Gated(tape.Linear(x, gate), tape.Linear(x, up), UnaryOp.Silu);
            Tensor hidden = tape.Add(x, tape.Linear(inner, down));
            tape.Backward(tape.LabelLogProb(hidden, table, labels).LogProb);
        }
        foreach (Tensor p in new[] { table, gate, up, down })
            p.FreeGrad();
        return device.Pool.PeakReserved;
    }

    private static Tensor Parameter(Device device, int rows, int cols)
    {
        var random = new Random(rows);
        var values = new float[rows * cols];
        for (int i = 0; i < values.Length; i++)
            values[i] = (float)(random.NextDouble() - 0.5);
        Tensor t = Tensor.From(device, values, rows, cols);
        t.RequiresGrad = true;
        t.RetainGrad = true;
        return t;
    }
}
