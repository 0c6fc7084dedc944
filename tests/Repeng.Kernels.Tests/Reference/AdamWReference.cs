namespace Repeng.Kernels.Tests.Reference;

/// <summary>AdamW as written by Loshchilov and Hutter (Decoupled Weight Decay Regularization, algorithm 2) in double arithmetic.</summary>
internal static class AdamWReference
{
    /// <summary>One step on all arrays, in place.</summary>
    public static void Step(double[] param, double[] grad, double[] m, double[] v, in AdamWArgs args)
    {
        for (int i = 0; i < param.Length; i++)
        {
            m[i] = (args.Beta1 * m[i]) + ((1 - args.Beta1) * grad[i]);
            v[i] = (args.Beta2 * v[i]) + ((1 - args.Beta2) * grad[i] * grad[i]);
            double first = m[i] / (1 - Math.Pow(args.Beta1, args.Step)), second = v[i] / (1 - Math.Pow(args.Beta2, args.Step));
            param[i] -= (args.LearningRate * args.WeightDecay * param[i]) + (args.LearningRate * first / (Math.Sqrt(second) + args.Eps));
        }
    }
}
