using Repeng.Kernels;
using Repeng.Kernels.LinearAlgebra;
using TorchSharp;
using TorchSharp.Modules;

namespace Repeng.Bench.Kernels;

internal static partial class KernelCases
{
    private static IEnumerable<KernelCase> Rotations()
    {
        const int N = 64;
        foreach (int batch in new[] { 18, 256 })
        {
            long size = (long)batch * N * N;
            // LU, two thirds of n³, and n right-hand sides of 2n² each; backward two products.
            yield return new($"Cayley forward, {batch} of {N}×{N}", batch * (8.0 / 3) * N * N * N, sizeof(float) * 2.0 * size, o =>
            {
                (View x, View r) = (Skew(o, N, batch), o.Zeros(size));
                Action ours = () => o.Backend.CayleyForward(r, x, N, batch);
                if (!o.Peer)
                    return new(ours);
                torch.Tensor input = o.Tensor(x, batch, N, N), eye = o.Own(torch.eye(N));
                return new(ours, () => [PeerCayley(eye, input)]) { Results = [r] };
            });
            yield return new($"Cayley backward, {batch} of {N}×{N}", batch * 4.0 * N * N * N, sizeof(float) * 4.0 * size, o =>
            {
                (View x, View r, View dr, View dx) = (Skew(o, N, batch), o.Zeros(size), o.Normal(size), o.Zeros(size));
                o.Backend.CayleyForward(r, x, N, batch);
                Action ours = () => o.Backend.CayleyBackward(dx, dr, r, N, batch);
                if (!o.Peer)
                    return new(ours);
                torch.Tensor input = o.Tensor(x, batch, N, N).requires_grad_(), upstream = o.Tensor(dr, batch, N, N), result = o.Own(PeerCayley(o.Own(torch.eye(N)), input));
                return new(ours, () => [.. Gradients(result, [input], upstream)]) { Results = [dx] };
            });
        }
    }

    private static View Skew(Operands o, int n, int batch)
    {
        View p = o.Normal((long)batch * n * n, 0.05f), x = o.Zeros(p.Length);
        o.Backend.Skew(x, p, n, batch, accumulate: false);
        return x;
    }

    private static torch.Tensor PeerCayley(torch.Tensor eye, torch.Tensor x) => torch.linalg.solve(eye - x, eye + x);

    private static IEnumerable<KernelCase> Optimisers()
    {
        var args = new AdamWArgs(LearningRate: 1e-3, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01, Step: 1);
        // Rotations of rank 64 on 18 layers, and a LoRA of a large model.
        foreach (int n in new[] { 18 * 2 * 64 * 64, 8 << 20 })
            yield return new($"AdamW, {n} parameters", 0, sizeof(float) * 7.0 * n, o =>
            {
                View p = o.Normal(n), g = o.Normal(n), m = o.Zeros(n), v = o.Zeros(n);
                torch.Tensor? pt = o.Peer ? o.Tensor(p, n) : null, gt = o.Peer ? o.Tensor(g, n) : null;
                Action ours = () => o.Backend.AdamW(p, g, m, v, n, args);
                if (pt is null)
                    return new(ours);
                Parameter parameter = o.Own(new Parameter(pt));
                parameter.grad = gt;
                torch.optim.Optimizer optimiser = o.Own(torch.optim.AdamW([parameter], lr: args.LearningRate, weight_decay: args.WeightDecay));
                return new(ours, () =>
                {
                    optimiser.step();
                    return [parameter];
                })
                { Results = [p] };
            });
    }

    private static IEnumerable<KernelCase> Decompositions()
    {
        const int Rows = 9728, Cols = 2560, Rank = 64;
        yield return new($"SVD, {Rank} triplets of {Rows}×{Cols}", 0, 0, o =>
        {
            var matrix = new float[Rows * Cols];
            Philox.FillNormal(matrix, 1, 7);
            return new(() => TopSvd.Compute(o.Backend.Workers, matrix, Rows, Cols, Rank));
        })
        { HasPeer = false, Once = true };
    }
}
