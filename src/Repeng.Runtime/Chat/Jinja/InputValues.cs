using System.Collections;
using System.Globalization;
using System.Numerics;
using System.Text.Json;

namespace Repeng.Runtime.Chat.Jinja;

/// <summary>Turns what callers hand over (JSON, .NET values) into values of the engine, as Python's <c>json</c> module reads them.</summary>
internal static class InputValues
{
    /// <summary>A JSON value; integers and floats stay apart, a repeated key keeps its last value.</summary>
    /// <param name="json">The value.</param>
    /// <param name="what">What an error message calls it.</param>
    /// <param name="maxDepth">How deep it may nest.</param>
    public static object? FromJson(JsonElement json, string what, int maxDepth)
    {
        if (maxDepth <= 0)
            throw Fault.Limit($"{what}: the values are nested too deep");
        switch (json.ValueKind)
        {
            case JsonValueKind.Null:
                return null;
            case JsonValueKind.True:
                return true;
            case JsonValueKind.False:
                return false;
            case JsonValueKind.String:
                return Text(() => json.GetString()!, what);
            case JsonValueKind.Number:
                return Number(json.GetRawText());
            case JsonValueKind.Array:
                return new PyList([.. json.EnumerateArray().Select(item => FromJson(item, what, maxDepth - 1))]);
            case JsonValueKind.Object:
                var dict = new PyDict();
                foreach (JsonProperty property in json.EnumerateObject())
                    dict.SetText(Text(() => property.Name, what), FromJson(property.Value, what, maxDepth - 1));
                return dict;
            default:
                throw Fault.Input($"{what}: no JSON value is given");
        }
    }

    /// <summary>A template variable in any of the forms that <see cref="ChatRenderOptions.Variables"/> allows.</summary>
    public static object? FromObject(object? value, string what, int maxDepth)
    {
        if (maxDepth <= 0)
            throw Fault.Limit($"{what}: the values are nested too deep");
        switch (value)
        {
            case null or bool or string or long or double:
                return value;
            case int or short or byte or sbyte or ushort or uint:
                return Convert.ToInt64(value, CultureInfo.InvariantCulture);
            case ulong n:
                return PyNumber.Normalize(n);
            case BigInteger n:
                return PyNumber.Normalize(n);
            case float f:
                return (double)f;
            case JsonElement json:
                return FromJson(json, what, maxDepth);
            case IEnumerable<KeyValuePair<string, object?>> pairs:
                var dict = new PyDict();
                foreach ((string key, object? item) in pairs)
                    dict.SetText(key, FromObject(item, what, maxDepth - 1));
                return dict;
            case IDictionary:
                throw Fault.Input($"{what}: a dictionary must have texts as keys and objects as values");
            case IEnumerable items:
                return new PyList([.. items.Cast<object?>().Select(item => FromObject(item, what, maxDepth - 1))]);
            default:
                throw Fault.Input($"{what}: a {value.GetType().Name} cannot be given to a template; use text, numbers, booleans, lists, dictionaries or JSON");
        }
    }

    private static object Number(string raw)
    {
        if (raw.AsSpan().IndexOfAny('.', 'e', 'E') >= 0)
            return double.Parse(raw, NumberStyles.Float, CultureInfo.InvariantCulture);
        bool negative = raw[0] == '-';
        object magnitude = PyNumber.ParseInteger(negative ? raw[1..] : raw, 10);
        return negative ? PyNumber.Subtract(0L, magnitude) : magnitude;
    }

    private static string Text(Func<string> read, string what)
    {
        try
        {
            return read();
        }
        catch (InvalidOperationException e)
        {
            throw Fault.Input($"{what}: a text is no valid Unicode ({e.Message.TrimEnd('.')})");
        }
    }
}
