using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    // Tensors of one launch: what the kernel's parameter holds.
    private const int TensorsTogether = 16;

    /// <inheritdoc/>
    public void AdamW(View param, View grad, View m, View v, long n, in AdamWArgs args)
    {
        Check.Size(n, nameof(AdamW), nameof(n));
        RequireStep(args);
        RequireTensor(param, grad, m, v, n, nameof(AdamW));
        KernelArguments a = default;
        a.Add(param).Add(grad).Add(m).Add(v).Add(n);
        AddNumbers(ref a, args);
        Kernel("adamw", "adamw_one").Launch(new(Blocks(n, FlatTile)), new(Threads), 0, ref a);
    }

    /// <inheritdoc/>
    public void AdamWSeveral(ReadOnlySpan<AdamWTensor> tensors, in AdamWArgs args)
    {
        RequireStep(args);
        AdamWTensors some = default;
        long blocks = 0;
        foreach (AdamWTensor t in tensors)
        {
            long n = t.Param.Length;
            RequireTensor(t.Param, t.Grad, t.M, t.V, n, nameof(AdamWSeveral));
            if (n > int.MaxValue)
                AdamW(t.Param, t.Grad, t.M, t.V, n, args);
            if (n is 0 or > int.MaxValue)
                continue;
            if (some.Count == TensorsTogether || blocks + Blocks(n, FlatTile) > int.MaxValue)
                Launch(ref some, args);
            blocks += Blocks(n, FlatTile);
            int at = some.Count++;
            (some.Param[at], some.Grad[at], some.M[at], some.V[at]) = (t.Param.Address, t.Grad.Address, t.M.Address, t.V.Address);
            (some.N[at], some.End[at]) = ((int)n, (int)blocks);
        }
        if (some.Count > 0)
            Launch(ref some, args);

        void Launch(ref AdamWTensors some, in AdamWArgs args)
        {
            KernelArguments a = default;
            a.Add(some);
            AddNumbers(ref a, args);
            Kernel("adamw", "adamw").Launch(new((uint)blocks), new(Threads), 0, ref a);
            (some.Count, blocks) = (0, 0);
        }
    }

    private static void RequireStep(in AdamWArgs args)
    {
        if (args.Step < 1)
            throw new ArgumentException($"AdamW: step is {args.Step}, the first step is 1");
        if (!(args.Beta1 is >= 0 and < 1 && args.Beta2 is >= 0 and < 1))
            throw new ArgumentException($"AdamW: beta1 {args.Beta1} and beta2 {args.Beta2} must lie in [0, 1)");
    }

    private static void RequireTensor(View param, View grad, View m, View v, long n, string op)
    {
        param.Require(n, DType.F32, op, nameof(param));
        grad.Require(n, DType.F32, op, nameof(grad));
        m.Require(n, DType.F32, op, nameof(m));
        v.Require(n, DType.F32, op, nameof(v));
    }

    private static void AddNumbers(ref KernelArguments a, in AdamWArgs args) =>
        a.Add((float)(args.LearningRate * args.WeightDecay))
            .Add((float)(1 - args.Beta1))
            .Add((float)args.Beta2)
            .Add((float)(1 - args.Beta2))
            .Add((float)(1 / Math.Sqrt(1 - Math.Pow(args.Beta2, args.Step))))
            .Add((float)(args.LearningRate / (1 - Math.Pow(args.Beta1, args.Step))))
            .Add((float)args.Eps);

    /// <summary>Tensors by value; laid out as AdamWTensors in kernels/adamw.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct AdamWTensors
    {
        public Addresses Param, Grad, M, V;
        public Numbers N, End;
        public int Count, Reserved;

        [InlineArray(TensorsTogether)]
        public struct Addresses
        {
            private nint _first;
        }

        [InlineArray(TensorsTogether)]
        public struct Numbers
        {
            private int _first;
        }
    }
}
