using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Losses;

/// <summary>How the masks of the two rows of a pair are combined.</summary>
public enum PairMask
{
    /// <summary>A token counts where either row is real (the reference state).</summary>
    Union,

    /// <summary>A token counts where both rows are real (later versions).</summary>
    Intersection,
}

/// <summary>
/// The tokens of a batch of pairs (rows interleaved positive, negative) that a loss reads: the last columns of a
/// left-padded batch, masked per pair.
/// </summary>
public sealed class PairWindow
{
    private readonly SharedPrefixes _texts;

    /// <summary>Columns T − lastTokens … T − 1 (all where null or larger than T) of texts that run as they are.</summary>
    public PairWindow(TokenBatch tokens, int? lastTokens, PairMask kind)
        : this(SharedPrefixes.Plain(tokens), lastTokens, kind)
    {
    }

    /// <summary>The same of texts that share their beginnings in a pass.</summary>
    public PairWindow(SharedPrefixes texts, int? lastTokens, PairMask kind)
    {
        TokenBatch tokens = texts.Texts;
        _texts = texts;
        if (tokens.Batch % 2 != 0)
            throw new ArgumentException($"{tokens.Batch} rows are no pairs; the number of rows must be even");
        Tokens = tokens;
        Pairs = tokens.Batch / 2;
        Width = Math.Min(lastTokens ?? tokens.Length, tokens.Length);
        First = tokens.Length - Width;
        Mask = new float[Pairs * Width];
        for (int i = 0; i < Pairs; i++)
        {
            int a = tokens.Starts[2 * i], b = tokens.Starts[2 * i + 1];
            int start = kind == PairMask.Union ? Math.Min(a, b) : Math.Max(a, b);
            for (int j = 0; j < Width; j++)
                Mask[i * Width + j] = First + j >= start ? 1 : 0;
        }
    }

    /// <summary>The batch.</summary>
    public TokenBatch Tokens { get; }

    /// <summary>Pairs in the batch.</summary>
    public int Pairs { get; }

    /// <summary>Tokens a row.</summary>
    public int Width { get; }

    /// <summary>First column of the window.</summary>
    public int First { get; }

    /// <summary>[pairs, width]: 1 where a token counts.</summary>
    public float[] Mask { get; }

    /// <summary>Row indices [rows · width] of the window in a pass's outputs [copies · tokens, …], for all rows of one copy.</summary>
    public int[] RowIndices(int copy)
    {
        var index = new int[Tokens.Batch * Width];
        for (int b = 0; b < Tokens.Batch; b++)
            for (int j = 0; j < Width; j++)
                index[b * Width + j] = Row(copy, b, First + j);
        return index;
    }

    /// <summary>
    /// Weights [rows · width] that turn values per token into the masked mean of positive − negative per pair when
    /// the window's values are summed over a pair's 2·width entries. Padding of a row weighs nothing.
    /// </summary>
    public float[] DifferenceWeights() => Weights(1, -1);

    /// <summary>As <see cref="DifferenceWeights"/> for the mean of both rows.</summary>
    public float[] MeanWeights() => Weights(0.5f, 0.5f);

    /// <summary>
    /// The label positions of the chosen rows: hidden-state rows (in a tensor of copies), labels, and weights that make
    /// the masked mean over a row's scored tokens. A label is scored only where it and its context are real.
    /// </summary>
    /// <param name="copy">Which copy of the batch the rows lie in.</param>
    /// <param name="rows">Rows of the batch, such as the positive ones.</param>
    /// <param name="alone">The chosen rows by themselves, where hidden states are of a pass over these; null for the whole batch.</param>
    public (int[] Index, int[] Labels, float[] Weights) Labels(int copy, IReadOnlyList<int> rows, SharedPrefixes? alone = null)
    {
        // The last column has no label inside the text.
        int width = Math.Max(0, Math.Min(Width, Tokens.Length - First) - 1);
        var index = new int[rows.Count * width];
        var labels = new int[rows.Count * width];
        var weights = new float[rows.Count * width];
        for (int r = 0; r < rows.Count; r++)
        {
            int b = rows[r], pair = b / 2, count = 0;
            for (int j = 0; j < width; j++)
            {
                int t = First + j, at = r * width + j;
                index[at] = alone is null ? Row(copy, b, t) : copy * alone.Computed + alone.RowOrFirst(r, t);
                labels[at] = Tokens.Ids[b * Tokens.Length + t + 1];
                if (Mask[pair * Width + j] > 0 && Tokens.IsReal(b, t))
                {
                    weights[at] = 1;
                    count++;
                }
            }
            for (int j = 0; j < width; j++)
                if (count > 0)
                    weights[r * width + j] /= count;
        }
        return (index, labels, weights);
    }

    /// <summary>Rows of the positive (0) or negative (1) side.</summary>
    public int[] Side(int side) => [.. Enumerable.Range(0, Pairs).Select(i => 2 * i + side)];

    // Padding weighs nothing, so that any row does for it.
    private int Row(int copy, int b, int t) => copy * _texts.Computed + _texts.RowOrFirst(b, t);

    private float[] Weights(float positive, float negative)
    {
        var weights = new float[Tokens.Batch * Width];
        for (int i = 0; i < Pairs; i++)
        {
            float count = 0;
            for (int j = 0; j < Width; j++)
                count += Mask[i * Width + j];
            for (int side = 0; side < 2; side++)
                for (int j = 0; j < Width; j++)
                    if (Mask[i * Width + j] > 0 && Tokens.IsReal(2 * i + side, First + j))
                        weights[(2 * i + side) * Width + j] = (side == 0 ? positive : negative) / count;
        }
        return weights;
    }
}
