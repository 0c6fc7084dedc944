using System.Globalization;
using System.Runtime.ExceptionServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;

namespace Repeng.CudaBench;

/// <summary>The board: what every kernel asked for beside what it cannot do without.</summary>
internal static partial class Board
{
    public static int Run(ReadOnlySpan<string> args)
    {
        string only = "";
        bool write = false;
        for (int i = 0; i < args.Length; i++)
        {
            if (args[i] == "--write")
                write = true;
            else if (args[i] == "--only" && i + 1 < args.Length)
                only = args[++i];
            else
                throw new UserErrorException($"board: '{args[i]}' is no option; there are --only TEXT and --write");
        }
        if (write && only.Length > 0)
            throw new UserErrorException("board: --write takes all kernels; leave --only away");
        List<BoardRow> rows = Measure(only, row => Console.WriteLine(Line(row)));
        BoardRow[] missed = [.. rows.Where(r => r.Misses().Any(m => Reason(r.Kernel, m) is null))];
        foreach (BoardRow row in missed)
            Console.Error.WriteLine($"{row.Kernel} ({row.Shape}) misses {string.Join(", ", row.Misses())} without a reason");
        if (write)
        {
            string path = Path.Combine(Root(), "bench", "boards", "cuda-emulated.md");
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            File.WriteAllText(path, Page(rows));
            Console.WriteLine($"written: {path}");
        }
        return missed.Length == 0 ? 0 : 1;
    }

    /// <summary>Runs the cases that name a kernel with this text in its name, some at a time, each on an emulated device of its own; rows come in the order of the cases.</summary>
    public static List<BoardRow> Measure(string only = "", Action<BoardRow>? each = null)
    {
        KernelCase[] cases = [.. KernelCases.All().Where(c => c.Expected.Any(e => e.Kernel.Contains(only, StringComparison.Ordinal)))];
        var measured = new BoardRow[cases.Length][];
        List<BoardRow> rows = [];
        int next = -1, told = 0;
        try
        {
            Parallel.For(0, Math.Min(Environment.ProcessorCount, 4), _ =>
            {
                using EmulatedGpu gpu = new();
                for (int i = Interlocked.Increment(ref next); i < cases.Length; i = Interlocked.Increment(ref next))
                {
                    BoardRow[] made = RowsOf(cases[i], gpu.Count(cases[i].Run));
                    lock (rows)
                    {
                        measured[i] = made;
                        for (; told < cases.Length && measured[told] is { } ready; told++)
                            foreach (BoardRow row in ready)
                            {
                                rows.Add(row);
                                each?.Invoke(row);
                            }
                    }
                }
            });
        }
        catch (AggregateException e)
        {
            ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }
        return rows;
    }

    private static BoardRow[] RowsOf(KernelCase of, IReadOnlyDictionary<string, KernelCounts> counts) =>
        [.. of.Expected.Select(e => counts.TryGetValue(e.Kernel, out KernelCounts? counted)
            ? new BoardRow(e.Kernel, of.Shape, e.Floor, counted)
            : throw new InvalidOperationException($"{of.Shape}: {e.Kernel} was not launched; launched were {string.Join(", ", counts.Keys)}"))];

    public static string? Reason(string kernel, string target) =>
        Reasons.FirstOrDefault(r => r.Target == target && (r.Kernel.EndsWith('*') ? kernel.StartsWith(r.Kernel[..^1], StringComparison.Ordinal) : kernel == r.Kernel)).Reason;

    /// <summary>Names of the kernels that ship.</summary>
    public static string[] Shipped() => [.. JsonNode.Parse(KernelImages.Manifest)!["modules"]!.AsArray().SelectMany(m => m!["kernels"]!.AsArray()).Select(k => (string)k!["name"]!)];

    private static string Line(BoardRow r) => string.Create(CultureInfo.InvariantCulture,
        $"{r.Kernel,-30} {r.Shape,-44} traffic {r.Traffic,6:0.000} (operands once {r.Cached,6:0.00})  extra ways {r.ExtraWays,6} of {r.Counts.SharedPhases,8}  mma {r.Mma,6:0.000}  instructions {r.Counts.WarpInstructions,9}  {string.Join(' ', r.Misses())}");

    private static string Page(List<BoardRow> rows)
    {
        StringBuilder page = new();
        CultureInfo culture = CultureInfo.InvariantCulture;
        string hash = Convert.ToHexStringLower(SHA256.HashData(KernelImages.Manifest))[..12];
        int spills = 0, assemblies = 0;
        string resources = Path.Combine(Root(), "kernels", "resources.tsv");
        foreach (string line in File.ReadLines(resources).Where(l => !l.StartsWith('#')))
        {
            string[] fields = line.Split('\t');
            assemblies++;
            spills += fields[4] != "0" || fields[5] != "0" ? 1 : 0;
        }
        page.Append(culture, $"""
            # What the CUDA kernels ask for, counted by the emulator
            Written by `dotnet run -c Release --project bench/Repeng.CudaBench -- board --write`; not by hand. Manifest of the kernels: `{hash}`.

            The PTX that ships ran on the emulator at Qwen3-4B's shapes (width {2560}, MLP {9728}, 32 heads on 8 of 128), cut to a few blocks. No GPU, no times.

            * **traffic**: 32-byte sectors that loads and stores ask for, over the floor. The floor is every operand once; where tiles or rows share an operand
              (products, attention, norms' weights) it is what the plan of tiles asks for, and *times operands* says how often that is: what the caches serve.
              Target ≤ {BoardRow.MostTraffic}.
            * **extra ways**: cycles of shared memory beyond one a phase, of how many phases; 0 is free of bank conflicts.
            * **mma**: FLOP of the tensor core over those that the accuracy asks for at the shape (pairs of a query and a key that it sees, for attention). Target ≤ {BoardRow.MostMma}.
            * Spills: {spills} in {assemblies} assemblies (`kernels/resources.tsv`, by ptxas for four architectures).

            {rows.Count} lines, {rows.Select(r => r.Kernel).Distinct().Count()} kernels; {rows.Count(r => !r.Misses().Any())} lines meet every target, the others have their reason below.

            | kernel | shape | traffic | times operands | extra ways | of phases | mma | instructions a warp would issue |
            |---|---|---|---|---|---|---|---|

            """);
        foreach (BoardRow r in rows)
            page.Append(culture, $"| `{r.Kernel}` | {r.Shape} | {Mark(r, "traffic", $"{r.Traffic:0.00}")} | {r.Cached:0.0} | {Mark(r, "banks", $"{r.ExtraWays}")} | {r.Counts.SharedPhases} | {(r.Floor.Mma > 0 ? Mark(r, "mma", string.Create(culture, $"{r.Mma:0.00}")) : "")} | {r.Counts.WarpInstructions} |\n");
        page.Append("\n## Reasons\n");
        foreach ((string kernel, string target, string reason) in Reasons.Where(x => rows.Any(r => r.Misses().Contains(x.Target) && Reason(r.Kernel, x.Target) == x.Reason)))
            page.Append(culture, $"* `{kernel}`, {target}: {reason}\n");
        return page.ToString();
    }

    private static string Mark(BoardRow row, string target, string text) => row.Misses().Contains(target) ? $"**{text}**" : text;

    /// <summary>The repository, from where the program runs.</summary>
    internal static string Root()
    {
        for (DirectoryInfo? at = new(AppContext.BaseDirectory); at is not null; at = at.Parent)
            if (File.Exists(Path.Combine(at.FullName, "Repeng.Native.sln")))
                return at.FullName;
        throw new UserErrorException("the repository was not found above the program; run it with dotnet run");
    }
}
