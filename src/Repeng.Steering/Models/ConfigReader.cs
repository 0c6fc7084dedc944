using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Models;

/// <summary>Reads config.json with errors that name file, key and value.</summary>
public sealed class ConfigReader(JsonObject json, string source)
{
    private JsonObject? _defaults;

    /// <summary>Where the configuration came from, for messages.</summary>
    public string Source { get; } = source;

    /// <summary>The same with the defaults of a family (<see cref="ConfigDefaults"/>) for keys that are absent.</summary>
    public ConfigReader WithDefaultsOf(string modelType) => new(json, Source) { _defaults = ConfigDefaults.Of(modelType) };

    /// <summary>A positive whole number.</summary>
    public int Int(string key, int? fallback = null) => OptionalInt(key) ?? fallback ?? throw Missing(key);

    /// <summary>A whole number ≥ 0, or null when the key is absent or null.</summary>
    public int? OptionalInt(string key)
    {
        if (At(key) is not JsonValue v)
            return At(key) is null ? null : throw Bad(key, "a whole number");
        if (v.GetValueKind() != JsonValueKind.Number || !double.TryParse(v.ToJsonString(), NumberStyles.Float, CultureInfo.InvariantCulture, out double d) || d != Math.Floor(d) || d < 0 || d > int.MaxValue)
            throw Bad(key, $"a whole number from 0 to {int.MaxValue}");
        return (int)d;
    }

    /// <summary>A size that must be at least 1 and at most <paramref name="limit"/>.</summary>
    public int Size(string key, int? fallback = null, int limit = 1 << 24)
    {
        int value = Int(key, fallback);
        if (value < 1 || value > limit)
            throw new UserErrorException($"{Source}: {key} = {value} is outside 1 … {limit}");
        return value;
    }

    /// <summary>A finite number.</summary>
    public double Double(string key, double? fallback = null) => OptionalDouble(key) ?? fallback ?? throw Missing(key);

    /// <summary>A finite number, or null when absent.</summary>
    public double? OptionalDouble(string key)
    {
        if (At(key) is null)
            return null;
        if (At(key) is not JsonValue v || v.GetValueKind() != JsonValueKind.Number || !double.TryParse(v.ToJsonString(), NumberStyles.Float, CultureInfo.InvariantCulture, out double d) || !double.IsFinite(d))
            throw Bad(key, "a number");
        return d;
    }

    /// <summary>true or false.</summary>
    public bool Bool(string key, bool fallback) => At(key) is null ? fallback : At(key)!.GetValueKind() switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Bad(key, "true or false"),
    };

    /// <summary>A text, or null when absent.</summary>
    public string? OptionalString(string key) => At(key) is null ? null
        : At(key)!.GetValueKind() == JsonValueKind.String ? At(key)!.GetValue<string>() : throw Bad(key, "a text");

    /// <summary>A list of numbers, or null when absent.</summary>
    public double[]? OptionalDoubles(string key)
    {
        if (At(key) is null)
            return null;
        if (At(key) is not JsonArray array)
            throw Bad(key, "a list of numbers");
        return [.. array.Select(e => e is JsonValue v && v.GetValueKind() == JsonValueKind.Number ? v.GetValue<double>() : throw Bad(key, "a list of numbers"))];
    }

    /// <summary>A list of texts, or null when absent.</summary>
    public string[]? OptionalStrings(string key)
    {
        if (At(key) is null)
            return null;
        if (At(key) is not JsonArray array)
            throw Bad(key, "a list of texts");
        return [.. array.Select(e => e is JsonValue v && v.GetValueKind() == JsonValueKind.String ? v.GetValue<string>() : throw Bad(key, "a list of texts"))];
    }

    /// <summary>One whole number or a list of them.</summary>
    public int[] Ints(string key)
    {
        if (At(key) is null)
            return [];
        if (At(key) is JsonArray array)
            return [.. array.Select(e => e is JsonValue v && v.TryGetValue(out int i) ? i : throw Bad(key, "a whole number or a list of them"))];
        return [Int(key)];
    }

    /// <summary>A nested object, or null when absent.</summary>
    public ConfigReader? Object(string key) => At(key) is null ? null
        : At(key) is JsonObject o ? new ConfigReader(o, $"{Source}, {key}") : throw Bad(key, "an object");

    private JsonNode? At(string key) => json.TryGetPropertyValue(key, out JsonNode? value) ? value : _defaults?[key];

    private UserErrorException Missing(string key) => new($"{Source}: the key {key} is missing; is this the config.json of a language model?");

    private UserErrorException Bad(string key, string wanted)
    {
        string text = At(key)!.ToJsonString();
        return new UserErrorException($"{Source}: {key} = {(text.Length > 60 ? text[..60] + "…" : text)}, needs {wanted}");
    }
}
