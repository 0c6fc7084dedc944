using System.Buffers;
using System.Runtime.InteropServices;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Losses;

/// <summary>The term that pulls the projected separation of a pair along ±c.</summary>
public enum SeparationLoss
{
    /// <summary>−c·s, the README's pseudocode.</summary>
    Linear,

    /// <summary>−ln σ(c·β·(s − s_ref)), the reference state's default.</summary>
    LogSigmoid,

    /// <summary>−c·tanh(s / (|s_ref| + 1e-6)).</summary>
    TanhRatio,

    /// <summary>
    /// −ln σ(c·β·(m − m_ref)) where m is the mean projection of BOTH texts of a pair: at +c everything is to move toward the
    /// positive persona, at −c toward the negative one. The other forms see only the difference of the two texts, which a
    /// mere gain on the persona axis satisfies.
    /// </summary>
    Shift,
}

/// <summary>The term that holds on to the base model's label log-probabilities.</summary>
public enum CoherenceLoss
{
    /// <summary>No term; degradation is only measured.</summary>
    None,

    /// <summary>|logp − logp_ref|, the README's pseudocode.</summary>
    Absolute,

    /// <summary>(k·relu(d − τ))^order with d = 10·tanh((logp_ref − logp) / 10): free within τ nats.</summary>
    Hinge,
}

/// <summary>Settings of the contrastive loss of the reference state (wassname/repeng, inner_contrastive_loss).</summary>
public sealed record ContrastiveLossConfig
{
    /// <summary>Form of the separation term.</summary>
    public SeparationLoss Separation { get; init; } = SeparationLoss.LogSigmoid;

    /// <summary>β of the log-sigmoid.</summary>
    public float Beta { get; init; } = 1;

    /// <summary>Measure projections in units of the personas' own mean distance, so that β means the same in every layer and model.</summary>
    public bool RelativeToGap { get; init; }

    /// <summary>Form of the coherence term.</summary>
    public CoherenceLoss Coherence { get; init; } = CoherenceLoss.None;

    /// <summary>λ, weight of the coherence term.</summary>
    public float CoherenceWeight { get; init; } = 1;

    /// <summary>τ in nats.</summary>
    public float CoherenceThreshold { get; init; } = 1.5f;

    /// <summary>Exponent of the hinge.</summary>
    public int BoundaryOrder { get; init; } = 1;

    /// <summary>Factor k inside the hinge: 10 in the tanh branch upstream, 1 with the log-sigmoid.</summary>
    public float HingeFactor { get; init; } = 1;

    /// <summary>Tokens at the end of each text that the loss reads; null for all.</summary>
    public int? LastTokens { get; init; } = 6;
}

/// <summary>What a loss layer's separation is measured along.</summary>
/// <param name="Module">Dotted path of the tapped linear layer.</param>
/// <param name="Direction">d_steer in output space [out, 1]: U·d / (‖d‖ + 1e-6).</param>
/// <param name="LastLeftSingular">The singular vector [out, 1] that the projection basis leaves out, or null.</param>
/// <param name="Gap">Mean distance of the personas along the direction.</param>
/// <param name="Basis">The projection basis [out, k] where it is not (nearly) all of U, or null.</param>
public sealed record LossLayer(string Module, Tensor Direction, Tensor? LastLeftSingular, Tensor? Basis, float Gap = 1) : IDisposable
{
    /// <inheritdoc/>
    public void Dispose()
    {
        Direction.Dispose();
        LastLeftSingular?.Dispose();
        Basis?.Dispose();
    }
}

/// <summary>The reference state's loss for one coefficient and one loss layer, with all of its metrics.</summary>
public static class ContrastiveLoss
{
    /// <summary>s [pairs]: the masked mean over the window of ⟨h⁺ − h⁻, direction⟩, or for the shift of ⟨(h⁺ + h⁻) / 2, direction⟩.</summary>
    public static Tensor Separation(Tape tape, ContrastiveLossConfig config, Tensor tap, PairWindow window, int copy, Tensor direction)
    {
        Tensor rows = tape.GatherRows(tap, tape.New(window.RowIndices(copy), window.Tokens.Batch * window.Width));
        Tensor projected = tape.MatMul(rows, direction);
        Tensor weighted = tape.Multiply(projected, tape.Constant(config.Separation == SeparationLoss.Shift ? window.MeanWeights() : window.DifferenceWeights(), projected.Rows, 1));
        return tape.Sum(tape.Reshape(weighted, window.Pairs, 2 * window.Width), 1);
    }

    /// <summary>
    /// Mean L2 norm of h⁺ − h⁻ in the projected space, over every position of the batch, where padding counts as zero
    /// (upstream's metric, window or not). For outputs of the layer the norm in U without its last column is that of
    /// the difference minus its part along the left-out vector.
    /// </summary>
    public static float SeparationNorm(Tensor tap, SharedPrefixes texts, int copy, LossLayer layer)
    {
        TokenBatch tokens = texts.Texts;
        int width = tap.Cols, length = tokens.Length, pairs = tokens.Batch / 2;
        int size = checked(2 * length * width);
        // One pair at a time in a buffer that is used again: large arrays made anew in each step would pile up until collected.
        float[] h = ArrayPool<float>.Shared.Rent(size);
        float[]? left = layer.LastLeftSingular?.ToArray();
        float[]? basis = layer.Basis?.ToArray();
        int k = layer.Basis?.Cols ?? 0;
        double total = 0;
        var difference = new double[width];
        for (int i = 0; i < pairs; i++)
        {
            for (int side = 0; side < 2; side++)
                Download(2 * i + side, side * length);
            for (int t = Math.Min(tokens.Starts[2 * i], tokens.Starts[2 * i + 1]); t < length; t++)
            {
                int plus = t * width, minus = (length + t) * width;
                bool p = tokens.IsReal(2 * i, t), m = tokens.IsReal(2 * i + 1, t);
                for (int d = 0; d < width; d++)
                    difference[d] = (p ? h[plus + d] : 0.0) - (m ? h[minus + d] : 0.0);
                total += Math.Sqrt(Math.Max(0, ProjectedSquare(difference, left, basis, k)));
            }
        }
        ArrayPool<float>.Shared.Return(h);
        return (float)(total / ((long)pairs * length));

        // A text's real tokens to rows of h, neighbours that lie side by side in the outputs together.
        void Download(int b, int to)
        {
            for (int t = tokens.Starts[b], count; t < length; t += count)
            {
                int row = texts.Row(b, t);
                for (count = 1; t + count < length && texts.Row(b, t + count) == row + count;)
                    count++;
                tap.Device.Backend.Download(MemoryMarshal.AsBytes(h.AsSpan((to + t) * width, count * width)), tap.Data.Slice(((long)copy * texts.Computed + row) * width, (long)count * width));
            }
        }
    }

    /// <summary>The separation term, averaged over pairs.</summary>
    public static Tensor SeparationTerm(Tape tape, ContrastiveLossConfig config, Tensor s, ReadOnlySpan<float> sRef, float c, float gap)
    {
        switch (config.Separation)
        {
            case SeparationLoss.Linear:
                return tape.Scale(tape.Mean(s), -c);
            case SeparationLoss.LogSigmoid or SeparationLoss.Shift:
                Tensor moved = tape.Subtract(s, tape.Constant(sRef, sRef.Length));
                return tape.Scale(tape.Mean(tape.Unary(tape.Scale(moved, c * config.Beta / (config.RelativeToGap ? gap : 1)), UnaryOp.LogSigmoid)), -1);
            default:
                var scale = new float[sRef.Length];
                for (int i = 0; i < scale.Length; i++)
                    scale[i] = Math.Abs(sRef[i]) + 1e-6f;
                Tensor ratio = tape.Divide(s, tape.Constant(scale, scale.Length));
                return tape.Scale(tape.Mean(tape.Unary(ratio, UnaryOp.Tanh)), -c);
        }
    }

    /// <summary>
    /// Coherence term (null when there is none) and the mean degradation in nats. logProb [rows · labels], reference
    /// and weights of the same length; weights make the mean over a row's tokens, the mean over rows follows.
    /// </summary>
    public static (Tensor? Term, Tensor Value, Tensor Degradation) CoherenceTerm(Tape tape, ContrastiveLossConfig config, Tensor logProb, ReadOnlySpan<float> reference, ReadOnlySpan<float> weights, int rows)
    {
        Tensor w = tape.Constant(weights, weights.Length);
        Tensor lost = tape.Scale(tape.Subtract(logProb, tape.Constant(reference, reference.Length)), -1);
        Tensor degradation = tape.Unary(lost, UnaryOp.SoftCap, 10);
        Tensor value = MeanRows(config.Coherence == CoherenceLoss.Absolute ? tape.Unary(lost, UnaryOp.Abs) : Hinge(degradation));
        Tensor? term = config.Coherence == CoherenceLoss.None ? null : tape.Scale(value, config.CoherenceWeight);
        return (term, value, MeanRows(degradation));

        Tensor Hinge(Tensor d)
        {
            Tensor v = tape.Scale(tape.Unary(tape.Unary(d, UnaryOp.Offset, -config.CoherenceThreshold), UnaryOp.Relu), config.HingeFactor);
            return config.BoundaryOrder switch { 1 => v, 2 => tape.Unary(v, UnaryOp.Square), _ => tape.Unary(v, UnaryOp.Power, config.BoundaryOrder) };
        }

        Tensor MeanRows(Tensor x) => tape.Scale(tape.Sum(tape.Multiply(x, w)), 1f / rows);
    }

    private static double ProjectedSquare(double[] difference, float[]? left, float[]? basis, int k)
    {
        double square = 0;
        if (basis is not null)
        {
            for (int q = 0; q < k; q++)
            {
                double dot = 0;
                for (int d = 0; d < difference.Length; d++)
                    dot += difference[d] * basis[d * k + q];
                square += dot * dot;
            }
            return square;
        }
        foreach (double x in difference)
            square += x * x;
        if (left is not null)
        {
            double dot = 0;
            for (int d = 0; d < difference.Length; d++)
                dot += difference[d] * left[d];
            square -= dot * dot;
        }
        return square;
    }
}
