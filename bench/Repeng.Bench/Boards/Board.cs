using System.Diagnostics;
using System.Globalization;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;

namespace Repeng.Bench.Boards;

/// <summary>
/// Runs every benchmark with its peers, each in a process of its own, and writes bench/boards/MACHINE.md. Rows of jobs that were not run this time
/// are kept from the file, with the commit that they were measured at.
/// </summary>
internal static class Board
{
    /// <summary>Head of the table.</summary>
    public const string Header = "| job | ours | floor | of the floor | peer | ratio (smallest … largest) | target | commit | garbage a call |\n|---|---|---|---|---|---|---|---|---|";

    // The last column came later than the others, so rows of older boards lack it.
    private const int Columns = 9;

    private static readonly (string Name, string[] Arguments)[] s_jobs =
    [
        ("llama", ["llama", "--runs", "5"]),
        ("decode", ["decode", "--stored", "--rows", "8", "--distinct", "--tokens", "150"]),
        ("tax", ["decode", "--stored", "--tokens", "600"]),
        ("matmul", ["matmul", "--only", "M=448"]),
        ("train", ["train", "--runs", "3"]),
        ("train-each", ["train", "--runs", "3", "--text-by-text"]),
        ("train-stored", ["train", "--runs", "3", "--weights", "stored", "--peer-type", "bf16", "--no-memory"]),
        ("train-peak", ["train", "--peak", "--model", Training.TrainShapes.Qwen, "--weights", "nf4", "--micro-batch", "4"]),
        ("vectors", ["vectors", "--pairs", "120", "--runs", "3"]),
        ("vectors-wide", ["vectors", "--pairs", "120", "--runs", "3", "--batch", "48"]),
        ("svd", ["svd"]),
        ("tokenizer", ["tokenizer", "--runs", "3", "--only", "smollm2"]),
        ("load", ["packed", "first-token", "--started"]),
        ("first-step", ["first-step"]),
        ("hub", ["hub"]),
        ("kernels", ["kernels"]),
    ];

    public static int Run(string[] args)
    {
        string name = $"{Machine.Cpu} {Environment.ProcessorCount} {CpuBackend.Simd}";
        var only = new List<string>();
        string? published = null;
        for (int i = 0; i < args.Length; i++)
            switch (args[i])
            {
                case "--machine" when i + 1 < args.Length: name = args[++i]; break;
                case "--only" when i + 1 < args.Length: only.Add(args[++i]); break;
                case "--published" when i + 1 < args.Length: published = args[++i]; break;
                default: throw new UserErrorException($"board knows --machine NAME, --published FOLDER and --only JOB[:TEXT] ({string.Join(", ", s_jobs.Select(j => j.Name))}), not {args[i]}");
            }
        if (only.Find(o => !s_jobs.Any(j => j.Name == JobOf(o))) is { } unknown)
            throw new UserErrorException($"--only {unknown}: the jobs are {string.Join(", ", s_jobs.Select(j => j.Name))}");
        string file = Path.Combine(Machine.Repository(), "bench", "boards", $"cpu-{Slug(name)}.md");
        (double bandwidth, double flops) = MachinePeaks.Measure(Environment.ProcessorCount);
        string peaks = string.Create(CultureInfo.InvariantCulture, $"{bandwidth * 1e-9:f1} GB/s read, {flops * 1e-9:f0} GFLOP/s fp32");
        Console.WriteLine($"{name}: {peaks}");
        Dictionary<string, string> lines = File.Exists(file) ? Rows(File.ReadAllLines(file)) : [];
        var failed = new List<string>();
        string commit = Machine.Commit();
        foreach ((string job, string[] preset) in s_jobs.Where(j => only.Count == 0 || only.Exists(o => JobOf(o) == j.Name)))
        {
            string[] arguments = [.. preset, .. only.Where(o => JobOf(o) == job && o.Length > job.Length).SelectMany(o => new[] { "--only", o[(job.Length + 1)..] })];
            if (job is "load" or "first-step" or "hub" && published is not null)
                arguments = [.. arguments, "--published", published];
            Console.WriteLine($"\n{job}: {string.Join(' ', arguments)}");
            List<BoardRow> rows = Child(arguments, out int code);
            if (code != 0 || rows.Count == 0)
                failed.Add($"{job} (exit code {code}, {rows.Count} rows)");
            foreach (BoardRow row in rows)
                lines[row.Job] = Line(row, bandwidth, flops, commit);
        }
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        string temporary = file + ".tmp";
        File.WriteAllText(temporary, $"""
            # CPU board: {name}
            Written by `dotnet run -c Release --project bench/Repeng.Bench -- board`; not by hand. {Environment.ProcessorCount} threads; measured at the last run: {peaks}.

            Medians of alternating runs in one process (llama.cpp: in turns with a process of its own). The floor is what the machine needs for the bytes that must be read or
            the fp32 operations that must be done, whichever takes longer; *ratio* is the peer's time (or memory) over ours, where there is no peer the value stands under *ours*.
            Rows that begin with *product* are the best run of each side: libtorch's threads spin on for a while after its own, at ours' expense. Rows that begin with *kernel* are BenchmarkDotNet's, in turns of some 0.1 s:
            of the floor above 100 % where operands lie in caches; *garbage* is what the runtime allocates in a call of ours.

            {Header}
            {string.Join('\n', lines.OrderBy(l => l.Key, StringComparer.Ordinal).Select(l => l.Value))}

            """);
        File.Move(temporary, file, overwrite: true);
        Console.WriteLine($"\n{File.ReadAllText(file)}\nwritten to {Path.GetRelativePath(Machine.Repository(), file)}");
        if (failed.Count == 0)
            return 0;
        Console.Error.WriteLine($"not measured: {string.Join("; ", failed)}");
        return 1;
    }

    private static List<BoardRow> Child(string[] arguments, out int code)
    {
        string program = Environment.ProcessPath!;
        var start = new ProcessStartInfo(program) { RedirectStandardOutput = true };
        // Under `dotnet Repeng.Bench.dll` the program is the host and needs the library's name.
        if (Path.GetFileNameWithoutExtension(program) == "dotnet")
            start.ArgumentList.Add(typeof(Board).Assembly.Location);
        foreach (string a in arguments)
            start.ArgumentList.Add(a);
        start.Environment[BoardRow.Switch] = "1";
        using Process child = Process.Start(start) ?? throw new InvalidOperationException($"{program} does not start");
        var rows = new List<BoardRow>();
        while (child.StandardOutput.ReadLine() is { } line)
        {
            if (BoardRow.Parse(line) is { } row)
                rows.Add(row);
            else
                Console.WriteLine("  " + line);
        }
        child.WaitForExit();
        code = child.ExitCode;
        return rows;
    }

    // JOB, or JOB:TEXT for those of its rows whose name contains TEXT.
    private static string JobOf(string only) => only.Split(':', 2)[0];

    /// <summary>A row of the table.</summary>
    public static string Line(BoardRow row, double bandwidth, double flops, string commit)
    {
        bool seconds = row.Unit == "s", rate = row.Unit.EndsWith("/s", StringComparison.Ordinal);
        double[] ours = [.. row.Ours.Select(Value).Order()], peer = [.. row.Peer.Select(Value).Order()];
        double floor = Math.Max(row.Bytes / bandwidth, row.Flops / flops);
        bool hasFloor = floor > 0 && (seconds || rate);
        double[] ratios = [.. row.Ours.Zip(row.Peer, (o, p) => p / o).Order()];
        string target = row.Target is not { } t ? "" : ratios.Length > 0 ? $"≥ {Number(t)}×: {Verdict(ratios[ratios.Length / 2] >= t)}"
            : row.Unit is "×" ? $"≥ {Number(t)}: {Verdict(ours[ours.Length / 2] >= t)}" : $"≤ {Number(t)} {row.Unit}: {Verdict(ours[ours.Length / 2] <= t)}";
        return $"| {row.Job} | {Number(ours[ours.Length / 2])} {row.Unit}{Range(ours)} | {(hasFloor ? $"{Number(Value(floor))} {row.Unit}" : "")} | {(hasFloor ? (floor / row.Ours.Order().ElementAt(row.Ours.Length / 2)).ToString("p0", CultureInfo.InvariantCulture) : "")} "
            + $"| {(peer.Length > 0 ? $"{Number(peer[peer.Length / 2])} {row.Unit}, {row.PeerName}" : "")} | {(ratios.Length > 0 ? $"**{Number(ratios[ratios.Length / 2])}**{Range(ratios)}" : "")} | {target} | {commit} | {(row.Allocated is { } a ? $"{Number(a)} B" : "")} |";

        double Value(double v) => rate ? row.Work / v : v;
        static string Verdict(bool met) => met ? "met" : "missed";
        static string Range(double[] sorted) => sorted.Length > 1 ? $" ({Number(sorted[0])} … {Number(sorted[^1])})" : "";
    }

    internal static string Number(double v) => v.ToString(Math.Abs(v) >= 100 ? "f0" : Math.Abs(v) >= 10 ? "f1" : Math.Abs(v) >= 0.1 ? "f2" : "g3", CultureInfo.InvariantCulture);

    private static Dictionary<string, string> Rows(string[] lines)
    {
        var rows = new Dictionary<string, string>();
        foreach (string line in lines.Where(l => l.StartsWith("| ", StringComparison.Ordinal) && !l.StartsWith("| job ", StringComparison.Ordinal)))
        {
            string[] cells = line.Split('|');
            rows[cells[1].Trim()] = line + string.Concat(Enumerable.Repeat("  |", Columns - (cells.Length - 2)));
        }
        return rows;
    }

    internal static string Slug(string name) => string.Join('-', new string([.. name.ToLowerInvariant().Select(c => char.IsAsciiLetterOrDigit(c) ? c : ' ')]).Split(' ', StringSplitOptions.RemoveEmptyEntries));
}
