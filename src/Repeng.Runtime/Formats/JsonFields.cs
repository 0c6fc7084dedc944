using System.Text.Json;
using System.Text.Json.Nodes;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>
/// Checked getters over a JSON object. A field that is missing, of another type or outside its range gives a
/// <see cref="UserErrorException"/> that names file, field and value. JSON null counts as missing.
/// </summary>
/// <param name="json">The object.</param>
/// <param name="where">File, and for inner objects the field, as messages shall name it.</param>
public sealed class JsonFields(JsonObject json, string where)
{
    /// <summary>The object itself.</summary>
    public JsonObject Json { get; } = json;

    /// <summary>File and field, as messages name it.</summary>
    public string Where { get; } = where;

    /// <summary>Whether the field is there and not null.</summary>
    public bool Has(string name) => Json[name] is not null;

    /// <summary>A whole number in [min, max]; 8.0 counts as whole, 8.5 does not.</summary>
    public long Integer(string name, long min = long.MinValue, long max = long.MaxValue) => ToInteger(Required(name), name, min, max);

    /// <summary>As <see cref="Integer"/>, null where the field is missing.</summary>
    public long? OptionalInteger(string name, long min = long.MinValue, long max = long.MaxValue) =>
        Json[name] is { } node ? ToInteger(node, name, min, max) : null;

    /// <summary>A whole number that fits int32, in [min, max].</summary>
    public int Int32(string name, int min = int.MinValue, int max = int.MaxValue) => (int)Integer(name, min, max);

    /// <summary>As <see cref="Int32"/>, null where the field is missing.</summary>
    public int? OptionalInt32(string name, int min = int.MinValue, int max = int.MaxValue) => (int?)OptionalInteger(name, min, max);

    /// <summary>A finite number in [min, max].</summary>
    public double Number(string name, double min = double.MinValue, double max = double.MaxValue) => ToNumber(Required(name), name, min, max);

    /// <summary>As <see cref="Number"/>, null where the field is missing.</summary>
    public double? OptionalNumber(string name, double min = double.MinValue, double max = double.MaxValue) =>
        Json[name] is { } node ? ToNumber(node, name, min, max) : null;

    /// <summary>true or false.</summary>
    public bool Boolean(string name) => OptionalBoolean(name) ?? throw MissingField(name);

    /// <summary>true or false, null where the field is missing.</summary>
    public bool? OptionalBoolean(string name) => Json[name] is not { } node ? null
        : node.GetValueKind() switch
        {
            JsonValueKind.True => true,
            JsonValueKind.False => false,
            _ => throw Wrong(name, node, "true or false is needed"),
        };

    /// <summary>A text.</summary>
    public string Text(string name) => OptionalText(name) ?? throw MissingField(name);

    /// <summary>A text, null where the field is missing.</summary>
    public string? OptionalText(string name) => Json[name] is { } node ? ToText(node, name) : null;

    /// <summary>An inner object.</summary>
    public JsonFields Object(string name) => OptionalObject(name) ?? throw MissingField(name);

    /// <summary>An inner object, null where the field is missing.</summary>
    public JsonFields? OptionalObject(string name) => Json[name] switch
    {
        null => null,
        JsonObject inner => new JsonFields(inner, $"{Where}: {name}"),
        { } node => throw Wrong(name, node, "an object is needed"),
    };

    /// <summary>An array, null where the field is missing.</summary>
    public JsonArray? OptionalArray(string name) => Json[name] switch
    {
        null => null,
        JsonArray array => array,
        { } node => throw Wrong(name, node, "an array is needed"),
    };

    /// <summary>An array of texts, null where the field is missing.</summary>
    public string[]? OptionalTexts(string name) =>
        OptionalArray(name) is { } array ? [.. array.Select(n => ToText(n, name))] : null;

    /// <summary>An array of finite numbers, null where the field is missing.</summary>
    public double[]? OptionalNumbers(string name, double min = double.MinValue, double max = double.MaxValue) =>
        OptionalArray(name) is { } array ? [.. array.Select(n => ToNumber(n, name, min, max))] : null;

    /// <summary>An error about one field, in the form of the others.</summary>
    public UserErrorException Error(string name, string what) => FileErrors.Bad(Where, $"field {FileErrors.Quote(name)}: {what}");

    private JsonNode Required(string name) => Json[name] ?? throw MissingField(name);

    private long ToInteger(JsonNode? node, string name, long min, long max)
    {
        if (node is not JsonValue value || node.GetValueKind() != JsonValueKind.Number)
            throw Wrong(name, node, "a whole number is needed");
        if (!TryInteger(value, out long number))
            throw Wrong(name, node, "a whole number within 64 bits is needed");
        if (number < min || number > max)
            throw Wrong(name, node, $"it must lie from {min} to {max}");
        return number;
    }

    private static bool TryInteger(JsonValue value, out long number)
    {
        if (value.TryGetValue(out number))
            return true;
        if (value.TryGetValue(out int small))
        {
            number = small;
            return true;
        }
        // Python writes whole floats as 8.0 or 1e6.
        if (value.TryGetValue(out double real) && real == Math.Floor(real) && Math.Abs(real) <= 1L << 53)
        {
            number = (long)real;
            return true;
        }
        return false;
    }

    private double ToNumber(JsonNode? node, string name, double min, double max)
    {
        if (node is not JsonValue value || node.GetValueKind() != JsonValueKind.Number)
            throw Wrong(name, node, "a number is needed");
        double number = 0;
        bool read = value.TryGetValue(out number);
        if (!read && value.TryGetValue(out long integer))
            (number, read) = (integer, true);
        if (!read && value.TryGetValue(out int small))
            (number, read) = (small, true);
        if (!read && value.TryGetValue(out float single))
            (number, read) = (single, true);
        if (!read || !double.IsFinite(number))
            throw Wrong(name, node, "a finite number is needed");
        if (number < min || number > max)
            throw Wrong(name, node, $"it must lie from {min:R} to {max:R}");
        return number;
    }

    private string ToText(JsonNode? node, string name)
    {
        if (node is null || node.GetValueKind() != JsonValueKind.String)
            throw Wrong(name, node, "a text is needed");
        try
        {
            return node.GetValue<string>();
        }
        catch (InvalidOperationException e)
        {
            throw FileErrors.Bad(Where, $"field {FileErrors.Quote(name)} is no valid Unicode", e);
        }
    }

    private UserErrorException MissingField(string name) => FileErrors.Bad(Where, $"field {FileErrors.Quote(name)} is missing");

    private UserErrorException Wrong(string name, JsonNode? node, string needed)
    {
        string value = node switch
        {
            null => "null",
            JsonObject => "an object",
            JsonArray array => $"an array of {array.Count}",
            _ => FileErrors.Quote(node.ToJsonString()),
        };
        return FileErrors.Bad(Where, $"field {FileErrors.Quote(name)} is {value}; {needed}");
    }
}
