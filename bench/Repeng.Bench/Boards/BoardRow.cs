using System.Text.Json;

namespace Repeng.Bench.Boards;

/// <summary>
/// One row of the board as a benchmark reports it: measurements of ours and of the peer from alternating runs, and the least that the job must read and compute.
/// </summary>
internal sealed record BoardRow
{
    /// <summary>Environment variable that makes benchmarks print their rows for the board.</summary>
    public const string Switch = "REPENG_BOARD";

    private const string Mark = "board-row ";

    /// <summary>What was done.</summary>
    public required string Job { get; init; }

    /// <summary>Unit of the values: s (less is better), MiB (less), %, × (more), or a rate such as tokens/s, which is <see cref="Work"/> over seconds.</summary>
    public required string Unit { get; init; }

    /// <summary>Ours: seconds of each run for s and rates, else values.</summary>
    public required double[] Ours { get; init; }

    /// <summary>The peer's, run by run; empty without one.</summary>
    public double[] Peer { get; init; } = [];

    /// <summary>The peer's name and release.</summary>
    public string PeerName { get; init; } = "";

    /// <summary>Units of a rate that one run does.</summary>
    public double Work { get; init; } = 1;

    /// <summary>Bytes that must be read at least once.</summary>
    public double Bytes { get; init; }

    /// <summary>Floating-point operations that must be done in fp32.</summary>
    public double Flops { get; init; }

    /// <summary>What the job is to reach: a ratio to the peer where there is one, else a value.</summary>
    public double? Target { get; init; }

    /// <summary>Bytes that a call of ours leaves to the garbage collector; null where that was not measured.</summary>
    public double? Allocated { get; init; }

    /// <summary>Prints the row where the board asked for it; whether it did.</summary>
    public bool Report()
    {
        if (Environment.GetEnvironmentVariable(Switch) is not { Length: > 0 })
            return false;
        Console.WriteLine(Mark + JsonSerializer.Serialize(this));
        return true;
    }

    /// <summary>The row in a line of a benchmark's output, or null.</summary>
    public static BoardRow? Parse(string line) => line.StartsWith(Mark, StringComparison.Ordinal) ? JsonSerializer.Deserialize<BoardRow>(line[Mark.Length..]) : null;
}
