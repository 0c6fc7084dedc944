namespace Repeng.Kernels.Tests.Reference;

/// <summary>Attention as the contract states it, with the whole score row, in double.</summary>
public static class AttentionReference
{
    public static (Dual[] Output, Dual[] LogSum) Forward(Dual[] q, Dual[] k, Dual[] v, int[] firstKey, AttentionArgs a)
    {
        var o = new Dual[q.Length];
        var logSum = new Dual[a.Batch * a.QueryLength * a.Heads];
        for (int row = 0; row < logSum.Length; row++)
        {
            (List<int> visible, Dual[] scores) = Scores(q, k, firstKey, a, row);
            logSum[row] = double.NegativeInfinity;
            if (visible.Count == 0)
                continue;
            double peak = scores.Max(s => s.Value);
            Dual total = 0;
            foreach (Dual s in scores)
                total += Dual.Exp(s - peak);
            logSum[row] = Dual.Log(total) + peak;
            for (int j = 0; j < visible.Count; j++)
            {
                Dual p = Dual.Exp(scores[j] - peak) / total;
                for (int d = 0; d < a.HeadDim; d++)
                    o[row * a.HeadDim + d] += p * v[Key(a, row, visible[j]) + d];
            }
        }
        return (o, logSum);
    }

    /// <summary>dS = P ∘ (dP − Σ P·dP), written over whole rows.</summary>
    public static (double[] Dq, double[] Dk, double[] Dv) Backward(double[] dO, double[] q, double[] k, double[] v, int[] firstKey, AttentionArgs a)
    {
        double[] dq = new double[q.Length], dk = new double[k.Length], dv = new double[v.Length];
        Dual[] dualQ = Dual.Of(q), dualK = Dual.Of(k);
        for (int row = 0; row < a.Batch * a.QueryLength * a.Heads; row++)
        {
            (List<int> visible, Dual[] scores) = Scores(dualQ, dualK, firstKey, a, row);
            if (visible.Count == 0)
                continue;
            double peak = scores.Max(s => s.Value), total = scores.Sum(s => Math.Exp(s.Value - peak));
            double[] p = Array.ConvertAll(scores, s => Math.Exp(s.Value - peak) / total), dp = new double[p.Length];
            for (int j = 0; j < p.Length; j++)
                for (int d = 0; d < a.HeadDim; d++)
                {
                    dp[j] += dO[row * a.HeadDim + d] * v[Key(a, row, visible[j]) + d];
                    dv[Key(a, row, visible[j]) + d] += p[j] * dO[row * a.HeadDim + d];
                }
            double inner = GradientJudge.Inner(p, dp);
            for (int j = 0; j < p.Length; j++)
            {
                double capped = a.SoftCap > 0 ? scores[j].Value / a.SoftCap : 0;
                double ds = p[j] * (dp[j] - inner) * (1 - capped * capped) * a.Scale;
                for (int d = 0; d < a.HeadDim; d++)
                {
                    dq[row * a.HeadDim + d] += ds * k[Key(a, row, visible[j]) + d];
                    dk[Key(a, row, visible[j]) + d] += ds * q[row * a.HeadDim + d];
                }
            }
        }
        return (dq, dk, dv);
    }

    private static (List<int> Visible, Dual[] Scores) Scores(Dual[] q, Dual[] k, int[] firstKey, AttentionArgs a, int row)
    {
        int sequence = row / (a.QueryLength * a.Heads);
        int index = a.KeyLength - a.QueryLength + row / a.Heads % a.QueryLength;
        var visible = new List<int>();
        for (int j = firstKey[sequence]; j <= index; j++)
            if (a.Window == 0 || j > index - a.Window)
                visible.Add(j);
        var scores = new Dual[visible.Count];
        for (int n = 0; n < scores.Length; n++)
        {
            Dual dot = 0;
            for (int d = 0; d < a.HeadDim; d++)
                dot += q[row * a.HeadDim + d] * k[Key(a, row, visible[n]) + d];
            dot *= a.Scale;
            scores[n] = a.SoftCap > 0 ? a.SoftCap * Dual.Tanh(dot / a.SoftCap) : dot;
        }
        return (visible, scores);
    }

    private static int Key(AttentionArgs a, int row, int key)
    {
        int sequence = row / (a.QueryLength * a.Heads), head = row % a.Heads / a.Group;
        return ((sequence * a.KeyStride + key) * a.KvHeads + head) * a.HeadDim;
    }
}
