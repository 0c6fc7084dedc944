using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Runtime;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;

namespace Repeng.Bench.Llama;

/// <summary>
/// Generation from a GGUF file beside llama.cpp: tokens a second of one sequence, and of a prompt of 512 tokens, in turns.
/// Ours is <see cref="Generator"/> as the command line uses it, sampling included, by wall time; llama.cpp's times are its own
/// (evaluation alone, without sampling and JavaScript).
/// </summary>
internal static class LlamaBench
{
    private const int DecodePrompt = 32;

    public static int Run(string[] args)
    {
        string? model = null;
        int tokens = 128, prompt = 512, runs = 7, threads = Environment.ProcessorCount;
        bool peer = true, profile = false;
        WeightType weights = WeightType.AsStored;
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            switch (name)
            {
                case "--model": model = Value(); break;
                case "--tokens": tokens = Number(); break;
                case "--prompt": prompt = Number(); break;
                case "--runs": runs = Number(); break;
                case "--threads": threads = Number(); break;
                case "--no-peer": peer = false; break;
                case "--profile": profile = true; break;
                case "--expanded": weights = WeightType.F32; break;
                default: throw new UserErrorException($"llama knows no option {name}");
            }

            string Value() => ++i < args.Length ? args[i] : throw new UserErrorException($"{name} needs a value");
            int Number() => int.TryParse(Value(), CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"{name} {args[i]} is no positive number");
        }
        model ??= TrainBenchOptions.DefaultModel ?? throw new UserErrorException($"no .gguf file in {TrainBenchOptions.ModelFolder}; give --model");
        if (profile)
            return Profile(model, weights, threads, tokens, prompt);
        using Device device = Device.Cpu(threads);
        using ModelBundle bundle = ModelBundle.Load(device, model, weights);
        using LlamaPeer? llama = peer ? LlamaPeer.Start(model, threads, Math.Max(prompt, DecodePrompt + tokens) + 8) : null;
        var generator = new Generator(bundle.Model);
        int[] text = Text(bundle, prompt), shortText = text[..Math.Min(DecodePrompt, text.Length)];
        Console.WriteLine($"{Path.GetFileName(model)}, one sequence; {Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        if (llama is not null)
            Console.WriteLine($"llama.cpp {llama.Release} of node-llama-cpp: {llama.System}");

        var decode = new List<(double Ours, double Peer)>();
        var whole = new List<(double Ours, double Peer)>();
        (int[] ours, int[] theirs) = ([], []);
        for (int i = -1; i < runs; i++)
        {
            (double _, double our, int[] made) = Ours(generator, shortText, tokens);
            (double ourPrompt, _, _) = Ours(generator, text, 0);
            double their = double.NaN, theirPrompt = double.NaN;
            if (llama is not null)
            {
                (_, their, theirs) = llama.Run(shortText, tokens);
                (theirPrompt, _, _) = llama.Run(text, 0);
            }
            ours = made;
            // The first turn warms up.
            if (i < 0)
                continue;
            decode.Add((our, their));
            whole.Add((ourPrompt, theirPrompt));
        }
        Console.WriteLine($"| | ours, tokens/s | llama.cpp | ratio |\n|---|---|---|---|");
        Console.WriteLine(Row($"decode, {tokens} tokens after {shortText.Length}", tokens, decode));
        Console.WriteLine(Row($"prompt of {text.Length} tokens", text.Length, whole));
        // A token reads every weight once (embeddings that are no head: a row). Of a prompt only the last token goes through the head.
        DecoderModel m = bundle.Model;
        double linear = m.Linears.Values.Sum(l => (double)l.Inputs * l.Outputs), bytes = m.Linears.Values.Sum(l => (double)l.Weight.Data.Bytes) + m.Head.Data.Bytes;
        string by = llama is null ? "" : $"llama.cpp {llama.Release}";
        Report($"decode, {Path.GetFileNameWithoutExtension(model)}, one sequence", decode, tokens, tokens * bytes, 0, 1.5);
        Report($"prompt of {text.Length} tokens, {Path.GetFileNameWithoutExtension(model)}", whole, text.Length, bytes, 2 * linear * text.Length, 2);
        if (llama is not null)
            Console.WriteLine($"greedy tokens that both chose: the first {ours.Zip(theirs).TakeWhile(p => p.First == p.Second).Count()} of {ours.Length}");
        return 0;

        void Report(string job, List<(double Ours, double Peer)> times, double work, double least, double flops, double target) => new BoardRow
        {
            Job = job,
            Unit = "tokens/s",
            Ours = [.. times.Select(t => t.Ours)],
            Peer = llama is null ? [] : [.. times.Select(t => t.Peer)],
            PeerName = by,
            Work = work,
            Bytes = least,
            Flops = flops,
            Target = target,
        }.Report();
    }

    private static (double Prompt, double Decode, int[] Tokens) Ours(Generator generator, int[] ids, int newTokens)
    {
        long start = Stopwatch.GetTimestamp();
        double first = 0;
        int[] made = generator.Generate([ids], [0], Steering.Generation.Steering.None, new SamplingSettings(), newTokens + 1, [], onToken: (_, _) =>
        {
            if (first == 0)
                first = Stopwatch.GetElapsedTime(start).TotalSeconds;
        })[0];
        return (first, Stopwatch.GetElapsedTime(start).TotalSeconds - first, made);
    }

    // Where the time goes: of the decoded tokens (everything but the prompt's), then of a prompt.
    private static int Profile(string model, WeightType weights, int threads, int tokens, int prompt)
    {
        var backend = new TimedBackend(new CpuBackend(threads), () => Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency);
        using var device = new Device(backend);
        using ModelBundle bundle = ModelBundle.Load(device, model, weights);
        var generator = new Generator(bundle.Model);
        int[] text = Text(bundle, prompt), shortText = text[..Math.Min(DecodePrompt, text.Length)];
        Console.WriteLine($"{Path.GetFileName(model)}, one sequence; {Machine.Cpu} ({CpuBackend.Simd}), {threads} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        Ours(generator, shortText, tokens);
        long allocated = GC.GetTotalAllocatedBytes(), start = 0;
        int seen = 0, collections = GC.CollectionCount(0);
        generator.Generate([shortText], [0], Steering.Generation.Steering.None, new SamplingSettings(), tokens + 1, [], onToken: (_, _) =>
        {
            if (seen++ > 0)
                return;
            backend.Clear();
            start = Stopwatch.GetTimestamp();
        });
        Print($"a decoded token, mean of {tokens}", Stopwatch.GetElapsedTime(start).TotalSeconds, tokens);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {(GC.GetTotalAllocatedBytes() - allocated) / 1024.0 / tokens:f0} KiB allocated a token, {GC.CollectionCount(0) - collections} collections"));
        Ours(generator, text, 0);
        backend.Clear();
        Print($"prompt of {text.Length}", Ours(generator, text, 0).Prompt, 1);
        return 0;

        void Print(string name, double seconds, int times)
        {
            double ops = backend.Totals.Sum(t => t.Seconds);
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"\n{name}: {seconds / times * 1e3:f2} ms, of which {(seconds - ops) / times * 1e3:f2} between ops"));
            Console.WriteLine($"  {"ms",9} {"calls",6} {"µs each",8} {"GFLOP/s",8}  kind");
            foreach ((string kind, long calls, double spent, double flops) in backend.Totals.OrderByDescending(t => t.Seconds).Take(16))
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {spent / times * 1e3,9:f3} {(double)calls / times,6:f0} {spent / calls * 1e6,8:f1} {(flops > 0 ? flops / spent * 1e-9 : double.NaN),8:f1}  {kind}"));
        }
    }

    private static int[] Text(ModelBundle bundle, int length)
    {
        const string Sentence = "The harbour was quiet that morning, and only the gulls and a single old fisherman, who mended his nets by the wall, took any notice of the ship. ";
        var ids = new List<int>();
        for (int i = 1; ids.Count < length; i++)
            ids.AddRange(bundle.EncodeRaw($"{i}. {Sentence}"));
        return [.. ids.Take(length)];
    }

    private static string Row(string name, int tokens, List<(double Ours, double Peer)> runs)
    {
        double[] ours = [.. runs.Select(r => tokens / r.Ours).Order()], peers = [.. runs.Select(r => tokens / r.Peer).Order()], ratios = [.. runs.Select(r => r.Peer / r.Ours).Order()];
        return $"| {name} | {Spread(ours, "f1")} | {Spread(peers, "f1")} | {Spread(ratios, "f2")} |";
    }

    private static string Spread(double[] sorted, string format) => double.IsNaN(sorted[0])
        ? ""
        : $"**{sorted[sorted.Length / 2].ToString(format, CultureInfo.InvariantCulture)}** ({sorted[0].ToString(format, CultureInfo.InvariantCulture)} … {sorted[^1].ToString(format, CultureInfo.InvariantCulture)})";
}
