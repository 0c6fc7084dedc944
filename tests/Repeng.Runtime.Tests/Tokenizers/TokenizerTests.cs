using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

public sealed class TokenizerTests
{
    private static readonly string[] s_words = ["<unk>", "the", "sky", "is", "blue", ".", "<end>"];

    private static Tokenizer Words(string split = """{"type":"Whitespace"}""", string? decoder = null) => JsonParts.Load(
        JsonParts.File(JsonParts.WordLevel(s_words), """{"type":"Lowercase"}""", split, decoder, null, JsonParts.Added(6, "<end>", special: true)),
        """{"bos_token":null,"eos_token":{"content":"<end>","special":true},"unk_token":"<unk>","pad_token":"<missing>","add_bos_token":false,"chat_template":"T"}""");

    [Fact]
    public void WholeWordsBecomeTheirIdsAndUnknownOnesTheUnknownToken()
    {
        Tokenizer tokenizer = Words();
        Assert.Equal([1, 2, 3, 4, 5], tokenizer.Encode("The sky  is blue.", false));
        Assert.Equal([1, 0, 6, 3], tokenizer.Encode("the sea<end>is", true));
        Assert.Equal([1, 2, 3, 0], Words("""{"type":"WhitespaceSplit"}""").Encode("the\tsky\nis blue.", false));
        Assert.Empty(tokenizer.Encode("", true));
    }

    [Fact]
    public void WithoutADecoderTokensAreJoinedBySpaces()
    {
        Tokenizer tokenizer = Words();
        Assert.Equal("the sky . <end>", tokenizer.Decode([1, 2, 5, 6], false));
        Assert.Equal("the sky .", tokenizer.Decode([1, 2, 5, 6], true));
        DecodeStream stream = tokenizer.CreateStream(true);
        Assert.Equal(["", "the", " sky", ""], new[] { 6, 1, 2, 6 }.Select(stream.Add));
        Assert.Equal("", stream.Flush());
        Assert.Equal("the", stream.Add(1));
    }

    [Fact]
    public void IdsAndTextsOfSpecialTokensComeFromTheConfiguration()
    {
        Tokenizer tokenizer = Words();
        Assert.Equal(7, tokenizer.VocabularySize);
        Assert.Null(tokenizer.BosId);
        Assert.Equal(6, tokenizer.EosId);
        Assert.Equal(0, tokenizer.UnkId);
        Assert.Null(tokenizer.PadId);
        Assert.Equal(["eos_token", "pad_token", "unk_token"], tokenizer.SpecialTokenTexts.Keys.Order());
        Assert.Equal("<end>", tokenizer.SpecialTokenTexts["eos_token"]);
        Assert.Equal("T", tokenizer.ChatTemplate);
        Assert.True(tokenizer.IsSpecial(6));
        Assert.False(tokenizer.IsSpecial(1));
        Assert.Equal("sky", tokenizer.IdToToken(2));
        Assert.Null(tokenizer.IdToToken(7));
        Assert.Null(tokenizer.IdToToken(-1));
        Assert.Equal(2, tokenizer.TokenToId("sky"));
        Assert.Null(tokenizer.TokenToId("Sky"));
    }

    [Fact]
    public void ChatTemplatesMayBeNamedAndAFileBesideGoesFirst()
    {
        JsonObject file = JsonParts.File(JsonParts.WordLevel("a"));
        const string config = """{"chat_template":[{"name":"tool_use","template":"A"},{"name":"default","template":"B"}]}""";
        Tokenizer named = Tokenizer.FromJson(file.ToJsonString(), config);
        Assert.Equal("B", named.ChatTemplate);
        Assert.Equal("A", named.ChatTemplates["tool_use"]);
        Assert.Equal("C", Tokenizer.FromJson(file.ToJsonString(), config, "C").ChatTemplate);
        Assert.Null(Tokenizer.FromJson(file.ToJsonString()).ChatTemplate);
    }

    [Fact]
    public void AFolderIsLoadedWithWhatStandsBeside()
    {
        string folder = Directory.CreateTempSubdirectory("tokenizer").FullName;
        try
        {
            UserErrorException missing = Assert.Throws<UserErrorException>(() => Tokenizer.Load(folder));
            Assert.Contains(Path.Combine(folder, "tokenizer.json"), missing.Message, StringComparison.Ordinal);
            File.WriteAllText(Path.Combine(folder, "tokenizer.json"), JsonParts.File(JsonParts.WordLevel("a", "b")).ToJsonString());
            Assert.Null(Tokenizer.Load(folder).EosId);
            File.WriteAllText(Path.Combine(folder, "tokenizer_config.json"), """{"eos_token":"b","chat_template":"old"}""");
            File.WriteAllText(Path.Combine(folder, "chat_template.jinja"), "new");
            Tokenizer tokenizer = Tokenizer.Load(Path.Combine(folder, "tokenizer.json"));
            Assert.Equal(1, tokenizer.EosId);
            Assert.Equal("new", tokenizer.ChatTemplate);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void MergesGoByRankThenFromTheLeft()
    {
        JsonObject model = JsonParts.Bpe(["a", "b", "c", "ab", "bc", "abc", "aa"], "b c", "a b", "ab c", "a a");
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(model));
        Assert.Equal([0, 4], tokenizer.Encode("abc", false));
        Assert.Equal([6, 6, 3], tokenizer.Encode("aaaaab", false));
        model["ignore_merges"] = true;
        Assert.Equal([5], JsonParts.Load(JsonParts.File((JsonObject)model.DeepClone())).Encode("abc", false));
    }

    [Fact]
    public void ALongPieceIsMergedInTime()
    {
        // One piece of a million characters; quadratic merging would take hours.
        string[] powers = [.. Enumerable.Range(0, 16).Select(i => new string('a', 1 << i))];
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bpe(powers, [.. powers.SkipLast(1).Select(p => $"{p} {p}")])));
        int[] ids = tokenizer.Encode(new string('a', 1_000_001), false);
        Assert.Equal(1_000_001, ids.Sum(id => 1 << id));
        Assert.Equal(1_000_001 / (1 << 15), ids.Count(id => id == 15));
    }

    [Theory]
    [InlineData(false, new[] { 0, 1, 1, 0 })]
    [InlineData(true, new[] { 0, 1, 0 })]
    public void UnknownCharactersAreFusedOrNot(bool fuse, int[] expected)
    {
        JsonObject model = JsonParts.Bpe(["a", "<unk>"]);
        model["unk_token"] = "<unk>";
        model["fuse_unk"] = fuse;
        Assert.Equal(expected, JsonParts.Load(JsonParts.File(model)).Encode("axya", false));
    }

    [Fact]
    public void LoneSurrogatesCountAsReplacementCharacters()
    {
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bytes()));
        int[] replaced = tokenizer.Encode("a\uFFFDb\U0001F600", false);
        Assert.Equal(replaced, tokenizer.Encode("a\uD800b\U0001F600", false));
        Assert.Equal(replaced, tokenizer.Encode("a\uDC00b\U0001F600", false));
    }

    [Fact]
    public void TemplatesPutTheirTokensAround()
    {
        const string post = """
            {"type":"Sequence","processors":[{"type":"ByteLevel","trim_offsets":true},
              {"type":"TemplateProcessing",
               "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"E","type_id":0}}],
               "pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]},"E":{"id":"E","ids":[2,1],"tokens":["x","<s>"]}}}]}
            """;
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.WordLevel("a", "<s>", "x"), post: post));
        Assert.Equal([1, 1, 0, 2, 1], tokenizer.Encode("a", true));
        Assert.Equal([0], tokenizer.Encode("a", false));
    }

    [Fact]
    public void ManyThreadsGetTheSameIds()
    {
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(JsonParts.Bytes(), preTokenizer: """{"type":"Whitespace"}"""));
        string[] texts = [.. Enumerable.Range(0, 200).Select(i => $"text {i % 17} of {i} \u4f60{i}")];
        int[][] expected = [.. texts.Select(t => JsonParts.Load(JsonParts.File(JsonParts.Bytes(), preTokenizer: """{"type":"Whitespace"}""")).Encode(t, false)).Take(8)];
        int[][] actual = new int[texts.Length][];
        Parallel.For(0, texts.Length, i => actual[i] = tokenizer.Encode(texts[i], false));
        for (int i = 0; i < texts.Length; i++)
            Assert.Equal(tokenizer.Encode(texts[i], false), actual[i]);
        for (int i = 0; i < expected.Length; i++)
            Assert.Equal(expected[i], actual[i]);
    }
}
