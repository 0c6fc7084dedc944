using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>
/// What transformers' eager attention does at padding positions, for comparisons with software that reads them. Every
/// key of such a query is masked by adding the smallest finite number: in fp32 each sum rounds to that number, so the
/// softmax is uniform over all keys of the row, later ones too; the derivative of the addition is 1 all the same, so
/// gradients flow to queries and keys as if the scores counted.
/// This engine's attention gives such queries 0 and no gradient.
/// </summary>
internal static class EagerPadding
{
    /// <summary>o [batch, length, heads, head size] with padding filled in; q, k, v after the rotary embedding.</summary>
    public static Tensor Add(Tape tape, TokenBatch tokens, in AttentionArgs a, Tensor o, Tensor q, Tensor k, Tensor v)
    {
        if (a.QueryLength != a.KeyLength)
            throw new InvalidOperationException("eager padding is for whole texts, not for a cache");
        int length = a.QueryLength, heads = a.Heads, kvHeads = a.KvHeads, group = a.Group;
        Tensor queries = tape.Reshape(q, tokens.Batch * length * heads, a.HeadDim);
        Tensor keys = tape.Reshape(k, tokens.Batch * length * kvHeads, a.HeadDim), values = tape.Reshape(v, tokens.Batch * length * kvHeads, a.HeadDim);
        // The last row of the stack is 0, for real tokens.
        var parts = new List<Tensor>();
        var place = new int[tokens.Batch * length * heads];
        Array.Fill(place, -1);
        int filled = 0;
        for (int b = 0; b < tokens.Batch; b++)
        {
            int padding = tokens.Starts[b];
            for (int h = 0; padding > 0 && h < heads; h++)
            {
                int[] rows = [.. Enumerable.Range(0, padding).Select(t => (b * length + t) * heads + h)];
                int[] columns = [.. Enumerable.Range(0, length).Select(t => (b * length + t) * kvHeads + h / group)];
                Tensor column = tape.New(columns, length);
                Tensor scores = tape.Scale(tape.MatMul(tape.GatherRows(queries, tape.New(rows, padding)), tape.GatherRows(keys, column), transB: true), a.Scale);
                if (a.SoftCap > 0)
                    scores = tape.Unary(scores, UnaryOp.SoftCap, a.SoftCap);
                // Zero, but with the scores' gradient; softmax at equal scores is (1 + s − mean s) / T to first order.
                Tensor change = tape.Subtract(scores, tape.Constant(scores.ToArray(), padding, length));
                Tensor centred = tape.Subtract(change, tape.Scale(tape.Sum(change, -1), 1f / length), Broadcast.OverCols);
                Tensor weights = tape.Scale(tape.Unary(centred, UnaryOp.Offset, 1), 1f / length);
                parts.Add(tape.MatMul(weights, tape.GatherRows(values, column)));
                foreach (int row in rows)
                    place[row] = filled++;
            }
        }
        if (filled == 0)
            return o;
        parts.Add(tape.Constant(new float[a.HeadDim], 1, a.HeadDim));
        Tensor stack = tape.ConcatRows([.. parts]);
        Tensor spread = tape.GatherRows(stack, tape.New([.. place.Select(p => p < 0 ? filled : p)], place.Length));
        return tape.Add(o, tape.Reshape(spread, o.Shape));
    }
}
