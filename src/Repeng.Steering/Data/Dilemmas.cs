using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Data;

/// <summary>A situation, something that could be done in it, and the values for which and against which that would be.</summary>
/// <param name="Id">Tells it from the others of its set.</param>
/// <param name="Situation">What is the case.</param>
/// <param name="Action">What could be done.</param>
/// <param name="Values">Value → label: above 0 where the action serves the value, below 0 where it goes against it.</param>
public sealed record Dilemma(string Id, string Situation, string Action, IReadOnlyDictionary<string, double> Values)
{
    /// <summary>The label of a value; 0 where the dilemma has nothing to do with it.</summary>
    public double Label(string value) => Values.GetValueOrDefault(value);
}

/// <summary>
/// Dilemma files: a JSON object a line with situation, action and values, which is either a list (["truthfulness"]: the
/// action serves each) or an object ({"truthfulness": -1}). An id may be given; else the line's number is one. Other
/// fields may stand there and are not read. Values are compared in lower case.
/// </summary>
public static class Dilemmas
{
    private static readonly JsonSerializerOptions s_json = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
    private static readonly Lazy<IReadOnlyList<Dilemma>> s_own = new(() => Parse(SuffixSets.ReadResource("dilemmas.jsonl").Split('\n'), "built-in dilemmas"));

    /// <summary>Name that stands for the built-in set instead of a file.</summary>
    public const string OwnName = "own";

    /// <summary>The built-in set: truthfulness at odds with self-interest, kindness, loyalty and comfort (half of them with yes as the truthful answer), and others to which truthfulness is nothing.</summary>
    public static IReadOnlyList<Dilemma> Own => s_own.Value;

    /// <summary>Reads a file.</summary>
    /// <exception cref="UserErrorException">The file is missing or empty, or a line is not of that form; its number and the field are named.</exception>
    public static IReadOnlyList<Dilemma> Load(string path) => File.Exists(path)
        ? Parse(File.ReadLines(path), path)
        : throw new UserErrorException($"{path}: no such file; give JSON lines such as {{\"situation\": \"…\", \"action\": \"…\", \"values\": [\"truthfulness\"]}}, or '{OwnName}' for the built-in dilemmas");

    /// <summary>The values of a set with the number of dilemmas that have them, the most frequent first.</summary>
    public static IReadOnlyList<(string Value, int Count)> Values(IEnumerable<Dilemma> dilemmas) =>
        [.. dilemmas.SelectMany(d => d.Values.Keys).GroupBy(v => v).Select(g => (g.Key, g.Count())).OrderByDescending(g => g.Item2).ThenBy(g => g.Key, StringComparer.Ordinal)];

    /// <summary>The text of a file that <see cref="Load"/> reads.</summary>
    public static string ToJsonLines(IEnumerable<Dilemma> dilemmas)
    {
        var text = new StringBuilder();
        foreach (Dilemma d in dilemmas)
            text.Append(new JsonObject
            {
                ["id"] = d.Id,
                ["situation"] = d.Situation,
                ["action"] = d.Action,
                ["values"] = new JsonObject(d.Values.Select(v => KeyValuePair.Create(v.Key, (JsonNode?)v.Value))),
            }.ToJsonString(s_json)).Append('\n');
        return text.ToString();
    }

    private static Dilemma[] Parse(IEnumerable<string> lines, string name)
    {
        var dilemmas = new List<Dilemma>();
        var seen = new Dictionary<string, int>(StringComparer.Ordinal);
        int number = 0;
        foreach (string line in lines)
        {
            number++;
            if (line.Trim().Length == 0)
                continue;
            string where = $"{name}, line {number}";
            JsonObject json = Object(line, where);
            Dilemma d = new(json.ContainsKey("id") ? Text(json, "id", where) : $"{number}", Text(json, "situation", where), Text(json, "action", where), Labels(json, where));
            if (!seen.TryAdd(d.Id, number))
                throw new UserErrorException($"{where}: the id '{d.Id}' is that of line {seen[d.Id]}; ids must differ");
            dilemmas.Add(d);
        }
        return dilemmas.Count > 0 ? [.. dilemmas] : throw new UserErrorException($"{name}: no dilemma in the file");
    }

    private static JsonObject Object(string line, string where) =>
        JsonFile.Parse(Encoding.UTF8.GetBytes(line), where) as JsonObject ?? throw new UserErrorException($"{where}: a JSON object is needed, found {Short(line)}");

    private static string Text(JsonObject json, string field, string where) => Field(json, field, where) is JsonValue v && v.TryGetValue(out string? text) && text.Trim().Length > 0
        ? text.Trim()
        : throw new UserErrorException($"{where}: the field '{field}' must be a text that is not empty, found {Short(json[field]?.ToJsonString() ?? "null")}");

    private static JsonNode? Field(JsonObject json, string field, string where) => json.TryGetPropertyValue(field, out JsonNode? node)
        ? node
        : throw new UserErrorException($"{where}: the field '{field}' is missing; needed are situation, action and values, found {(json.Count == 0 ? "none" : string.Join(", ", json.Select(p => p.Key)))}");

    private static Dictionary<string, double> Labels(JsonObject json, string where)
    {
        var labels = new Dictionary<string, double>(StringComparer.Ordinal);
        switch (Field(json, "values", where))
        {
            case JsonArray list:
                foreach (JsonNode? item in list)
                    Add(item is JsonValue v && v.TryGetValue(out string? value) ? value : throw Wrong(item), 1);
                return labels;
            case JsonObject map:
                foreach ((string value, JsonNode? label) in map)
                    Add(value, label is JsonValue v && v.TryGetValue(out double x) && double.IsFinite(x) && x != 0 ? x : throw Wrong(label));
                return labels;
            case var other:
                throw Wrong(other);
        }

        void Add(string value, double label)
        {
            string key = value.Trim().ToLowerInvariant();
            if (key.Length == 0 || !labels.TryAdd(key, label))
                throw new UserErrorException($"{where}: the value '{value}' in 'values' is empty or comes twice");
        }

        UserErrorException Wrong(JsonNode? found) =>
            new($"{where}: the field 'values' must be a list of names, [\"truthfulness\"], or an object with numbers other than 0, {{\"truthfulness\": -1}}; found {Short(found?.ToJsonString() ?? "null")}");
    }

    private static string Short(string text) => text.Length > 80 ? text[..80] + "…" : text;
}
