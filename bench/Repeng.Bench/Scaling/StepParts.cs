using System.Globalization;
using Repeng.Kernels.Dry;
using Repeng.Steering.Models;

namespace Repeng.Bench.Scaling;

/// <summary>What the ops of a step belong to.</summary>
internal enum Part
{
    /// <summary>Products with the frozen weights of the blocks, and the gradients by their inputs.</summary>
    Weights,

    /// <summary>Products with bases and M(c).</summary>
    Adapter,

    /// <summary>Products with the head and ops on its logits.</summary>
    Vocabulary,

    /// <summary>Attention.</summary>
    Attention,

    /// <summary>Cayley transforms.</summary>
    Rotation,

    /// <summary>Everything else: norms, rotary embedding, gated units, sums, gradients' clearing, the optimiser.</summary>
    Rest,
}

/// <summary>Tells the parts of a step apart by the sizes of its products.</summary>
internal sealed class StepParts(DecoderModel model, StepSize size)
{
    private readonly HashSet<(int, int)> _weights = [.. model.Linears.Values.SelectMany(l => new[] { (l.Outputs, l.Inputs), (l.Inputs, l.Outputs) })];

    public Part Of(OpCost op) => op.Family switch
    {
        OpFamily.MatMul => OfProduct(op.M, op.N, op.K),
        OpFamily.Attention => Part.Attention,
        OpFamily.Rotation => Part.Rotation,
        OpFamily.Vocabulary => Part.Vocabulary,
        _ => Part.Rest,
    };

    /// <summary>Of a kind of op as <see cref="Training.TimedBackend"/> names it.</summary>
    public Part Of(string kind)
    {
        if (kind.StartsWith("MatMul ", StringComparison.Ordinal))
        {
            int[] s = [.. kind.Split(' ')[2].Split('x').Select(n => int.Parse(n, CultureInfo.InvariantCulture))];
            return OfProduct(s[0], s[1], s[2]);
        }
        return kind switch
        {
            "AttentionForward" or "AttentionBackward" => Part.Attention,
            "Skew" or "CayleyForward" or "CayleyBackward" => Part.Rotation,
            "LogSumExpChunk" or "LogSumExpFinish" or "GatherLabelChunk" or "LogProbBackwardChunk" => Part.Vocabulary,
            _ => Part.Rest,
        };
    }

    // The head's products have as many rows as labels are scored, those with weights as many as the texts, or half of them, have tokens.
    private Part OfProduct(int m, int n, int k)
    {
        int tokens = size.Rows * size.Tokens, hidden = model.Config.HiddenSize;
        return n == size.Rank || k == size.Rank ? Part.Adapter
            : _weights.Contains((n, k)) && (m == tokens || 2 * m == tokens) ? Part.Weights
            : n > 1 && k > 1 && (n == hidden || k == hidden) ? Part.Vocabulary
            : Part.Rest;
    }
}
