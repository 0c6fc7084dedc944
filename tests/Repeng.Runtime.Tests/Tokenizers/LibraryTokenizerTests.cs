using System.Text.Json;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

/// <summary>
/// Kinds of tokenizers that the golden set has none of: ids and texts of the library that defines tokenizer.json, written by
/// tests/peers/tokenizers.mjs. Compared for equality.
/// </summary>
public sealed class LibraryTokenizerTests
{
    private static readonly JsonElement s_data = Read();

    public static TheoryData<string> Names() => [.. s_data.GetProperty("cases").EnumerateArray().Select(c => c.GetProperty("name").GetString()!)];

    [Theory]
    [MemberData(nameof(Names))]
    public void IdsAndTextsAreThoseOfTheLibrary(string name)
    {
        JsonElement fixture = Case(name);
        Tokenizer tokenizer = Tokenizer.FromJson(fixture.GetProperty("tokenizer").GetRawText());
        JsonElement[] texts = [.. s_data.GetProperty("texts").EnumerateArray()], rows = [.. fixture.GetProperty("rows").EnumerateArray()];
        Assert.Equal(texts.Length, rows.Length);
        List<string> wrong = [];
        for (int i = 0; i < rows.Length; i++)
        {
            string text = texts[i].GetString()!;
            int[] ids = Ids(rows[i][0]), full = rows[i][1].ValueKind == JsonValueKind.Null ? ids : Ids(rows[i][1]);
            Check("ids", ids, tokenizer.Encode(text, false));
            Check("ids again", ids, tokenizer.Encode(text, false));
            Check("ids_special", full, tokenizer.Encode(text, true));
            Check("text", rows[i][2].GetString()!, tokenizer.Decode(full, false));

            void Check<T>(string what, IEnumerable<T> expected, IEnumerable<T> actual)
            {
                if (!expected.SequenceEqual(actual))
                    wrong.Add($"{what} of {JsonSerializer.Serialize(text)}: {JsonSerializer.Serialize(actual)}, expected {JsonSerializer.Serialize(expected)}");
            }
        }
        Assert.True(wrong.Count == 0, $"{wrong.Count} differ:\n{string.Join('\n', wrong.Take(10))}");
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void AnyIdsAreDecodedAsByTheLibraryAndInAStream(string name)
    {
        JsonElement fixture = Case(name);
        Tokenizer tokenizer = Tokenizer.FromJson(fixture.GetProperty("tokenizer").GetRawText());
        // A stream judges bytes of fallback tokens before it has seen their run.
        bool bytesInRuns = fixture.GetProperty("tokenizer").GetProperty("decoder").GetRawText().Contains("ByteFallback", StringComparison.Ordinal);
        foreach (JsonElement row in fixture.GetProperty("decoded").EnumerateArray())
        {
            int[] ids = Ids(row[0]);
            Assert.Equal(row[1].GetString(), tokenizer.Decode(ids, false));
            if (bytesInRuns)
                continue;
            DecodeStream stream = tokenizer.CreateStream(false);
            Assert.Equal(row[1].GetString(), string.Concat(ids.Select(stream.Add)) + stream.Flush());
        }
    }

    private static JsonElement Case(string name) => s_data.GetProperty("cases").EnumerateArray().Single(c => c.GetProperty("name").GetString() == name);

    private static int[] Ids(JsonElement list) => [.. list.EnumerateArray().Select(e => e.GetInt32())];

    private static JsonElement Read()
    {
        using Stream stream = typeof(LibraryTokenizerTests).Assembly.GetManifestResourceStream("tokenizers.library.json")!;
        using JsonDocument document = JsonDocument.Parse(stream);
        return document.RootElement.Clone();
    }
}
