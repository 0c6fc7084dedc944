using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Unicode;
using Repeng.Kernels;

namespace Repeng.Runtime.Formats;

/// <summary>Reads JSON files such as config.json; every fault becomes one line that names the file.</summary>
public static class JsonFile
{
    /// <summary>Largest JSON file that is read by default: tokenizer.json of large vocabularies has tens of MB.</summary>
    public const long DefaultMaxBytes = 256L << 20;

    private const int LongestSentence = 200;

    private static readonly JsonDocumentOptions s_options = new() { MaxDepth = 128, AllowDuplicateProperties = false };

    /// <summary>Reads a file whose outermost value is an object, with access to its fields by checked getters.</summary>
    public static JsonFields ReadObject(string path, long maxBytes = DefaultMaxBytes) =>
        Read(path, maxBytes) as JsonObject is { } o
            ? new JsonFields(o, path)
            : throw FileErrors.Bad(path, "the outermost JSON value is no object");

    /// <summary>Reads any JSON; null stands for the JSON value null.</summary>
    public static JsonNode? Read(string path, long maxBytes = DefaultMaxBytes)
    {
        byte[] bytes = ReadBytes(path, maxBytes);
        return Parse(bytes, path);
    }

    /// <summary>Parses JSON bytes that came from <paramref name="where"/>. A byte-order mark is skipped; a repeated key is an error.</summary>
    public static JsonNode? Parse(ReadOnlySpan<byte> bytes, string where)
    {
        if (bytes.StartsWith("\uFEFF"u8))
            bytes = bytes[3..];
        if (!Utf8.IsValid(bytes))
            throw FileErrors.Bad(where, "is not UTF-8, as JSON must be");
        try
        {
            CheckEscapes(bytes);
            return JsonNode.Parse(bytes, null, s_options);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw Invalid(where, e);
        }
    }

    /// <summary>As <see cref="Parse"/>, to elements, of which every name and text can be read. Of a repeated key the last one counts.</summary>
    public static JsonElement ParseElement(ReadOnlySpan<byte> bytes, string where)
    {
        if (bytes.StartsWith("\uFEFF"u8))
            bytes = bytes[3..];
        if (!Utf8.IsValid(bytes))
            throw FileErrors.Bad(where, "is not UTF-8, as JSON must be");
        try
        {
            CheckEscapes(bytes);
            return JsonElement.Parse(bytes, new JsonDocumentOptions { MaxDepth = s_options.MaxDepth });
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw Invalid(where, e);
        }
    }

    /// <summary>The error of JSON that cannot be read: a <see cref="JsonException"/>, or the reader's exception for half of a surrogate pair.</summary>
    public static UserErrorException Invalid(string where, Exception e) => e is JsonException json
        ? FileErrors.Bad(where, $"is not valid JSON{(json.LineNumber is { } line ? $" (line {line + 1}, byte {json.BytePositionInLine})" : "")}: {FirstSentence(e.Message)}", e)
        : FileErrors.Bad(where, "is not valid JSON: a text in it is no valid Unicode", e);

    /// <summary>Reads a UTF-8 text file of at most maxBytes; a byte-order mark is dropped.</summary>
    public static string ReadText(string path, long maxBytes = DefaultMaxBytes)
    {
        ReadOnlySpan<byte> bytes = ReadBytes(path, maxBytes);
        if (bytes.StartsWith("\uFEFF"u8))
            bytes = bytes[3..];
        return Utf8.IsValid(bytes) ? Encoding.UTF8.GetString(bytes) : throw FileErrors.Bad(path, "is not UTF-8 text; save it as UTF-8");
    }

    /// <summary>What is wrong with nodes that do not fit a record, and at which key; lines and bytes are those of no file.</summary>
    public static string WithoutPosition(JsonException e) => FirstSentence(e.Message.Split(" | ")[0]);

    // Nodes unescape their texts when they are first asked, far from here; an escaped half of a surrogate pair
    // would surface there as an exception that names no file.
    private static void CheckEscapes(ReadOnlySpan<byte> bytes)
    {
        var reader = new Utf8JsonReader(bytes, new JsonReaderOptions { MaxDepth = s_options.MaxDepth });
        while (reader.Read())
            if (reader.ValueIsEscaped)
                reader.GetString();
    }

    private static byte[] ReadBytes(string path, long maxBytes)
    {
        try
        {
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read);
            if (stream.Length > Math.Min(maxBytes, Array.MaxLength))
                throw FileErrors.Bad(path, $"has {stream.Length} bytes, at most {maxBytes} are read");
            var bytes = new byte[stream.Length];
            stream.ReadExactly(bytes);
            return bytes;
        }
        catch (Exception e) when (FileErrors.IsFileTrouble(e))
        {
            throw FileErrors.CannotRead(path, e);
        }
    }

    internal static string FirstSentence(string message)
    {
        int end = message.IndexOf(" LineNumber:", StringComparison.Ordinal);
        string sentence = (end < 0 ? message : message[..end]).ReplaceLineEndings(" ").Trim();
        // The message may quote the file from the fault on.
        return sentence.Length <= LongestSentence ? sentence : sentence[..LongestSentence] + "…";
    }
}
