using System.Text.Json;
using System.Text.Unicode;

namespace Repeng.Runtime.Formats;

/// <summary>One tensor of a safetensors header, offsets counted from the end of the header.</summary>
internal sealed record SafetensorsEntry(string Name, StorageType Type, long[] Shape, long Elements, long Begin, long End);

/// <summary>The JSON header of a safetensors file, as strict as the reference library reads it, and stricter on repeated keys.</summary>
internal sealed class SafetensorsHeader
{
    private const string MetadataKey = "__metadata__";

    private readonly string _path;

    private SafetensorsHeader(string path) => _path = path;

    /// <summary>Tensors in the order of their data.</summary>
    public List<SafetensorsEntry> Entries { get; } = [];

    /// <summary>The free texts under __metadata__.</summary>
    public Dictionary<string, string> Metadata { get; } = new(StringComparer.Ordinal);

    /// <summary>Parses the header and checks that the tensors cover dataBytes without overlap or hole.</summary>
    public static SafetensorsHeader Parse(ReadOnlySpan<byte> json, long dataBytes, string path)
    {
        var header = new SafetensorsHeader(path);
        if (json.Length == 0 || json[0] != (byte)'{')
            throw FileErrors.Bad(path, "the safetensors header does not begin with '{'; the file is damaged or no safetensors file");
        if (!Utf8.IsValid(json))
            throw FileErrors.Bad(path, "the safetensors header is not UTF-8; the file is damaged");
        try
        {
            header.ReadAll(json);
        }
        catch (JsonException e)
        {
            throw FileErrors.Bad(path, $"the safetensors header is not JSON of depth 64 or less (line {e.LineNumber + 1}, byte {e.BytePositionInLine}); the file is damaged", e);
        }
        catch (InvalidOperationException e)
        {
            // Utf8JsonReader reports an escaped lone surrogate this way.
            throw FileErrors.Bad(path, "a text in the safetensors header is no valid Unicode; the file is damaged", e);
        }
        header.CheckCover(dataBytes);
        return header;
    }

    private void ReadAll(ReadOnlySpan<byte> json)
    {
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 64 });
        var seen = new HashSet<string>(StringComparer.Ordinal);
        reader.Read();
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            if (!seen.Add(name))
                throw FileErrors.Bad(_path, $"the safetensors header holds {FileErrors.Quote(name)} twice; the file is damaged");
            reader.Read();
            if (reader.TokenType != JsonTokenType.StartObject)
                throw FileErrors.Bad(_path, $"{FileErrors.Quote(name)} in the safetensors header is no object");
            if (name == MetadataKey)
                ReadMetadata(ref reader);
            else
                Entries.Add(ReadEntry(ref reader, name));
        }
        // Anything but blanks after the object makes the reader throw.
        reader.Read();
    }

    private void ReadMetadata(ref Utf8JsonReader reader)
    {
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString()!;
            reader.Read();
            if (reader.TokenType != JsonTokenType.String)
                throw FileErrors.Bad(_path, $"{MetadataKey} entry {FileErrors.Quote(key)} is {reader.TokenType}, a text is needed");
            if (!Metadata.TryAdd(key, reader.GetString()!))
                throw FileErrors.Bad(_path, $"{MetadataKey} holds {FileErrors.Quote(key)} twice; the file is damaged");
        }
    }

    private SafetensorsEntry ReadEntry(ref Utf8JsonReader reader, string name)
    {
        string? dtype = null;
        List<long>? shape = null, offsets = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string field = reader.GetString()!;
            reader.Read();
            switch (field)
            {
                case "dtype" when dtype is null:
                    if (reader.TokenType != JsonTokenType.String)
                        throw Bad(name, "dtype is no text");
                    dtype = reader.GetString()!;
                    break;
                case "shape" when shape is null:
                    shape = ReadIntegers(ref reader, name, field);
                    break;
                case "data_offsets" when offsets is null:
                    offsets = ReadIntegers(ref reader, name, field);
                    break;
                case "dtype" or "shape" or "data_offsets":
                    throw Bad(name, $"{field} stands there twice");
                default:
                    reader.Skip();
                    break;
            }
        }
        if (dtype is null || shape is null || offsets is null)
            throw Bad(name, $"{(dtype is null ? "dtype" : shape is null ? "shape" : "data_offsets")} is missing");
        return Check(name, dtype, [.. shape], offsets);
    }

    private List<long> ReadIntegers(ref Utf8JsonReader reader, string name, string field)
    {
        if (reader.TokenType != JsonTokenType.StartArray)
            throw Bad(name, $"{field} is no array");
        var values = new List<long>();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (reader.TokenType != JsonTokenType.Number || !reader.TryGetInt64(out long value) || value < 0)
                throw Bad(name, $"entry {values.Count} of {field} is no whole number from 0 to {long.MaxValue}");
            values.Add(value);
        }
        return values;
    }

    private SafetensorsEntry Check(string name, string dtype, long[] shape, List<long> offsets)
    {
        StorageType type = StorageType.FindSafetensors(dtype)
            ?? throw Bad(name, $"dtype {FileErrors.Quote(dtype)} is unknown; known are {StorageType.SafetensorsNames}");
        if (offsets.Count != 2)
            throw Bad(name, $"data_offsets holds {offsets.Count} numbers, two are needed");
        (long begin, long end) = (offsets[0], offsets[1]);
        if (begin > end)
            throw Bad(name, $"data_offsets begin at {begin} after their end at {end}");
        Int128 elements = 1;
        foreach (long size in shape)
        {
            elements *= size;
            if (elements > long.MaxValue)
                throw Bad(name, $"shape [{string.Join(", ", shape.Take(8))}] has more than {long.MaxValue} elements");
        }
        if (!type.TryBytes((long)elements, out long bytes))
            throw Bad(name, $"{elements} elements of {dtype} are no whole number of bytes below {long.MaxValue}");
        if (bytes != end - begin)
            throw Bad(name, $"shape [{string.Join(", ", shape.Take(8))}] of {dtype} needs {bytes} bytes, data_offsets {begin} to {end} give {end - begin}");
        return new SafetensorsEntry(name, type, shape, (long)elements, begin, end);
    }

    private void CheckCover(long dataBytes)
    {
        Entries.Sort((a, b) => a.Begin != b.Begin ? a.Begin.CompareTo(b.Begin)
            : a.End != b.End ? a.End.CompareTo(b.End) : string.CompareOrdinal(a.Name, b.Name));
        long at = 0;
        foreach (SafetensorsEntry entry in Entries)
        {
            if (entry.Begin != at)
                throw Bad(entry.Name, $"data begins at {entry.Begin}, {(entry.Begin < at ? "inside the data before it, which ends" : "leaving a hole after the data before it, which ends")} at {at}");
            if (entry.End > dataBytes)
                throw Bad(entry.Name, $"data ends at {entry.End}, the file holds {dataBytes} bytes of data; it is cut short or damaged, fetch it again");
            at = entry.End;
        }
        if (at != dataBytes)
            throw FileErrors.Bad(_path, $"the tensors end at {at}, the file holds {dataBytes} bytes of data; it is damaged");
    }

    private Kernels.UserErrorException Bad(string name, string what) => FileErrors.Bad(_path, $"tensor {FileErrors.Quote(name)}: {what}");
}
