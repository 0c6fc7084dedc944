using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Losses;

/// <summary>How a coherence penalty is taken together over the tokens of a text.</summary>
public enum BarrierMode
{
    /// <summary>Mean over tokens.</summary>
    Mean,

    /// <summary>T·(ln Σ e^(x/T) − ln n): between the mean and the largest.</summary>
    LogSumExp,

    /// <summary>The largest.</summary>
    Max,
}

/// <summary>Settings of AntiPaSTO's loss (M. J. Clark, AntiPaSTO, inner_contrastive_loss).</summary>
public sealed record AntiPastoLossConfig
{
    /// <summary>Tokens at the end of each text that the projection reads; null for all.</summary>
    public int? LastTokens { get; init; } = 3;

    /// <summary>Use the total-variation barrier.</summary>
    public bool Coherence { get; init; } = true;

    /// <summary>Weight inside the barrier's logarithm.</summary>
    public float CoherenceWeight { get; init; } = 10;

    /// <summary>Free total variation as a part of √(entropy + floor).</summary>
    public float CoherenceThreshold { get; init; } = 0.9f;

    /// <summary>Added to the entropy under the root, in nats.</summary>
    public float EntropyFloor { get; init; } = 0.02f;

    /// <summary>Use the monotone-order term.</summary>
    public bool Monotone { get; init; } = true;

    /// <summary>Weight of the monotone-order term.</summary>
    public float MonotoneWeight { get; init; } = 30;

    /// <summary>Margin of the order as a part of √entropy.</summary>
    public float MonotoneMargin { get; init; } = 0.5f;

    /// <summary>Smallest margin in nats.</summary>
    public float MonotoneFloor { get; init; } = 0.04f;

    /// <summary>Exponent 1 − softness of the focus, once warmed up.</summary>
    public float FocusSoftness { get; init; } = 0.25f;

    /// <summary>Weight of the orthogonality term.</summary>
    public float OrthWeight { get; init; }

    /// <summary>Added to the scaled product of the cosines.</summary>
    public float AntisymMargin { get; init; }

    /// <summary>Floor of a dimension's deviation as a part of the median deviation.</summary>
    public float VarianceFloorFraction { get; init; } = 0.1f;

    /// <summary>Smallest deviation of a dimension.</summary>
    public float DeviationFloor { get; init; } = 0.05f;

    /// <summary>Throws for values that make no sense.</summary>
    public void Validate()
    {
        Need(LastTokens is null or >= 1, $"last_n_tokens {LastTokens} must be at least 1");
        Need(CoherenceThreshold is >= 0 and <= 1, $"coh_thresh {CoherenceThreshold} must be from 0 to 1");
        Need(CoherenceWeight >= 0, $"coh_weight {CoherenceWeight} must not be negative");
        Need(EntropyFloor >= 0, $"coh_entropy_floor {EntropyFloor} must not be negative");
        Need(MonotoneWeight >= 0, $"mono_weight {MonotoneWeight} must not be negative");
        Need(MonotoneMargin >= 0 && MonotoneFloor >= 0, $"mono_margin {MonotoneMargin} and mono_threshold_floor {MonotoneFloor} must not be negative");
        Need(FocusSoftness is >= 0 and <= 1, $"focus_softness {FocusSoftness} must be from 0 to 1");
        Need(OrthWeight >= 0, $"orth_weight {OrthWeight} must not be negative");
        Need(float.IsFinite(AntisymMargin), $"antisym_margin {AntisymMargin} must be a number");
    }

    private static void Need(bool ok, string message)
    {
        if (!ok)
            throw new UserErrorException(message);
    }
}

/// <summary>AntiPaSTO's three terms on small tensors; p is the number of pairs, k the width of the subspace.</summary>
public static class AntiPastoLoss
{
    /// <summary>
    /// The projection term [p]. d's are masked means over the window of Bᵀ(h⁺ − h⁻) [p, k]; full are the norms of the
    /// unprojected changes [p]. Dimensions are divided by their deviation over the batch (a constant). With
    /// P = f₊·cos₊·f₋·cos₋ and q = 30·P + margin the term is q + relu(q)².
    /// </summary>
    public static Tensor Projection(Tape tape, AntiPastoLossConfig config, Tensor dRef, Tensor dPos, Tensor dNeg, Tensor fullPos, Tensor fullNeg, float softness)
    {
        Tensor deltaPos = tape.Subtract(dPos, dRef), deltaNeg = tape.Subtract(dNeg, dRef);
        Tensor scale = tape.Constant(InverseDeviation(config, dRef), dRef.Cols);
        Tensor vRef = tape.Multiply(dRef, scale, Broadcast.OverRows);
        Tensor vPos = tape.Multiply(deltaPos, scale, Broadcast.OverRows), vNeg = tape.Multiply(deltaNeg, scale, Broadcast.OverRows);
        Tensor product = tape.Multiply(
            tape.Multiply(Focus(tape, deltaPos, fullPos, softness), Cosine(tape, vPos, vRef)),
            tape.Multiply(Focus(tape, deltaNeg, fullNeg, softness), Cosine(tape, vNeg, vRef)));
        Tensor q = tape.Unary(tape.Scale(product, 30), UnaryOp.Offset, config.AntisymMargin);
        Tensor loss = tape.Add(q, tape.Unary(tape.Unary(q, UnaryOp.Relu), UnaryOp.Square));
        if (config.OrthWeight == 0)
            return loss;
        Tensor apart = tape.Subtract(tape.Add(SquareSum(tape, vPos), SquareSum(tape, vNeg)), tape.Scale(tape.Unary(Dot(tape, vPos, vNeg), UnaryOp.Abs), 2));
        Tensor relative = tape.Divide(tape.Unary(apart, UnaryOp.Relu), tape.Unary(SquareSum(tape, vRef), UnaryOp.Max, 1));
        return tape.Add(loss, tape.Scale(tape.Unary(tape.Unary(relative, UnaryOp.Offset, 1e-6f), UnaryOp.Sqrt), config.OrthWeight));
    }

    /// <summary>
    /// The barrier of each token: ln(1 + scale·v)² + v with v = relu(tv − threshold).
    /// </summary>
    /// <param name="tape">Records.</param>
    /// <param name="tv">Total variation per token [tokens].</param>
    /// <param name="threshold">Free total variation per token [tokens], a constant.</param>
    /// <param name="scale">Weight inside the logarithm.</param>
    public static Tensor Barrier(Tape tape, Tensor tv, ReadOnlySpan<float> threshold, float scale)
    {
        Tensor v = tape.Unary(tape.Subtract(tv, tape.Constant(threshold, threshold.Length)), UnaryOp.Relu);
        Tensor log = tape.Unary(tape.Scale(v, scale), UnaryOp.Log1p);
        return tape.Add(tape.Unary(log, UnaryOp.Square), v);
    }

    /// <summary>Penalties [rows, tokens] taken together [rows] over the tokens that the mask [rows · tokens] counts.</summary>
    public static Tensor Together(Tape tape, Tensor penalty, ReadOnlySpan<float> mask, BarrierMode mode, float temperature)
    {
        (int rows, int n) = (penalty.Rows, penalty.Cols);
        float[] values = penalty.ToArray(), weights = mask.ToArray(), largest = new float[rows], pick = new float[values.Length];
        for (int r = 0; r < rows; r++)
        {
            float count = Math.Max(1, weights.AsSpan(r * n, n).ToArray().Sum());
            int best = -1;
            for (int at = r * n; at < (r + 1) * n; at++)
            {
                if (mask[at] > 0 && (best < 0 || values[at] > values[best]))
                    best = at;
                weights[at] /= count;
            }
            if (best < 0)
                continue;
            largest[r] = values[best];
            pick[best] = 1;
        }
        if (mode != BarrierMode.LogSumExp)
            return tape.Sum(tape.Multiply(penalty, tape.Constant(mode == BarrierMode.Mean ? weights : pick, rows, n)), -1);
        // Measured from the largest of each row, a constant, which keeps the exponentials in range.
        Tensor top = tape.Constant(largest, rows);
        Tensor e = tape.Unary(tape.Scale(tape.Subtract(penalty, top, Broadcast.OverCols), 1 / temperature), UnaryOp.Exp);
        Tensor mean = tape.Sum(tape.Multiply(e, tape.Constant(weights, rows, n)), -1);
        return tape.Add(tape.Scale(tape.Unary(mean, UnaryOp.Log), temperature), top);
    }

    /// <summary>Free total variation: fraction·√(entropy + floor).</summary>
    public static float Threshold(float entropy, float fraction, float floor) => fraction * MathF.Sqrt(entropy + floor);

    /// <summary>
    /// The monotone-order term: hinges relu(δ₋ + m) + relu(m − δ₊), or mirrored, whichever mean is smaller.
    /// δ [p] are changes of the gap of label log-probabilities; m = margin·√entropy + floor per pair.
    /// </summary>
    public static (Tensor Loss, bool Forward, float ForwardViolation, float BackwardViolation) Monotone(Tape tape, AntiPastoLossConfig config, Tensor deltaPos, Tensor deltaNeg, ReadOnlySpan<float> entropy, float weight)
    {
        var margin = new float[entropy.Length];
        for (int i = 0; i < margin.Length; i++)
            margin[i] = config.MonotoneMargin * MathF.Sqrt(entropy[i]) + config.MonotoneFloor;
        Tensor m = tape.Constant(margin, margin.Length);
        Tensor forward = Order(deltaNeg, deltaPos), backward = Order(deltaPos, deltaNeg);
        (float f, float b) = (forward.Item(), backward.Item());
        // Weighted, as upstream compares them: while the weight is still 0 the direction reads as backward.
        bool up = weight * f < weight * b;
        return (tape.Scale(up ? forward : backward, weight), up, f, b);

        Tensor Order(Tensor low, Tensor high) => tape.Mean(tape.Add(
            tape.Unary(tape.Add(low, m), UnaryOp.Relu), tape.Unary(tape.Scale(tape.Subtract(high, m), -1), UnaryOp.Relu)));
    }

    /// <summary>Euclidean norm of each row [p].</summary>
    public static Tensor Norm(Tape tape, Tensor x) => tape.Unary(SquareSum(tape, x), UnaryOp.Sqrt);

    /// <summary>Linear ramp from 0 to 1 over the first steps: a negative fraction f means −f·warmup of all steps.</summary>
    public static float Ramp(int step, int totalSteps, double fraction, double warmup)
    {
        int steps = (int)((fraction < 0 ? -fraction * warmup : fraction) * totalSteps);
        return steps <= 0 ? 1 : Math.Min(1f, (float)step / steps);
    }

    private static Tensor Focus(Tape tape, Tensor delta, Tensor full, float softness)
    {
        Tensor ratio = tape.Divide(Norm(tape, delta), tape.Unary(full, UnaryOp.Offset, 1e-8f));
        return tape.Unary(tape.Unary(ratio, UnaryOp.Min, 1), UnaryOp.Power, 1 - softness);
    }

    // torch's cosine_similarity: norms are held at 1e-8 or above.
    private static Tensor Cosine(Tape tape, Tensor a, Tensor b)
    {
        Tensor na = tape.Unary(Norm(tape, a), UnaryOp.Max, 1e-8f), nb = tape.Unary(Norm(tape, b), UnaryOp.Max, 1e-8f);
        return tape.Divide(Dot(tape, a, b), tape.Multiply(na, nb));
    }

    private static Tensor Dot(Tape tape, Tensor a, Tensor b) => tape.Sum(tape.Multiply(a, b), -1);

    private static Tensor SquareSum(Tape tape, Tensor x) => tape.Sum(tape.Unary(x, UnaryOp.Square), -1);

    /// <summary>√(var + 1e-6) of each of the k dimensions of d [p, k] over the batch, and the floor that it is held at.</summary>
    public static (double[] Deviation, double Floor) Deviation(AntiPastoLossConfig config, ReadOnlySpan<float> d, int p, int k)
    {
        var deviation = new double[k];
        for (int j = 0; j < k; j++)
        {
            double mean = 0, square = 0;
            for (int i = 0; i < p; i++)
                mean += (double)d[i * k + j] / p;
            for (int i = 0; i < p; i++)
                square += (d[i * k + j] - mean) * (d[i * k + j] - mean) / p;
            deviation[j] = Math.Sqrt(square + 1e-6);
        }
        // torch's median: the lower of the two in the middle.
        double median = deviation.Order().ElementAt((k - 1) / 2);
        return (deviation, Math.Max(config.VarianceFloorFraction * median + 1e-6, config.DeviationFloor));
    }

    // A constant, as upstream's default detaches it.
    private static float[] InverseDeviation(AntiPastoLossConfig config, Tensor d)
    {
        (double[] deviation, double floor) = Deviation(config, d.ToArray(), d.Rows, d.Cols);
        return [.. deviation.Select(s => (float)(1 / Math.Max(s, floor)))];
    }
}
