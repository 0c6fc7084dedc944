using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

/// <summary>The distribution that a total variation is measured against: hidden states [rows, d] and the log-sum-exp [rows] of their logits.</summary>
public sealed record ReferenceDistribution(Tensor Hidden, Tensor LogSumExp);

/// <summary>What the vocabulary head gives for each row.</summary>
/// <param name="LogProb">Log-probability of the label [rows].</param>
/// <param name="LogSumExp">Log-sum-exp of the logits [rows]; carries no gradient.</param>
/// <param name="TotalVariation">½Σ|pRef − p| [rows]; null without a reference.</param>
public sealed record HeadOutput(Tensor LogProb, Tensor LogSumExp, Tensor? TotalVariation);

public sealed partial class Tape
{
    /// <summary>Vocabulary entries whose logits exist at one time.</summary>
    public int VocabularyChunk { get; set; } = 4096;

    /// <summary>Rows of a table [vocabulary, d] by token id (I32), times scale.</summary>
    public Tensor Embedding(Tensor table, Tensor ids, float scale = 1)
    {
        int rows = checked((int)ids.Length), dim = table.Cols;
        Tensor y = New(rows, dim);
        Backend.EmbeddingForward(y.Data, table.Data, ids.Data, rows, dim, scale);
        if (!Tracks(table))
            return y;
        return Record(y, [ids], () => Backend.EmbeddingBackward(table.GradToAdd(), y.Grad, ids.Data, rows, dim, scale));
    }

    /// <summary>log softmax at each row's label [rows], of logits [rows, vocabulary] that are held as a whole (and capped already).</summary>
    /// <param name="logits">[rows, vocabulary].</param>
    /// <param name="labels">I32 [rows].</param>
    public Tensor LabelLogProb(Tensor logits, Tensor labels)
    {
        int rows = logits.Rows, cols = logits.Cols;
        Tensor logProb = New(rows), lse = New(rows);
        using (BeginScope())
        {
            Tensor max = Filled(float.NegativeInfinity, rows), sum = Filled(0, rows);
            Backend.LogSumExpChunk(max.Data, sum.Data, logits.Data, rows, cols);
            Backend.GatherLabelChunk(logProb.Data, logits.Data, labels.Data, rows, cols, 0);
            Backend.LogSumExpFinish(lse.Data, max.Data, sum.Data, rows);
            Backend.Binary(logProb.Data, logProb.Data, lse.Data, 1, rows, BinaryOp.Subtract, Broadcast.None);
        }
        if (!Tracks(logits))
            return logProb;
        return Record(logProb, [logits, labels, lse], () =>
        {
            using Scope scope = BeginScope();
            Tensor gradient = New(rows, cols);
            Backend.Copy(gradient.Data, logits.Data);
            Backend.LogProbBackwardChunk(gradient.Data, lse.Data, logProb.Grad, labels.Data, rows, cols, 0, 0);
            View sum = logits.GradToAdd();
            Backend.Binary(sum, sum, gradient.Data, rows, cols, BinaryOp.Add, Broadcast.None);
        });
    }

    /// <summary>
    /// log softmax(cap(hidden·Wᵀ)) at each row's label, and with a reference the total variation between the two
    /// distributions. Logits exist a chunk at a time and are computed again in the backward pass.
    /// </summary>
    /// <param name="hidden">[rows, d], after the final norm.</param>
    /// <param name="weight">[vocabulary, d].</param>
    /// <param name="labels">I32 [rows].</param>
    /// <param name="softCap">Soft cap of the logits; 0 for none.</param>
    /// <param name="reference">A frozen distribution to measure against.</param>
    public HeadOutput LabelLogProb(Tensor hidden, Tensor weight, Tensor labels, float softCap = 0, ReferenceDistribution? reference = null)
    {
        int rows = hidden.Rows, vocabulary = weight.Rows;
        Tensor logProb = New(rows), lse = New(rows);
        Tensor? tv = reference is null ? null : Filled(0, rows);
        Tensor? dot = reference is null ? null : Filled(0, rows);
        using (Scope scope = BeginScope())
        {
            Tensor max = Filled(float.NegativeInfinity, rows), sum = Filled(0, rows);
            Tensor chunk = New((int)Math.Min((long)VocabularyChunk * rows, (long)vocabulary * rows));
            for (int first = 0; first < vocabulary; first += VocabularyChunk)
            {
                int cols = Math.Min(VocabularyChunk, vocabulary - first);
                LogitChunk(chunk.Data, hidden, weight, first, cols, softCap);
                Backend.LogSumExpChunk(max.Data, sum.Data, chunk.Data, rows, cols);
                Backend.GatherLabelChunk(logProb.Data, chunk.Data, labels.Data, rows, cols, first);
            }
            Backend.LogSumExpFinish(lse.Data, max.Data, sum.Data, rows);
            Backend.Binary(logProb.Data, logProb.Data, lse.Data, 1, rows, BinaryOp.Subtract, Broadcast.None);
            if (reference is not null)
            {
                Tensor chunkRef = New((int)chunk.Length);
                for (int first = 0; first < vocabulary; first += VocabularyChunk)
                {
                    int cols = Math.Min(VocabularyChunk, vocabulary - first);
                    LogitChunk(chunk.Data, hidden, weight, first, cols, softCap);
                    LogitChunk(chunkRef.Data, reference.Hidden, weight, first, cols, softCap);
                    Backend.TotalVariationChunk(tv!.Data, dot!.Data, chunkRef.Data, reference.LogSumExp.Data, chunk.Data, lse.Data, rows, cols);
                }
            }
        }

        var output = new HeadOutput(logProb, lse, tv);
        if (!Tracks(hidden, weight))
            return output;
        Tensor[] outputs = tv is null ? [logProb] : [logProb, tv];
        RecordMany(outputs, [hidden, weight, labels, lse, dot, reference?.Hidden, reference?.LogSumExp], () =>
        {
            using Scope scope = BeginScope();
            Tensor chunk = New((int)Math.Min((long)VocabularyChunk * rows, (long)vocabulary * rows));
            Tensor? chunkRef = reference is null ? null : New((int)chunk.Length), dChunk = reference is null ? null : New((int)chunk.Length);
            for (int first = 0; first < vocabulary; first += VocabularyChunk)
            {
                int cols = Math.Min(VocabularyChunk, vocabulary - first);
                LogitChunk(chunk.Data, hidden, weight, first, cols, softCap);
                Tensor gradient = chunk;
                if (reference is not null)
                {
                    LogitChunk(chunkRef!.Data, reference.Hidden, weight, first, cols, softCap);
                    Backend.Copy(dChunk!.Data.Slice(0, (long)rows * cols), chunk.Data.Slice(0, (long)rows * cols));
                    Backend.LogProbBackwardChunk(dChunk.Data, lse.Data, logProb.Grad, labels.Data, rows, cols, first, softCap);
                    Backend.TotalVariationBackwardChunk(chunk.Data, lse.Data, chunkRef.Data, reference.LogSumExp.Data, dot!.Data, tv!.Grad, dChunk.Data, rows, cols, softCap);
                }
                else
                {
                    Backend.LogProbBackwardChunk(chunk.Data, lse.Data, logProb.Grad, labels.Data, rows, cols, first, softCap);
                }
                int dim = weight.Cols;
                View w = weight.Data.Slice((long)first * dim, (long)cols * dim);
                if (hidden.RequiresGrad)
                {
                    View dh = hidden.GradForWrite(out bool fresh);
                    Backend.MatMul(dh, gradient.Data, w, new MatMulArgs(rows, dim, cols, Accumulate: !fresh, Autocast: true));
                }
                if (weight.RequiresGrad)
                    Backend.MatMul(weight.GradToAdd().Slice((long)first * dim, (long)cols * dim), gradient.Data, hidden.Data, new MatMulArgs(cols, dim, rows, TransA: true, Accumulate: true, Autocast: true));
            }
        });
        return output;
    }

    /// <summary>Entropy in nats of softmax(cap(hidden·Wᵀ)) for each row, given the log-sum-exp; no gradient.</summary>
    public Tensor Entropy(Tensor hidden, Tensor weight, Tensor logSumExp, float softCap = 0)
    {
        int rows = hidden.Rows, vocabulary = weight.Rows;
        Tensor entropy = Filled(0, rows);
        using Scope scope = BeginScope();
        Tensor chunk = New((int)Math.Min((long)VocabularyChunk * rows, (long)vocabulary * rows));
        for (int first = 0; first < vocabulary; first += VocabularyChunk)
        {
            int cols = Math.Min(VocabularyChunk, vocabulary - first);
            LogitChunk(chunk.Data, hidden, weight, first, cols, softCap);
            Backend.EntropyChunk(entropy.Data, chunk.Data, logSumExp.Data, rows, cols);
        }
        return entropy;
    }

    private void LogitChunk(View chunk, Tensor hidden, Tensor weight, int first, int cols, float softCap)
    {
        int rows = hidden.Rows, dim = weight.Cols;
        Backend.MatMul(chunk, hidden.Data, weight.Data.Slice((long)first * dim, (long)cols * dim), new MatMulArgs(rows, cols, dim, TransB: true, Autocast: true));
        if (softCap > 0)
            Backend.Unary(chunk, chunk, (long)rows * cols, UnaryOp.SoftCap, softCap);
    }
}
