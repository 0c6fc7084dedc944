using System.Text.Json.Serialization;

namespace Repeng.Cli.Results;

/// <summary>Where one side of a calibration ended.</summary>
/// <param name="Outcome">reached, never reached, always exceeded.</param>
/// <param name="C">The coefficient; null unless reached.</param>
/// <param name="Kl">p95 KL there, or at the last that was tried, nats; null where infinite.</param>
internal sealed record ResultsSide(string Outcome, double? C, double? Kl);

/// <summary>Answers at one coefficient.</summary>
/// <param name="Dose">Signed part of the calibrated coefficient of its side; of prompts −1 and +1.</param>
/// <param name="C">The coefficient; null for prompts.</param>
/// <param name="LogOdds">Mean log-odds, nats.</param>
/// <param name="Change">Mean change against the plain model, paired by question.</param>
/// <param name="ChangeError">Its standard error over questions.</param>
/// <param name="Mass">Choice mass.</param>
/// <param name="NllRise">Rise of the questions' input NLL against the plain model, nats a token; null for prompts.</param>
/// <param name="Coherent">By the limits of eval; null for prompts.</param>
internal sealed record ResultsPoint(double Dose, double? C, double? LogOdds, double? Change, double? ChangeError, double Mass, double? NllRise, bool? Coherent);

/// <summary>What was measured of one method with one seed in one task: a line of records.jsonl.</summary>
internal sealed record ResultsRecord
{
    /// <summary>Name of the task.</summary>
    public required string Task { get; init; }

    /// <summary>Name of the method.</summary>
    public required string Method { get; init; }

    /// <summary>The seed.</summary>
    public required ulong Seed { get; init; }

    /// <summary>Hash of everything that was asked for: task, method, seed, model, budget.</summary>
    public required string Settings { get; init; }

    /// <summary>Commit of the program that measured.</summary>
    public required string Commit { get; init; }

    /// <summary>Why there is nothing, where it failed.</summary>
    public string? Error { get; init; }

    /// <summary>Trained values of an adapter.</summary>
    public long? TrainedValues { get; init; }

    /// <summary>Wall time of all of it, on a machine that may have had other things to do.</summary>
    public double Seconds { get; init; }

    /// <summary>Calibration below 0.</summary>
    public ResultsSide? Minus { get; init; }

    /// <summary>Calibration above 0.</summary>
    public ResultsSide? Plus { get; init; }

    /// <summary>By rising dose.</summary>
    public IReadOnlyList<ResultsPoint> Points { get; init; } = [];

    /// <summary>Half of what lies between both calibrated coefficients, nats; null where one of them is missing.</summary>
    public double? Effect { get; init; }

    /// <summary>Its standard error over questions.</summary>
    public double? EffectError { get; init; }

    /// <summary>Questions.</summary>
    public int Questions { get; init; }

    /// <summary>The point at a dose, or null.</summary>
    public ResultsPoint? At(double dose) => Points.FirstOrDefault(p => p.Dose == dose);

    /// <summary>What tells records apart.</summary>
    [JsonIgnore]
    public (string Task, string Method, ulong Seed) Key => (Task, Method, Seed);
}
