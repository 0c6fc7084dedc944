using System.Text.Encodings.Web;
using System.Text.Json;
using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// One JSON object of a tokenizer file together with the place where it stands,
/// so that every complaint about it names the file and the place.
/// </summary>
internal sealed class JsonSection
{
    private readonly string _file;
    private readonly string _path;
    private readonly JsonElement _element;

    /// <exception cref="UserErrorException">The element is no JSON object.</exception>
    public JsonSection(string file, string path, JsonElement element)
    {
        _file = file;
        _path = path;
        _element = element;
        if (element.ValueKind != JsonValueKind.Object)
            throw Error($"must be a JSON object, but is {Describe(element)}");
    }

    /// <summary>The value of <c>type</c>, which names the kind of component.</summary>
    public string Type => Text("type");

    /// <summary>File and path of this section, to begin an error message with.</summary>
    public string Place => $"{_file}: {_path}";

    /// <summary>An error about this section, to be thrown by the caller.</summary>
    public UserErrorException Error(string message) => new($"{Place}: {message}");

    /// <summary>An error that refuses this section's type and lists the types that are known.</summary>
    public UserErrorException UnknownType(string known) =>
        Error($"type {Quote(Type)} is not supported; supported are {known}");

    public bool TryGet(string name, out JsonElement value) =>
        _element.TryGetProperty(name, out value) && value.ValueKind != JsonValueKind.Null;

    public string Text(string name) =>
        TextOrNull(name) ?? throw Error($"'{name}' is missing");

    /// <summary>A string property; null when it is absent or null.</summary>
    public string? TextOrNull(string name)
    {
        if (!TryGet(name, out JsonElement value))
            return null;
        return AsText(value) ?? throw Error($"'{name}' must be a string, but is {Describe(value)}");
    }

    public bool Flag(string name, bool otherwise)
    {
        if (!TryGet(name, out JsonElement value))
            return otherwise;
        return value.ValueKind switch
        {
            JsonValueKind.True => true,
            JsonValueKind.False => false,
            _ => throw Error($"'{name}' must be true or false, but is {Describe(value)}"),
        };
    }

    /// <summary>A non-negative whole number.</summary>
    public int Number(string name)
    {
        if (!TryGet(name, out JsonElement value))
            throw Error($"'{name}' is missing");
        return AsNumber(value, name);
    }

    public JsonSection Section(string name)
    {
        if (!TryGet(name, out JsonElement value))
            throw Error($"'{name}' is missing");
        return new JsonSection(_file, $"{_path}.{name}", value);
    }

    /// <summary>The objects of an array property.</summary>
    public IEnumerable<JsonSection> Sections(string name)
    {
        int index = 0;
        foreach (JsonElement item in Array(name))
            yield return new JsonSection(_file, $"{_path}.{name}[{index++}]", item);
    }

    public IEnumerable<string> Texts(string name)
    {
        foreach (JsonElement item in Array(name))
            yield return AsText(item) ?? throw Error($"'{name}' must hold strings, but holds {Describe(item)}");
    }

    public IEnumerable<int> Numbers(string name)
    {
        foreach (JsonElement item in Array(name))
            yield return AsNumber(item, name);
    }

    /// <summary>The first property of this object and its value, for objects that are a tagged choice such as {"String": " "}.</summary>
    public IEnumerable<(string Name, JsonElement Value)> Properties()
    {
        foreach (JsonProperty property in _element.EnumerateObject())
            yield return (property.Name, property.Value);
    }

    /// <summary>The string's text, or null when the element is no string.</summary>
    /// <exception cref="UserErrorException">The string holds half a surrogate pair.</exception>
    public string? AsText(JsonElement value)
    {
        if (value.ValueKind != JsonValueKind.String)
            return null;
        try
        {
            return value.GetString();
        }
        catch (InvalidOperationException e)
        {
            throw new UserErrorException($"{_file}: {_path}: holds a string that is no valid Unicode text: {e.Message}", e);
        }
    }

    /// <summary>A text in quotes, cut to a readable length, with control characters escaped.</summary>
    public static string Quote(ReadOnlySpan<char> text)
    {
        const int longest = 60;
        string shown = text.Length > longest ? string.Concat(text[..longest], "…") : text.ToString();
        return $"\"{JavaScriptEncoder.UnsafeRelaxedJsonEscaping.Encode(shown)}\"";
    }

    private JsonElement.ArrayEnumerator Array(string name)
    {
        if (!TryGet(name, out JsonElement value))
            throw Error($"'{name}' is missing");
        if (value.ValueKind != JsonValueKind.Array)
            throw Error($"'{name}' must be an array, but is {Describe(value)}");
        return value.EnumerateArray();
    }

    private int AsNumber(JsonElement value, string name)
    {
        if (value.ValueKind != JsonValueKind.Number || !value.TryGetInt32(out int number) || number < 0)
            throw Error($"'{name}' must be a whole number from 0 to {int.MaxValue}, but is {Describe(value)}");
        return number;
    }

    private static string Describe(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "an array",
        JsonValueKind.Undefined => "missing",
        JsonValueKind.Null => "null",
        _ => Quote(element.GetRawText()),
    };
}
