using System.Text.Json.Nodes;
using CsCheck;
using Repeng.Kernels;
using Repeng.Runtime.Tokenizers;

namespace Repeng.Runtime.Tests.Tokenizers;

public sealed class WordPieceTests
{
    private const string Bert = """{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}""";
    private const string Basic = """{"type":"BertPreTokenizer"}""";
    private const string Decoder = """{"type":"WordPiece","prefix":"##","cleanup":true}""";

    private static JsonObject Model(params string[] tokens) => new()
    {
        ["type"] = "WordPiece",
        ["unk_token"] = "[UNK]",
        ["continuing_subword_prefix"] = "##",
        ["max_input_chars_per_word"] = 100,
        ["vocab"] = new JsonObject(tokens.Select((t, i) => KeyValuePair.Create(t, (JsonNode?)i))),
    };

    private static string Pieces(Tokenizer tokenizer, string text) => string.Join('|', tokenizer.Encode(text, false).Select(tokenizer.IdToToken));

    /// <summary>The vocabulary and cases of BERT's own tests (tokenization_test.py).</summary>
    [Theory]
    [InlineData("", "")]
    [InlineData("unwanted running", "un|##want|##ed|runn|##ing")]
    [InlineData("unwantedX running", "[UNK]|runn|##ing")]
    [InlineData("UNwant\u00E9d,running", "un|##want|##ed|,|runn|##ing")]
    public void ThePublishedCasesHold(string text, string expected) => Assert.Equal(expected, Pieces(JsonParts.Load(JsonParts.File(
        Model("[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing", ","), Bert, Basic, Decoder)), text));

    [Fact]
    public void ATextStandsBetweenItsMarksAndComesBack()
    {
        JsonObject model = Model("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s", "don", "'", "t", ".", "un", "##aff", "##able", "!");
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(model, Bert, Basic, Decoder, """{"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]}""",
            JsonParts.Added(2, "[CLS]", special: true), JsonParts.Added(3, "[SEP]", special: true)));
        int[] ids = tokenizer.Encode("The cats don't sat. Unaffable!", true);
        Assert.Equal([2, 4, 5, 7, 8, 9, 10, 6, 11, 12, 13, 14, 15, 3], ids);
        // The clean-up sees one token at a time, so it never sees both sides of the apostrophe.
        Assert.Equal("the cats don ' t sat. unaffable!", tokenizer.Decode(ids, true));
        DecodeStream stream = tokenizer.CreateStream(true);
        Assert.Equal("the cats don ' t sat. unaffable!", string.Concat(ids.Select(stream.Add)) + stream.Flush());
    }

    /// <summary>Greedy from the left: at each place the longest token, by trying all lengths as BERT's code does.</summary>
    [Fact]
    public void PiecesAreTheLongestFromTheLeft()
    {
        Gen<string> letters = Gen.Char["abc"].Array[1, 4].Select(c => new string(c));
        Gen.Select(letters.Array[1, 8], letters.Array[1, 8], Gen.Char["abc"].Array[1, 10].Select(c => new string(c))).Sample((first, rest, word) =>
        {
            string[] tokens = ["[UNK]", .. first.Distinct(), .. rest.Distinct().Select(r => "##" + r)];
            List<string> expected = [];
            for (int at = 0; at < word.Length;)
            {
                int end = word.Length;
                while (end > at && !tokens.Contains((at > 0 ? "##" : "") + word[at..end]))
                    end--;
                if (end == at)
                {
                    expected = ["[UNK]"];
                    break;
                }
                expected.Add((at > 0 ? "##" : "") + word[at..end]);
                at = end;
            }
            Assert.Equal(string.Join('|', expected), Pieces(JsonParts.Load(JsonParts.File(Model(tokens))), word));
        }, iter: 3000);
    }

    [Fact]
    public void LongWordsAreUnknown()
    {
        JsonObject model = Model("[UNK]", "a", "##a", "\U00020000", "##\U00020000");
        model["max_input_chars_per_word"] = 3;
        Tokenizer tokenizer = JsonParts.Load(JsonParts.File(model, preTokenizer: Basic));
        Assert.Equal([1, 2, 2, 0], tokenizer.Encode("aaa aaaa", false));
        // Counted in code points.
        Assert.Equal([3, 4, 4], tokenizer.Encode("\U00020000\U00020000\U00020000", false));
    }

    [Fact]
    public void AFileWithoutTypeIsKnownByItsPrefix()
    {
        JsonObject model = Model("[UNK]", "a", "##b");
        model.Remove("type");
        Assert.Equal([1, 2], JsonParts.Load(JsonParts.File(model)).Encode("ab", false));
    }

    [Fact]
    public void WithoutAnUnknownTokenAnUnknownWordIsAnError()
    {
        UserErrorException error = Assert.Throws<UserErrorException>(() => JsonParts.Load(JsonParts.File(Model("a"))).Encode("ab", false));
        Assert.Contains("\"ab\"", error.Message, StringComparison.Ordinal);
        Assert.Contains("[UNK]", error.Message, StringComparison.Ordinal);
    }
}
