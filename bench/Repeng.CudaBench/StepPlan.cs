using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.CudaBench;

/// <summary>What a GPU is assumed to do; none was measured.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Multiprocessors">Their number.</param>
/// <param name="Gigahertz">Clock under load.</param>
/// <param name="Dram">Bytes a second of its memory, by its data sheet, and the part of them that a stream gets.</param>
/// <param name="L2">Bytes a second that the second-level cache serves.</param>
/// <param name="Tensor">Dense bf16 FLOP a second by its data sheet.</param>
/// <param name="MmaPart">The part of that which mma.sync gets at most.</param>
/// <param name="LibraryRate">FLOP a second of cuBLASLt's large bf16 products.</param>
internal sealed record Machine(string Name, int Multiprocessors, double Gigahertz, (double Rate, double Part) Dram, double L2, double Tensor, double MmaPart, double LibraryRate)
{
    /// <summary>Warp schedulers of a multiprocessor, an instruction a clock each, and the part of their slots that a kernel fills.</summary>
    public const double Issue = 4, IssuePart = 0.8;

    /// <summary>Seconds from one kernel's end to the next one's start, in a stream.</summary>
    public const double Gap = 1.5e-6;

    public const int Registers = 65536, Threads = 2048, SharedBytes = 227 * 1024;

    public static Machine[] All { get; } =
    [
        new("H100 SXM", 132, 1.6, (3.35e12, 0.9), 5.5e12, 989e12, 0.62, 700e12),
        new("H200 SXM", 132, 1.6, (4.8e12, 0.9), 5.5e12, 989e12, 0.62, 790e12),
    ];
}

/// <summary>The step plan: predicted milliseconds a kernel of a training step, from counted bytes, FLOP and instructions.</summary>
internal static class StepPlan
{
    /// <summary>peers.md's target for the step with the base model's pass, milliseconds.</summary>
    public const double Target = 153;

    private const int Tokens = 64;

    // Of 28 texts of the honesty personas, the mean of what is each one's own: `bench train --rows 28` says how many tokens are computed.
    private const int OwnOfPersonas = 7;

    public const string AllLinears = @".*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)";

    private sealed record Priced(RecordedLaunch Launch, double Count, LaunchCost Cost, double Compulsory, double Needed);

    private sealed record Step(CudaPrecision Precision, bool Library, StepRecord Record, List<Priced> Launches)
    {
        public string Name => Precision.ToString().ToLowerInvariant() + (Library ? " + cuBLASLt" : "");

        public double Seconds(Machine m, Func<Priced, bool> of) => Launches.Where(of).Sum(p => p.Count * StepPlan.Seconds(p, m).Time);

        public double Sum(Machine m) => Moved(Record, m) + Seconds(m, _ => true);
    }

    // What launches are for: the first that fits.
    private static readonly (string Name, Func<RecordedLaunch, bool> Fits)[] s_kinds =
    [
        ("products with weights and the head", ProductSizes.IsLarge),
        ("weights decoded, operands rounded, for them", l => l.Kernel.StartsWith("unpack_", StringComparison.Ordinal) || l.Kernel.StartsWith("round_", StringComparison.Ordinal)),
        ("low-rank products, with the sums of their stretches", l => ProductSizes.IsProduct(l) || l.Kernel is "term_rounded" or "sum_cols_plain" or "sum_partials"),
        ("attention", l => l.Kernel.StartsWith("attention_", StringComparison.Ordinal)),
        ("norms, rotary embedding, gated units", l => l.Kernel.StartsWith("rms_", StringComparison.Ordinal) || l.Kernel.StartsWith("gated_", StringComparison.Ordinal) || l.Kernel == "rope"),
        ("sums and their gradients", l => l.Kernel is "binary_forward_add" or "binary_backward_a_add" or "binary_backward_b_add"),
        ("rotations, scales, losses, the optimiser: small", _ => true),
    ];

    private static readonly (CudaPrecision Precision, bool Library)[] s_steps = [(CudaPrecision.Exact, false), (CudaPrecision.Bf16, false), (CudaPrecision.Bf16, true)];

    public static int Run(ReadOnlySpan<string> args)
    {
        bool write = false, bf16 = false, only = false;
        int rows = 14, own = Tokens;
        for (int i = 0; i < args.Length; i++)
        {
            if (args[i] == "--write")
                write = true;
            else if (args[i] == "--bf16")
                bf16 = true;
            else if (args[i] == "--rounded")
                only = true;
            else if (args[i] == "--rows" && i + 1 < args.Length && int.TryParse(args[++i], out rows) && rows > 1 && rows % 2 == 0)
                continue;
            else if (args[i] == "--own" && i + 1 < args.Length && int.TryParse(args[++i], out own) && own is > 0 and <= Tokens)
                continue;
            else
                throw new UserErrorException($"plan: '{args[i]}' is no option; there are --rows N (even), --own N (1 … {Tokens}), --bf16, --rounded and --write");
        }
        WeightStorage storage = bf16 ? new WeightStorage() : new WeightStorage(WeightType.AsStored, new Quantisation(QuantisedForm.Nf4));
        // Asked for before minutes of work, not after.
        string path = write ? Path.Combine(Board.Root(), "docs", "cuda-plan.md") : "";
        StringBuilder page = new();
        Dictionary<string, LaunchCost> known = [];
        using Replay replay = new();
        foreach ((int r, int apart) in write ? [(14, Tokens), (28, Tokens), (28, OwnOfPersonas)] : new[] { (rows, own) })
        {
            List<Step> steps = [];
            foreach ((CudaPrecision precision, bool library) in s_steps)
            {
                if (precision == CudaPrecision.Exact && only)
                    continue;
                Console.Error.WriteLine($"recording a step of {r} rows, {apart} tokens of each its own, {precision}{(library ? " with cuBLASLt" : "")}");
                StepRecord record = StepRecord.Of(new StepShape(r, Tokens, 64, AllLinears, Reference: true, storage, precision, library, apart));
                List<Priced> priced = [];
                foreach ((RecordedLaunch launch, double count) in record.Launches)
                {
                    (double bytes, double flop) = ProductSizes.Of(launch);
                    if (!known.TryGetValue(launch.Signature, out LaunchCost? cost))
                        known[launch.Signature] = cost = ProductSizes.IsOfLibrary(launch) ? new LaunchCost(bytes, flop, 0) : replay.Run(launch);
                    priced.Add(new Priced(launch, count, cost, bytes > 0 ? Math.Min(bytes, cost.Bytes) : cost.Bytes, flop));
                }
                steps.Add(new Step(precision, library, record, priced));
            }
            page.Append(Summary(r, apart, steps, bf16));
            foreach (Step step in steps)
                page.Append(Section(step));
        }
        Console.Write(page);
        if (write)
        {
            File.WriteAllText(path, Head(bf16) + page);
            Console.Error.WriteLine($"written: {path}");
        }
        return 0;
    }

    private static string Head(bool bf16)
    {
        StringBuilder head = new();
        CultureInfo c = CultureInfo.InvariantCulture;
        head.Append(c, $"""
            # Step plan: Qwen3-4B on the CUDA engine
            Written by `dotnet run -c Release --project bench/Repeng.CudaBench -- plan --write`; not by hand. **A prediction: no GPU ran this.**

            The engine's own training step, with `--precision exact`, with `--precision bf16`, and with that and cuBLASLt found (weights {(bf16 ? "bf16" : "NF4")}, SVD adapter of rank 64 on all seven linear layers of each of 36 blocks, rotations on both sides, base pass, c = −1 and +1 with their
            backward passes, gradient norm, AdamW) ran over a driver that writes down launches; each kind of launch then ran on the emulator, as far as its first blocks, and its bytes, tensor
            FLOP and instructions were multiplied up to its grid. A kernel takes the longest of

            * its bytes of DRAM (operands once for products and attention, what was asked for all others) at the assumed part of the data sheet's bandwidth,
            * the bytes it asks of L2 (every sector asked, as if nothing hit L1),
            * its tensor FLOP (counted, so that a product of fp32 accuracy counts 3 or 6 times) at the part of the dense bf16 rate that mma.sync reaches,
            * its instructions (of PTX, which the driver's compiler makes into about as many) at {Machine.Issue} a clock and multiprocessor, {Machine.IssuePart:P0} filled,

            the last two over the part of the last wave of blocks that is filled (blocks by registers, shared memory and threads), and {Machine.Gap * 1e6:0.0} µs between kernels. A product that goes to cuBLASLt takes the longer of its operands' bytes, each once, at that
            bandwidth and its FLOP at the rate that is assumed for cuBLASLt.

            | assumed | multiprocessors | clock GHz | DRAM TB/s × part | L2 TB/s | bf16 TFLOP/s × part for mma.sync | cuBLASLt TFLOP/s |
            |---|---|---|---|---|---|---|

            """);
        foreach (Machine m in Machine.All)
            head.Append(c, $"| {m.Name} | {m.Multiprocessors} | {m.Gigahertz} | {m.Dram.Rate / 1e12} × {m.Dram.Part} | {m.L2 / 1e12} | {m.Tensor / 1e12} × {m.MmaPart} | {m.LibraryRate / 1e12} |\n");
        head.Append(c, $"""

            Target: ≤ {Target} ms for 28 rows (14 pairs) with the base pass, which is 60 % of the speed of light there (72.3 TFLOP at 790 TFLOP/s).


            """);
        return head.ToString();
    }

    private static string Summary(int rows, int own, List<Step> steps, bool bf16)
    {
        StringBuilder page = new();
        CultureInfo c = CultureInfo.InvariantCulture;
        page.Append(c, $"## {rows} rows ({rows / 2} pairs) × {Tokens} tokens × 2 coefficients, and the base pass, {(bf16 ? "bf16" : "NF4")}{(own < Tokens ? ", beginnings shared" : "")}\n\n");
        if (own < Tokens)
            page.Append(c, $"As texts of a persona do, the positive texts begin alike and the negative ones too: {Tokens - own} tokens that a pass computes once, then {own} of each text's own, {(2 * (Tokens - own)) + (rows * own)} tokens in the place of {rows * Tokens}.\n\n");
        page.Append(c, $"Milliseconds by `--precision`:\n\n| what | launches {string.Join(" / ", steps.Select(s => s.Name))} |");
        foreach (Machine m in Machine.All)
            foreach (Step s in steps)
                page.Append(c, $" {m.Name} {s.Name} |");
        page.Append("\n|---|---|").Append(string.Concat(Enumerable.Repeat("---|", Machine.All.Length * steps.Count))).Append('\n');
        foreach ((string name, Func<RecordedLaunch, bool> fits) in s_kinds)
        {
            bool Of(Priced p) => s_kinds.First(k => k.Fits(p.Launch)).Name == name;
            Line(name, string.Join(" / ", steps.Select(s => s.Launches.Where(Of).Sum(p => p.Count).ToString("0", c))), (s, m) => s.Seconds(m, Of), "");
        }
        Line("fills and copies", string.Join(" / ", steps.Select(s => s.Record.Moves.ToString("0", c))), (s, m) => Moved(s.Record, m), "");
        Line("**sum**", string.Join(" / ", steps.Select(s => (s.Record.Moves + s.Launches.Sum(p => p.Count)).ToString("0", c))), (s, m) => s.Sum(m), "**");
        return page.Append('\n').ToString();

        void Line(string name, string launches, Func<Step, Machine, double> time, string mark)
        {
            page.Append(c, $"| {name} | {launches} |");
            foreach (Machine m in Machine.All)
                foreach (Step s in steps)
                    page.Append(c, $" {mark}{1e3 * time(s, m):0.0}{mark} |");
            page.Append('\n');
        }
    }

    private static string Section(Step step)
    {
        (CudaPrecision precision, _, StepRecord record, List<Priced> all) = step;
        StringBuilder page = new();
        CultureInfo c = CultureInfo.InvariantCulture;
        page.Append(c, $"### By kernel, {step.Name}\n\n");
        double needed = all.Sum(p => p.Needed * p.Count), mma = all.Sum(p => p.Cost.Mma * p.Count);
        page.Append(c, $"{all.Sum(p => p.Count):0} launches of {all.Select(p => p.Launch.Kernel).Distinct().Count()} kernels; {needed / 1e12:0.0} TFLOP of products, {mma / 1e12:0.0} TFLOP on the tensor cores; {record.Moves:0} fills and copies of {record.MovedBytes / 1e9:0.00} GB.{(record.DecodedBytes > 0 ? $" Weights stay decoded to bf16 from the step before: {(record.DecodedBytes / 1e9).ToString("0.00", c)} GB of memory." : "")}\n\n");
        page.Append("| kernel | launches | tensor TFLOP | DRAM GB | asked GB | G instructions |");
        foreach (Machine m in Machine.All)
            page.Append(c, $" {m.Name} ms | limit |");
        page.Append("\n|---|---|---|---|---|---|").Append(string.Concat(Machine.All.Select(_ => "---|---|"))).Append('\n');
        var groups = all.GroupBy(p => p.Launch.Kernel).Select(g => (Kernel: g.Key, Launches: g.ToList())).OrderByDescending(g => g.Launches.Sum(p => p.Count * Seconds(p, Machine.All[0]).Time)).ToList();
        foreach ((string kernel, List<Priced> launches) in groups)
        {
            page.Append(c, $"| `{kernel}` | {launches.Sum(p => p.Count):0} | {launches.Sum(p => p.Count * p.Cost.Mma) / 1e12:0.00} | {launches.Sum(p => p.Count * p.Compulsory) / 1e9:0.00} | {launches.Sum(p => p.Count * p.Cost.Bytes) / 1e9:0.00} | {launches.Sum(p => p.Count * p.Cost.Instructions) / 1e9:0.00} |");
            foreach (Machine m in Machine.All)
            {
                string limit = launches.GroupBy(p => Seconds(p, m).Limit).OrderByDescending(g => g.Sum(p => p.Count * Seconds(p, m).Time)).First().Key;
                page.Append(c, $" {1e3 * launches.Sum(p => p.Count * Seconds(p, m).Time):0.00} | {limit} |");
            }
            page.Append('\n');
        }
        page.Append("| fills and copies | | | | | |");
        foreach (Machine m in Machine.All)
            page.Append(c, $" {1e3 * Moved(record, m):0.00} | DRAM |");
        page.Append("\n| **sum** | | | | | |");
        foreach (Machine m in Machine.All)
            page.Append(c, $" **{1e3 * step.Sum(m):0}** | |");
        if (precision != CudaPrecision.Exact)
            return page.Append("\n\n").ToString();
        page.Append("\n\nWere its products with weights done by cuBLASLt, three of bf16 parts of the activations each (1e-5; the engine does so beside bf16 and fp32 weights alone), everything else as above:");
        foreach (Machine m in Machine.All)
            page.Append(c, $" {m.Name} {1e3 * (Moved(record, m) + all.Sum(p => p.Count * (ProductSizes.IsLarge(p.Launch) ? InParts(p, m) : Seconds(p, m).Time))):0} ms{(m == Machine.All[^1] ? "." : ",")}");
        return page.Append("\n\n").ToString();
    }

    // A product of fp32 accuracy by the library: the weight decoded, the activations in three parts.
    private static double InParts(Priced p, Machine m) => Decode(p, m) + Parts(p, m, 3) + Math.Max(3 * p.Needed / m.LibraryRate, p.Compulsory / (m.Dram.Rate * m.Dram.Part)) + (3 * Machine.Gap);

    // Instructions a second.
    private static double Issued(Machine m) => m.Multiprocessors * m.Gigahertz * 1e9 * Machine.Issue * Machine.IssuePart;

    // A quantised weight to bf16, written and read again.
    private static double Decode(Priced p, Machine m) => p.Launch.Kernel.Contains("_codes_", StringComparison.Ordinal) ? (ProductSizes.Weights(p.Launch) * (0.5625 + 4) / (m.Dram.Rate * m.Dram.Part)) + Machine.Gap : 0;

    // Activations read once, their parts written and read.
    private static double Parts(Priced p, Machine m, int parts) => (ProductSizes.Activations(p.Launch) * (4 + (4.0 * parts)) / (m.Dram.Rate * m.Dram.Part)) + Machine.Gap;

    private static double Moved(StepRecord record, Machine m) => (record.MovedBytes / (m.Dram.Rate * m.Dram.Part)) + (record.Moves * Machine.Gap);

    private static (double Time, string Limit) Seconds(Priced p, Machine m)
    {
        if (ProductSizes.IsOfLibrary(p.Launch))
        {
            (double of, string by) = new[] { (p.Compulsory / (m.Dram.Rate * m.Dram.Part), "DRAM"), (p.Needed / m.LibraryRate, "library") }.Max();
            return (of + Machine.Gap, by);
        }
        double wave = Wave(p.Launch, m), dram = p.Compulsory / (m.Dram.Rate * m.Dram.Part), cache = p.Cost.Bytes / m.L2, tensor = p.Cost.Mma / (m.Tensor * m.MmaPart * wave),
            issue = p.Cost.Instructions / (Issued(m) * wave);
        (double longest, string limit) = new[] { (dram, "DRAM"), (cache, "L2"), (tensor, "tensor"), (issue, "issue") }.Max();
        return (longest + Machine.Gap, longest < Machine.Gap ? "launch" : limit);
    }

    // The part of the multiprocessors' time in which blocks are there to fill them.
    private static double Wave(RecordedLaunch launch, Machine m)
    {
        int threads = (int)launch.Block.Count, registers = s_registers.GetValueOrDefault(launch.Kernel, 64);
        double bySize = Math.Min(Machine.Threads / threads, Machine.Registers / (((registers + 7) / 8 * 8) * threads));
        double shared = launch.Shared + s_shared.GetValueOrDefault(launch.Kernel) + 1024.0;
        double resident = Math.Max(1, Math.Min(Math.Min(bySize, 32), Math.Floor(Machine.SharedBytes / shared))) * m.Multiprocessors, waves = launch.Grid.Count / resident;
        // Fewer blocks than multiprocessors leave some idle; a few waves have a last one that is not full.
        return waves >= 1 ? waves / Math.Ceiling(waves) : Math.Min(1, launch.Grid.Count / (double)m.Multiprocessors);
    }

    private static readonly JsonObject[] s_kernels = [.. JsonNode.Parse(KernelImages.Manifest)!["modules"]!.AsArray().SelectMany(m => m!["kernels"]!.AsArray()).Select(k => k!.AsObject())];
    private static readonly Dictionary<string, int> s_registers = s_kernels.Where(k => k["registers"] is JsonObject).ToDictionary(k => (string)k["name"]!, k => (int)k["registers"]!["sm_90"]!);
    private static readonly Dictionary<string, int> s_shared = s_kernels.ToDictionary(k => (string)k["name"]!, k => (int)k["static_shared"]!);
}
