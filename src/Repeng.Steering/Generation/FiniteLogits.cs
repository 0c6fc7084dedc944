using System.Globalization;
using System.Numerics;
using System.Runtime.InteropServices;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Steering.Models;

namespace Repeng.Steering.Generation;

/// <summary>
/// Says where a steered pass left the numbers of fp32. The pass itself pays a look at its logits; only where they are bad
/// it is run again, alone and with the output of every block kept.
/// </summary>
internal static class FiniteLogits
{
    /// <summary>
    /// Throws <see cref="UserErrorException"/> where a text's logits or log-probabilities are not finite, or where all
    /// logits are the same because a norm divided by an overflowed length. Names the first block whose output is bad, and c.
    /// </summary>
    /// <param name="model">The model.</param>
    /// <param name="steering">What steered the pass.</param>
    /// <param name="coefficient">c of the text.</param>
    /// <param name="values">Logits [vocabulary] after a token of the text, or log-probabilities of some of its labels.</param>
    /// <param name="ids">The text up to there.</param>
    public static void Require(DecoderModel model, Steering steering, float coefficient, ReadOnlySpan<float> values, IEnumerable<int> ids)
    {
        bool finite = AllFinite(values);
        if (finite && !AllEqual(values))
            return;
        int[] text = [.. ids];
        (string Path, string Name)[] stages = [(model.Config.EmbeddingPath, "the embeddings"), .. model.Blocks.Select(b => (b.Path, $"block {b.Index}"))];
        HashSet<string> captured = [.. stages.Select(s => s.Path)];
        using var tape = new Tape(model.Device, record: false);
        ForwardContext context = steering.Context(tape, new TokenBatch(1, text.Length, text, [0]), [coefficient], capture: captured.Contains);
        model.Forward(context);
        foreach ((string path, string stage) in stages)
        {
            float[] y = context.Outputs[path].ToArray();
            int width = y.Length / text.Length;
            for (int t = 0; t < text.Length; t++)
                if (Worst(y.AsSpan(t * width, width)) is { } worst)
                    throw new UserErrorException($"{Cause(steering, coefficient)}: the output of {stage} ({path}) is the first to leave the range of fp32 ({worst} at token {t} of {text.Length}), so that the logits are {(finite ? "all the same" : "not finite")}; {Advice(steering, coefficient)}");
        }
        if (!finite)
            throw new UserErrorException($"{Cause(steering, coefficient)}: the logits are not finite although the output of every block is; {Advice(steering, coefficient)}");
    }

    private static string Cause(Steering steering, float c) => c == 0 || steering is { Adapter: null, Vector: null }
        ? "the model without steering"
        : $"{(steering.Adapter is { } adapter ? $"{adapter.Kind} adapter" : "control vector")} at coefficient {c.ToString(CultureInfo.InvariantCulture)}";

    private static string Advice(Steering steering, float c) => c == 0 || steering is { Adapter: null, Vector: null }
        ? "its weights are damaged, or were made for another number format"
        : "take a smaller |coefficient|";

    // What is not finite, or the length where its square overflows, as the next norm sees it; null for a good token.
    private static string? Worst(ReadOnlySpan<float> y)
    {
        float squares = 0, bad = 0;
        foreach (float v in y)
        {
            if (!float.IsFinite(v) && bad == 0)
                bad = v;
            squares += v * v;
        }
        if (bad != 0)
            return float.IsNaN(bad) ? "NaN" : bad > 0 ? "∞" : "-∞";
        double length = 0;
        foreach (float v in y)
            length += (double)v * v;
        return float.IsFinite(squares) ? null : $"length {Math.Sqrt(length).ToString("G3", CultureInfo.InvariantCulture)}, whose square is infinite,";
    }

    private static bool AllFinite(ReadOnlySpan<float> values)
    {
        ReadOnlySpan<Vector<float>> wide = MemoryMarshal.Cast<float, Vector<float>>(values);
        Vector<float> zeros = Vector<float>.Zero;
        // x − x is 0, or NaN for what is not finite; NaN stays in the sum.
        foreach (Vector<float> x in wide)
            zeros += x - x;
        float sum = Vector.Sum(zeros);
        foreach (float x in values[(wide.Length * Vector<float>.Count)..])
            sum += x - x;
        return sum == 0;
    }

    private static bool AllEqual(ReadOnlySpan<float> values) => values.Length > 1 && !values.ContainsAnyExcept(values[0]);
}
