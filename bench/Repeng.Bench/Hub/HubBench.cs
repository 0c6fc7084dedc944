using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Repeng.Bench.Boards;
using Repeng.Bench.Startup;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Testing;

namespace Repeng.Bench.Hub;

/// <summary>
/// A large file of a hub on this machine: the command line's fetch, whole and killed twice, beside curl, each a process of its own. A fetch ends with the
/// file checked and on the disk and curl's does not, so curl is also timed with the file flushed: where that alone takes longer, nothing that flushes can be faster.
/// </summary>
internal static unsafe partial class HubBench
{
    private const string Repository = "org/model", File = "big.gguf";
    private const double Target = 0.8;

    /// <summary>Seconds of a fetch, of its start up to the first request, of what came until the last byte was in the file, and of hash and disk behind that; and processor time of client and server, all processes together.</summary>
    private sealed record Fetched(double All, double Start, double Transfer, double Rest, double Client, double Server);

    public static int Run(string[] args)
    {
        (long megabytes, int runs) = (1024, 3);
        string? published = null;
        for (int i = 0; i < args.Length; i += 2)
        {
            if (i + 1 == args.Length)
                throw new UserErrorException($"hub: {args[i]} needs a value");
            switch (args[i])
            {
                case "--mb": megabytes = Count(args[i], args[i + 1]); break;
                case "--runs": runs = Count(args[i], args[i + 1]); break;
                case "--published": published = Path.GetFullPath(args[i + 1]); break;
                default: throw new UserErrorException($"hub: unknown option {args[i]}; there are --mb N, --runs N and --published FOLDER");
            }
        }
        List<CommandLineProgram> programs = CommandLineProgram.All(published);
        programs.ForEach(p => p.MustBeOfThisCommit());
        string folder = Directory.CreateTempSubdirectory("repeng-hub-bench-").FullName;
        try
        {
            using var server = new HubServer(Repository);
            byte[] block = new byte[16 << 20];
            new Random(1).NextBytes(block);
            server.Put(File, new HubBody(block, megabytes << 20));
            Console.WriteLine($"{Machine.Cpu}, load {Machine.Load()}, commit {Machine.Commit()}; {megabytes} MiB over loopback into {folder}, median of {runs} runs in turns");
            List<double> curl = [], flushed = [];
            var whole = programs.ToDictionary(p => p, _ => new List<Fetched>());
            var killed = programs.ToDictionary(p => p, _ => new List<Fetched>());
            for (int run = 0; run <= runs; run++)
            {
                (double alone, double withFlush) = Curl(server, folder);
                // The first round warms files and code.
                if (run > 0)
                {
                    curl.Add(alone);
                    flushed.Add(withFlush);
                }
                foreach (CommandLineProgram program in programs)
                {
                    Fetched once = Fetch(program, server, folder, 0), thrice = Fetch(program, server, folder, 2);
                    if (run == 0)
                        continue;
                    whole[program].Add(once);
                    killed[program].Add(thrice);
                }
            }
            Row("curl", curl, "");
            Row("curl, and its file flushed to the disk", flushed, "");
            foreach (CommandLineProgram program in programs)
            {
                Row($"fetch, {program.Name}", [.. whole[program].Select(f => f.All)], Parts(whole[program]));
                Row($"fetch, {program.Name}, killed twice, three processes in all", [.. killed[program].Select(f => f.All)], $"the last of them: {Parts(killed[program])}");
                Report("whole", whole[program], curl, "curl", Target);
                Report("whole", whole[program], flushed, "curl, flushed", null);
                Report("killed twice", killed[program], curl, "curl", Target);

                void Report(string what, List<Fetched> ours, List<double> peer, string name, double? target) => new BoardRow
                {
                    Job = $"fetch of {megabytes} MiB, {what}, {program.Name}, beside {name}",
                    Unit = "s",
                    Ours = [.. ours.Select(f => f.All)],
                    Peer = [.. peer],
                    PeerName = name,
                    Target = target,
                }.Report();
            }
            return 0;

            void Row(string name, List<double> seconds, string parts) =>
                Console.WriteLine(FormattableString.Invariant($"{name,-60} {Median(seconds),7:F3} s ({seconds.Min():F3} … {seconds.Max():F3}) {megabytes / Median(seconds),7:F0} MiB/s  {Median(curl) / Median(seconds):P0} of curl  {parts}"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static int Count(string option, string text) => int.TryParse(text, CultureInfo.InvariantCulture, out int n) && n > 0 ? n : throw new UserErrorException($"hub: {option} needs a number from 1 on, not {text}");

    private static string Parts(List<Fetched> runs) =>
        FormattableString.Invariant($"start {Median(runs.Select(f => f.Start)):F2}, bytes {Median(runs.Select(f => f.Transfer)):F2}, then hash and disk {Median(runs.Select(f => f.Rest)):F2}; processor time {Median(runs.Select(f => f.Client)):F2}, of the server {Median(runs.Select(f => f.Server)):F2}");

    private static double ServerTime() => Environment.CpuUsage.TotalTime.TotalSeconds;

    // Of all children that have ended, with theirs.
    private static double ChildrenTime()
    {
        const int Children = -1;
        long* usage = stackalloc long[18];
        return GetUsage(Children, usage) == 0 ? usage[0] + usage[2] + 1e-6 * (usage[1] + usage[3]) : throw new UserErrorException("hub: getrusage failed");
    }

    [LibraryImport("libc", EntryPoint = "getrusage")]
    private static partial int GetUsage(int who, long* usage);

    private static (double Alone, double Flushed) Curl(HubServer server, string folder)
    {
        string output = Path.Combine(folder, "curl");
        var watch = Stopwatch.StartNew();
        using Process curl = Process.Start("curl", ["-sSfL", "-o", output, $"{server.Endpoint}/{Repository}/resolve/{server.Commit}/{File}"]);
        curl.WaitForExit();
        double alone = watch.Elapsed.TotalSeconds;
        Check(curl.ExitCode == 0, "curl failed");
        using (var file = System.IO.File.OpenHandle(output, access: FileAccess.ReadWrite))
            RandomAccess.FlushToDisk(file);
        double flushed = watch.Elapsed.TotalSeconds;
        CheckHash(server, output);
        System.IO.File.Delete(output);
        return (alone, flushed);
    }

    private static Fetched Fetch(CommandLineProgram program, HubServer server, string folder, int kills)
    {
        string home = Path.Combine(folder, "hf"), blob = Path.Combine(home, "hub", "models--org--model", "blobs", server.Etag(File)), partial = blob + ".incomplete";
        long size = server.Size(File);
        double all = 0, first = 0, last = 0, whole = 0, client = ChildrenTime(), own = ServerTime();
        for (int run = 0; run <= kills; run++)
        {
            ProcessStartInfo start = program.Start("fetch", $"{Repository}:{File}");
            start.RedirectStandardOutput = start.RedirectStandardError = true;
            start.Environment["HF_ENDPOINT"] = server.Endpoint;
            start.Environment["HF_HOME"] = home;
            foreach (string name in new[] { "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE" })
                start.Environment.Remove(name);
            var watch = Stopwatch.StartNew();
            double asked = double.NaN;
            server.Change = (_, _) => asked = double.IsNaN(asked) ? watch.Elapsed.TotalSeconds : asked;
            using Process child = Process.Start(start)!;
            Task<string> said = child.StandardError.ReadToEndAsync();
            child.StandardOutput.ReadToEndAsync();
            long until = run < kills ? size * (run + 1) / (kills + 1) : size;
            while (!child.HasExited && !System.IO.File.Exists(blob) && !(new FileInfo(partial) is { Exists: true } file && file.Length >= until))
                Thread.Sleep(1);
            whole = watch.Elapsed.TotalSeconds;
            if (run < kills)
            {
                Check(!child.HasExited, "the fetch ended before it was killed; take a larger --mb");
                child.Kill();
            }
            child.WaitForExit();
            last = watch.Elapsed.TotalSeconds;
            all += last;
            first = asked;
            Check(run < kills || child.ExitCode == 0, $"the fetch failed: {said.Result}");
        }
        (client, own) = (ChildrenTime() - client, ServerTime() - own);
        server.Change = null;
        CheckHash(server, blob);
        Directory.Delete(home, recursive: true);
        return new Fetched(all, first, whole - first, last - whole, client, own);
    }

    private static void CheckHash(HubServer server, string file)
    {
        using FileStream stream = System.IO.File.OpenRead(file);
        Check(Convert.ToHexStringLower(SHA256.HashData(stream)) == server.Etag(File), $"{file} is not what the server has");
    }

    private static double Median(IEnumerable<double> values) => values.Order().ElementAt(values.Count() / 2);

    private static void Check(bool holds, string otherwise)
    {
        if (!holds)
            throw new UserErrorException($"hub: {otherwise}");
    }
}
