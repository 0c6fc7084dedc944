using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Testing;

namespace Repeng.Autograd.Tests;

/// <summary>Layers over packed weights: gradients by central differences, the adjoint identity, and the bits of the decoded weight.</summary>
public sealed class PackedWeightTests
{
    public static TheoryData<string> Forms() => new(PackedMatrix.Forms);

    [Theory, MemberData(nameof(Forms))]
    public void The_gradient_of_a_linear_layer_is_the_decoded_ones_and_its_adjoint(string form)
    {
        using Device device = Device.Cpu(2);
        foreach ((int rows, int outputs, int inputs) in new[] { (1, 40, 64), (5, 33, 96), (50, 96, 160) })
        {
            using var stored = new PackedMatrix(form, outputs, inputs, 3);
            int width = stored.Columns;
            using Tensor packed = new(device, stored.View, stored, outputs, width), plain = Tensor.From(device, stored.Decoded, outputs, width);
            using Tensor bias = Tensor.From(device, Values(outputs, 4), outputs);
            float[] x = Values(rows * width, 5), dy = Values(rows * outputs, 6);
            (float[] y, float[] dx) = Run(packed);
            Assert.Equal(Run(plain), (y, dx), (a, b) => a.Item1.AsSpan().SequenceEqual(b.Item1) && a.Item2.AsSpan().SequenceEqual(b.Item2));

            // ⟨dy, W·v⟩ = ⟨Wᵀ·dy, v⟩, sums in double over the decoded elements.
            float[] v = Values(rows * width, 7);
            double left = 0, right = 0;
            for (int r = 0; r < rows; r++)
                for (int o = 0; o < outputs; o++)
                    for (int i = 0; i < width; i++)
                        left += (double)dy[r * outputs + o] * stored.Decoded[o * width + i] * v[r * width + i];
            for (int i = 0; i < dx.Length; i++)
                right += (double)dx[i] * v[i];
            double scale = Math.Sqrt(dx.Sum(d => (double)d * d) * v.Sum(d => (double)d * d));
            Assert.True(Math.Abs(left - right) <= 1e-5 * scale, $"{form} {rows}×{outputs}×{width}: {left} and {right}");

            (float[], float[]) Run(Tensor w)
            {
                using Tensor input = Tensor.From(device, x, rows, width);
                input.RequiresGrad = input.RetainGrad = true;
                using var tape = new Tape(device);
                Tensor output = tape.Linear(input, w, bias);
                tape.Backward(tape.Sum(tape.Multiply(output, tape.Constant(dy, rows, outputs))));
                float[] gradient = input.GradToArray();
                input.FreeGrad();
                return (output.ToArray(), gradient);
            }
        }
    }

    [Theory, MemberData(nameof(Forms))]
    public void The_gradient_of_a_tied_head_in_chunks_is_the_decoded_ones(string form)
    {
        using Device device = Device.Cpu(2);
        using var stored = new PackedMatrix(form, 150, 64, 8);
        int width = stored.Columns;
        using Tensor packed = new(device, stored.View, stored, 150, width), plain = Tensor.From(device, stored.Decoded, 150, width);
        Assert.Equal(Run(plain), Run(packed));

        float[] Run(Tensor table)
        {
            using Tensor hidden = Tensor.From(device, [.. Values(6 * width, 9).Select(v => v * 1e-3f)], 6, width);
            hidden.RequiresGrad = hidden.RetainGrad = true;
            using var tape = new Tape(device) { VocabularyChunk = 64 };
            Tensor sum = tape.Add(hidden, tape.Embedding(table, tape.New([0, 149, 64, 63, 7, 7], 6), 0.5f));
            HeadOutput head = tape.LabelLogProb(sum, table, tape.New([1, 63, 64, 149, 0, 5], 6));
            tape.Backward(tape.Sum(head.LogProb));
            float[] found = [.. hidden.GradToArray(), .. head.LogProb.ToArray()];
            hidden.FreeGrad();
            return found;
        }
    }

    [Fact]
    public void A_packed_tensor_refuses_gradients_and_a_part_of_it_is_packed()
    {
        using Device device = Device.Cpu(1);
        using var stored = new PackedMatrix("NF4", 8, 64, 10);
        using Tensor w = new(device, stored.View, stored, 8, 64) { Name = "w" };
        Assert.Contains("w is held packed as NF4", Assert.Throws<UserErrorException>(() => w.RequiresGrad = true).Message, StringComparison.Ordinal);
        using Tensor part = w.Alias(64, 3, 64);
        Assert.Equal(DType.Packed, part.Type);
        using Tensor x = Tensor.From(device, Values(64, 11), 1, 64);
        using var tape = new Tape(device, record: false);
        Assert.Equal(tape.Linear(x, w).ToArray()[1..4], tape.Linear(x, part).ToArray());
    }

    private static float[] Values(int count, ulong stream) => [.. Enumerable.Range(0, count).Select(i => (float)Philox.Normal(3, stream, (ulong)i))];
}
