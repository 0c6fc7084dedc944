using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>Labels whose log-probabilities are asked for, each once: texts that share a beginning share its labels.</summary>
public sealed class LabelSet
{
    private readonly Dictionary<(int Row, int Label), int> _known = [];
    private readonly List<int> _rows = [], _labels = [];

    /// <summary>Different labels.</summary>
    public int Count => _rows.Count;

    /// <summary>Asks for a label after the token in a row of the pass's outputs; gives its place in what <see cref="LogProb"/> gives.</summary>
    public int Add(int row, int label)
    {
        if (!_known.TryGetValue((row, label), out int place))
        {
            _known[(row, label)] = place = _rows.Count;
            _rows.Add(row);
            _labels.Add(label);
        }
        return place;
    }

    /// <summary>Asks for the labels of tokens first … last of text b, each after the token before it.</summary>
    public int[] Add(SharedPrefixes texts, int b, int first, int last)
    {
        TokenBatch tokens = texts.Texts;
        return [.. Enumerable.Range(first, Math.Max(0, last - first + 1)).Select(t => Add(texts.Row(b, t - 1), tokens.Ids[b * tokens.Length + t]))];
    }

    /// <summary>Log-probabilities [count] of the labels, given what the pass gave, [rows, d].</summary>
    public Tensor LogProb(DecoderModel model, ForwardContext context, Tensor hidden) => model.LabelLogProb(context, hidden, [.. _rows], [.. _labels]);
}
