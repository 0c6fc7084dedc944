namespace Repeng.Kernels.Tests.Reference;

/// <summary>Ops of mixtures of experts in double, forward over duals and backward by formula.</summary>
public static class ExpertsReference
{
    /// <summary>The experts of each row, by sorting.</summary>
    public static int[] Chosen(double[] logits, RouteArgs a) =>
        [.. Enumerable.Range(0, a.Rows).SelectMany(r => Enumerable.Range(0, a.Experts).OrderByDescending(e => logits[r * a.Experts + e]).ThenBy(e => e).Take(a.PerToken))];

    public static Dual[] Weights(Dual[] logits, int[] chosen, RouteArgs a)
    {
        var weights = new Dual[a.Rows * a.PerToken];
        for (int r = 0; r < a.Rows; r++)
        {
            Dual sum = 0;
            for (int e = 0; e < a.Experts; e++)
                if (!a.Normalise || chosen.AsSpan(r * a.PerToken, a.PerToken).Contains(e))
                    sum += Dual.Exp(logits[r * a.Experts + e]);
            for (int j = r * a.PerToken; j < (r + 1) * a.PerToken; j++)
                weights[j] = Dual.Exp(logits[r * a.Experts + chosen[j]]) / sum;
        }
        return weights;
    }

    public static double[] WeightsBackward(double[] dWeights, double[] logits, int[] chosen, RouteArgs a)
    {
        double[] w = Dual.Values(Weights(Dual.Of(logits), chosen, a)), d = new double[logits.Length];
        RouteArgs all = a with { PerToken = a.Experts };
        int[] everyone = [.. Enumerable.Range(0, a.Rows * a.Experts).Select(i => i % a.Experts)];
        double[] p = Dual.Values(Weights(Dual.Of(logits), everyone, all));
        for (int r = 0; r < a.Rows; r++)
        {
            double s = 0;
            for (int j = r * a.PerToken; j < (r + 1) * a.PerToken; j++)
                s += w[j] * dWeights[j];
            for (int e = 0; e < a.Experts; e++)
            {
                int j = chosen.AsSpan(r * a.PerToken, a.PerToken).IndexOf(e);
                double own = j < 0 ? 0 : w[r * a.PerToken + j] * dWeights[r * a.PerToken + j];
                d[r * a.Experts + e] = own - s * (a.Normalise ? j < 0 ? 0 : w[r * a.PerToken + j] : p[r * a.Experts + e]);
            }
        }
        return d;
    }

    public static Dual[] Combine(Dual[] x, int[] place, Dual[] weights, int rows, int perToken, int cols)
    {
        var y = new Dual[rows * cols];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < perToken; j++)
                for (int c = 0; c < cols; c++)
                    y[r * cols + c] += weights[r * perToken + j] * x[place[r * perToken + j] * cols + c];
        return y;
    }

    public static (double[] X, double[] Weights) CombineBackward(double[] dy, double[] x, int[] place, double[] weights, int rows, int perToken, int cols)
    {
        double[] dx = new double[x.Length], dw = new double[weights.Length];
        for (int i = 0; i < rows * perToken; i++)
            for (int c = 0; c < cols; c++)
            {
                dx[place[i] * cols + c] += weights[i] * dy[i / perToken * cols + c];
                dw[i] += dy[i / perToken * cols + c] * x[place[i] * cols + c];
            }
        return (dx, dw);
    }

    public static Dual[] ClampedGated(Dual[] gate, Dual[] up, double alpha, double limit)
    {
        var y = new Dual[gate.Length];
        for (int i = 0; i < y.Length; i++)
        {
            Dual g = gate[i].Value <= limit ? gate[i] : limit;
            Dual u = Math.Abs(up[i].Value) <= limit ? up[i] : limit * Math.Sign(up[i].Value);
            y[i] = (u + 1) * g / (1 + Dual.Exp(-alpha * g));
        }
        return y;
    }

    public static (double[] Gate, double[] Up) ClampedGatedBackward(double[] dy, double[] gate, double[] up, double alpha, double limit)
    {
        double[] dg = new double[gate.Length], du = new double[up.Length];
        for (int i = 0; i < dy.Length; i++)
        {
            double g = Math.Min(gate[i], limit), u = Math.Clamp(up[i], -limit, limit), s = 1 / (1 + Math.Exp(-alpha * g));
            dg[i] = gate[i] <= limit ? dy[i] * (u + 1) * (s + alpha * g * s * (1 - s)) : 0;
            du[i] = Math.Abs(up[i]) <= limit ? dy[i] * g * s : 0;
        }
        return (dg, du);
    }

    /// <summary>Attention with a sink of each head, from its definition: the sink's score takes part in the softmax and has no value.</summary>
    public static Dual[] SinkAttention(Dual[] q, Dual[] k, Dual[] v, Dual[] sinks, int[] firstKey, AttentionArgs a)
    {
        var o = new Dual[q.Length];
        for (int b = 0; b < a.Batch; b++)
            for (int t = 0; t < a.QueryLength; t++)
                for (int h = 0; h < a.Heads; h++)
                {
                    int at = a.KeyLength - a.QueryLength + t, row = ((b * a.QueryLength + t) * a.Heads + h) * a.HeadDim;
                    var p = new List<(int Key, Dual Weight)>();
                    Dual sum = Dual.Exp(sinks[h]);
                    for (int j = Math.Max(firstKey[b], a.Window > 0 ? at - a.Window + 1 : 0); j <= at; j++)
                    {
                        int key = ((b * a.KeyStride + j) * a.KvHeads + h / a.Group) * a.HeadDim;
                        Dual score = 0;
                        for (int d = 0; d < a.HeadDim; d++)
                            score += q[row + d] * k[key + d];
                        score = Dual.Exp(score * (double)a.Scale);
                        sum += score;
                        p.Add((key, score));
                    }
                    foreach ((int key, Dual weight) in p)
                        for (int d = 0; d < a.HeadDim; d++)
                            o[row + d] += weight / sum * v[key + d];
                }
        return o;
    }
}
