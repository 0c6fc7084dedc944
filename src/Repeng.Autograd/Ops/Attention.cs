using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

public sealed partial class Tape
{
    /// <summary>
    /// Grouped-query attention with causal, left-padding and window masks; shapes as in <see cref="AttentionArgs"/>.
    /// Saves q, k, v, o and the log-sum-exp; the T×T matrix never exists. firstKey: I32 [batch]. sinks [heads], or null: scores
    /// that take part in each head's softmax and have no value. cached (I32 [1]), or null: the number of keys before the queries' own is read there, on a
    /// device that records (<see cref="IRecording"/>), and is not differentiated.
    /// </summary>
    public Tensor Attention(Tensor q, Tensor k, Tensor v, Tensor firstKey, in AttentionArgs args, Tensor? sinks = null, Tensor? cached = null)
    {
        AttentionArgs a = args;
        Tensor o = New(q.Shape);
        Tensor lse = New(a.Batch, a.QueryLength, a.Heads);
        if (cached is null)
            Backend.AttentionForward(o.Data, lse.Data, q.Data, k.Data, v.Data, firstKey.Data, a);
        else
            ((IRecording)Backend).AttentionOfCache(o.Data, lse.Data, q.Data, k.Data, v.Data, firstKey.Data, cached.Data, a);
        int rows = a.Batch * a.QueryLength;
        if (sinks is not null)
            Backend.AttentionSinksForward(o.Data, lse.Data, sinks.Data, rows, a.Heads, a.HeadDim);
        if (!Tracks(q, k, v, sinks))
            return o;
        if (cached is not null)
            throw new InvalidOperationException("attention to a cache whose length lies on the device has no backward pass");
        return Record(o, [q, k, v, o, lse, firstKey, sinks], () =>
        {
            using Scope scope = BeginScope();
            Tensor delta = New(lse.Shape);
            View[] d = Tensor.GradsForWrite(out bool fresh, q.RequiresGrad ? q : null, k.RequiresGrad ? k : null, v.RequiresGrad ? v : null);
            Backend.AttentionBackward(d[0], d[1], d[2], o.Grad, o.Data, lse.Data, delta.Data, q.Data, k.Data, v.Data, firstKey.Data, a, accumulate: !fresh);
            if (sinks is { RequiresGrad: true })
                Backend.AttentionSinksBackward(sinks.GradToAdd(), delta.Data, lse.Data, sinks.Data, rows, a.Heads);
        });
    }
}
