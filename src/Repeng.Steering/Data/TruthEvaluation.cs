using System.Text.Json;
using System.Text.Json.Serialization;

namespace Repeng.Steering.Data;

/// <summary>
/// A begun statement of common knowledge with true and false ways to end it. The measure is the log-odds
/// of all true completions against all false ones, each completion following the prefix after one blank.
/// </summary>
/// <param name="Prefix">The begun statement, without a blank at its end.</param>
/// <param name="True">Completions that make it true.</param>
/// <param name="False">Completions that make it false.</param>
public sealed record TruthItem(
    [property: JsonPropertyName("prefix")] string Prefix,
    [property: JsonPropertyName("true")] IReadOnlyList<string> True,
    [property: JsonPropertyName("false")] IReadOnlyList<string> False);

/// <summary>A small truth evaluation for real models, easy enough for a model of 135 M parameters.</summary>
public static class TruthEvaluation
{
    private static readonly Lazy<IReadOnlyList<TruthItem>> s_items = new(() =>
        JsonSerializer.Deserialize(SuffixSets.ReadResource("truth-evaluation.json"), SteeringJson.Default.TruthItemArray)!);

    /// <summary>The items.</summary>
    public static IReadOnlyList<TruthItem> Items => s_items.Value;
}
