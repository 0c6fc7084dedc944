using System.Text;
using System.Text.Json;
using Repeng.Kernels;
using Repeng.Steering.Demo;

namespace Repeng.Steering.Data;

/// <summary>
/// The built-in lists of suffixes: begun or whole sentences that are put into an assistant's mouth under
/// opposite personas. And the reader of a user's own lists.
/// </summary>
public static class SuffixSets
{
    /// <summary>Name of the set that speaks of the demo world.</summary>
    public const string DemoName = "demo";

    private const string ResourcePrefix = "Repeng.Steering.Data.";
    private static readonly string[] s_embedded = ["code", "facts", "feelings", "reasoning", "statements", "thoughts", "thoughts_of_mood"];

    /// <summary>Names of the sets, in ordinal order.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. s_embedded.Append(DemoName).Order(StringComparer.Ordinal)];

    /// <summary>What is in a set, in a line.</summary>
    /// <exception cref="UserErrorException">There is no set of that name.</exception>
    public static string Describe(string name) => name switch
    {
        "code" => "questions about programming with a begun answer",
        "facts" => "whole true sentences of common knowledge",
        "feelings" => "begun sentences of everyday life, for personas of mood",
        "reasoning" => "first words of a step of reasoning",
        "statements" => "begun statements about the world, for personas of honesty",
        "thoughts" => "begun thoughts about what to say, for personas of honesty inside of a block of thoughts",
        "thoughts_of_mood" => "begun thoughts about a day, for personas of mood inside of a block of thoughts",
        DemoName => "begun statements about the demo world, for the demo model",
        _ => throw Unknown(name),
    };

    /// <summary>A set's suffixes, in the order of its file.</summary>
    /// <exception cref="UserErrorException">There is no set of that name.</exception>
    public static IReadOnlyList<string> Load(string name)
    {
        if (name == DemoName)
            return DemoSteering.Suffixes(new DemoWorld());
        if (!s_embedded.Contains(name))
            throw Unknown(name);
        return Parse(ReadResource($"{name}.json"), $"built-in suffix set '{name}'");
    }

    /// <summary>
    /// Reads a user's list: a JSON array of strings if the name ends in .json, else one suffix a line with empty lines left out.
    /// UTF-8. An empty string in a JSON array stands and means that the assistant has said nothing yet.
    /// </summary>
    /// <exception cref="UserErrorException">The file is missing, is not UTF-8, is not of that form, or has no suffix.</exception>
    public static IReadOnlyList<string> LoadFile(string path) => LoadFile(path, "suffix");

    /// <summary>The same for another kind of text, which errors name.</summary>
    internal static IReadOnlyList<string> LoadFile(string path, string kind)
    {
        byte[] bytes;
        try
        {
            bytes = File.ReadAllBytes(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new UserErrorException($"{kind} file {path}: cannot be read: {e.Message}", e);
        }

        string text;
        try
        {
            text = new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(bytes).TrimStart('\uFEFF');
        }
        catch (DecoderFallbackException e)
        {
            throw new UserErrorException($"{kind} file {path}: not UTF-8 at byte {e.Index}; save it as UTF-8", e);
        }

        if (path.EndsWith(".json", StringComparison.OrdinalIgnoreCase))
            return Parse(text, $"{kind} file {path}", kind);
        string[] lines = [.. text.Split('\n').Select(line => line.TrimEnd('\r')).Where(line => !string.IsNullOrWhiteSpace(line))];
        return lines.Length > 0 ? lines : throw new UserErrorException($"{kind} file {path}: no {kind} in it; write one a line");
    }

    internal static string ReadResource(string file)
    {
        using Stream stream = typeof(SuffixSets).Assembly.GetManifestResourceStream(ResourcePrefix + file)
            ?? throw new InvalidOperationException($"resource {ResourcePrefix}{file} is missing from the assembly");
        using StreamReader reader = new(stream, Encoding.UTF8);
        return reader.ReadToEnd();
    }

    internal static string[] Parse(string json, string what, string kind = "suffix")
    {
        List<string> suffixes = [];
        try
        {
            using JsonDocument document = JsonDocument.Parse(json);
            if (document.RootElement.ValueKind != JsonValueKind.Array)
                throw new UserErrorException($"{what}: holds a JSON {document.RootElement.ValueKind}, but an array of strings is needed");
            foreach (JsonElement element in document.RootElement.EnumerateArray())
            {
                if (element.ValueKind != JsonValueKind.String)
                    throw new UserErrorException($"{what}: entry {suffixes.Count} is a JSON {element.ValueKind}, but every entry must be a string");
                suffixes.Add(element.GetString()!);
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            // InvalidOperationException: a string with a lone surrogate escape.
            throw new UserErrorException($"{what}: not valid JSON: {e.Message}", e);
        }

        return suffixes.Count > 0 ? [.. suffixes] : throw new UserErrorException($"{what}: the array is empty; at least one {kind} is needed");
    }

    private static UserErrorException Unknown(string name) =>
        new($"no suffix set '{name}'; there are {string.Join(", ", Names)}, or give the path of a .json or .txt file");
}
