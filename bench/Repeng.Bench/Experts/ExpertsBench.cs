using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Models;

namespace Repeng.Bench.Experts;

/// <summary>
/// A mixture of experts beside the dense model with the same active size: random weights, all else alike, an MLP as wide as the
/// experts that a token goes through together. Both run in turns in one process; the figure is the ratio of tokens a second, the median over turns.
/// </summary>
internal static class ExpertsBench
{
    public static int Run(string[] args)
    {
        int hidden = 512, layers = 6, experts = 32, perToken = 4, width = 384, tokens = 512, runs = 7, threads = Environment.ProcessorCount;
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            switch (name)
            {
                case "--hidden": hidden = Number(); break;
                case "--layers": layers = Number(); break;
                case "--experts": experts = Number(); break;
                case "--per-token": perToken = Number(); break;
                case "--width": width = Number(); break;
                case "--tokens": tokens = Number(); break;
                case "--runs": runs = Number(); break;
                case "--threads": threads = Number(); break;
                default: throw new UserErrorException($"experts knows no option {name}");
            }

            int Number() => ++i < args.Length && int.TryParse(args[i], CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"{name} needs a positive number");
        }
        using Device device = Device.Cpu(threads);
        using DecoderModel sparse = Make(device, hidden, layers, perToken * width, experts, perToken, width), dense = Make(device, hidden, layers, perToken * width, 0, 0, 0);
        Console.WriteLine($"{layers} blocks of width {hidden}; {experts} experts of {width}, {perToken} a token ({sparse.WeightBytes >> 20} MiB), beside an MLP of {perToken * width} ({dense.WeightBytes >> 20} MiB); fp32");
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}, {runs} runs each");
        Report($"prompt of {tokens} tokens", tokens, runs, m => Seconds(() => Prompt(m, tokens)), sparse, dense);
        Report($"{tokens} tokens forward and backward, an adapter on the first block", tokens, runs, Trainer(tokens, sparse, dense), sparse, dense);
        foreach (int rows in new[] { 1, 8 })
            Report($"decoding, {rows} row{(rows == 1 ? "" : "s")}", rows * 32, runs, m => Decode(m, rows, 32), sparse, dense);
        return 0;
    }

    private static DecoderModel Make(Device device, int hidden, int layers, int intermediate, int experts, int perToken, int width)
    {
        var json = new JsonObject
        {
            ["model_type"] = experts > 0 ? "qwen3_moe" : "qwen3",
            ["hidden_size"] = hidden,
            ["intermediate_size"] = intermediate,
            ["num_hidden_layers"] = layers,
            ["num_attention_heads"] = hidden / 64,
            ["num_key_value_heads"] = hidden / 128,
            ["head_dim"] = 64,
            ["vocab_size"] = 1024,
            ["max_position_embeddings"] = 4096,
            ["tie_word_embeddings"] = true,
        };
        if (experts > 0)
            (json["num_experts"], json["num_experts_per_tok"], json["moe_intermediate_size"], json["norm_topk_prob"]) = (experts, perToken, width, true);
        ModelConfig config = Families.Read(new ConfigReader(json, "bench"));
        using var weights = new ModelInitialiser(config, 1, 0.05);
        return ModelLoader.Load(device, config, weights);
    }

    private static TokenBatch Tokens(int rows, int length, ulong stream = 0) =>
        new(rows, length, [.. Enumerable.Range(0, rows * length).Select(i => (int)(1024 * Philox.Uniform(1, stream, (ulong)i)))], new int[rows]);

    private static void Prompt(DecoderModel model, int tokens)
    {
        using var tape = new Tape(model.Device, record: false);
        model.Forward(new ForwardContext(tape, Tokens(1, tokens)));
    }

    private static Func<DecoderModel, double> Trainer(int tokens, params DecoderModel[] models)
    {
        Dictionary<DecoderModel, SvdAdapter> adapters = models.ToDictionary(m => m, m => SvdAdapter.Create(m, new SvdAdapterConfig { Rank = 16, TargetModules = @"model\.layers\.0\.self_attn\.v_proj" }));
        return model => Seconds(() =>
        {
            using var tape = new Tape(model.Device);
            SvdAdapter adapter = adapters[model];
            Tensor h = model.Forward(new ForwardContext(tape, Tokens(1, tokens)) { Adapter = adapter.Pass(tape, [1], tokens) });
            tape.Backward(tape.Sum(tape.Multiply(h, h)));
            foreach (Tensor p in adapter.Parameters)
                p.FreeGrad();
        });
    }

    private static double Decode(DecoderModel model, int rows, int count)
    {
        using var cache = new KvCache(model.Device, model.Config, rows, 16 + count, new int[rows]);
        using (var tape = new Tape(model.Device, record: false))
            model.Forward(new ForwardContext(tape, Tokens(rows, 16), cache));
        return Seconds(() =>
        {
            for (int t = 0; t < count; t++)
            {
                using var tape = new Tape(model.Device, record: false);
                model.Forward(new ForwardContext(tape, Tokens(rows, 1, (ulong)t + 1), cache));
            }
        });
    }

    private static double Seconds(Action work)
    {
        long start = Stopwatch.GetTimestamp();
        work();
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static void Report(string what, int tokens, int runs, Func<DecoderModel, double> seconds, DecoderModel sparse, DecoderModel dense)
    {
        var rates = new List<(double Sparse, double Dense)>();
        for (int i = -2; i < runs; i++)
        {
            double first = seconds(i % 2 == 0 ? sparse : dense), second = seconds(i % 2 == 0 ? dense : sparse);
            if (i >= 0)
                rates.Add(i % 2 == 0 ? (tokens / first, tokens / second) : (tokens / second, tokens / first));
        }
        double[] ratios = [.. rates.Select(r => r.Sparse / r.Dense).Order()];
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{what}: experts {Median(rates.Select(r => r.Sparse)):F0}, dense {Median(rates.Select(r => r.Dense)):F0} tokens/s; ratio {ratios[ratios.Length / 2]:F2} ({ratios[0]:F2} … {ratios[^1]:F2})"));
    }

    private static double Median(IEnumerable<double> values) => values.Order().ElementAt(values.Count() / 2);
}
