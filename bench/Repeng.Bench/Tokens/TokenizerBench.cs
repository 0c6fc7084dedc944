using System.Diagnostics;
using System.Globalization;
using System.Text;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Testing;
using Peer = Microsoft.ML.Tokenizers.Tokenizer;
using Tokenizer = Repeng.Runtime.Tokenizers.Tokenizer;

namespace Repeng.Bench.Tokens;

/// <summary>
/// Encoding and decoding beside Microsoft.ML.Tokenizers, in turns in one process, over this repository's documents and source
/// files; and the load of a tokenizer in fresh processes. A text with other ids is not timed.
/// </summary>
internal static class TokenizerBench
{
    private static string Tokenizers => Path.Combine(Machine.Repository(), "..", "shared", "tokenizers");

    public static int Run(string[] args)
    {
        int runs = 7;
        string? only = null;
        bool loads = false, noPeer = false;
        for (int i = 0; i < args.Length; i++)
        {
            switch (args[i])
            {
                case "--runs": runs = int.TryParse(Value(), CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"--runs {args[i]} is no positive number"); break;
                case "--only": only = Value(); break;
                case "--load": loads = true; break;
                case "--no-peer": noPeer = true; break;
                // What a child process does: one load, timed from its first line.
                case "--load-once": return LoadOnce(Value());
                default: throw new UserErrorException($"tokenizer knows no option {args[i]}");
            }

            string Value() => i + 1 < args.Length ? args[++i] : throw new UserErrorException($"{args[i]} needs a value");
        }
        Console.WriteLine($"{Machine.Cpu}, commit {Machine.Commit()}, load average {Machine.Load()}, {runs} runs each, median (smallest … largest)");
        string[] sources = [.. Directory.GetDirectories(Tokenizers).Order(StringComparer.Ordinal), .. Models()];
        foreach (string source in sources.Where(s => only is null || s.Contains(only, StringComparison.OrdinalIgnoreCase)))
        {
            if (loads)
                TimeLoads(source, runs);
            else
                Compare(source, runs, noPeer);
        }
        return 0;
    }

    private static IEnumerable<string> Models() => Directory.Exists(TrainBenchOptions.ModelFolder)
        ? Directory.GetFiles(TrainBenchOptions.ModelFolder, "*.gguf", SearchOption.AllDirectories).Order(StringComparer.Ordinal) : [];

    private static Tokenizer Load(string source)
    {
        if (!source.EndsWith(".gguf", StringComparison.Ordinal))
            return Tokenizer.Load(source);
        using GgufFile file = GgufFile.Open(source);
        return Tokenizer.FromGguf(GgufTokenizer.Read(file) ?? throw new UserErrorException($"{source}: holds no tokenizer"), source);
    }

    private static int LoadOnce(string source)
    {
        long start = Stopwatch.GetTimestamp();
        Tokenizer tokenizer = Load(source);
        TimeSpan load = Stopwatch.GetElapsedTime(start);
        int[] ids = tokenizer.Encode("The quick brown fox jumps over the lazy dog, 42 times.", true);
        TimeSpan first = Stopwatch.GetElapsedTime(start);
        long again = Stopwatch.GetTimestamp();
        Load(source);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{load.TotalMilliseconds} {first.TotalMilliseconds} {Stopwatch.GetElapsedTime(again).TotalMilliseconds} {ids.Length}"));
        return 0;
    }

    /// <summary>Fresh processes, set as the command line is, with all that is compiled in them: the load, the load and a first text, a second load, and the whole process.</summary>
    private static void TimeLoads(string source, int runs)
    {
        var times = new double[4][];
        for (int column = 0; column < times.Length; column++)
            times[column] = new double[runs];
        for (int run = 0; run < runs; run++)
        {
            long start = Stopwatch.GetTimestamp();
            using Process process = Process.Start(new ProcessStartInfo(Environment.ProcessPath!, IsHost() ? [typeof(TokenizerBench).Assembly.Location, "tokenizer", "--load-once", source] : ["tokenizer", "--load-once", source]) { RedirectStandardOutput = true, Environment = { ["DOTNET_TieredPGO"] = "0" } })!;
            string[] parts = process.StandardOutput.ReadToEnd().Split(' ');
            process.WaitForExit();
            if (process.ExitCode != 0)
                throw new UserErrorException($"the process that loads {source} failed");
            times[3][run] = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            for (int column = 0; column < 3; column++)
                times[column][run] = double.Parse(parts[column], CultureInfo.InvariantCulture);
        }
        string size = File.Exists(source) ? "" : $" ({new FileInfo(Path.Combine(source, "tokenizer.json")).Length / 1e6:0.0} MB)";
        Console.WriteLine($"{Path.GetFileName(source)}{size}: load {Spread(times[0])} ms, with a first text {Spread(times[1])}, a second load {Spread(times[2])}, the whole process with both loads {Spread(times[3])}");

        static bool IsHost() => Path.GetFileNameWithoutExtension(Environment.ProcessPath) == "dotnet";
    }

    private static void Compare(string source, int runs, bool noPeer)
    {
        Tokenizer ours = Load(source);
        // The same vocabulary in GGUF has no tokenizer.json to make the peer of; it is compared with the folder of its name.
        string folder = File.Exists(source) ? Directory.GetDirectories(Tokenizers).FirstOrDefault(d => Path.GetFileName(source).StartsWith(Path.GetFileName(d), StringComparison.OrdinalIgnoreCase)) ?? "" : source;
        (string Name, Peer Tokenizer)[] peers = noPeer || folder.Length == 0 ? [] : [.. PeerTokenizer.All(Path.Combine(folder, "tokenizer.json")).Select(p => (p.Name, p.Create()))];
        foreach ((string name, string[] texts) in Corpora())
        {
            int[][] ids = [.. texts.Select(t => ours.Encode(t, false))];
            Console.WriteLine($"{Path.GetFileName(source)}, {name}: {Megabytes(texts):0.00} MB, {texts.Length} texts, {ids.Sum(i => i.Length)} tokens");
            if (peers.Length == 0)
                Console.WriteLine($"  encode {Spread([.. Enumerable.Range(0, runs).Select(_ => Megabytes(texts) / Seconds(() => Encode(ours, texts)))])} MB/s, decode {Spread([.. Enumerable.Range(0, runs).Select(_ => Megabytes(texts) / Seconds(() => Decode(ours, ids)))])} MB/s");
            foreach ((string peerName, Peer peer) in peers)
                CompareWith(peerName, $"{Path.GetFileName(source)}, {name}", peer, ours, texts, ids, runs);
        }
    }

    /// <summary>Only texts for which both give the same ids: the peer has no added tokens, and merges of equal rank in another order.</summary>
    private static void CompareWith(string peerName, string subject, Peer peer, Tokenizer ours, string[] allTexts, int[][] allIds, int runs)
    {
        int[] same = [.. Enumerable.Range(0, allTexts.Length).Where(i => peer.EncodeToIds(allTexts[i]).SequenceEqual(allIds[i]))];
        string[] texts = [.. same.Select(i => allTexts[i])];
        int[][] ids = [.. same.Select(i => allIds[i])];
        double megabytes = Megabytes(texts);
        Console.WriteLine($"  {peerName}, the {texts.Length} texts with equal ids, {megabytes:0.00} MB:");
        if (texts.Length == 0)
            return;
        Report("encode", subject, peerName, megabytes, runs, () => Encode(ours, texts), () => Encode(peer, texts));
        int otherTexts = Enumerable.Range(0, texts.Length).Count(i => peer.Decode(ids[i]) != ours.Decode(ids[i], false));
        Report(otherTexts == 0 ? "decode" : $"decode ({otherTexts} texts differ)", subject, peerName, megabytes, runs, () => Decode(ours, ids), () => Decode(peer, ids));
    }

    private static double Megabytes(string[] texts) => texts.Sum(Encoding.UTF8.GetByteCount) / 1e6;

    private static void Report(string what, string subject, string peerName, double megabytes, int runs, Action ours, Action theirs)
    {
        var speeds = new double[2][] { new double[runs], new double[runs] };
        ours();
        theirs();
        for (int run = 0; run < runs; run++)
            for (int turn = 0; turn < 2; turn++)
            {
                int side = (run + turn) % 2;
                speeds[side][run] = megabytes / Seconds(side == 0 ? ours : theirs);
            }
        double[] ratios = [.. speeds[0].Zip(speeds[1], (o, t) => o / t)];
        new BoardRow { Job = $"tokenizer, {what}, {subject}", Unit = "MB/s", Ours = [.. speeds[0].Select(v => megabytes / v)], Peer = [.. speeds[1].Select(v => megabytes / v)], PeerName = peerName, Work = megabytes, Target = 1 }.Report();
        Console.WriteLine($"    {what}: {Spread(speeds[0])} MB/s, the peer {Spread(speeds[1])} MB/s, ratio {Spread(ratios, "0.00")}");
    }

    private static double Seconds(Action action)
    {
        long start = Stopwatch.GetTimestamp();
        action();
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static void Encode(Tokenizer tokenizer, string[] texts)
    {
        foreach (string text in texts)
            tokenizer.Encode(text, false);
    }

    private static void Encode(Peer tokenizer, string[] texts)
    {
        foreach (string text in texts)
            tokenizer.EncodeToIds(text);
    }

    private static void Decode(Tokenizer tokenizer, int[][] ids)
    {
        foreach (int[] text in ids)
            tokenizer.Decode(text, false);
    }

    private static void Decode(Peer tokenizer, int[][] ids)
    {
        foreach (int[] text in ids)
            tokenizer.Decode(text);
    }

    private static IEnumerable<(string Name, string[] Texts)> Corpora()
    {
        yield return ("documents", Read("docs", "*.md"));
        yield return ("source code", Read("src", "*.cs"));

        static string[] Read(string folder, string pattern) =>
            [.. Directory.GetFiles(Path.Combine(Machine.Repository(), folder), pattern, SearchOption.AllDirectories).Where(f => !f.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}", StringComparison.Ordinal)).Order(StringComparer.Ordinal).Select(File.ReadAllText)];
    }

    private static string Spread(double[] values, string format = "0.0")
    {
        double[] sorted = [.. values.Order()];
        return string.Create(CultureInfo.InvariantCulture, $"{sorted[sorted.Length / 2].ToString(format, CultureInfo.InvariantCulture)} ({sorted[0].ToString(format, CultureInfo.InvariantCulture)} … {sorted[^1].ToString(format, CultureInfo.InvariantCulture)})");
    }
}
