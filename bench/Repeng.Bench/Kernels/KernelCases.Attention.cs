using Repeng.Kernels;
using TorchSharp;
using static TorchSharp.torch.nn.functional;

namespace Repeng.Bench.Kernels;

internal static partial class KernelCases
{
    private static IEnumerable<KernelCase> Attention()
    {
        foreach ((string model, AttentionArgs args) in new (string, AttentionArgs)[]
        {
            ("SmolLM2", new(28, 64, 64, 9, 3, 64, 0.125f)),
            ("Qwen3-0.6B", new(4, 128, 128, 16, 8, 128, 0.0883883f)),
            ("Qwen3-4B", new(1, 512, 512, 32, 8, 128, 0.0883883f)),
        })
        {
            yield return AttentionForward(model, args);
            yield return AttentionBackward(model, args);
        }
        yield return AttentionDecode("Qwen3-4B", new(1, 1, 4096, 32, 8, 128, 0.0883883f));
        yield return AttentionDecode("Qwen3-4B", new(8, 1, 1024, 32, 8, 128, 0.0883883f));
    }

    // Scores and their product with v, for the keys up to each query.
    private static double ForwardFlops(in AttentionArgs a) => 4.0 * a.HeadDim * Pairs(a);

    // Scores again, since they are not kept, and the products for dv, dP, dq and dk.
    private static double BackwardFlops(in AttentionArgs a) => 10.0 * a.HeadDim * Pairs(a);

    private static double Pairs(in AttentionArgs a) => a.QueryLength == 1 ? (double)a.Batch * a.Heads * a.KeyLength : a.Batch * a.Heads * (a.QueryLength * (a.QueryLength + 1.0) / 2);

    private static long Queries(in AttentionArgs a) => (long)a.Batch * a.QueryLength * a.Heads * a.HeadDim;

    private static long Keys(in AttentionArgs a) => (long)a.Batch * a.KeyLength * a.KvHeads * a.HeadDim;

    private static string Sizes(string model, in AttentionArgs a) => $"{model} {a.Heads} heads on {a.KvHeads} of {a.HeadDim}, {a.Batch} × {(a.QueryLength == 1 ? $"1 token after {a.KeyLength}" : $"{a.QueryLength} tokens")}";

    private static KernelCase AttentionForward(string model, AttentionArgs a) => new(
        $"attention forward, {Sizes(model, a)}", ForwardFlops(a), sizeof(float) * (2.0 * Queries(a) + 2 * Keys(a)), o =>
        {
            (View q, View k, View v, View first) = AttentionOperands(o, a);
            View y = o.Zeros(Queries(a)), lse = o.Zeros(Queries(a) / a.HeadDim);
            Action ours = () => o.Backend.AttentionForward(y, lse, q, k, v, first, a);
            if (!o.Peer)
                return new(ours);
            // Keys and values are repeated beforehand: TorchSharp's binding has no grouped heads.
            (torch.Tensor qt, torch.Tensor kt, torch.Tensor vt) = PeerHeads(o, a, q, k, v);
            (torch.Tensor keys, torch.Tensor values) = (o.Own(Repeat(kt, a)), o.Own(Repeat(vt, a)));
            return new(ours, () => [scaled_dot_product_attention(qt, keys, values, is_casual: true).transpose(1, 2)]) { Results = [y] };
        });

    private static KernelCase AttentionBackward(string model, AttentionArgs a) => new(
        $"attention backward, {Sizes(model, a)}", BackwardFlops(a), sizeof(float) * (5.0 * Queries(a) + 6 * Keys(a)), o =>
        {
            (View q, View k, View v, View first) = AttentionOperands(o, a);
            View y = o.Zeros(Queries(a)), lse = o.Zeros(Queries(a) / a.HeadDim), delta = o.Zeros(lse.Length), dy = o.Normal(Queries(a));
            View dq = o.Zeros(Queries(a)), dk = o.Zeros(Keys(a)), dv = o.Zeros(Keys(a));
            o.Backend.AttentionForward(y, lse, q, k, v, first, a);
            Action ours = () => o.Backend.AttentionBackward(dq, dk, dv, dy, y, lse, delta, q, k, v, first, a);
            if (!o.Peer)
                return new(ours);
            (torch.Tensor qt, torch.Tensor kt, torch.Tensor vt) = PeerHeads(o, a, q, k, v);
            torch.Tensor[] inputs = [qt.requires_grad_(), kt.requires_grad_(), vt.requires_grad_()];
            torch.Tensor result = o.Own(scaled_dot_product_attention(qt, Repeat(kt, a), Repeat(vt, a), is_casual: true));
            torch.Tensor upstream = o.Own(o.Tensor(dy, a.Batch, a.QueryLength, a.Heads, a.HeadDim).transpose(1, 2).contiguous());
            return new(ours, () => [.. Gradients(result, inputs, upstream).Select(t => t.transpose(1, 2))]) { Results = [dq, dk, dv] };
        })
    { Tolerance = 1e-3 };

    private static KernelCase AttentionDecode(string model, AttentionArgs a) => new(
        $"attention decode, {Sizes(model, a)}", ForwardFlops(a), sizeof(float) * (2.0 * Queries(a) + 2 * Keys(a)), o =>
        {
            (View q, View k, View v, View first) = AttentionOperands(o, a);
            View y = o.Zeros(Queries(a)), lse = o.Zeros(Queries(a) / a.HeadDim);
            Action ours = () => o.Backend.AttentionForward(y, lse, q, k, v, first, a);
            if (!o.Peer)
                return new(ours);
            // One query sees every key, so the heads of a group can stand as queries of one head: nothing is repeated.
            torch.Tensor qt = o.Tensor(q, a.Batch, a.KvHeads, a.Group, a.HeadDim);
            (_, torch.Tensor kt, torch.Tensor vt) = PeerHeads(o, a, q, k, v);
            return new(ours, () => [scaled_dot_product_attention(qt, kt, vt)]) { Results = [y] };
        });

    private static (View Q, View K, View V, View FirstKey) AttentionOperands(Operands o, in AttentionArgs a) =>
        (o.Normal(Queries(a)), o.Normal(Keys(a)), o.Normal(Keys(a)), o.Integers(a.Batch, _ => 0));

    // [batch, heads, tokens, dim], as libtorch wants it.
    private static (torch.Tensor Q, torch.Tensor K, torch.Tensor V) PeerHeads(Operands o, in AttentionArgs a, View q, View k, View v)
    {
        return (Heads(q, a.QueryLength, a.Heads, a), Heads(k, a.KeyLength, a.KvHeads, a), Heads(v, a.KeyLength, a.KvHeads, a));

        torch.Tensor Heads(View view, int tokens, int heads, in AttentionArgs a)
        {
            using torch.Tensor turned = o.Tensor(view, a.Batch, tokens, heads, a.HeadDim).transpose(1, 2);
            return o.Own(turned.contiguous());
        }
    }

    private static torch.Tensor Repeat(torch.Tensor x, in AttentionArgs a) =>
        x.unsqueeze(2).expand(a.Batch, a.KvHeads, a.Group, a.KeyLength, a.HeadDim).reshape(a.Batch, a.Heads, a.KeyLength, a.HeadDim);

    // The graph is kept, so that the backward pass alone can be run again.
    private static IList<torch.Tensor> Gradients(torch.Tensor result, torch.Tensor[] inputs, torch.Tensor upstream) =>
        torch.autograd.grad([result], inputs, [upstream], retain_graph: true);
}
