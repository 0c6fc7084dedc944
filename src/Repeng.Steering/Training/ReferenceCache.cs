using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>
/// The base model's values per pair, computed when a pair is first seen: the frozen model gives the same ones every
/// epoch, so each costs one pass over the whole run.
/// </summary>
public sealed class ReferenceCache(ContrastiveStep step, PairData data)
{
    private const int ChunkPairs = 8;
    private readonly (float[] Separation, float[] LogProb, int Labels)[] _pairs = new (float[], float[], int)[data.Pairs.Count];

    /// <summary>References of a batch made of these pairs.</summary>
    public Reference Get(TokenBatch batch, ReadOnlySpan<int> pairs)
    {
        foreach (int pair in pairs)
            if (_pairs[pair].Separation is null)
                FillChunk(pair / ChunkPairs);
        int layers = _pairs[pairs[0]].Separation.Length;
        int labels = step.LabelsPerRow(batch);
        var separation = new float[layers][];
        for (int l = 0; l < layers; l++)
        {
            separation[l] = new float[pairs.Length];
            for (int i = 0; i < pairs.Length; i++)
                separation[l][i] = _pairs[pairs[i]].Separation[l];
        }
        var logProb = new float[batch.Batch * labels];
        for (int i = 0; i < pairs.Length; i++)
        {
            (_, float[] kept, int width) = _pairs[pairs[i]];
            if (width == 0)
                continue;
            // Windows end together; where widths differ the first entries are padding of the wider one.
            int common = Math.Min(width, labels);
            for (int side = 0; side < 2; side++)
                kept.AsSpan(side * width + width - common, common).CopyTo(logProb.AsSpan((2 * i + side) * labels + labels - common, common));
        }
        return new Reference(separation, logProb);
    }

    // Always the same pairs together, whatever asks first: a resumed run gets the same bits as one that was not stopped.
    private void FillChunk(int chunk)
    {
        int[] pairs = [.. Enumerable.Range(chunk * ChunkPairs, Math.Min(ChunkPairs, data.Pairs.Count - chunk * ChunkPairs))];
        TokenBatch batch = data.Batch(pairs);
        Reference reference = step.ComputeReference(batch);
        int labels = reference.LogProb.Length / batch.Batch;
        for (int i = 0; i < pairs.Length; i++)
            _pairs[pairs[i]] = ([.. reference.Separation.Select(s => s[i])], reference.LogProb[(2 * i * labels)..((2 * i + 2) * labels)], labels);
    }
}
