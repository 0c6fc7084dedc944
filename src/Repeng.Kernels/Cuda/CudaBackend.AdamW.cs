namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    /// <inheritdoc/>
    public void AdamW(View param, View grad, View m, View v, long n, in AdamWArgs args)
    {
        Check.Size(n, nameof(AdamW), nameof(n));
        if (args.Step < 1)
            throw new ArgumentException($"AdamW: step is {args.Step}, the first step is 1");
        if (!(args.Beta1 is >= 0 and < 1 && args.Beta2 is >= 0 and < 1))
            throw new ArgumentException($"AdamW: beta1 {args.Beta1} and beta2 {args.Beta2} must lie in [0, 1)");
        param.Require(n, DType.F32, nameof(AdamW), nameof(param));
        grad.Require(n, DType.F32, nameof(AdamW), nameof(grad));
        m.Require(n, DType.F32, nameof(AdamW), nameof(m));
        v.Require(n, DType.F32, nameof(AdamW), nameof(v));
        KernelArguments a = default;
        a.Add(param).Add(grad).Add(m).Add(v).Add(n)
            .Add((float)(args.LearningRate * args.WeightDecay))
            .Add((float)(1 - args.Beta1))
            .Add((float)args.Beta2)
            .Add((float)(1 - args.Beta2))
            .Add((float)(1 / Math.Sqrt(1 - Math.Pow(args.Beta2, args.Step))))
            .Add((float)(args.LearningRate / (1 - Math.Pow(args.Beta1, args.Step))))
            .Add((float)args.Eps);
        Kernel("adamw", "adamw_one").Launch(new(Blocks(n, FlatTile)), new(Threads), 0, ref a);
    }
}
