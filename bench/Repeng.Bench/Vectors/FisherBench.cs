using System.Diagnostics;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text.Json.Nodes;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Bench.Vectors;

/// <summary>
/// fisher_steer_cov_reg1 of one wide layer from real gradients: the gate of an MLP of a narrow model with random weights, so that what
/// is measured is the direction and not the model. Beside it the reference's dense solve in fp32.
/// </summary>
internal static class FisherBench
{
    public static int Run(string[] args)
    {
        int width = 9728, pairs = 1145, threads = Environment.ProcessorCount;
        bool withPeer = true;
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            switch (name)
            {
                case "--width": width = Number(); break;
                case "--pairs": pairs = Number(); break;
                case "--threads": threads = Number(); break;
                case "--no-peer": withPeer = false; break;
                default: throw new UserErrorException($"fisher knows no option {name}");
            }

            int Number() => ++i < args.Length && int.TryParse(args[i], CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"{name} needs a positive number");
        }
        using Device device = Device.Cpu(threads);
        using DecoderModel model = Narrow(device, width);
        string module = $"{model.Blocks[1].Path}.mlp.gate_proj";
        Console.WriteLine($"fisher_steer_cov_reg1, width {width}, {pairs} pairs ({2 * pairs} rows)");
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        var draw = new Random(7);
        int[] Text() => [.. Enumerable.Range(0, 6).Select(_ => draw.Next(model.Config.VocabSize))];
        TokenPair[] texts = [.. Enumerable.Range(0, pairs).Select(_ => new TokenPair(Text(), Text()))];
        using Representations rows = Representations.Collect(model, [module], texts, 0, VectorNeeds.Gradients, new RepresentationSettings());
        device.Pool.Trim();
        double[] ours = Measured("ours", () => VectorMethod.Parse("fisher_steer_cov_reg1").Directions(device.HostWorkers, rows.Layers[module], 1));
        if (withPeer)
            Peer(rows.Layers[module], ours, threads);
        return 0;
    }

    // Not inlined: without the peer libtorch is not loaded.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Peer(LayerRows rows, double[] ours, int threads)
    {
        TorchSharp.torch.set_num_threads(threads);
        ProcessMemory.KeepFreedBlocks();
        using TorchSharp.torch.Tensor g = TorchSharp.torch.tensor(Array.ConvertAll(rows.Gradients!.ToArray(), v => (float)v), rows.Rows, rows.Width);
        float[] theirs = Measured("TorchSharp, dense in fp32", () => TorchVectors.Solve(g, 0.1, centred: true));
        double error = Math.Sqrt(ours.Zip(theirs, (a, b) => (a - b) * (a - b)).Sum() / ours.Sum(a => a * a));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"relative difference of the two directions: {error:e1}"));
    }

    private static T Measured<T>(string name, Func<T> work)
    {
        ProcessMemory.ResetPeak();
        double before = ProcessMemory.Now;
        long start = Stopwatch.GetTimestamp();
        T result = work();
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name}: {seconds:F2} s, peak resident memory {ProcessMemory.Peak:F0} MiB, {ProcessMemory.Peak - before:F0} MiB more than before"));
        return result;
    }

    private static DecoderModel Narrow(Device device, int width)
    {
        var json = new JsonObject
        {
            ["model_type"] = "qwen3",
            ["hidden_size"] = 64,
            ["intermediate_size"] = width,
            ["num_hidden_layers"] = 4,
            ["num_attention_heads"] = 2,
            ["num_key_value_heads"] = 1,
            ["head_dim"] = 32,
            ["vocab_size"] = 512,
            ["max_position_embeddings"] = 64,
            ["rms_norm_eps"] = 1e-6,
            ["rope_theta"] = 10000.0,
            ["hidden_act"] = "silu",
            ["attention_bias"] = false,
            ["tie_word_embeddings"] = false,
            ["eos_token_id"] = 511,
        };
        ModelConfig config = Families.Read(new ConfigReader(json, "narrow"));
        using var weights = new ModelInitialiser(config, seed: 3, 0.3);
        return ModelLoader.Load(device, config, weights);
    }
}
