using System.Text.Json.Nodes;

namespace Repeng.Steering.Tests.Models;

/// <summary>
/// Decoders in double, written from the papers and the behaviour of transformers and sharing nothing with the engine: they read
/// config.json and weights by their Hugging Face names. One sequence, no cache, no speed.
/// </summary>
internal sealed class ReferenceDecoder(JsonObject config, IReadOnlyDictionary<string, double[]> weights)
{
    private readonly string _type = (string)config["model_type"]!;
    private readonly int _d = (int)config["hidden_size"]!, _heads = (int)config["num_attention_heads"]!, _layers = (int)config["num_hidden_layers"]!, _vocabulary = (int)config["vocab_size"]!;

    private int KvHeads => (int?)config["num_key_value_heads"] ?? _heads;

    private int HeadDim => (int?)config["head_dim"] ?? _d / _heads;

    private bool IsNeox => _type == "gpt_neox";

    /// <summary>Logits [T][vocabulary] and the residual stream after the embeddings, each block and the final norm.</summary>
    public (double[][] Logits, List<double[][]> Hidden) Run(int[] ids)
    {
        string prefix = IsNeox ? "gpt_neox." : "model.";
        double[] table = weights[prefix + (IsNeox ? "embed_in.weight" : "embed_tokens.weight")];
        double[][] x = [.. ids.Select(id => table.AsSpan(id * _d, _d).ToArray().Select(v => v * Number("embedding_multiplier", 1)).ToArray())];
        List<double[][]> hidden = [x];
        for (int i = 0; i < _layers; i++)
        {
            string p = $"{prefix}layers.{i}.";
            double[][] a = Attention(p, i, Norm(p + "input_layernorm", x)), add = [];
            if (IsNeox && ((bool?)config["use_parallel_residual"] ?? true))
            {
                add = Mlp(p + "mlp.", i, Norm(p + "post_attention_layernorm", x));
                x = Add(Add(x, a, 1), add, 1);
            }
            else
            {
                x = Add(x, a, Number("residual_multiplier", 1));
                x = Add(x, Mlp(p + "mlp.", i, Norm(p + "post_attention_layernorm", x)), Number("residual_multiplier", 1));
            }
            if (i < _layers - 1)
                hidden.Add(x);
        }
        x = Norm(prefix + (IsNeox ? "final_layer_norm" : "norm"), x);
        hidden.Add(x);
        string head = IsNeox ? "embed_out.weight" : "lm_head.weight";
        double[][] logits = Linear(x, weights.TryGetValue(head, out double[]? own) ? own : table, _vocabulary, null);
        return ([.. logits.Select(r => r.Select(v => v / Number("logits_scaling", 1)).ToArray())], hidden);
    }

    /// <summary>Minus the mean log-probability of each token after those before it.</summary>
    public double Loss(int[] ids)
    {
        double[][] logits = Run(ids).Logits;
        double sum = 0;
        for (int t = 0; t + 1 < ids.Length; t++)
            sum += Math.Log(logits[t].Sum(v => Math.Exp(v - logits[t].Max()))) + logits[t].Max() - logits[t][ids[t + 1]];
        return sum / (ids.Length - 1);
    }

    private double Number(string key, double fallback) => (double?)config[key] ?? fallback;

    private double[][] Attention(string p, int layer, double[][] h)
    {
        int hd = HeadDim, q = _heads * hd, kv = KvHeads * hd, length = h.Length;
        double[][] queries, keys, values;
        string module = IsNeox ? p + "attention." : p + "self_attn.";
        if (IsNeox)
        {
            double[][] all = Linear(h, module + "query_key_value", 3 * _d);
            double[][] Pick(int which) => [.. all.Select(r => Enumerable.Range(0, _d).Select(j => r[(j / hd * 3 + which) * hd + j % hd]).ToArray())];
            (queries, keys, values) = (Pick(0), Pick(1), Pick(2));
        }
        else
        {
            (queries, keys, values) = (Linear(h, module + "q_proj", q), Linear(h, module + "k_proj", kv), Linear(h, module + "v_proj", kv));
        }
        if (_type == "olmoe")
        {
            (queries, keys) = (Norm(module + "q_norm", queries), Norm(module + "k_norm", keys));
            double clip = Number("clip_qkv", double.PositiveInfinity);
            double[][] Cut(double[][] m) => [.. m.Select(r => r.Select(v => Math.Clamp(v, -clip, clip)).ToArray())];
            (queries, keys, values) = (Cut(queries), Cut(keys), Cut(values));
        }
        bool rotary = _type != "smollm3" || (config["no_rope_layers"] is JsonArray list ? (int)list[layer]! != 0 : (layer + 1) % (int)Number("no_rope_layer_interval", 4) != 0);
        int window = Window(layer, rotary);
        if (rotary)
        {
            Rotate(queries, _heads);
            Rotate(keys, KvHeads);
        }
        double scale = _type == "granite" ? Number("attention_multiplier", 1) : 1 / Math.Sqrt(hd);
        double[][] o = [.. Enumerable.Range(0, length).Select(_ => new double[q])];
        for (int t = 0; t < length; t++)
            for (int n = 0; n < _heads; n++)
            {
                int kvHead = n / (_heads / KvHeads), first = window > 0 ? Math.Max(0, t - window + 1) : 0;
                double[] scores = [.. Enumerable.Range(first, t - first + 1).Select(j => scale * Enumerable.Range(0, hd).Sum(e => queries[t][n * hd + e] * keys[j][kvHead * hd + e]))];
                double[] weight = Softmax(scores);
                for (int j = first; j <= t; j++)
                    for (int e = 0; e < hd; e++)
                        o[t][n * hd + e] += weight[j - first] * values[j][kvHead * hd + e];
            }
        return Linear(o, module + (IsNeox ? "dense" : "o_proj"), _d);
    }

    // Tokens that a layer sees, 0 for all: the mask of transformers, by the layer's type where the file lists types.
    private int Window(int layer, bool rotary)
    {
        bool on = (bool?)config["use_sliding_window"] == true;
        if (config["layer_types"] is JsonArray types && (_type == "smollm3" || on))
            return (string)types[layer]! == "sliding_attention" ? (int)Number("sliding_window", 4096) : 0;
        bool local = _type == "smollm3" ? !rotary : _type == "qwen2_moe" && layer % 2 == 0 && layer < Number("max_window_layers", 28);
        return on && local ? (int)Number("sliding_window", 4096) : 0;
    }

    private double[][] Mlp(string p, int layer, double[][] h)
    {
        if (IsNeox)
            return Linear([.. Linear(h, p + "dense_h_to_4h", (int)config["intermediate_size"]!).Select(r => r.Select(Unit).ToArray())], p + "dense_4h_to_h", _d);
        bool sparse = Number("num_experts", 0) > 0 && !((config["mlp_only_layers"] as JsonArray)?.Any(l => (int)l! == layer) ?? false) && (layer + 1) % (int)Number("decoder_sparse_step", 1) == 0;
        if (!sparse)
            return SwiGlu(h, p, (int)config["intermediate_size"]!);
        int experts = (int)config["num_experts"]!, k = (int)config["num_experts_per_tok"]!;
        int width = (int)(config["moe_intermediate_size"] ?? config["intermediate_size"])!;
        double[][] logits = Linear(h, p + "gate", experts), y = [.. h.Select(_ => new double[_d])];
        for (int t = 0; t < h.Length; t++)
        {
            double[] probability = Softmax(logits[t]);
            int[] best = [.. Enumerable.Range(0, experts).OrderByDescending(e => probability[e]).Take(k)];
            double sum = (bool?)config["norm_topk_prob"] == true ? best.Sum(e => probability[e]) : 1;
            foreach (int e in best)
                y[t] = Add([y[t]], SwiGlu([h[t]], $"{p}experts.{e}.", width), probability[e] / sum)[0];
        }
        if (_type != "qwen2_moe")
            return y;
        double[][] shared = SwiGlu(h, p + "shared_expert.", (int)config["shared_expert_intermediate_size"]!), gate = Linear(h, p + "shared_expert_gate", 1);
        return [.. y.Select((r, t) => Add([r], [shared[t]], 1 / (1 + Math.Exp(-gate[t][0])))[0])];
    }

    private double[][] SwiGlu(double[][] h, string p, int width)
    {
        double[][] gate = Linear(h, p + "gate_proj", width), up = Linear(h, p + "up_proj", width);
        return Linear([.. gate.Select((r, t) => r.Select((g, j) => g / (1 + Math.Exp(-g)) * up[t][j]).ToArray())], p + "down_proj", _d);
    }

    private double[][] Linear(double[][] x, string name, int outputs) => Linear(x, weights[name + ".weight"], outputs, weights.GetValueOrDefault(name + ".bias"));

    private static double[][] Linear(double[][] x, double[] w, int outputs, double[]? bias) =>
        [.. x.Select(r => Enumerable.Range(0, outputs).Select(o => (bias?[o] ?? 0) + Dot(r, w.AsSpan(o * r.Length, r.Length))).ToArray())];

    private static double Dot(double[] a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
            sum += a[i] * b[i];
        return sum;
    }

    private double[][] Norm(string name, double[][] x) => [.. x.Select(r =>
    {
        double[] w = weights[name + ".weight"];
        double mean = IsNeox ? r.Average() : 0, eps = Number(IsNeox ? "layer_norm_eps" : "rms_norm_eps", IsNeox || _type == "olmoe" ? 1e-5 : 1e-6), scale = 1 / Math.Sqrt(r.Average(v => (v - mean) * (v - mean)) + eps);
        return r.Select((v, j) => (v - mean) * scale * w[j] + (IsNeox ? weights[name + ".bias"][j] : 0)).ToArray();
    })];

    // GPT-NeoX's unit without a gate.
    private double Unit(double v) => (string?)config["hidden_act"] switch
    {
        "relu" => Math.Max(0, v),
        "gelu_new" => 0.5 * v * (1 + Math.Tanh(Math.Sqrt(2 / Math.PI) * (v + 0.044715 * v * v * v))),
        _ => v * NormalCdf(v),
    };

    private void Rotate(double[][] x, int heads)
    {
        // transformers 5 has one object where 4 has keys.
        var parameters = config["rope_parameters"] as JsonObject;
        JsonObject? scaling = parameters ?? config["rope_scaling"] as JsonObject;
        double theta = (double?)parameters?["rope_theta"] ?? Number(IsNeox ? "rotary_emb_base" : "rope_theta", _type == "smollm3" ? 2e6 : 1e4);
        int turned = IsNeox ? (int)(HeadDim * ((double?)parameters?["partial_rotary_factor"] ?? Number("rotary_pct", 0.25))) : HeadDim;
        for (int t = 0; t < x.Length; t++)
            for (int n = 0; n < heads; n++)
                for (int j = 0; j < turned / 2; j++)
                {
                    double angle = t * Stretched(Math.Pow(theta, -2.0 * j / turned), scaling), cos = Math.Cos(angle), sin = Math.Sin(angle);
                    int a = n * HeadDim + j, b = a + turned / 2;
                    (x[t][a], x[t][b]) = (x[t][a] * cos - x[t][b] * sin, x[t][b] * cos + x[t][a] * sin);
                }
    }

    // A frequency under rope scaling: linear (Chen et al. 2023), or Llama 3.1's, which leaves short waves and ramps between.
    private static double Stretched(double frequency, JsonObject? scaling)
    {
        double Of(string key) => (double)scaling![key]!;
        switch ((string?)scaling?["rope_type"])
        {
            case "linear":
                return frequency / Of("factor");
            case "llama3":
                double waves = Of("original_max_position_embeddings") * frequency / (2 * Math.PI);
                double share = Math.Clamp((waves - Of("low_freq_factor")) / (Of("high_freq_factor") - Of("low_freq_factor")), 0, 1);
                return share * frequency + (1 - share) * frequency / Of("factor");
            default:
                return frequency;
        }
    }

    private static double[] Softmax(double[] x)
    {
        double max = x.Max(), sum = x.Sum(v => Math.Exp(v - max));
        return [.. x.Select(v => Math.Exp(v - max) / sum)];
    }

    private static double[][] Add(double[][] x, double[][] y, double factor) => [.. x.Select((r, t) => r.Select((v, j) => v + factor * y[t][j]).ToArray())];

    // Φ by the series of the error function, which converges for every argument.
    private static double NormalCdf(double x)
    {
        double term = x, sum = x;
        for (int n = 1; n < 200; n++)
        {
            term *= x * x / (2 * n + 1);
            sum += term;
        }
        return Math.Abs(x) > 12 ? x > 0 ? 1 : 0 : 0.5 + sum * Math.Exp(-x * x / 2) / Math.Sqrt(2 * Math.PI);
    }
}
