using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Runtime.Hub;
using Repeng.Testing;

namespace Repeng.Bench.Hub;

/// <summary>A large file of a hub on this machine: our fetch, whole and killed twice, beside curl, each a process of its own.</summary>
internal static class HubBench
{
    private const string Repository = "org/model", File = "big.gguf";

    public static int Run(string[] args)
    {
        // The child: one fetch, by the settings that its parent put into the environment.
        if (args is ["--child"])
        {
            using var hub = new ModelHub();
            var watch = Stopwatch.StartNew();
            hub.Fetch(HubReference.TryParse($"{Repository}:{File}")!);
            Console.WriteLine(watch.Elapsed.TotalSeconds.ToString("R", CultureInfo.InvariantCulture));
            return 0;
        }
        (long megabytes, int runs) = (1024, 3);
        for (int i = 0; i < args.Length; i += 2)
        {
            if (i + 1 == args.Length || !int.TryParse(args[i + 1], CultureInfo.InvariantCulture, out int n) || n < 1)
                throw new UserErrorException($"hub: {args[i]} needs a number from 1 on");
            switch (args[i])
            {
                case "--mb": megabytes = n; break;
                case "--runs": runs = n; break;
                default: throw new UserErrorException($"hub: unknown option {args[i]}; there are --mb N and --runs N");
            }
        }
        string folder = Directory.CreateTempSubdirectory("repeng-hub-bench-").FullName;
        try
        {
            using var server = new HubServer(Repository);
            byte[] block = new byte[16 << 20];
            new Random(1).NextBytes(block);
            var body = new HubBody(block, megabytes << 20);
            server.Put(File, body);
            Console.WriteLine($"{Machine.Cpu}, load {Machine.Load()}, commit {Machine.Commit()}; {megabytes} MiB over loopback, median of {runs} runs in turns");
            var times = new List<(double Curl, double Ours, double Inside, double Killed)>();
            for (int run = 0; run <= runs; run++)
            {
                double alone = Curl(server, folder);
                (double ours, double inside) = Fetch(server, folder, 0);
                (double killed, _) = Fetch(server, folder, 2);
                // The first round warms files and code.
                if (run > 0)
                    times.Add((alone, ours, inside, killed));
            }
            double curl = Median(times.Select(t => t.Curl));
            Row("curl", curl);
            Row("fetch", Median(times.Select(t => t.Ours)));
            Row("fetch, without the start of its process", Median(times.Select(t => t.Inside)));
            Row("fetch, killed twice and resumed, three processes in all", Median(times.Select(t => t.Killed)));
            return 0;

            void Row(string name, double seconds) =>
                Console.WriteLine(FormattableString.Invariant($"{name,-58} {seconds,7:F3} s {megabytes / seconds,7:F0} MiB/s  {curl / seconds:P0} of curl"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static double Curl(HubServer server, string folder)
    {
        string output = Path.Combine(folder, "curl");
        var watch = Stopwatch.StartNew();
        using Process curl = Process.Start("curl", ["-sSfL", "-o", output, $"{server.Endpoint}/{Repository}/resolve/{server.Commit}/{File}"]);
        curl.WaitForExit();
        double seconds = watch.Elapsed.TotalSeconds;
        Check(curl.ExitCode == 0, "curl failed");
        CheckHash(server, output);
        System.IO.File.Delete(output);
        return seconds;
    }

    private static (double Process, double Inside) Fetch(HubServer server, string folder, int kills)
    {
        string home = Path.Combine(folder, "hf"), blob = Path.Combine(home, "hub", "models--org--model", "blobs", server.Etag(File));
        long size = server.Size(File);
        double seconds = 0, inside = 0;
        for (int run = 0; run <= kills; run++)
        {
            var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "Repeng.Bench.dll"), "hub", "--child"]) { RedirectStandardOutput = true };
            start.Environment["HF_ENDPOINT"] = server.Endpoint;
            start.Environment["HF_HOME"] = home;
            foreach (string name in new[] { "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE" })
                start.Environment.Remove(name);
            var watch = Stopwatch.StartNew();
            using Process child = Process.Start(start)!;
            if (run < kills)
            {
                while (!child.HasExited && !(System.IO.File.Exists(blob + ".incomplete") && new FileInfo(blob + ".incomplete").Length > size * (run + 1) / (kills + 1)))
                    Thread.Sleep(1);
                Check(!child.HasExited, "the fetch ended before it was killed; take a larger --mb");
                child.Kill();
            }
            string output = child.StandardOutput.ReadToEnd();
            child.WaitForExit();
            seconds += watch.Elapsed.TotalSeconds;
            Check(run < kills || child.ExitCode == 0, "the fetch failed");
            if (run == kills)
                inside = double.Parse(output, CultureInfo.InvariantCulture);
        }
        CheckHash(server, blob);
        Directory.Delete(home, recursive: true);
        return (seconds, inside);
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
