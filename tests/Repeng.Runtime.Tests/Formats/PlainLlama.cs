using Repeng.Runtime.Formats;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>
/// A llama forward pass in plain double loops over an <see cref="ITensorSource"/> with Hugging Face names: the judge
/// of names, row order and config of a converted file. One sequence, no padding.
/// </summary>
internal sealed class PlainLlama(ITensorSource tensors, JsonFields config)
{
    private readonly int _heads = config.Int32("num_attention_heads");
    private readonly int _keyValueHeads = config.Int32("num_key_value_heads");
    private readonly int _headDim = config.Int32("head_dim");
    private readonly double _theta = config.Number("rope_theta");
    private readonly double _eps = config.Number("rms_norm_eps");

    /// <summary>Logits [T][vocabulary] of a token sequence.</summary>
    public double[][] Logits(ReadOnlySpan<long> ids)
    {
        double[] embedding = tensors.ReadF64("model.embed_tokens.weight");
        int width = config.Int32("hidden_size");
        var x = new double[ids.Length][];
        for (int t = 0; t < ids.Length; t++)
            x[t] = embedding.AsSpan((int)ids[t] * width, width).ToArray();
        for (int layer = 0; layer < config.Int32("num_hidden_layers"); layer++)
        {
            string at = $"model.layers.{layer}.";
            AddAll(x, Attention(at + "self_attn.", Norm(x, at + "input_layernorm.weight")));
            AddAll(x, Mlp(at + "mlp.", Norm(x, at + "post_attention_layernorm.weight")));
        }
        string head = config.Boolean("tie_word_embeddings") ? "model.embed_tokens.weight" : "lm_head.weight";
        return Linear(Norm(x, "model.norm.weight"), head);
    }

    private double[][] Attention(string at, double[][] x)
    {
        double[][] q = Linear(x, at + "q_proj.weight"), k = Linear(x, at + "k_proj.weight"), v = Linear(x, at + "v_proj.weight");
        for (int t = 0; t < x.Length; t++)
        {
            Rotate(q[t], t);
            Rotate(k[t], t);
        }
        var mixed = new double[x.Length][];
        for (int t = 0; t < x.Length; t++)
        {
            mixed[t] = new double[_heads * _headDim];
            for (int h = 0; h < _heads; h++)
            {
                int from = h / (_heads / _keyValueHeads) * _headDim, to = h * _headDim;
                var weights = new double[t + 1];
                for (int s = 0; s <= t; s++)
                {
                    for (int d = 0; d < _headDim; d++)
                        weights[s] += q[t][to + d] * k[s][from + d];
                    weights[s] /= Math.Sqrt(_headDim);
                }
                double max = weights.Max(), sum = weights.Sum(w => Math.Exp(w - max));
                for (int s = 0; s <= t; s++)
                    for (int d = 0; d < _headDim; d++)
                        mixed[t][to + d] += Math.Exp(weights[s] - max) / sum * v[s][from + d];
            }
        }
        return Linear(mixed, at + "o_proj.weight");
    }

    private double[][] Mlp(string at, double[][] x)
    {
        double[][] gate = Linear(x, at + "gate_proj.weight"), up = Linear(x, at + "up_proj.weight");
        for (int t = 0; t < x.Length; t++)
            for (int i = 0; i < gate[t].Length; i++)
                gate[t][i] = gate[t][i] / (1 + Math.Exp(-gate[t][i])) * up[t][i];
        return Linear(gate, at + "down_proj.weight");
    }

    /// <summary>Hugging Face's convention: element i of a head turns with element i + headDim/2.</summary>
    private void Rotate(double[] row, int position)
    {
        int half = _headDim / 2;
        for (int head = 0; head < row.Length; head += _headDim)
            for (int i = 0; i < half; i++)
            {
                (double sin, double cos) = Math.SinCos(position * Math.Pow(_theta, -2.0 * i / _headDim));
                double a = row[head + i], b = row[head + i + half];
                (row[head + i], row[head + i + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
    }

    private double[][] Norm(double[][] x, string name)
    {
        double[] weight = tensors.ReadF64(name);
        return [.. x.Select(row =>
        {
            double scale = 1 / Math.Sqrt(row.Sum(v => v * v) / row.Length + _eps);
            return row.Select((v, i) => v * scale * weight[i]).ToArray();
        })];
    }

    private double[][] Linear(double[][] x, string name)
    {
        TensorInfo info = tensors.Info(name, -1, x[0].Length);
        double[] weight = tensors.ReadF64(name);
        int columns = (int)info.RowLength;
        return [.. x.Select(row => Enumerable.Range(0, (int)info.Rows).Select(o =>
        {
            double sum = 0;
            for (int i = 0; i < columns; i++)
                sum += weight[o * columns + i] * row[i];
            return sum;
        }).ToArray())];
    }

    private static void AddAll(double[][] x, double[][] y)
    {
        for (int t = 0; t < x.Length; t++)
            for (int i = 0; i < x[t].Length; i++)
                x[t][i] += y[t][i];
    }
}
