using System.Globalization;
using System.Text.RegularExpressions;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;

namespace Repeng.Bench.Scaling;

/// <summary>bench/boards/scaling-MACHINE.md: tables whose rows are kept from earlier runs, each with its commit.</summary>
internal sealed partial class ScalingPage
{
    public const string Steps = "A training step", Parts = "Where a step's time goes", Tokens = "A token, decoded", Elsewhere = "Other machines, by the same formula";

    private static readonly (string Title, string Text, string[] Columns)[] s_tables =
    [
        (Steps, """
            The base model's pass, c = −1 and +1 forward and backward, clipping, AdamW; gate and down of nine blocks adapted, rotations on both sides. The floor is the formula at this machine's peaks,
            *plan says* the same at the rates that `plan` measures (a product in fp32, an op on few values). Memory: what `plan` would say (device + program), and the most that the process held in its steps (of which the device handed out).
            """,
            ["weights, rows × tokens, rank", "TFLOP", "GB moved by no products", "ops", "floor, s", "measured, s", "of the floor", "plan says, s", "plan : measured", "plan, MiB", "held, MiB", "plan : held", "peaks", "commit"]),
        (Parts, """
            Operations (none are counted where there is no product), then floor → measured seconds and the part of the floor reached. *Rest*: norms, rotary embedding, gated units, sums, copies, the optimiser.
            """,
            ["weights, rows × tokens, rank", "frozen weights", "adapter", "vocabulary", "attention", "rotations", "rest", "between ops, s", "commit"]),
        (Tokens, """
            One sequence at the end of a context, no adapter; keys and values are fp32. Bytes as counted: every operand once.
            """,
            ["weights, context", "products, MB", "attention, MB", "ops", "floor, ms", "measured, ms", "of the floor", "peaks", "commit"]),
        (Elsewhere, string.Join('\n', AssumedMachine.All.Select(m => string.Create(CultureInfo.InvariantCulture, $"* **{m.Name}**, assumed, not measured: {m.Flops * 1e-12:0.##} TFLOP/s, {m.Bandwidth * 1e-9:0} GB/s ({m.Why})."))) + """


            Floors, and for the desktop also what they come to where it reaches the part of the floor that this machine does. In brackets what the floor goes to: operations, bytes, gaps between ops.
            """,
            ["job", "TFLOP", .. AssumedMachine.All.Select(m => m.Name + ", floor"), "desktop, at the part reached here", "commit"]),
    ];

    private readonly string _file, _machine;
    private readonly Dictionary<string, Dictionary<string, string>> _rows = s_tables.ToDictionary(t => t.Title, _ => new Dictionary<string, string>());

    public ScalingPage(string machine)
    {
        _machine = machine;
        _file = Path.Combine(Machine.Repository(), "bench", "boards", $"scaling-{Board.Slug(machine)}.md");
        string? table = null;
        foreach (string line in File.Exists(_file) ? File.ReadAllLines(_file) : [])
            if (line.StartsWith("## ", StringComparison.Ordinal))
                table = line[3..];
            else if (line.StartsWith("| ", StringComparison.Ordinal) && table is not null && _rows.TryGetValue(table, out Dictionary<string, string>? rows) && Key(line) != Columns(table)[0])
                rows[Key(line)] = line;
    }

    public string File_ => _file;

    /// <summary>Sets a row; its last cell is the commit.</summary>
    public void Set(string table, params string[] cells)
    {
        if (cells.Length != Columns(table).Length - 1)
            throw new ArgumentException($"{cells.Length} cells for '{table}' of {Columns(table).Length} columns, the commit apart");
        string line = $"| {string.Join(" | ", cells)} | {Machine.Commit()} |";
        _rows[table][cells[0]] = line;
        Console.WriteLine(line);
    }

    public void Write()
    {
        string[] shapes = [.. ModelShape.All.Select(s => s.Name)];
        string text = $"""
            # Scaling: {_machine}
            Written by `dotnet run -c Release --project bench/Repeng.Bench -- scaling`; not by hand. Random weights of real shapes, in bf16 or with the linear weights of the blocks in NF4 (embedding and head bf16); medians (least … most). The formula and how to read this: docs/performance.md, "Scaling".

            {string.Join("\n\n", s_tables.Select(t => $"## {t.Title}\n{t.Text}\n\n| {string.Join(" | ", t.Columns)} |\n|{string.Concat(t.Columns.Select(_ => "---|"))}\n{string.Join('\n', _rows[t.Title].OrderBy(r => Array.FindIndex(shapes, s => r.Key.StartsWith(s, StringComparison.Ordinal))).ThenBy(r => Padded(r.Key), StringComparer.Ordinal).Select(r => r.Value))}"))}

            """;
        Directory.CreateDirectory(Path.GetDirectoryName(_file)!);
        File.WriteAllText(_file + ".tmp", text);
        File.Move(_file + ".tmp", _file, overwrite: true);
    }

    // "context 512" before "context 2048".
    private static string Padded(string key) => Digits().Replace(key, m => m.Value.PadLeft(8, '0'));

    [GeneratedRegex("[0-9]+")]
    private static partial Regex Digits();

    private static string[] Columns(string table) => s_tables.Single(t => t.Title == table).Columns;

    private static string Key(string line) => line.Split('|')[1].Trim();
}
