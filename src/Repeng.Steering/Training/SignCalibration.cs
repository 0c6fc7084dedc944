using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>How far +c moves toward the positive persona.</summary>
/// <param name="Plus">Persona log-ratio at c = +1 in nats, mean over texts.</param>
/// <param name="Minus">The same at c = −1.</param>
/// <param name="Flipped">Whether the adapter was turned round.</param>
public readonly record struct SignReport(double Plus, double Minus, bool Flipped);

/// <summary>
/// The sign of a trained adapter is arbitrary. It is set by what the model itself says: for held-out suffixes, p⁺ and
/// p⁻ are the base model's next-token distributions after the positive and the negative text, and p_c the steered
/// one after the text without a persona; the mean of E_{p_c}[ln p⁺ − ln p⁻] must be larger at +1 than at −1.
/// </summary>
public static class SignCalibration
{
    /// <summary>Measures and, where needed, negates the adapter. Pairs without a neutral text use both texts instead.</summary>
    public static SignReport Run(DecoderModel model, IAdapter adapter, PairData data, int maxPairs = 48, int pairsPerBatch = 8)
    {
        int n = Math.Min(maxPairs, data.Pairs.Count), rows = 0;
        double plus = 0, minus = 0;
        for (int first = 0; first < n; first += pairsPerBatch)
        {
            int[] pairs = [.. Enumerable.Range(first, Math.Min(pairsPerBatch, n - first))];
            TokenBatch batch = data.Batch(pairs);
            TokenBatch steered = data.NeutralBatch(pairs) ?? batch;
            double[][] reference = LogProbabilities(model, batch, null, 0);
            int each = steered.Batch / pairs.Length;
            plus += Score(reference, LogProbabilities(model, steered, adapter, 1), each);
            minus += Score(reference, LogProbabilities(model, steered, adapter, -1), each);
            rows += steered.Batch;
        }
        bool flip = plus < minus;
        if (flip)
            adapter.Negate();
        return new SignReport((flip ? minus : plus) / rows, (flip ? plus : minus) / rows, flip);
    }

    // Rows of one pair stand together: each of them in the steered batch, two in the reference.
    private static double Score(double[][] reference, double[][] steered, int each)
    {
        double total = 0;
        for (int row = 0; row < steered.Length; row++)
        {
            double[] positive = reference[row / each * 2], negative = reference[row / each * 2 + 1];
            for (int v = 0; v < steered[row].Length; v++)
                total += Math.Exp(steered[row][v]) * (positive[v] - negative[v]);
        }
        return total;
    }

    private static double[][] LogProbabilities(DecoderModel model, TokenBatch batch, IAdapter? adapter, float c)
    {
        using var tape = new Tape(model.Device, record: false);
        SharedPrefixes texts = SharedPrefixes.Of(batch);
        Tensor hidden = model.Forward(new ForwardContext(tape, texts)
        {
            Adapter = adapter?.Pass(tape, [.. Enumerable.Repeat(c, texts.Tokens.Batch)], texts.Tokens.Length),
        });
        int[] last = texts.RowsFromEnd(1);
        float[] logits = model.Logits(tape, tape.GatherRows(hidden, tape.New(last, last.Length))).ToArray();
        int width = model.Config.VocabSize;
        return [.. Enumerable.Range(0, batch.Batch).Select(b =>
        {
            double[] row = [.. logits.AsSpan(b * width, width).ToArray().Select(x => (double)x)];
            double max = row.Max(), lse = max + Math.Log(row.Sum(x => Math.Exp(x - max)));
            return row.Select(x => x - lse).ToArray();
        })];
    }
}
