using Repeng.Autograd;
using Repeng.Runtime;

namespace Repeng.Steering.Losses;

/// <summary>A loss as a function of one number, computed by the code that trains.</summary>
/// <param name="Name">Name of the curve.</param>
/// <param name="Points">Argument and value, by rising argument.</param>
public sealed record LossCurve(string Name, IReadOnlyList<(double X, double Y)> Points);

/// <summary>The shapes of the training losses, for pictures of them: one pair, one token, everything else held still.</summary>
public static class LossCurves
{
    private const int Steps = 60;

    /// <summary>Separation terms at c = +1 against the projected separation s of a pair whose reference has s_ref = 1. At c = −1 they are mirrored, the log-sigmoid about s_ref.</summary>
    public static IReadOnlyList<LossCurve> Separation(Device device)
    {
        double[] s = Grid(-4, 6);
        return
        [
            new("linear, −c·s", Of(SeparationLoss.Linear)),
            new("log-sigmoid, −ln σ(c·(s − s_ref))", Of(SeparationLoss.LogSigmoid)),
            new("tanh ratio, −c·tanh(s / |s_ref|)", Of(SeparationLoss.TanhRatio)),
        ];

        (double, double)[] Of(SeparationLoss form) => [.. s.Select(x =>
        {
            using var tape = new Tape(device, record: false);
            return (x, (double)ContrastiveLoss.SeparationTerm(tape, new ContrastiveLossConfig { Separation = form }, tape.Constant([(float)x], 1), [1], c: 1, gap: 1).Item());
        })];
    }

    /// <summary>
    /// Coherence terms against the nats of log-probability that a token has lost. AntiPaSTO's barrier reads total variation, not the label: here it is that
    /// of a token with two outcomes, of which the likelier one, of probability p, loses those nats to the other.
    /// </summary>
    public static IReadOnlyList<LossCurve> Coherence(Device device)
    {
        double[] lost = Grid(-1, 5);
        var anti = new AntiPastoLossConfig();
        return
        [
            new("absolute", Of(new ContrastiveLossConfig { Coherence = CoherenceLoss.Absolute })),
            new("hinge, τ = 1.5", Of(new ContrastiveLossConfig { Coherence = CoherenceLoss.Hinge })),
            new("hinge, order 2", Of(new ContrastiveLossConfig { Coherence = CoherenceLoss.Hinge, BoundaryOrder = 2 })),
            new("AntiPaSTO's barrier, p = 0.95", Barrier(0.95)),
            new("AntiPaSTO's barrier, p = 0.6", Barrier(0.6)),
        ];

        (double, double)[] Of(ContrastiveLossConfig config) => [.. lost.Select(x =>
        {
            using var tape = new Tape(device, record: false);
            return (x, (double)ContrastiveLoss.CoherenceTerm(tape, config, tape.Constant([(float)-x], 1), [0], [1], rows: 1).Value.Item());
        })];

        (double, double)[] Barrier(double p)
        {
            // A probability above 1 is none: there the curve begins.
            double[] own = [.. lost.Where(x => p * Math.Exp(-x) <= 1)];
            float threshold = AntiPastoLoss.Threshold((float)(-p * Math.Log(p) - (1 - p) * Math.Log(1 - p)), anti.CoherenceThreshold, anti.EntropyFloor);
            float[] variation = [.. own.Select(x => (float)Math.Abs(p - p * Math.Exp(-x)))], thresholds = [.. own.Select(_ => threshold)];
            using var tape = new Tape(device, record: false);
            float[] values = AntiPastoLoss.Barrier(tape, tape.Constant(variation, own.Length), thresholds, anti.CoherenceWeight).ToArray();
            return [.. own.Zip(values, (x, y) => (x, (double)y))];
        }
    }

    /// <summary>
    /// AntiPaSTO's projection term against the angle, in degrees, by which the change at c = +1 has left the reference direction: with the change at c = −1
    /// opposite to it, and with that one still on the axis. Lengths play no part.
    /// </summary>
    public static IReadOnlyList<LossCurve> Projection(Device device)
    {
        double[] degrees = [.. Enumerable.Range(0, 51).Select(i => 2.0 * i)];
        int n = degrees.Length;
        return [new("both turn: δ₋ = −δ₊", Of(true)), new("one turns: δ₋ = −d_ref", Of(false))];

        (double, double)[] Of(bool both)
        {
            var plus = new float[2 * n];
            var minus = new float[2 * n];
            var reference = new float[2 * n];
            for (int i = 0; i < n; i++)
            {
                (double sin, double cos) = Math.SinCos(degrees[i] * Math.PI / 180);
                // What is read are separations; their changes against the reference are the unit vectors δ.
                (reference[2 * i], plus[2 * i], plus[2 * i + 1]) = (1, (float)(1 + cos), (float)sin);
                (minus[2 * i], minus[2 * i + 1]) = both ? ((float)(1 - cos), (float)-sin) : (0, 0);
            }
            float[] ones = [.. Enumerable.Repeat(1f, n)];
            using var tape = new Tape(device, record: false);
            float[] values = AntiPastoLoss.Projection(tape, new AntiPastoLossConfig(), tape.Constant(reference, n, 2), tape.Constant(plus, n, 2), tape.Constant(minus, n, 2), tape.Constant(ones, n), tape.Constant(ones, n), 0).ToArray();
            return [.. degrees.Zip(values, (x, y) => (x, (double)y))];
        }
    }

    private static double[] Grid(double from, double to) => [.. Enumerable.Range(0, Steps + 1).Select(i => from + (to - from) * i / Steps)];
}
