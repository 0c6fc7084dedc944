using System.Security.Cryptography;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;

namespace Repeng.Steering.Evaluation;

/// <summary>One sign of a calibration.</summary>
/// <param name="Search">The search over |c|.</param>
/// <param name="Kl">KL at the coefficient that was found, or at the last that was tried.</param>
public sealed record CalibratedSide(BudgetResult Search, KlStatistics Kl);

/// <summary>
/// The coefficients, one of each sign, at which the 95th percentile over positions of KL(base ‖ steered) on neutral texts
/// is the budget (iso-KL, as in wassname/steering-lite). Unlike the bare coefficient they are comparable between methods.
/// </summary>
/// <param name="Model">Name of the model.</param>
/// <param name="Budget">Nats.</param>
/// <param name="Neutral">Where the neutral texts are from.</param>
/// <param name="Positions">Tokens in them.</param>
/// <param name="Normalize">Whether a vector's outputs kept their length.</param>
/// <param name="Minus">Below 0; its search is over −c.</param>
/// <param name="Plus">Above 0.</param>
public sealed record Calibration(string Model, double Budget, string Neutral, int Positions, bool Normalize, CalibratedSide Minus, CalibratedSide Plus)
{
    /// <summary>Name of the file in an adapter's folder, and, after the file's name and a point, beside a vector.</summary>
    public const string FileName = "calibration.json";

    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>The calibrated coefficients; NaN where the budget was not met on that side.</summary>
    public (double Minus, double Plus) Coefficients => (-Minus.Search.Coefficient, Plus.Search.Coefficient);

    /// <summary>Measures both signs.</summary>
    /// <param name="neutral">What measures.</param>
    /// <param name="steering">What is calibrated.</param>
    /// <param name="budget">Nats.</param>
    /// <param name="model">Name of the model.</param>
    /// <param name="normalize">For the record.</param>
    /// <param name="progress">Hears of every coefficient that was measured.</param>
    /// <param name="tolerance">Part of the budget that the result may miss it by.</param>
    /// <param name="guess">Begin where KL ~ c² says that the budget lies: fewer passes, but a crossing far below it may be missed.</param>
    public static Calibration Run(NeutralKl neutral, Generation.Steering steering, double budget, string model, bool normalize = false, Action<double, KlStatistics>? progress = null, double tolerance = BudgetSearch.Tolerance, bool guess = false)
    {
        CalibratedSide plus = Side(1, 1);
        // The other side is seldom far.
        CalibratedSide minus = Side(-1, plus.Search.Outcome == BudgetOutcome.Reached ? plus.Search.Coefficient : 1);
        return new Calibration(model, budget, neutral.Texts.Source, neutral.Texts.Positions, normalize, minus, plus);

        CalibratedSide Side(int sign, double start)
        {
            var measured = new Dictionary<double, KlStatistics>();
            BudgetResult found = BudgetSearch.Find(Curve, budget, guess ? BudgetSearch.Guess(Curve, budget, start) : start, tolerance);
            double at = found.Outcome switch { BudgetOutcome.Reached => found.Coefficient, BudgetOutcome.NeverReached => found.Points[^1].Coefficient, _ => found.Points[0].Coefficient };
            return new CalibratedSide(found, measured[at]);

            double Curve(double c)
            {
                if (!measured.TryGetValue(c, out KlStatistics kl))
                {
                    measured[c] = kl = neutral.Measure(steering, (float)(sign * c));
                    progress?.Invoke(sign * c, kl);
                }
                return kl.P95;
            }
        }
    }

    /// <summary>Where the calibration of an adapter's folder or a vector's file lies.</summary>
    public static string PathOf(string source) => Directory.Exists(source) ? Path.Combine(source, FileName) : $"{source}.{FileName}";

    /// <summary>Writes it into the adapter's folder or beside the vector's file, with the hash of what was measured; returns the path.</summary>
    public string Save(string source)
    {
        string path = PathOf(source);
        JsonObject json = ToJson();
        json["sha256"] = Hash(source);
        AtomicFile.WriteText(path, json.ToJsonString(s_json) + "\n");
        return path;
    }

    /// <summary>What is written: both coefficients, null where the budget was not met, and every point that was measured.</summary>
    public JsonObject ToJson() => new()
    {
        ["model"] = Model,
        ["kl_budget"] = Budget,
        ["neutral"] = Neutral,
        ["n_positions"] = Positions,
        ["normalize"] = Normalize,
        ["minus"] = Side(Minus, -1),
        ["plus"] = Side(Plus, 1),
    };

    /// <summary>
    /// A line about a calibration that lies with an adapter or a vector, or null where there is none. One that belongs to
    /// other weights, or cannot be read, is said to be so.
    /// </summary>
    public static string? Describe(string source)
    {
        string path = PathOf(source);
        if (!File.Exists(path))
            return null;
        if (JsonFile.Read(path) is not JsonObject json || json["kl_budget"] is not JsonValue budget || json["model"] is not JsonValue model || json["sha256"] is not JsonValue hash)
            return $"{path} is no calibration; make it anew with eval --calibrate";
        if (hash.ToString() != Hash(source))
            return $"{path} was made for other weights; make it anew with eval --calibrate";
        return $"calibrated on {model}: p95 KL on neutral texts is {budget} nat at c = {C("minus")} and {C("plus")}{(json["normalize"]?.GetValueKind() == JsonValueKind.True ? ", normalized" : "")}";

        string C(string side) => json[side]?["coefficient"] is JsonValue v && v.TryGetValue(out double c) ? c.ToString("+0.####;-0.####", System.Globalization.CultureInfo.InvariantCulture) : "none";
    }

    private JsonObject Side(CalibratedSide side, int sign) => new()
    {
        ["outcome"] = side.Search.Outcome switch { BudgetOutcome.Reached => "reached", BudgetOutcome.NeverReached => "never reached", _ => "always exceeded" },
        ["coefficient"] = EvalRun.Number(sign * side.Search.Coefficient),
        ["kl_p95"] = EvalRun.Number(side.Kl.P95),
        ["kl_mean"] = EvalRun.Number(side.Kl.Mean),
        ["kl_max"] = EvalRun.Number(side.Kl.Max),
        ["rises_throughout"] = side.Search.Fall(Budget) is null,
        ["points"] = new JsonArray([.. side.Search.Points.Select(p => (JsonNode)new JsonObject { ["coefficient"] = sign * p.Coefficient, ["kl_p95"] = EvalRun.Number(p.Value) })]),
    };

    private static string Hash(string source)
    {
        string file = Directory.Exists(source) ? Path.Combine(source, AdapterFile.ModelName) : source;
        if (!File.Exists(file))
            throw new UserErrorException($"{file}: no such file, so there is nothing that a calibration could belong to");
        using FileStream stream = File.OpenRead(file);
        return Convert.ToHexStringLower(SHA256.HashData(stream));
    }
}
