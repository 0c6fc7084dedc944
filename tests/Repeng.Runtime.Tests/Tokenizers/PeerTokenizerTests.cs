using System.Text.Json;
using Repeng.Testing;
using Peer = Microsoft.ML.Tokenizers.Tokenizer;
using Tokenizer = Repeng.Runtime.Tokenizers.Tokenizer;

namespace Repeng.Runtime.Tests.Tokenizers;

/// <summary>
/// Microsoft.ML.Tokenizers as a second opinion. It knows no added tokens and takes merges of equal rank in another order, so
/// it is asked about plain words, one at a time, where neither counts.
/// </summary>
public sealed class PeerTokenizerTests
{
    private static readonly string[] s_words =
    [
        "the", "cat", "sat", "unwanted", "running", "unaffable", "hello", "world", "wanted", "thecat", "catsat", "x", "42", "don", "will", "able", "affable", "hellos", "wor", "edly",
    ];

    [Fact]
    public void WordPiecesAreTheSame()
    {
        string json = LibraryCase("bert");
        Peer peer = Create(json);
        Tokenizer ours = Tokenizer.FromJson(json);
        foreach (string word in s_words)
            Assert.Equal(peer.EncodeToIds(word), ours.Encode(word, false));
        string text = string.Join(' ', s_words);
        Assert.Equal(peer.EncodeToIds(text), ours.Encode(text, false));
    }

    [Fact]
    public void UnigramsAreTheSame()
    {
        string json = LibraryCase("t5");
        Peer peer = Create(json);
        Tokenizer ours = Tokenizer.FromJson(json);
        foreach (string word in s_words)
            Assert.Equal(peer.EncodeToIds(word), ours.Encode(word, false));
        string text = string.Join(' ', s_words);
        Assert.Equal(peer.EncodeToIds(text), ours.Encode(text, false));
    }

    public static TheoryData<string> Folders()
    {
        string root = Golden.Beside("tokenizers");
        string[] names = !Directory.Exists(root) ? [] : [.. Directory.GetDirectories(root).Where(d => File.Exists(Path.Combine(d, "tokenizer.json"))).Select(d => Path.GetFileName(d)!).Order(StringComparer.Ordinal)];
        return [.. names.Length == 0 ? ["(absent)"] : names];
    }

    /// <summary>Real vocabularies: every word gets the ids that the peer gives it.</summary>
    [Theory]
    [MemberData(nameof(Folders))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "tokenizers")]
    public void WordsOfRealVocabulariesAreTheSame(string name)
    {
        string folder = Golden.RequireBeside("tokenizers", name);
        Tokenizer ours = Tokenizer.Load(folder);
        (string Name, Func<Peer> Create)[] peers = [.. PeerTokenizer.All(Path.Combine(folder, "tokenizer.json"))];
        Assert.NotEmpty(peers);
        Peer peer = peers[0].Create();
        foreach (string word in s_words.Concat(["Internationalisierung", "antidisestablishmentarianism", "Straßenbahn", "caf\u00E9", "\u043F\u0440\u0438\u0432\u0435\u0442", "\u4F60\u597D", "HTTPServer", "x2y"]))
            Assert.Equal(peer.EncodeToIds(word), ours.Encode(word, false));
    }

    private static Peer Create(string json)
    {
        string file = Path.Combine(Directory.CreateTempSubdirectory("peer").FullName, "tokenizer.json");
        try
        {
            File.WriteAllText(file, json);
            return PeerTokenizer.All(file).First().Create();
        }
        finally
        {
            Directory.Delete(Path.GetDirectoryName(file)!, recursive: true);
        }
    }

    private static string LibraryCase(string name)
    {
        using Stream stream = typeof(PeerTokenizerTests).Assembly.GetManifestResourceStream("tokenizers.library.json")!;
        using JsonDocument document = JsonDocument.Parse(stream);
        return document.RootElement.GetProperty("cases").EnumerateArray().Single(c => c.GetProperty("name").GetString() == name).GetProperty("tokenizer").GetRawText();
    }
}
