using System.Collections.Concurrent;
using System.Text.Json;
using Repeng.Runtime.Tokenizers;
using Repeng.Testing;

namespace Repeng.Runtime.Tests.Tokenizers;

/// <summary>Exact equality with what the library behind tokenizer.json gives, for every tokenizer that lies under the golden root.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "tokenizers")]
public sealed class GoldenTokenizerTests
{
    private const string Absent = "absent";
    private const string IdsSuffix = ".ids.json";
    private const string StreamSuffix = ".stream.json";

    private static readonly ConcurrentDictionary<string, Lazy<Tokenizer>> s_tokenizers = [];

    public static TheoryData<string> Models() => Names("", "*" + IdsSuffix);

    public static TheoryData<string> Synthetic() => Names("synthetic", "*" + IdsSuffix);

    public static TheoryData<string> Streams() => Names("", "*" + StreamSuffix);

    public static TheoryData<string> Chats() => Names("chat", "*.json");

    [Theory]
    [MemberData(nameof(Models))]
    public void IdsAndTextsOfARealTokenizerAreEqual(string name)
    {
        string golden = Golden.Require("tokenizers", name + IdsSuffix);
        Tokenizer tokenizer = Load(Golden.RequireBeside("tokenizers", name));
        Dictionary<int, string> strings = Rows(Golden.Require("tokenizers", "strings.json"))
            .ToDictionary(row => row[0].GetInt32(), row => row[2].GetString()!);
        Compare(tokenizer, Rows(golden), row => strings[row[0].GetInt32()]);
    }

    [Theory]
    [MemberData(nameof(Synthetic))]
    public void IdsAndTextsOfASyntheticTokenizerAreEqual(string name)
    {
        string golden = Golden.Require("tokenizers", "synthetic", name + IdsSuffix);
        Tokenizer tokenizer = Load(Golden.Require("tokenizers", "synthetic", name));
        Compare(tokenizer, Rows(golden), row => row[0].GetString()!);
    }

    [Theory]
    [MemberData(nameof(Streams))]
    public void IncrementsOfAStreamAreEqual(string name)
    {
        string golden = Golden.Require("tokenizers", name + StreamSuffix);
        Tokenizer tokenizer = Load(Golden.RequireBeside("tokenizers", name));
        foreach (JsonElement row in Rows(golden))
        {
            string label = row.GetRawText();
            int[] ids = Ids(row[3]);
            bool skip = row[2].GetBoolean();
            string[] increments = [.. row[4].EnumerateArray().Select(e => e.GetString()!)];
            DecodeStream stream = tokenizer.CreateStream(skip);
            // Twice with the same stream: after a flush it begins anew.
            for (int pass = 0; pass < 2; pass++)
            {
                string[] added = [.. ids.Select(stream.Add)];
                string flush = stream.Flush();
                Assert.True(increments.SequenceEqual(added), $"{label}: increments are {JsonSerializer.Serialize(added)}");
                Assert.True(row[5].GetString() == flush, $"{label}: flush is {JsonSerializer.Serialize(flush)}");
                bool equalsDecode = string.Concat(added) + flush == tokenizer.Decode(ids, skip);
                Assert.True(row[6].GetBoolean() == equalsDecode, $"{label}: decode is {JsonSerializer.Serialize(tokenizer.Decode(ids, skip))}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Chats))]
    public void IdsOfRenderedChatsAreEqual(string name)
    {
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllBytes(Golden.Require("tokenizers", "chat", name + ".json")));
        Tokenizer tokenizer = Load(Golden.RequireBeside("tokenizers", name));
        Assert.NotNull(tokenizer.ChatTemplate);
        int compared = 0;
        foreach (JsonElement row in golden.RootElement.GetProperty("cases").EnumerateArray())
        {
            if (row.GetProperty("rendered").GetString() is not { } rendered)
                continue;
            Assert.True(Ids(row.GetProperty("ids")).SequenceEqual(tokenizer.Encode(rendered, false)), row.GetProperty("name").GetString());
            compared++;
        }
        Assert.True(compared > 0, "no rendered case");
    }

    /// <summary>A stream of whole, valid text gives what decoding at once gives, whatever the tokenizer.</summary>
    [Theory]
    [MemberData(nameof(Models))]
    [MemberData(nameof(Synthetic))]
    public void StreamsAddUpToTheDecodedText(string name)
    {
        bool synthetic = File.Exists(Golden.Path("tokenizers", "synthetic", name + IdsSuffix));
        string golden = Golden.Require(synthetic ? ["tokenizers", "synthetic", name + IdsSuffix] : ["tokenizers", name + IdsSuffix]);
        Tokenizer tokenizer = Load(synthetic ? Golden.Require("tokenizers", "synthetic", name) : Golden.RequireBeside("tokenizers", name));
        DecodeStream stream = tokenizer.CreateStream(skipSpecialTokens: true);
        foreach (JsonElement row in Rows(golden))
        {
            string streamed = string.Concat(Ids(row[2]).Select(stream.Add)) + stream.Flush();
            Assert.Equal(row[4].GetString(), streamed);
        }
    }

    private static void Compare(Tokenizer tokenizer, JsonElement[] rows, Func<JsonElement, string> textOf)
    {
        List<string> wrong = [];
        foreach (JsonElement row in rows)
        {
            string text = textOf(row);
            int[] ids = Ids(row[1]);
            int[] special = Ids(row[2]);
            Check("ids", ids, tokenizer.Encode(text, false));
            // Again: now every piece comes from the cache.
            Check("ids", ids, tokenizer.Encode(text.AsSpan(), false));
            Check("ids_special", special, tokenizer.Encode(text, true));
            Check("text", row[3].GetString()!, tokenizer.Decode(ids, false));
            Check("text_skip", row[4].GetString()!, tokenizer.Decode(ids, true));
            Check("text_skip", row[4].GetString()!, tokenizer.Decode(special, true));
            Check("text_special", row[5].GetString()!, tokenizer.Decode(special, false));

            void Check<T>(string what, IEnumerable<T> expected, IEnumerable<T> actual)
            {
                if (!expected.SequenceEqual(actual))
                    wrong.Add($"{what} of {JsonSerializer.Serialize(text)} (row {row[0].GetRawText()}): {JsonSerializer.Serialize(actual)}, expected {JsonSerializer.Serialize(expected)}");
            }
        }
        Assert.NotEmpty(rows);
        Assert.True(wrong.Count == 0, $"{wrong.Count} differ:\n{string.Join('\n', wrong.Take(20))}");
    }

    private static Tokenizer Load(string folder) =>
        s_tokenizers.GetOrAdd(folder, f => new Lazy<Tokenizer>(() => Tokenizer.Load(f))).Value;

    private static JsonElement[] Rows(string file)
    {
        using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(file));
        return [.. document.RootElement.GetProperty("rows").EnumerateArray().Select(row => row.Clone())];
    }

    private static int[] Ids(JsonElement list) => [.. list.EnumerateArray().Select(e => e.GetInt32())];

    private static TheoryData<string> Names(string folder, string pattern)
    {
        string path = Golden.Path("tokenizers", folder);
        string suffix = pattern.TrimStart('*');
        string[] names = !Directory.Exists(path) ? [Absent]
            : [.. Directory.GetFiles(path, pattern).Select(f => Path.GetFileName(f)[..^suffix.Length]).Order(StringComparer.Ordinal)];
        return new TheoryData<string>(names.Length == 0 ? [Absent] : names);
    }
}
